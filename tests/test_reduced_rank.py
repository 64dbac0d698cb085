"""Reduced-rank regression: scikit-learn's checks, each rank against scikit-learn, the theorems behind it, its symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kstest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.utils.estimator_checks import parametrize_with_checks

from companion.kstar import LinearTask, ols, ols_noise_edge, paper_tasks, paper_threshold
from companion.marchenko_pastur import (
    MarchenkoPastur, gavish_donoho_threshold, noise_edge, spike_threshold, spiked_overlaps, spiked_singular_value,
)  # fmt: skip
from companion.reduced_rank import ReducedRankRegression, new_input_thresholds, rank_sweep

pytestmark = pytest.mark.filterwarnings("error")

THRESHOLDS = ["gavish-donoho", "gavish-donoho-2014", "edge", "paper"]
RULES = [*THRESHOLDS, "cv", 1]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@parametrize_with_checks([ReducedRankRegression(rank=rank) for rank in RULES])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


def problem(seed, n=60, d_in=8, d_out=5, rank=2, noise=0.3, spread=1.0):
    """x, y and weights of the given rank, with inputs of unequal scales, all mixed."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((d_in, rank)) @ rng.standard_normal((rank, d_out))
    mixing = np.linalg.qr(rng.standard_normal((d_in, d_in)))[0] * np.geomspace(1, spread, d_in)
    x = rng.standard_normal((n, d_in)) @ mixing.T
    return x, x @ weights + noise * rng.standard_normal((n, d_out)), weights


def truncations(x, y, method):
    """Weights of every rank by the book."""
    weights = LinearRegression(fit_intercept=False).fit(x, y).coef_.T
    left, values, right = np.linalg.svd(weights if method == "ols" else np.linalg.qr(x)[0].T @ y, full_matrices=False)
    if method == "ols":
        return [(left[:, :r] * values[:r]) @ right[:r] for r in range(len(values) + 1)]
    return [weights @ right[:r].T @ right[:r] for r in range(len(values) + 1)]


# --- Every rank at once.


@pytest.mark.parametrize("method", ["ols", "reduced-rank"])
@settings(max_examples=40, deadline=None)
@given(seed=seeds, d_in=st.integers(1, 6), d_out=st.integers(1, 6), more=st.integers(2, 20))
def test_sweep_is_scikit_learn_rank_by_rank(method, seed, d_in, d_out, more):
    x, y, weights = problem(seed, d_in + more, d_in, d_out)
    a, b, _ = problem(seed + 1, 30, d_in, d_out)
    covariance = np.cov(a.T).reshape(d_in, d_in)
    sweep = rank_sweep(x, y, test=(a, b), weights=weights, covariance=covariance, method=method)
    cut = truncations(x, y, method)
    risks = [np.trace((w - weights).T @ covariance @ (w - weights)) for w in cut]
    assert sweep.r2 == pytest.approx(np.array([r2_score(b, a @ w) for w in cut]), rel=1e-7, abs=1e-7)
    assert sweep.excess_risk == pytest.approx(np.array(risks), rel=1e-6, abs=1e-9)
    assert np.all(np.diff(sweep.singular_values) <= 0)


def test_risk_is_what_new_data_show():
    x, y, weights = problem(0, spread=5.0)
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((8, 8))
    new = rng.standard_normal((200_000, 8)) @ mixing
    risk = rank_sweep(x, y, weights=weights, covariance=mixing.T @ mixing).excess_risk
    for r, w in enumerate(truncations(x, y, "ols")):
        losses = np.sum((new @ (w - weights)) ** 2, axis=1)
        assert losses.mean() == pytest.approx(risk[r], abs=5 * losses.std() / np.sqrt(len(losses)))


@pytest.mark.parametrize("method", ["ols", "reduced-rank"])
def test_stacks_are_problems_side_by_side(method):
    task = LinearTask(2.0, 50, 0.1, 6, 4)
    x, y, weights = task.sample(0, size=6)
    a, b, _ = task.sample(1, size=6, weights=weights)
    together = rank_sweep(x, y, test=(a, b), weights=weights, method=method)
    nested = rank_sweep(*(v.reshape(2, 3, *v.shape[1:]) for v in (x, y)), method=method)
    assert np.array_equal(nested.singular_values.reshape(6, 4), together.singular_values)
    for i in range(6):
        one = rank_sweep(x[i], y[i], test=(a[i], b[i]), weights=weights[i], method=method)
        assert one.singular_values == pytest.approx(together.singular_values[i], rel=1e-12)
        assert one.r2 == pytest.approx(together.r2[i], rel=1e-12)
        assert one.excess_risk == pytest.approx(together.excess_risk[i], rel=1e-9)


