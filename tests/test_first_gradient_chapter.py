"""The chapter on the first gradient: its theorems against independent computations, its simulations, figures and checks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard, sqrtm

from companion import marchenko_pastur as mp
from companion import rank_rules as rr
from companion.book import first_gradient_figures as figures
from companion.book import first_gradient_simulations as simulations
from companion.book.checks import first_gradient as checks
from companion.curvature import quadratic_loss

untimed = settings(deadline=None, max_examples=50)  # a busy machine is no failure
seeds = st.integers(0, 10**6)
sides = st.integers(1, 400)


def constant(shape):
    beta = min(shape) / max(shape)
    return (1 + beta + np.sqrt(1 + 14 * beta + beta**2)) / 2


def matrix(rng, *shape):
    return rng.standard_normal(shape)


# --- Theorems --------------------------------------------------------------------------------------------------------


@untimed
@given(seeds, st.integers(1, 8), st.integers(1, 8), st.floats(0, 5))
def test_error_of_a_truncation_is_bounded_for_any_matrices(seed, m, d, noise):
    rng = np.random.default_rng(seed)
    signal, z = matrix(rng, m, d) @ np.diag(rng.gamma(0.3, size=d)), noise * matrix(rng, m, d)
    u, s, vt = np.linalg.svd(signal + z, full_matrices=False)
    strengths = np.linalg.svd(signal, compute_uv=False)
    for r in range(min(m, d) + 1):
        error = np.sum((u[:, :r] * s[:r] @ vt[:r] - signal) ** 2)
        assert error <= 3 * np.sum(strengths[r:] ** 2) + 16 * r * np.linalg.norm(z, 2) ** 2 + 1e-9


@untimed
@given(sides, sides)
def test_constant_is_the_optimal_threshold_seen_from_the_other_side(m, d):
    shape = (m, d)
    assert 1 <= constant(shape) <= 3
    mode = np.sqrt(constant(shape) * max(shape))
    assert np.isclose(mp.spiked_singular_value(mode, shape, 1.0), mp.gavish_donoho_threshold(shape, noise=1.0))


def test_cost_of_keeping_has_its_limit_and_its_zero():
    rng = np.random.default_rng(0)
    shape = (60, 240)
    squares = constant(shape) * np.array([0.8, 1, 1.5])
    limit = (squares + 1) * (squares + 0.25) / squares - 2 * (squares**2 - 0.25) / squares
    found = simulations.cost_of_keeping(squares, shape, 60, rng, noise=3.0)
    assert np.allclose(found, limit, atol=0.08)
    assert limit[0] > 0 > limit[2] and abs(limit[1]) < 1e-12


def test_cost_of_keeping_is_the_same_by_both_ways(monkeypatch):
    whole = simulations.cost_of_keeping([1.0, 3.0], (30, 20), 3, np.random.default_rng(1))
    monkeypatch.setattr(simulations, "DENSE", 5)
    assert np.allclose(simulations.cost_of_keeping([1.0, 3.0], (30, 20), 3, np.random.default_rng(1)), whole)


@untimed
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=8), st.integers(0, 3))
def test_largest_gap_finds_a_cliff_and_nothing_else(values, zeros):
    s = np.sort(values)[::-1]
    gaps = s[:-1] - s[1:]
    found = rr.gap_rank([*s, 0, *[0] * zeros]) == len(s)
    assert found == (s[-1] > gaps.max())
    assert not found or s[0] < len(s) * s[-1]


@untimed
@given(st.lists(st.floats(0, 10), min_size=2, max_size=12), st.floats(0, 5))
def test_largest_gap_of_a_convex_spectrum_is_the_first(gaps, last):
    gaps = np.sort(np.round(gaps, 3))  # from the end: growing towards the first
    s = np.append(last, last + np.cumsum(gaps))[::-1]
    assert rr.gap_rank(s) <= 1 or np.isclose((s[:-1] - s[1:]).max(), s[0] - s[1])


@pytest.mark.parametrize("order", [2, 4, 8, 16])
def test_signs_of_the_group_are_balanced_and_closed(order):
    rows = hadamard(order)
    assert np.all(rows[0] == 1) and np.all(rows[1:].sum(axis=1) == 0)
    assert {tuple(a * b) for a in rows for b in rows} == {tuple(row) for row in rows}
    assert all(tuple(-row) not in {tuple(row) for row in rows} for row in rows)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["Gaussian", "heavy-tailed"])
def test_level_of_the_group_is_exact_without_signal_and_an_upper_bound_with_it(kind, rank):
    rng, size, flips = np.random.default_rng(0), 20_000, 3
    noise = simulations.example_noise(kind, size, 4, 12, rng)
    mean = noise + rank * 5 * np.eye(4, 3).ravel() * (np.arange(12) == 0)
    sums = (hadamard(flips + 1) @ mean).reshape(size, flips + 1, 4, 3)
    above = np.linalg.svd(sums[:, 0], compute_uv=False)[:, rank] > simulations.top(sums[:, 1:]).max(axis=1)
    error = 4 * np.sqrt(0.25 * 0.75 / size)
    assert np.mean(above) < 0.25 + error and (rank or np.mean(above) > 0.25 - error)


@untimed
@given(seeds)
def test_half_whitened_gradient_is_what_the_loss_weighs(seed):
    rng = np.random.default_rng(seed)
    m, d = 4, 3
    p, s = (a @ a.T + 0.1 * np.eye(len(a)) for a in (matrix(rng, m, m), matrix(rng, d, d)))
    update, roots = matrix(rng, m, d), [np.real(sqrtm(a)) for a in (p, s)]
    gradient = -p @ update @ s
    t = -np.linalg.inv(roots[0]) @ gradient @ np.linalg.inv(roots[1])
    u, values, vt = np.linalg.svd(t, full_matrices=False)
    best = np.linalg.inv(roots[0]) @ np.outer(u[:, 0] * values[0], vt[0]) @ np.linalg.inv(roots[1])
    least = quadratic_loss(best, update, (p, s))
    assert np.isclose(least, np.sum(values[1:] ** 2) / 2)
    for _ in range(20):
        assert quadratic_loss(np.outer(matrix(rng, m), matrix(rng, d)), update, (p, s)) >= least - 1e-9
    ratios = np.linalg.svd(gradient, compute_uv=False) / np.linalg.svd(update, compute_uv=False)
    ends = [np.linalg.eigvalsh(p)[i] * np.linalg.eigvalsh(s)[i] for i in (0, -1)]
    assert np.all(ratios >= ends[0] * (1 - 1e-9)) and np.all(ratios <= ends[1] * (1 + 1e-9))


# --- Simulations -----------------------------------------------------------------------------------------------------


def test_top_is_the_spectral_norm():
    stack = matrix(np.random.default_rng(0), 2, 3, 6, 4)
    assert np.allclose(simulations.top(stack), np.linalg.norm(stack, 2, axis=(-2, -1)))
    assert simulations.top(np.zeros((4, 3))) == 0


def test_flips_are_balanced_and_keep_the_variance():
    flips = simulations.flips_of(65, 4, np.random.default_rng(0))
    assert flips.shape == (4, 65)
    assert np.allclose(flips.mean(axis=1), 0) and np.allclose(np.mean(flips**2, axis=1), 1)


def test_signed_sums_are_moments_of_inputs_and_noise():
    rng, scales = np.random.default_rng(0), np.array([2.0, 1.0])
    second, cross = simulations.signed_sums(20_000, rng, scales=scales, flips=3, shape=(5, 2))
    assert second.shape == (4, 2, 2) and cross.shape == (4, 5, 2)
    assert np.allclose(second[0], np.diag([4, 1]), atol=0.15) and np.all(np.abs(second[1:]) < 0.2)
    spread = np.std(cross, axis=(0, 1)) * np.sqrt(20_000)  # standard deviation of noise times input
    assert np.allclose(spread, [2, 1], rtol=0.4)


def test_kinds_of_noise_have_mean_zero_and_their_asymmetry():
    rng = np.random.default_rng(0)
    for kind in ("Gaussian", "heavy-tailed"):
        noise = simulations.example_noise(kind, 3, 5000, 2, rng)
        assert noise.shape == (3, 5000, 2) and abs(np.mean(noise > 0) - 0.5) < 0.02
    skewed = simulations.example_noise("skewed", 1, 50_000, 2, rng)
    assert abs(skewed.mean()) < 0.05
    assert np.allclose(skewed[..., 0] * skewed[0, 0, 1], skewed[..., 1] * skewed[0, 0, 0])  # one matrix for all
    with pytest.raises(ValueError, match="kind: got 'pink'"):
        simulations.example_noise("pink", 1, 1, 1, rng)


def test_derivatives_of_the_network_are_those_of_differences():
    rng = np.random.default_rng(0)
    w, d, x, v, y = (matrix(rng, *shape) for shape in ((4, 3), (4, 3), (20, 3), (2, 4), (20, 2)))
    loss = lambda step: simulations.taylor(w + step * d, 0 * d, x, v, y)[0]
    value, slope, bend = simulations.taylor(w, d, x, v, y)
    assert np.isclose(value, np.mean(np.sum((np.tanh(x @ w.T) @ v.T - y) ** 2, axis=1)) / 2)
    h = 1e-4
    assert np.isclose(slope, (loss(h) - loss(-h)) / (2 * h), rtol=1e-5)
    assert np.isclose(bend, (loss(h) - 2 * loss(0) + loss(-h)) / h**2, rtol=1e-4)


def test_quadratic_model_is_better_for_a_smaller_update():
    start = [simulations.model_errors(size, np.random.default_rng(0), steps=100)[0] for size in (0.05, 1.0)]
    assert 0 < start[0] < 0.05 < start[1]


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_figures_draw_what_they_are_given():
    squares, line = np.linspace(0, 5, 6), np.linspace(4, -2, 6)
    ax = figures.worth_keeping(squares, {"a": line}, {"a": ([1, 2], [0.5, 0.1])}, {"a": 3.0})
    assert [text.get_text() for text in ax.texts] == ["3.00"]
    ax = figures.modes_by_constant([1, 2, 3], {10: [9, 5, 3], 100: [9, 5, 3]}, edge=2.5, true=3)
    assert [text.get_text() for text in ax.legend().get_texts()] == ["true rank 3", "n = 10", "n = 100", "edge of the noise"]
    ax = figures.detection([0, 1, 2], {"a": [0.1, 0.5, 1]}, visible=1, level=0.1)
    assert np.array_equal(ax.lines[-1].get_ydata(), [0.1, 0.5, 1])
    ax = figures.mode_order({"a": [3, 1], "b": [1, 2]})
    assert [text.get_text() for text in ax.texts] == ["1", "1", "2", "2"]
    assert np.array_equal(ax.lines[0].get_ydata(), [3, 1])
    plt.close("all")


def test_figure_of_rules_has_a_panel_for_each_spectrum_and_medians():
    rows = [{"spectrum": name, "n": n, "best": draw, "rule": 2 * draw} for name in "abc" for n in (8, 16) for draw in range(5)]
    fig = figures.rules_by_spectrum(pd.DataFrame(rows), ["rule"], highest=9)
    assert [ax.get_title() for ax in fig.axes] == ["a", "b", "c", ""]
    best, rule = fig.axes[0].lines
    assert np.array_equal(best.get_ydata(), [2, 2]) and np.array_equal(rule.get_ydata(), [4, 4])
    plt.close("all")


# --- Exercises -------------------------------------------------------------------------------------------------------


def right_refit(x, y, signs, fit=True, degrees=True, whiten=True):
    n, d = x.shape
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0] if fit else y
    left = left * np.sqrt(n / (n - d)) if degrees else left * 0.8
    half = np.linalg.inv(np.real(sqrtm(x.T @ x / n))) if whiten else np.eye(d)
    return max(np.linalg.norm((left * e[:, None]).T @ x / n @ half, 2) for e in signs)


RIGHT = {
    "examples": (checks.gradient_examples, (lambda s, v, shape: int(np.ceil(constant(shape) * max(shape) * (v / s) ** 2)),)),
    "cliff": (checks.gradient_cliff, (lambda s: 1 + 0.995 * np.arange(s)[::-1],)),
    "level": (checks.gradient_level, (63, 64, 0)),
    "refit": (checks.gradient_refit, (right_refit,)),
}
WRONG = {
    "examples, universal C": (checks.gradient_examples, (lambda s, v, shape: int(3 * max(shape) * (v / s) ** 2),)),
    "examples, no noise": (checks.gradient_examples, (lambda s, v, shape: int(np.ceil(constant(shape) * max(shape) / s**2)),)),
    "cliff, too flat": (checks.gradient_cliff, (lambda s: np.ones(s),)),
    "cliff, too steep": (checks.gradient_cliff, (lambda s: 1 + 1.2 * np.arange(s)[::-1],)),
    "cliff, upside down": (checks.gradient_cliff, (lambda s: 1 + 0.995 * np.arange(s),)),
    "level, no group": (checks.gradient_level, (49, 50, 0)),
    "level, too small": (checks.gradient_level, (31, 32, 0)),
    "level, too large": (checks.gradient_level, (127, 128, 0)),
    "level, examples": (checks.gradient_level, (63, 8, 0)),
    "level, left out": (checks.gradient_level, (63, 64, 13)),
    "refit, not fitted": (checks.gradient_refit, (lambda x, y, e: right_refit(x, y, e, fit=False),)),
    "refit, scaled wrongly": (checks.gradient_refit, (lambda x, y, e: right_refit(x, y, e, degrees=False),)),
    "refit, not whitened": (checks.gradient_refit, (lambda x, y, e: right_refit(x, y, e, whiten=False),)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name):
    check, answer = RIGHT[name]
    assert check(*answer)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_told_what_is_wrong(name):
    check, answer = WRONG[name]
    with pytest.raises(AssertionError, match=r".{15,}"):
        check(*answer)
