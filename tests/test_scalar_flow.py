"""One mode on its own: against integration and the exact flow; seeds, activation times and late rates against earlier measurements."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from sklearn.metrics import r2_score

from companion.gradient_flow import ExactFlow
from companion.scalar_flow import activation_times, crossing_times, late_rate, logistic, scalar_flow, seed_strengths
from flow_problems import STRENGTHS, frame, lora_problem

pytestmark = pytest.mark.filterwarnings("error")

strengths = st.floats(0.05, 5)
seeds = st.floats(-12, 1).map(lambda e: 10.0**e)


# --- The scalar law. -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(strengths, seeds, st.lists(st.floats(0, 20), min_size=1, max_size=4).map(sorted))
def test_scalar_flow_solves_its_equation(strength, seed, times):
    slope = lambda t, y: (strength - y) * np.sqrt(4 * y**2 + seed**2)  # noqa: E731
    found, y, now = [], np.zeros(1), 0.0
    for time in times:
        if time > now:
            y = solve_ivp(slope, (now, time), y, method="DOP853", rtol=1e-11, atol=1e-12 * seed).y[:, -1]
            now = time
        found.append(y[0])
    assert np.allclose(scalar_flow(times, strength, seed), found, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(strengths, seeds, st.floats(0, 30))
def test_scalar_flow_is_the_exact_flow_of_an_aligned_mode(strength, seed, time):
    exact = ExactFlow([[strength]], [[np.sqrt(seed)]]).update(time)[0, 0]
    assert scalar_flow(time, strength, seed) == pytest.approx(exact, rel=1e-9, abs=1e-15)


@given(strengths, st.floats(-12, -2).map(lambda e: 10.0**e), st.floats(0, 30))
def test_logistic_is_the_limit_of_small_seeds(strength, seed, time):
    assume(seed < 1e-2 * strength)
    difference = scalar_flow(time, strength, seed) - logistic(time, strength, seed)
    assert abs(difference) < 0.3 * seed * (1 + np.log(1 + strength / seed))
    assert logistic(0.0, strength, seed) == pytest.approx(seed / 4, rel=0.01)


@pytest.mark.parametrize("law", [scalar_flow, logistic])
def test_shapes_and_ends(law):
    assert law(1.0, 2.0, 0.1).shape == ()
    assert law([1.0, 2.0], 2.0, 0.1).shape == law(1.0, [2.0, 1.0], 0.1).shape == (2,)
    assert law([0.0, 1.0, 2.0], [2.0, 1.0], [0.1, 0.2]).shape == (3, 2)
    assert law([0.0, 1e6], [2.0, 1.0, 0.0, 0.0], [0.0, 1e-12, 0.1, 0.0])[1] == pytest.approx([0, 1, 0, 0])
    assert np.all(np.diff(law(np.linspace(0, 20, 300), STRENGTHS, 1e-3), axis=0) >= 0)


# --- Seeds and times on random starts. -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_seeds_are_lengths_after_projection(seed, r):
    target, a0 = lora_problem(seed, 9, 7, r, 1.0)
    u = np.linalg.svd(target)[0][:, :5]
    expected = []
    for i in range(5):
        earlier = a0.T @ u[:, :i]
        left = a0.T @ u[:, i] - earlier @ np.linalg.pinv(earlier) @ a0.T @ u[:, i] if i else a0.T @ u[:, i]
        expected.append(left @ left if i < r else 0.0)
    assert seed_strengths(target, a0) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_seeds_do_not_depend_on_the_basis_of_columns(seed, r):
    target, a0 = lora_problem(seed, 9, 7, r, 0.1)
    turn = frame(np.random.default_rng(seed + 1), r, r)
    assert seed_strengths(target, a0 @ turn) == pytest.approx(seed_strengths(target, a0), rel=1e-6, abs=1e-15)


def test_seeds_of_two_small_factors():
    rng = np.random.default_rng(0)
    target, a0 = lora_problem(0, 12, 10, 5, 1e-6)
    b0 = 1e-6 * rng.standard_normal((5, 10))
    a0 = frame(rng, 12, 5) @ np.linalg.cholesky(b0 @ b0.T + 1e-12 * np.eye(5)).T
    times = np.linspace(0, 120, 2401)
    curves = ExactFlow(target, a0, b0, tolerance=1e-9).mode_amplitudes(times)
    found = activation_times(STRENGTHS, seed_strengths(target, a0, b0))
    assert found == pytest.approx(crossing_times(times, curves, STRENGTHS / 2), rel=0.01)
    assert activation_times(STRENGTHS, seed_strengths(target, a0)) != pytest.approx(found, rel=0.01)


@pytest.mark.parametrize(("m", "n", "r"), [(20, 15, 5), (40, 30, 8), (64, 32, 5), (16, 24, 16)])
def test_half_times_of_all_modes(m, n, r):
    """Measured earlier: eps = 0.01, 20 starts; R_ii gives every half-time within 1 %, rho_i does not."""
    times, worst, by_rho = np.linspace(0, 40, 1601), 0.0, []
    for seed in range(20):
        target, a0 = lora_problem(seed, m, n, r, 0.01)
        halves = crossing_times(times, ExactFlow(target, a0).mode_amplitudes(times), STRENGTHS / 2)
        predicted = activation_times(STRENGTHS, seed_strengths(target, a0))
        assert predicted == pytest.approx(np.log(4 * STRENGTHS / seed_strengths(target, a0)) / (2 * STRENGTHS), rel=1e-3)
        worst = max(worst, np.max(np.abs(predicted / halves - 1)))
        rho = np.linalg.norm(a0.T @ np.linalg.svd(target)[0][:, :5], axis=0)
        by_rho.append(np.abs(activation_times(STRENGTHS, rho**2) - halves))
    assert worst < 0.01
    if r == 5:
        assert np.mean(by_rho, axis=0)[0] < 0.01
        assert np.all(np.diff(np.mean(by_rho, axis=0)) > 0)
        assert np.mean(by_rho, axis=0)[-1] > 1


def test_half_times_of_fewer_columns_than_modes():
    target, a0 = lora_problem(1, 20, 15, 3, 1e-3)
    times = np.linspace(0, 100, 4001)
    halves = crossing_times(times, ExactFlow(target, a0).mode_amplitudes(times), STRENGTHS / 2)
    predicted = activation_times(STRENGTHS, seed_strengths(target, a0))
    assert predicted[:3] == pytest.approx(halves[:3], rel=0.01)
    assert np.all(np.isinf(predicted[3:])) and np.all(np.isnan(halves[3:]))


@pytest.mark.parametrize(("eps", "least"), [(0.01, 0.9999), (0.1, 0.998)])
def test_the_scalar_law_explains_the_exact_curves(eps, least):
    """Measured earlier: R^2 at eps up to 0.1; t <= 20 in 401 points, 20 x 15, r = 5, 20 starts, worst mode and start."""
    times = np.linspace(0, 20, 401)
    for seed in range(20):
        target, a0 = lora_problem(seed, 20, 15, 5, eps)
        curves = ExactFlow(target, a0).mode_amplitudes(times)
        predicted = scalar_flow(times, STRENGTHS, seed_strengths(target, a0))
        assert min(r2_score(curves, predicted, multioutput="raw_values")) > least


def test_order_of_the_modes():
    """Measured earlier: of 30 starts, those with two modes out of order at the common level lambda_s / 2; 20 x 15, r = 5."""
    times, close = np.linspace(0, 60, 1201), np.array([1.05, 1.025, 1.0, 0.975, 0.95])
    for strengths, eps, least, most in [(STRENGTHS, 1e-3, 0, 0), (STRENGTHS, 1.0, 8, 20), (close, 1e-3, 26, 30)]:
        out_of_order = 0
        for seed in range(30):
            curves = ExactFlow(*lora_problem(seed, 20, 15, 5, eps, strengths)).mode_amplitudes(times)
            out_of_order += np.any(np.diff(crossing_times(times, curves, strengths[-1] / 2)) < 0)
        assert least <= out_of_order <= most


def test_correlations_say_little():
    """Measured earlier: half-times correlate with 1/lambda (.994-.999) and nearly as much with 1/lambda^2 (.977-.990)."""
    times, found = np.linspace(0, 40, 1601), []
    for seed in range(20):
        target, a0 = lora_problem(seed, 40, 30, 8, 0.01)
        halves = crossing_times(times, ExactFlow(target, a0).mode_amplitudes(times), STRENGTHS / 2)
        found.append([np.corrcoef(halves, STRENGTHS**-power)[0, 1] for power in (1.0, 2.0)])
    assert np.mean(found, axis=0) == pytest.approx([0.997, 0.983], abs=0.007)


@given(strengths, seeds, st.floats(0.01, 0.99))
def test_activation_times_invert_the_scalar_law(strength, seed, fraction):
    time = activation_times(strength, seed, fraction)
    assert scalar_flow(time, strength, seed) == pytest.approx(fraction * strength, rel=1e-9)


@given(strengths, st.floats(-3, 3))
def test_late_rate(strength, constant):
    rate = late_rate(strength, constant)
    assert rate == pytest.approx(np.sqrt(strength**2 + constant**2 / 4) - abs(constant) / 2, rel=1e-6, abs=1e-12)
    assert late_rate(0.0, constant) == 0 <= rate <= strength * (1 + 1e-12)


# --- Crossings. ------------------------------------------------------------------------------------------------------


def test_crossings_from_both_sides():
    times = [0.0, 1.0, 3.0]
    curves = [[0.0, 4.0, 2.0, 0.0], [1.0, 3.0, 2.0, 0.0], [2.0, 1.0, 5.0, 0.5]]
    assert crossing_times(times, curves, [1.5, 2.0, 2.0, 1.0]) == pytest.approx([2.0, 2.0, 0.0, np.nan], nan_ok=True)
    assert crossing_times(times, [0.0, 1.0, 0.0], 0.5) == 0.5  # the first one
    assert crossing_times([0.0], [1.0], 1.0) == 0.0


# --- Errors. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [scalar_flow, logistic])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1.0], 1.0, 0.1), "times must be >= 0"),
        (([2.0, 1.0], 1.0, 0.1), "times must be sorted"),
        ((1.0, -1.0, 0.1), "strengths must be >= 0"),
        ((1.0, 1.0, -0.1), "seeds must be >= 0"),
        ((1.0, [1.0, 2.0], [0.1]), "strengths and seeds must be numbers or of one length"),
        ((1.0, [1.0, np.nan], 0.1), "strengths must hold no NaN"),
    ],
)
def test_wrong_laws(law, arguments, message):
    with pytest.raises(ValueError, match=message):
        law(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: activation_times([1.0, 0.0], 0.1), "strengths must be > 0"),
        (lambda: activation_times(1.0, 0.1, 1.0), "fraction must lie between 0 and 1"),
        (lambda: late_rate(-1.0, 0.0), "strengths must be >= 0"),
        (lambda: seed_strengths(np.eye(3), np.eye(2)), "a0 must have shape"),
        (lambda: seed_strengths(np.eye(3), np.zeros((3, 0))), "r >= 1"),
        (lambda: crossing_times([0.0, 1.0], [1.0], 0.5), "curves must have shape"),
        (lambda: crossing_times([0.0, 1.0], [1.0, 2.0], [0.5, 0.6]), "levels must be one number or one for each curve"),
        (lambda: crossing_times([1.0, 0.0], [1.0, 2.0], 0.5), "times must be sorted"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