@pytest.mark.parametrize("spread", [1e2, 1e5, 1e8])
def test_ill_conditioned_inputs_lose_no_more_digits_than_they_must(spread):
    x, y, weights = problem(3, 100, spread=spread)
    if spread < 1e8:  # there the covariance itself is singular up to rounding
        risk = rank_sweep(x, y, weights=weights, covariance=x.T @ x / 100).excess_risk[-1]
        assert risk == pytest.approx(np.sum((x @ (ols(x, y) - weights)) ** 2) / 100, rel=1e-6)
    z = np.linalg.qr(x)[0].T @ y
    found = rank_sweep(x, y, method="reduced-rank").singular_values
    assert found == pytest.approx(np.linalg.svd(z, compute_uv=False), rel=1e-9, abs=1e-13 * found[0])


def test_sweep_without_noise_and_with_constant_outputs():
    x, y, weights = problem(0, noise=0.0)
    sweep = rank_sweep(x, y, test=(x, y), weights=weights)
    assert sweep.excess_risk[2:] == pytest.approx(np.zeros(4), abs=1e-20)
    assert sweep.r2[2:] == pytest.approx(np.ones(4))
    constant = np.column_stack([y[:, 0], np.full(60, 2.0)])
    cut = truncations(x, constant, "ols")
    expected = [r2_score(constant, x @ w) for w in cut]
    assert rank_sweep(x, constant, test=(x, constant)).r2 == pytest.approx(np.array(expected))


def test_nothing_asked_nothing_given():
    sweep = rank_sweep(*problem(0)[:2])
    assert sweep.r2 is None and sweep.excess_risk is None and sweep.singular_values.shape == (5,)


X, Y, W = problem(0)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": X[:5], "y": Y[:5]}, ValueError, "at least as many samples as inputs"),
        ({"y": Y[:-1]}, ValueError, "x and y must be matrices with as many rows"),
        ({"y": Y[:, 0]}, ValueError, "x and y must be matrices"),
        ({"x": X[:, [0, 0, 1]]}, ValueError, "x must have independent columns"),
        ({"x": 0 * X}, ValueError, "x must have independent columns"),
        ({"x": np.where(X > 2, np.nan, X)}, ValueError, "x must hold no NaN"),
        ({"y": np.where(Y > 2, np.inf, np.where(Y < -2, -np.inf, Y))}, ValueError, "y must hold no NaN and no infinity"),
        ({"x": X.astype(str)}, TypeError, "x must hold real numbers"),
        ({"method": "svd"}, ValueError, "method must be 'ols' or 'reduced-rank', got 'svd'"),
        ({"test": (X[:, :3], Y)}, ValueError, "test must fit x and y"),
        ({"test": (X, Y[:9])}, ValueError, r"test\[0\] and test\[1\] must be matrices with as many rows"),
        ({"weights": W.T}, ValueError, r"weights must have shape \(8, 5\), got \(5, 8\)"),
        ({"weights": W * np.nan}, ValueError, "weights must hold no NaN"),
        ({"weights": W, "covariance": np.eye(3)}, ValueError, "covariance must be a symmetric 8 x 8 matrix"),
        ({"weights": W, "covariance": -np.eye(8)}, ValueError, "covariance must have no negative eigenvalue, got -1"),
    ],
)
def test_sweep_refuses(change, error, message):
    with pytest.raises(error, match=message):
        rank_sweep(**{"x": X, "y": Y} | change)


def test_large_finite_values_and_integers_are_no_infinity():
    assert np.all(np.isfinite(rank_sweep(np.eye(3), np.full((3, 2), 1e160)).singular_values))
    assert rank_sweep([[1], [2]], [[1], [2]], weights=[[1]]).excess_risk == pytest.approx([1, 0])


# --- What the theory says.


