"""The K* rule: tasks with the spectrum they promise, thresholds where noise ends, fits against scipy and brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import linregress
from sklearn.linear_model import LinearRegression

from companion.kstar import (
    DecayFit, LinearTask, decay_by_layer, decay_rate, fit_decay, k_star, ols, ols_noise_edge, paper_tasks, paper_threshold,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("error")

ROUNDING = 1e-10  # variance of logarithms that counts as none
decays = st.floats(1.01, 50)
levels = st.floats(-3, 3).map(lambda e: 10.0**e)
spectra = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=12)
TASK = LinearTask(decay=2.0, n_samples=40, noise=0.1, d_in=6, d_out=4, scale=3.0)


def top(matrix):
    return np.linalg.norm(matrix, 2)


# --- Tasks.


def test_weights_have_the_spectrum():
    weights = TASK.sample(0).weights
    assert weights.shape == (6, 4)
    assert np.linalg.svd(weights, compute_uv=False) == pytest.approx([3, 1.5, 0.75, 0.375], rel=1e-12)
    assert pytest.approx([3, 1.5, 0.75, 0.375]) == TASK.singular_values
    assert np.array_equal(LinearTask(1, 5, 0.0, 3, 3).singular_values, [1, 1, 1])


def test_data_are_the_model():
    x, y, weights = LinearTask(2.0, 50, 0.0, 6, 4).sample(1)
    assert np.array_equal(y, x @ weights)
    x, y, weights = LinearTask(2.0, 4000, 0.3, 6, 4).sample(1)
    assert x.std() == pytest.approx(1, abs=5 / np.sqrt(2 * x.size))
    assert (y - x @ weights).std() == pytest.approx(0.3, rel=5 / np.sqrt(2 * y.size))


def test_singular_vectors_have_no_preferred_direction():
    weights = TASK.sample(3, size=2000).weights
    expected = np.sum(TASK.singular_values**2) / weights[0].size  # second moment of an entry
    assert np.abs(weights.mean(axis=0)).max() < 5 * np.sqrt(expected / 2000)
    assert np.mean(weights**2, axis=0) == pytest.approx(np.full((6, 4), expected), rel=0.25)


def test_draws_repeat_and_stack():
    assert all(np.array_equal(a, b) for a, b in zip(TASK.sample(5), TASK.sample(np.random.default_rng(5)), strict=True))
    assert [a.shape for a in TASK.sample(5, size=3)] == [(3, 40, 6), (3, 40, 4), (3, 6, 4)]
    stack = TASK.sample(5, size=3).weights
    fresh = TASK.sample(6, size=3, weights=stack, n_samples=7)
    assert np.array_equal(fresh.weights, stack) and fresh.x.shape == (3, 7, 6)
    assert not np.array_equal(stack[0], stack[1])


def test_the_ten_tasks_are_those_of_table_3_2():
    tasks = paper_tasks()
    assert len({name for name, _ in tasks}) == 10
    assert [t.decay for _, t in tasks] == [1.2, 1.5, 2, 3, 5, 10, 2, 2, 2, 2]
    assert [t.n_samples for _, t in tasks] == [500] * 6 + [100, 2000, 500, 500]
    assert [t.noise for _, t in tasks] == [0.1] * 8 + [0.5, 0.01]
    assert {(t.d_in, t.d_out, t.scale) for _, t in tasks} == {(64, 32, 1.0)}


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"decay": 0.9}, ValueError, "decay must be >= 1, got 0.9"),
        ({"decay": np.nan}, ValueError, "decay must be finite"),
        ({"decay": "2"}, TypeError, "decay must be a real number"),
        ({"n_samples": 0}, ValueError, "n_samples must be >= 1"),
        ({"n_samples": 5.0}, TypeError, "n_samples must be an integer"),
        ({"d_in": 0}, ValueError, "d_in must be >= 1"),
        ({"d_out": True}, TypeError, "d_out must be an integer"),
        ({"noise": -1.0}, ValueError, "noise must be a standard deviation"),
        ({"scale": 0.0}, ValueError, "scale must be > 0"),
    ],
)
def test_impossible_tasks_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        LinearTask(**{"decay": 2.0, "n_samples": 10, "noise": 0.1} | change)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"rng": None}, TypeError, "rng must be"),
        ({"rng": True}, TypeError, "rng must be"),
        ({"size": 0}, ValueError, "size must be >= 1"),
        ({"n_samples": 0}, ValueError, "n_samples must be >= 1"),
        ({"weights": np.ones((4, 6))}, ValueError, r"weights must have shape \(6, 4\), got \(4, 6\)"),
        ({"weights": np.full((6, 4), np.inf)}, ValueError, "weights must hold no NaN"),
    ],
)
def test_impossible_draws_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        TASK.sample(**{"rng": 0} | arguments)


# --- Least squares and its noise.


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4), st.integers(0, 20))
def test_ols_is_scikit_learns(seed, d_in, d_out, more):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((d_in + more, d_in)), rng.standard_normal((d_in + more, d_out))
    assume(np.linalg.cond(x) < 1e6)
    expected = LinearRegression(fit_intercept=False).fit(x, y).coef_.T
    assert ols(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_ols_has_the_symmetries_of_the_problem():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((30, 3))
    turn, mix, order = np.linalg.qr(rng.standard_normal((3, 3)))[0], rng.standard_normal((5, 5)), rng.permutation(30)
    assert ols(x, 2 * y @ turn) == pytest.approx(2 * ols(x, y) @ turn)
    assert ols(x @ mix, y) == pytest.approx(np.linalg.solve(mix, ols(x, y)))
    assert ols(x[order], y[order]) == pytest.approx(ols(x, y))


@pytest.mark.parametrize(
    "x, y, error, message",
    [
        (np.ones((2, 3)), np.ones((2, 1)), ValueError, "at least as many samples as inputs"),
        (np.ones((4, 2)), np.ones((4, 1)), ValueError, "independent columns, got rank 1 with 2"),
        (np.eye(4)[:, :2] * 0, np.ones((4, 1)), ValueError, "independent columns, got rank 0"),
        (np.ones((4, 2)), np.ones((3, 1)), ValueError, "same number of rows"),
        (np.ones((4, 2)), np.ones(4), ValueError, "must be matrices"),
        (np.ones((0, 0)), np.ones((0, 1)), ValueError, "must be matrices"),
        (np.full((4, 1), np.nan), np.ones((4, 1)), ValueError, "x must hold no NaN"),
        (np.ones((4, 1)), np.full((4, 1), np.inf), ValueError, "y must hold no NaN and no infinity"),
        (np.ones((4, 1)) * 1j, np.ones((4, 1)), TypeError, "x must hold real numbers"),
    ],
)
def test_ols_refuses_what_has_no_single_answer(x, y, error, message):
    with pytest.raises(error, match=message):
        ols(x, y)


def test_ols_accepts_one_input_and_a_constant_column():
    assert ols([[2.0], [2.0]], [[1.0], [3.0]]) == pytest.approx(np.array([[1.0]]))
    assert ols([[1, 0], [1, 1]], [[5], [7]]) == pytest.approx(np.array([[5.0], [2.0]]))


def test_printed_threshold_is_eq_5_and_the_edge_of_another_matrix():
    assert [round(paper_threshold(0.1, 64, n), 3) for n in (500, 100, 2000)] == [0.136, 0.18, 0.118]
    rng = np.random.default_rng(0)
    tops = [0.3 * top(rng.standard_normal((2000, 500))) / np.sqrt(2000) for _ in range(3)]
    assert np.mean(tops) == pytest.approx(paper_threshold(0.3, 500, 2000), rel=0.01)


@pytest.mark.parametrize("n, exact, measured", [(500, 0.0687, 0.0656), (100, 0.340, 0.311), (2000, 0.0314, 0.0303)])
def test_noise_edge_of_least_squares_at_p1s_sizes(n, exact, measured):
    assert ols_noise_edge(0.1, 64, 32, n) == pytest.approx(exact, abs=5e-4 if n == 100 else 5e-5)
    rng = np.random.default_rng(n)
    tops = [top(ols(rng.standard_normal((n, 64)), 0.1 * rng.standard_normal((n, 32)))) for _ in range(60)]
    error = np.std(tops) / np.sqrt(60)
    assert np.mean(tops) == pytest.approx(measured, abs=5 * error + 5e-5)
    assert np.mean(tops) < exact


@pytest.mark.parametrize("d_in, d_out, n", [(800, 400, 1200), (400, 800, 4000), (600, 60, 1500)])
def test_noise_edge_of_least_squares_is_the_limit(d_in, d_out, n):
    rng = np.random.default_rng(d_in)
    r = np.triu(rng.standard_normal((d_in, d_in)), 1)
    r[range(d_in), range(d_in)] = np.sqrt(rng.chisquare(n - np.arange(d_in)))  # R of a Gaussian X (Bartlett)
    found = top(np.linalg.solve(r, rng.standard_normal((d_in, d_out))))
    assert found == pytest.approx(ols_noise_edge(1.0, d_in, d_out, n), rel=0.05)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 2000), st.floats(0, 10), st.integers(2, 9))
def test_noise_edge_scales(d_in, d_out, more, noise, factor):
    n = d_in + more
    edge = ols_noise_edge(noise, d_in, d_out, n)
    assert ols_noise_edge(noise, factor * d_in, factor * d_out, factor * n) == pytest.approx(edge)
    assert ols_noise_edge(2 * noise, d_in, d_out, n) == pytest.approx(2 * edge)
    assert edge >= noise * (np.sqrt(d_in) + np.sqrt(d_out)) / np.sqrt(n - d_in) * (1 - 1e-12)
    assert ols_noise_edge(noise, d_in, d_out, n + 1) <= edge


def test_noise_edge_tends_to_its_first_order():
    simple = [0.1 * (8 + np.sqrt(32)) / np.sqrt(n - 64) for n in (10**4, 10**8)]
    assert ols_noise_edge(0.1, 64, 32, 10**4) == pytest.approx(simple[0], rel=0.01)
    assert ols_noise_edge(0.1, 64, 32, 10**8) == pytest.approx(simple[1], rel=1e-5)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ols_noise_edge(0.1, 64, 32, 64), ValueError, "n_samples must be more than d_in=64, got 64"),
        (lambda: ols_noise_edge(-0.1, 64, 32, 100), ValueError, "noise must be"),
        (lambda: ols_noise_edge(0.1, 0, 32, 100), ValueError, "d_in must be >= 1"),
        (lambda: ols_noise_edge(0.1, 3, 2.0, 100), TypeError, "d_out must be an integer"),
        (lambda: paper_threshold(np.inf, 64, 100), ValueError, "noise must be finite"),
        (lambda: paper_threshold(0.1, 0, 100), ValueError, "dim must be >= 1"),
        (lambda: paper_threshold(0.1, 64, 0), ValueError, "n_samples must be >= 1"),
    ],
)
def test_thresholds_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_noise_no_threshold():
    assert paper_threshold(0.0, 64, 500) == ols_noise_edge(0.0, 64, 32, 500) == 0


# --- The rank.


@given(decays, levels, levels)
def test_k_star_counts_the_modes_above(decay, threshold, scale):
    rank = k_star(decay, threshold, scale)
    modes = scale * decay ** -np.arange(float(rank + 2))
    assert np.all(modes[:rank] > threshold * (1 - 1e-9))
    assert modes[rank] <= threshold * (1 + 1e-9)
    assert k_star(decay, threshold / scale) == pytest.approx(rank, abs=1)  # equal up to the rounding of the quotient
    assert k_star(decay, 2.0**7 * threshold, 2.0**7 * scale) == rank


@given(st.integers(2, 30), st.integers(0, 12))
def test_a_mode_at_the_threshold_is_not_above_it(decay, power):
    assert k_star(decay, float(decay) ** -power) == power
    assert k_star(decay, 1.0, scale=float(decay) ** power) == power


@given(decays, levels, st.floats(1, 100))
def test_k_star_falls_with_threshold_and_decay(decay, threshold, factor):
    assert k_star(decay, threshold * factor) <= k_star(decay, threshold)
    assume(threshold < 1)
    assert k_star(decay * factor, threshold) <= k_star(decay, threshold)


def test_printed_columns_of_k_star():
    """Eq. 2 with the true rho and d = d_out is P1's column, but for one task; with d_in it is not."""
    ranks = {dim: [k_star(t.decay, paper_threshold(t.noise, dim, t.n_samples)) for _, t in paper_tasks()] for dim in (32, 64)}
    assert ranks[32] == [12, 6, 3, 2, 2, 1, 3, 4, 1, 7]
    assert ranks[64] == [11, 5, 3, 2, 2, 1, 3, 4, 1, 7]