def test_noise_of_z_is_marchenko_pastur_for_any_inputs():
    rng = np.random.default_rng(0)
    for spread in (1.0, 1e3):
        x = problem(0, 700, 300, 5, spread=spread)[0]
        values = rank_sweep(x, 0.2 * rng.standard_normal((700, 150)), method="reduced-rank").singular_values
        law = MarchenkoPastur(150 / 300, 0.2**2)
        assert kstest(values**2 / 300, law.cdf).statistic < 0.03
        assert values[0] == pytest.approx(noise_edge((300, 150), 0.2), rel=0.03)


def test_noise_of_the_weights_is_not():
    """The same noise, seen in the weights, moves with the inputs."""
    rng = np.random.default_rng(0)
    tops = []
    for spread in (1.0, 1e3):
        x = problem(0, 700, 300, 5, spread=spread)[0]
        tops.append(rank_sweep(x, 0.2 * rng.standard_normal((700, 150))).singular_values[0])
    assert tops[0] == pytest.approx(ols_noise_edge(0.2, 300, 150, 700), rel=0.05)
    assert tops[1] < 0.5 * tops[0]


def test_variance_of_a_kept_mode():
    """Eq. 7 prints r sigma²/n = .0005; (d_in + d_out - r) times that, .046, is near what is measured."""
    task = LinearTask(1.0, 2000, 0.5)
    rng = np.random.default_rng(0)
    basis = task.sample(rng, size=40).weights
    left, _, right = np.linalg.svd(basis, full_matrices=False)
    weights = left[..., :4] * [8.0, 6.0, 5.0, 4.0] @ right[..., :4, :]
    x, y, _ = task.sample(rng, size=40, weights=weights)
    risk = rank_sweep(x, y, weights=weights).excess_risk
    mean, error = risk.mean(axis=0), risk.std(axis=0) / np.sqrt(40)
    assert mean[4] == pytest.approx(0.0478, abs=0.0003 + 4 * error[4])
    assert mean[4] / (4 * 0.25 / 2000) == pytest.approx(92, rel=0.06)
    noise = (np.sqrt(60) + np.sqrt(28)) ** 2 * 0.25 / 2000  # a mode of what the four leave free
    assert mean[5] - mean[4] == pytest.approx(0.0207, abs=0.001)
    assert mean[5] - mean[4] == pytest.approx(noise, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 4))
def test_no_weights_of_the_rank_fit_the_sample_better(seed, rank):
    x, y, _ = problem(seed)
    model = ReducedRankRegression(rank=rank, fit_intercept=False).fit(x, y)
    full = LinearRegression(fit_intercept=False).fit(x, y)
    lost = np.sum(model.singular_values_[rank:] ** 2)
    error = np.sum((y - model.predict(x)) ** 2)
    assert error == pytest.approx(np.sum((y - full.predict(x)) ** 2) + lost, rel=1e-9)
    others = truncations(x, y, "ols")[rank], model.coef_.T + 1e-3 * problem(seed + 1, rank=max(rank, 1))[2] * (rank > 0)
    cut = np.linalg.svd(others[1], full_matrices=False)
    others = (others[0], (cut[0][:, :rank] * cut[1][:rank]) @ cut[2][:rank])
    assert all(np.sum((y - x @ w) ** 2) >= error * (1 - 1e-12) for w in others)
    assert np.linalg.matrix_rank(model.coef_, tol=1e-9) == rank == model.rank_


def test_regressor_is_a_point_of_the_sweep():
    x, y, weights = problem(0, noise=4.0, rank=5)
    model = ReducedRankRegression(fit_intercept=False).fit(x, y)
    sweep = rank_sweep(x, y, weights=weights, method="reduced-rank")
    assert 0 < model.rank_ < 5 and model.singular_values_ == pytest.approx(sweep.singular_values)
    assert np.sum((model.coef_.T - weights) ** 2) == pytest.approx(sweep.excess_risk[model.rank_])


def test_full_rank_is_least_squares():
    x, y, _ = problem(1)
    x, y = x + 3, y - 7
    model, reference = ReducedRankRegression(rank=5).fit(x, y), LinearRegression().fit(x, y)
    assert model.coef_ == pytest.approx(reference.coef_)
    assert model.intercept_ == pytest.approx(reference.intercept_)
    assert model.noise_ == pytest.approx(np.sqrt(np.sum((y - reference.predict(x)) ** 2) / (5 * (60 - 9))))
    assert np.isnan(model.threshold_)