def test_arithmetic_that_theorem_1_takes_for_equal():
    tau = paper_threshold(0.1, 64, 500)
    assert tau / (0.1 / np.sqrt(500)) == pytest.approx(30, abs=0.5)
    assert (k_star(2.0, 0.1 / np.sqrt(500)), k_star(2.0, tau)) == (8, 3)
    assert k_star(1.87, tau) == 4  # its own estimate of rho = 2 moves the ceiling


def test_growth_with_the_number_of_samples():
    """With the printed threshold K* stops growing; with the edge of least squares it goes as log n / (2 log rho)."""
    assert k_star(2.0, paper_threshold(0.1, 64, 10**8)) == k_star(2.0, paper_threshold(0.1, 64, 10**5)) == 4
    ranks = [k_star(1.01, ols_noise_edge(0.1, 64, 32, 10**power)) for power in (5, 12)]
    assert (ranks[1] - ranks[0]) / (7 * np.log(10)) == pytest.approx(0.5 / np.log(1.01), rel=1e-2)


def test_nothing_above_the_threshold():
    assert k_star(2.0, 3.0) == k_star(2.0, 1.0) == k_star(2.0, 5.0, scale=4.0) == 0
    assert k_star(2.0, 1e-300, 1e300) == 1994 and isinstance(k_star(2.0, 3.0), int)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((1.0, 0.1), ValueError, "decay must be > 1, got 1.0"),
        ((0.5, 0.1), ValueError, "decay must be > 1"),
        ((np.nan, 0.1), ValueError, "decay must be finite"),
        ((2.0, 0.0), ValueError, "threshold must be > 0"),
        ((2.0, -1.0), ValueError, "threshold must be > 0"),
        ((2.0, np.inf), ValueError, "threshold must be finite"),
        ((2.0, 0.1, 0.0), ValueError, "scale must be > 0"),
        (([2.0], 0.1), TypeError, "decay must be a real number"),
    ],
)
def test_k_star_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        k_star(*arguments)


# --- Decay rates.


@given(spectra, st.floats(1e-3, 10))
def test_decay_rate_is_the_regression_of_the_logarithms(values, threshold):
    kept = np.sort([v for v in values if v > threshold])[::-1]
    found = decay_rate(values, threshold)
    if len(kept) < 2:
        assert np.isnan(found)
        return
    line = linregress(np.arange(len(kept)), np.log(kept))
    fit = fit_decay(values, threshold)
    assert found == pytest.approx(np.exp(-line.slope), rel=1e-9) and found >= 1
    assert fit.decays == (found,) and fit.starts == (0,) and fit.modes == len(kept)
    assert fit.scale == pytest.approx(np.exp(line.intercept), rel=1e-9)
    residuals = np.log(kept) - line.intercept - line.slope * np.arange(len(kept))
    assert fit.rms == pytest.approx(np.sqrt(np.mean(residuals**2)), abs=1e-9)


@given(spectra, st.floats(1e-3, 10), st.floats(0.01, 100), st.randoms())
def test_decay_rate_knows_no_unit_and_no_order(values, threshold, unit, random):
    assume(all(abs(v / threshold - 1) > 1e-9 for v in values))
    shuffled = random.sample(values, len(values))
    found = decay_rate(values, threshold)
    assert decay_rate(shuffled, threshold) == pytest.approx(found, nan_ok=True, rel=1e-9)
    assert decay_rate(np.multiply(unit, values), unit * threshold) == pytest.approx(found, nan_ok=True, rel=1e-9)