@pytest.mark.parametrize("noise", [None, 0.3])
def test_clear_modes_are_kept_and_noise_is_not(noise):
    for seed in range(20):
        x, y, _ = problem(seed, 300, 40, 30, rank=3, spread=30.0)
        for rule in ("gavish-donoho", "edge"):
            model = ReducedRankRegression(rule, noise).fit(x, y)
            assert model.rank_ == 3 if rule == "gavish-donoho" else model.rank_ in (3, 4)
            assert model.noise_ == pytest.approx(0.3, rel=0.04)


def test_thresholds_are_those_of_the_named_rule():
    x, y, _ = problem(0, 300, 40, 30)
    found = {rule: ReducedRankRegression(rule, noise=0.3).fit(x, y) for rule in THRESHOLDS}
    assert found["gavish-donoho"].threshold_ == new_input_thresholds(0.3, 40, 30, 299)[2]
    assert found["gavish-donoho-2014"].threshold_ == gavish_donoho_threshold((40, 30), noise=0.3)
    assert found["edge"].threshold_ == noise_edge((40, 30), 0.3)
    assert found["paper"].threshold_ == paper_threshold(0.3, 40, 300)
    estimated = ReducedRankRegression().fit(x, np.random.default_rng(0).standard_normal((300, 30)))
    assert estimated.threshold_ == new_input_thresholds(estimated.noise_, 40, 30, 299, estimated=True)[0]
    for model in found.values():
        assert model.rank_ == np.count_nonzero(model.singular_values_ > model.threshold_)


def test_paper_cuts_the_weights():
    x, y, _ = problem(0, 100, noise=2.0, rank=5)
    model = ReducedRankRegression("paper", noise=2.0, fit_intercept=False).fit(x, y)
    sweep = rank_sweep(x, y)
    assert model.singular_values_ == pytest.approx(sweep.singular_values)
    assert 0 < model.rank_ < 5
    assert model.coef_.T == pytest.approx(truncations(x, y, "ols")[model.rank_])
    with pytest.raises(ValueError, match="rank='paper' needs more samples than features, got 8 and 8"):
        ReducedRankRegression("paper").fit(x[:8], y[:8])


@pytest.mark.parametrize("rule", THRESHOLDS)
def test_as_many_values_are_above_the_threshold_as_are_kept(rule):
    for seed in range(30):
        x, y, _ = problem(seed, 14, 10, 9, rank=9, noise=0.3 * 2.0 ** (seed % 6))
        model = ReducedRankRegression(rule).fit(x, y)
        assert model.rank_ == np.count_nonzero(model.singular_values_ > model.threshold_)


def test_pure_noise_has_rank_zero():
    rng = np.random.default_rng(0)
    ranks = [ReducedRankRegression().fit(*np.split(rng.standard_normal((200, 50)), [30], axis=1)).rank_ for _ in range(50)]
    assert ranks == [0] * 50
    x, y = np.split(rng.standard_normal((200, 50)) + 5, [30], axis=1)
    model = ReducedRankRegression().fit(x, y)
    assert model.predict(x) == pytest.approx(np.tile(y.mean(axis=0), (200, 1)))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_cross_validation_is_the_one_of_scikit_learn(fit_intercept):
    for seed in range(4):
        x, y, _ = problem(seed, 40, noise=3.0, rank=4)
        folds = KFold(4, shuffle=True, random_state=seed)
        model = ReducedRankRegression("cv", fit_intercept=fit_intercept, cv=folds).fit(x, y)
        tried = [ReducedRankRegression(rank, fit_intercept=fit_intercept) for rank in range(6)]
        errors = [np.sum((y - cross_val_predict(one, x, y, cv=folds)) ** 2) for one in tried]
        assert model.rank_ == np.argmin(errors)
        assert model.coef_ == pytest.approx(tried[model.rank_].fit(x, y).coef_)


# --- The threshold for new inputs.

counts = st.integers(1, 60)


@settings(max_examples=60, deadline=None)
@given(d_in=counts, d_out=counts)
def test_many_samples_give_the_threshold_of_2014(d_in, d_out):
    many = new_input_thresholds(0.5, d_in, d_out, 10**9)
    assert many[0] == pytest.approx(gavish_donoho_threshold((d_in, d_out), 0.5), rel=1e-6)
    assert many.shape == (min(d_in, d_out),)