@given(st.floats(1.001, 20), levels, st.integers(2, 30))
def test_geometric_spectra_are_found_exactly(decay, scale, modes):
    fit = fit_decay(scale * decay ** -np.arange(float(modes)), threshold=0.0, max_pieces=3)
    assert fit.starts == (0,)
    assert fit.decays[0] == pytest.approx(decay, rel=1e-9)
    assert fit.scale == pytest.approx(scale, rel=1e-9)
    assert fit.k_star(scale / decay**2.5) == 3


def test_fewer_than_two_modes_have_no_decay():
    for fit in (fit_decay([5.0, 0.1], 1.0), fit_decay([0.1], 1.0), fit_decay([], 1.0), fit_decay([0.0, 0.0], 0.0, 2, 2)):
        assert np.isnan([*fit.decays, fit.scale, fit.rms]).all() and fit.modes < 2
        with pytest.raises(ValueError, match="there is no decay rate"):
            fit.k_star(0.1)


def test_two_modes_whatever_the_threshold():
    assert decay_rate([1.0, 0.1, 0.01], threshold=0.5, min_modes=2) == pytest.approx(10)
    assert decay_rate([1.0, 0.5, 0.1], threshold=0.05, min_modes=2) == decay_rate([1.0, 0.5, 0.1], threshold=0.05)
    assert fit_decay([1.0, 0.1, 0.0], threshold=0.5, min_modes=3).modes == 2  # zero has no logarithm


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([1.0, np.nan], 0.1), ValueError, "singular_values must hold no NaN"),
        (([1.0, -1.0], 0.1), ValueError, "singular_values must be >= 0"),
        (([[1.0, 2.0]], 0.1), ValueError, "singular_values must be one list"),
        ((["a"], 0.1), TypeError, "singular_values must hold real numbers"),
        (([1.0, 2.0], -0.1), ValueError, "threshold must be >= 0"),
        (([1.0, 2.0], np.nan), ValueError, "threshold must be finite"),
        (([1.0, 2.0], 0.1, 0), ValueError, "max_pieces must be >= 1"),
        (([1.0, 2.0], 0.1, 1, -1), ValueError, "min_modes must be >= 0"),
    ],
)
def test_fits_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        fit_decay(*arguments)


def squares(y):
    k = np.arange(len(y))
    return np.sum((y - np.polyval(np.polyfit(k, y, 1), k)) ** 2)


def best_by_trying(y, most):
    """(score, starts) of every way to cut y in pieces of three points or more, the best one."""
    found = []
    for pieces in range(1, most + 1):
        for cuts in itertools.combinations(range(3, len(y) - 2), pieces - 1):
            parts = np.split(y, cuts)
            if min(map(len, parts)) >= 3:
                total = max(sum(map(squares, parts)) / len(y), ROUNDING)
                found.append((len(y) * np.log(total) + 3 * pieces * np.log(len(y)), (0, *cuts)))
    return min(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=12), st.integers(1, 4))
def test_breakpoints_are_the_best_of_all(logs, most):
    y = np.sort(logs)[::-1]
    fit = fit_decay(np.exp(y), threshold=0.0, max_pieces=most)
    score, _ = best_by_trying(y, most)
    assert len(fit.starts) <= most and np.all(np.diff([*fit.starts, len(y)]) >= 3)
    own = sum(squares(part) for part in np.split(y, fit.starts[1:])) / len(y)
    assert fit.rms**2 == pytest.approx(own, abs=1e-9)
    assert len(y) * np.log(max(own, ROUNDING)) + 3 * len(fit.starts) * np.log(len(y)) <= score + 1e-3


def test_breaks_are_found_in_noise():
    k = np.arange(60)
    truth = np.where(k < 20, -0.3 * k, np.where(k < 40, -6 - 0.02 * (k - 20), -6.4 - 0.2 * (k - 40)))
    rng = np.random.default_rng(0)
    fits = [fit_decay(np.exp(truth + 0.01 * rng.standard_normal(60)), 0.0, max_pieces=5) for _ in range(60)]
    right = [fit for fit in fits if len(fit.starts) == 3]
    assert len(right) > 36  # 49 of 60 on average: sorting makes the residuals dependent, and a piece too many happens
    assert all(abs(fit.starts[1] - 20) <= 1 and abs(fit.starts[2] - 40) <= 1 for fit in right)
    assert np.mean([fit.decays for fit in right], axis=0) == pytest.approx(np.exp([0.3, 0.02, 0.2]), rel=0.01)
    assert min(len(fit.starts) for fit in fits) == 3