@settings(max_examples=60, deadline=None)
@given(d_in=counts, d_out=counts, n=st.integers(1, 100))
def test_thresholds_fall_with_the_modes_kept_and_rise_with_the_cost_of_noise(d_in, d_out, n):
    found = new_input_thresholds(1.0, d_in, d_out, n)
    assert found.shape == (min(d_in, d_out, n),) and np.all(np.diff(found) < 0) and np.all(np.isfinite(found))
    assert new_input_thresholds(3.0, d_in, d_out, n) == pytest.approx(3 * found)
    assert not np.any(new_input_thresholds(0.0, d_in, d_out, n))
    shape = (min(d_in, n), d_out)
    assert found[0] > gavish_donoho_threshold(shape, 1.0) > noise_edge(shape, 1.0)
    wider = new_input_thresholds(1.0, d_in, d_out, n, estimated=True)
    assert wider[0] > found[0] and np.array_equal(wider[1:], found[1:])
    if n > d_in + 2:
        more = new_input_thresholds(1.0, d_in, d_out, n + 10)
        assert more[0] < found[0] and np.all(more <= found)  # the last row left over has no noise outside the signal


@settings(max_examples=60, deadline=None)
@given(d_in=st.integers(2, 300), d_out=st.integers(1, 300), n=st.floats(1.05, 10))
def test_first_threshold_is_where_the_gain_from_the_spiked_model_is_zero(d_in, d_out, n):
    shape, n = (d_in, d_out), int(np.ceil(n * d_in)) + 2
    cost = (n - 1) / (n - 1 - d_in)

    def gain(signal):
        seen, (left, right) = spiked_singular_value(signal, shape, 1.0), spiked_overlaps(signal, shape, 1.0)
        return 2 * signal * seen * np.sqrt(left * right) - seen**2 * (left + cost * (1 - left))

    least = spike_threshold(shape, 1.0)
    zero = brentq(gain, least, 1e3 * least, xtol=1e-12)
    assert new_input_thresholds(1.0, d_in, d_out, n)[0] == pytest.approx(spiked_singular_value(zero, shape, 1.0), rel=1e-9)


@pytest.mark.parametrize("strength", [0.0, 1.0, 1.7])
def test_gain_of_a_mode_at_new_inputs(strength):
    """A signal of one mode, correlated inputs: the excess risk that the mode saves is what the threshold is made of."""
    m, n, samples, draws = 90, 60, 135, 150
    cost = (samples - 1) / (samples - 1 - m)
    w = strength * max(np.roots([1, -(n + cost * m), -(1 + 2 * cost) * m * n, -(cost - 1) * m * n * n]).real)
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.standard_normal((m, m)))[0] * np.geomspace(0.1, 10, m)
    white = rng.standard_normal((draws, m, 1)) * np.sqrt(w / (samples * m * n)) * np.ones(n)  # the outputs share one signal
    weights = np.linalg.solve(mixing.T, white)
    x = rng.standard_normal((draws, samples, m)) @ mixing.T
    y = x @ weights + rng.standard_normal((draws, samples, n))
    risk = rank_sweep(x, y, weights=weights, covariance=mixing @ mixing.T, method="reduced-rank").excess_risk
    saved = samples * (risk[:, 0] - risk[:, 1])
    if w:
        expected = w - m - n - 3 * m * n / w - (cost - 1) * m * (1 + n / w) ** 2
    else:
        expected = -cost * (np.sqrt(m) + np.sqrt(n)) ** 2
    assert saved.mean() == pytest.approx(expected, abs=0.06 * cost * (m + n) + 4 * saved.std() / np.sqrt(draws))


@pytest.mark.parametrize(
    "arguments, error",
    [((-1, 3, 3, 9), ValueError), ((1, 0, 3, 9), ValueError), ((1, 3, 2.0, 9), TypeError), ((1, 3, 3, 0), ValueError)],
)
def test_threshold_arguments_are_checked(arguments, error):
    with pytest.raises(error):
        new_input_thresholds(*arguments)


# --- Excess risk against the best truncation of the least-squares weights.


def excess(task, rule, rng, draws, spread=1.0, noise=None):
    """Mean excess risk of a rule over that of the best rank of truncated weights, and its standard error."""
    own, best = [], []
    for _ in range(draws):
        mixing = np.linalg.qr(rng.standard_normal((task.d_in,) * 2))[0] * np.geomspace(1, spread, task.d_in) / spread
        x, _, weights = task.sample(rng)
        x = x @ mixing.T
        y = x @ weights + task.noise * rng.standard_normal((len(x), task.d_out))
        error = ReducedRankRegression(rule, noise, fit_intercept=False).fit(x, y).coef_.T - weights
        own.append(np.sum((mixing.T @ error) ** 2))
        best.append(rank_sweep(x, y, weights=weights, covariance=mixing @ mixing.T).excess_risk)
    best = np.array(best)
    best = best[:, np.argmin(best.mean(axis=0))]
    ratio = np.mean(own) / best.mean()
    return ratio, np.std(own - ratio * best) / best.mean() / np.sqrt(draws)


@pytest.mark.parametrize("name, task", paper_tasks())
def test_papers_tasks_are_fitted_as_well_as_by_the_best_truncation(name, task):
    ratio, error = excess(task, "gavish-donoho", np.random.default_rng(1), 12)
    assert ratio < 1.05 + 4 * error and error < 0.05


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=seeds, decay=st.floats(1.2, 10), d_in=st.sampled_from([12, 24, 48]), d_out=st.sampled_from([12, 24, 48]),
    samples=st.sampled_from([1.2, 1.5, 2, 5]), noise=st.floats(-1.7, 0.3), spread=st.sampled_from([1, 10, 100]),
    known=st.booleans(),
)  # fmt: skip
def test_any_task_is_fitted_nearly_as_well(seed, decay, d_in, d_out, samples, noise, spread, known):
    task = LinearTask(decay, int(np.ceil(samples * d_in)), 10**noise, d_in, d_out)
    ratio, error = excess(task, "gavish-donoho", np.random.default_rng(seed), 60, spread, 10**noise if known else None)
    assert ratio < 1.15 + 4 * error


@pytest.mark.parametrize("decay, n, noise, d_in, d_out", [(1.5, 153, 0.57, 128, 8), (1.5, 38, 1.0, 32, 8), (1.7, 24, 0.57, 16, 64)])
def test_weak_signals_are_where_the_threshold_of_2014_keeps_too_much(decay, n, noise, d_in, d_out):
    task = LinearTask(decay, n, noise, d_in, d_out)
    ratio, error = excess(task, "gavish-donoho", np.random.default_rng(0), 60)
    printed, spread = excess(task, "gavish-donoho-2014", np.random.default_rng(0), 60)
    assert ratio < 1.05 + 4 * error
    assert printed > max(1.1, ratio + 3 * spread)


# --- Symmetries.


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, unit=st.floats(0.01, 100))
def test_units_rotations_and_order_do_not_matter(rule, seed, unit):
    x, y, _ = problem(seed, noise=1.0)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    model = ReducedRankRegression(rule, noise=1.0).fit(x, y)
    changed = ReducedRankRegression(rule, noise=unit).fit(x + 3, unit * (y - 2) @ turn)
    assert changed.rank_ == model.rank_
    assert changed.predict(x + 3) == pytest.approx(unit * (model.predict(x) - 2) @ turn, rel=1e-6, abs=1e-6 * unit)
    if rule != "cv":
        order = rng.permutation(60)
        again = ReducedRankRegression(rule, noise=1.0).fit(x[order], y[order])
        assert again.predict(x) == pytest.approx(model.predict(x), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("rule", ["gavish-donoho", "gavish-donoho-2014", "edge", "cv", 1])
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_inputs_may_be_mixed(rule, seed):
    """Whatever invertible combinations of the inputs are given, rank and predictions stay; P1's rule has no such property."""
    x, y, _ = problem(seed, noise=1.0)
    mixing = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0] * np.geomspace(0.1, 10, 8)
    model, mixed = (ReducedRankRegression(rule).fit(inputs, y) for inputs in (x, x @ mixing))
    assert mixed.rank_ == model.rank_ and mixed.noise_ == pytest.approx(model.noise_)
    assert mixed.predict(x @ mixing) == pytest.approx(model.predict(x), rel=1e-6, abs=1e-6)


def test_papers_rank_depends_on_the_units_of_the_inputs():
    x, y, _ = problem(0, noise=1.0)
    assert {ReducedRankRegression("paper").fit(x * unit, y).rank_ for unit in (0.01, 1.0, 100.0)} == {5, 2, 0}