def test_a_line_is_rarely_cut():
    rng, line = np.random.default_rng(0), -0.1 * np.arange(60)
    pieces = [len(fit_decay(np.exp(line + 0.01 * rng.standard_normal(60)), 0.0, 5).starts) for _ in range(100)]
    assert pieces.count(1) >= 85


def test_a_power_law_is_cut_as_often_as_allowed():
    values = 1.0 / np.arange(1, 400)
    assert [len(fit_decay(values, 0.0, pieces).starts) for pieces in (1, 2, 4)] == [1, 2, 4]


@given(st.floats(1.05, 5), st.floats(1.05, 5), st.integers(3, 9), st.floats(0.05, 1), st.floats(-4, 1))
def test_k_star_of_pieces_counts_the_curve(first, second, length, drop, power):
    fit = DecayFit(20, (0, length), (first, second), (1.0, first**-length * drop), 0.0)
    threshold = 10.0**power
    k = np.arange(1000)
    curve = np.where(k < length, first ** -k.astype(float), fit.levels[1] * second ** -(k - length).astype(float))
    assume(np.all(np.abs(curve / threshold - 1) > 1e-9))
    assert fit.k_star(threshold) == np.count_nonzero(curve > threshold)


def test_k_star_beyond_a_plateau():
    fit = DecayFit(9, (0, 3, 6), (2.0, 1.0, 2.0), (8.0, 1.0, 1.0), 0.0)
    assert [fit.k_star(t) for t in (8.0, 1.0, 0.9, 0.5, 0.3)] == [0, 3, 7, 7, 8]
    with pytest.raises(ValueError, match="last piece, which does not decay, got 0.5"):
        DecayFit(6, (0, 3), (2.0, 1.0), (8.0, 1.0), 0.0).k_star(0.5)
    with pytest.raises(ValueError, match="threshold must be > 0"):
        fit.k_star(0.0)


def test_layers_as_a_table():
    class Spectrum:
        singular_values = np.array([1.0, 4.0, 2.0])

    table = decay_by_layer({"a": Spectrum(), "b": [9.0, 3.0], "c": [1.0]}, {"a": 0.5, "b": 0.1, "c": 0.0, "unused": 1})
    assert list(table.index) == ["a", "b", "c"] and list(table.columns) == ["modes", "decay", "scale", "rms", "k_star"]
    assert table["modes"].tolist() == [3, 2, 1]
    assert table["decay"].tolist() == pytest.approx([2, 3, np.nan], nan_ok=True)
    assert table["scale"].tolist() == pytest.approx([4, 9, np.nan], nan_ok=True)
    assert table["k_star"].tolist() == [3, 5, pd.NA]
    flat = decay_by_layer({"flat": [1.0, 1.0], "no threshold": [4.0, 2.0]}, {"flat": 0.5, "no threshold": 0.0})
    assert flat["decay"].tolist() == pytest.approx([1, 2]) and flat["k_star"].isna().all()


@pytest.mark.parametrize(
    "spectra, threshold, error, message",
    [
        ({}, 0.1, ValueError, "spectra is empty"),
        ({"a": [1.0, 2.0]}, {"b": 0.1}, ValueError, "threshold must have every name of spectra, got none for 'a'"),
        ({"a": [1.0, 2.0]}, -0.1, ValueError, "threshold must be >= 0"),
        ({"a": [1.0, -2.0]}, 0.1, ValueError, "singular_values must be >= 0"),
        ({"a": [1.0, 2.0]}, None, TypeError, "threshold must be a real number"),
    ],
)
def test_layers_refuse(spectra, threshold, error, message):
    with pytest.raises(error, match=message):
        decay_by_layer(spectra, threshold)