# --- The edges of what it takes.


def test_fewer_samples_than_inputs():
    x, y, weights = problem(0, 60, 100, 80, rank=2, noise=0.5)
    model = ReducedRankRegression().fit(x, y)
    assert model.rank_ == 2 and model.singular_values_.shape == (59,)
    assert model.threshold_ == new_input_thresholds(model.noise_, 100, 80, 59, estimated=True)[2]
    assert model.noise_ == pytest.approx(0.5, rel=0.1)
    assert ReducedRankRegression(59).fit(x, y).predict(x) == pytest.approx(y)
    assert ReducedRankRegression(80).fit(x, y).rank_ == 59


def test_one_input_one_output_two_samples():
    x = np.arange(20.0)[:, None]
    model = ReducedRankRegression().fit(x, 3 * x[:, 0] + 1)
    assert (model.rank_, model.coef_.shape, model.predict(x).shape) == (1, (1,), (20,))
    assert model.predict([[100.0]]) == pytest.approx([301])
    column = ReducedRankRegression().fit(x, 3 * x + 1)
    assert column.coef_.shape == (1, 1) and column.predict(x).shape == (20, 1)
    assert ReducedRankRegression().fit([[0.0], [1.0]], [0.0, 1.0]).rank_ == 0  # one value cannot be told from noise


def test_constant_columns_change_nothing():
    x, y, _ = problem(0)
    model = ReducedRankRegression().fit(x, y)
    more = ReducedRankRegression().fit(np.column_stack([x, np.ones(60), np.zeros(60), x[:, 0]]), y)
    assert more.predict(np.column_stack([x, np.ones(60), np.zeros(60), x[:, 0]])) == pytest.approx(model.predict(x))
    assert more.rank_ == model.rank_ and more.threshold_ == pytest.approx(model.threshold_)


@pytest.mark.parametrize("rule", RULES)
def test_constant_inputs_predict_the_mean(rule):
    y = problem(0)[1]
    model = ReducedRankRegression(rule).fit(np.ones((60, 3)), y)
    assert model.rank_ == 0 and model.predict(np.ones((1, 3))) == pytest.approx(y.mean(axis=0)[None])
    assert model.noise_ == pytest.approx(np.sqrt(np.mean(y.var(axis=0)) * 60 / 59))


@pytest.mark.parametrize("rule", THRESHOLDS)
def test_data_without_noise_keep_what_is_not_rounding(rule):
    x, y, weights = problem(0, noise=0.0)
    for noise in (None, 0.0):
        model = ReducedRankRegression(rule, noise).fit(x, y)
        assert model.rank_ == 2 and model.coef_.T == pytest.approx(weights)
    assert ReducedRankRegression(rule, 0.0).fit(x, y).threshold_ == 0
    assert ReducedRankRegression(rule).fit(x, 0 * y).rank_ == 0


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"rank": "gd"}, ValueError, "rank must be one of 'gavish-donoho', 'gavish-donoho-2014', .* got 'gd'"),
        ({"rank": 6}, ValueError, r"rank must lie between 0 and 5 for weights of shape \(8, 5\), got 6"),
        ({"rank": -1}, ValueError, "rank must lie between 0 and 5"),
        ({"rank": 2.0}, ValueError, "rank must be one of"),
        ({"rank": True}, ValueError, "rank must be one of"),
        ({"noise": -0.1}, ValueError, "noise must be a standard deviation"),
        ({"noise": np.nan}, ValueError, "noise must be finite"),
        ({"noise": "0.1"}, TypeError, "noise must be a real number"),
        ({"rank": "cv", "cv": 61}, ValueError, "Cannot have number of splits"),
    ],
)
def test_parameters_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        ReducedRankRegression(**arguments).fit(X, Y)


@pytest.mark.parametrize("x, y", [(np.where(X > 2, np.nan, X), Y), (X, np.where(Y > 2, np.inf, Y)), (X[:1], Y[:1])])
def test_data_are_checked(x, y):
    with pytest.raises(ValueError, match="contains NaN|contains infinity|minimum of 2 is required"):
        ReducedRankRegression().fit(x, y)


def test_sample_weights_are_not_pretended():
    with pytest.raises(TypeError, match="sample_weight"):
        ReducedRankRegression().fit(X, Y, sample_weight=np.ones(60))
