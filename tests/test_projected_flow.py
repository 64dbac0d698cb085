"""P2's appendix C: what the flow does along the modes, and what eq. 14-19 say of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from companion.gradient_flow import ExactFlow
from companion.projected_flow import SIDES, projections, reduced_system
from companion.scalar_flow import logistic, scalar_flow
from companion.tanh_law import tanh_squared
from flow_problems import STRENGTHS, frame, lora_problem

pytestmark = pytest.mark.filterwarnings("error")


def along(flow, target, times):
    return projections(target, *flow.factors(times))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 6), st.integers(1, 4))
def test_rates_are_derivatives_along_the_flow(seed, m, n, r):
    """Factors of any kind, moved a little along eq. 1-2 in both directions."""
    rng, step = np.random.default_rng(seed), 1e-5
    target, a, b = rng.standard_normal((m, n)), rng.standard_normal((m, r)), rng.standard_normal((r, n))
    pull = target - a @ b
    ahead, behind = (projections(target, a + h * pull @ b.T, b + h * a.T @ pull) for h in (step, -step))
    here, diagonal = projections(target, a, b), np.arange(min(m, n))
    change = (ahead.phi - behind.phi)[diagonal, diagonal] / (2 * step)
    assert here.phi_rate == pytest.approx(change, abs=1e-6 * (1 + np.abs(change).max()))
    change = (ahead.gamma - behind.gamma) / (2 * step)
    assert here.gamma_rate == pytest.approx(change, abs=1e-6 * (1 + np.abs(change).max()))


def test_definitions():
    rng = np.random.default_rng(0)
    target, a, b = rng.standard_normal((5, 4)), rng.standard_normal((5, 2)), rng.standard_normal((2, 4))
    u, s, vt = np.linalg.svd(target, full_matrices=False)
    seen = projections(target, a, b)
    assert np.allclose(seen.strengths, s)
    assert np.allclose(seen.phi, u.T @ a @ b @ vt.T)
    assert np.allclose(seen.alpha, u.T @ a @ a.T @ u)
    assert np.allclose(seen.beta, vt @ b.T @ b @ vt.T)
    assert np.allclose(seen.gamma, np.diag(seen.alpha) + np.diag(seen.beta))
    assert np.allclose(seen.coupling, seen.alpha - seen.beta - np.diag(np.diag(seen.alpha - seen.beta)))


def test_stacks_and_rotations():
    target, a0 = lora_problem(0, 12, 10, 4, 0.1)
    flow = ExactFlow(target, a0)
    a, b = flow.factors([0.0, 2.0, 5.0])
    turn = frame(np.random.default_rng(1), 4, 4)
    seen, turned = projections(target, a, b), projections(target, a @ turn, turn.T @ b)
    assert seen.phi.shape == seen.coupling.shape == (3, 5, 5)
    assert seen.gamma.shape == (3, 5)
    assert np.allclose(seen.phi[1], projections(target, a[1], b[1]).phi)
    for name in ("phi", "alpha", "beta", "phi_rate", "gamma_rate"):
        assert np.allclose(getattr(seen, name), getattr(turned, name), atol=1e-12)
    assert np.allclose(np.diagonal(seen.phi, axis1=1, axis2=2), flow.mode_amplitudes([0.0, 2.0, 5.0]))
    for form in SIDES:
        assert [side.shape for side in seen.right_sides(form)] == [(3, 5), (3, 5)]


def test_corrected_right_side_holds_for_one_aligned_mode():
    """Claim P2-lemC.1: eq. 15 as printed starts at twice the right speed of nothing; 4 (lambda - Phi) Phi is right."""
    seen = along(ExactFlow([[2.0]], [[0.1]]), [[2.0]], np.linspace(0, 6, 61))
    exact, printed, corrected = (seen.right_sides(form) for form in ("exact", "printed", "corrected"))
    assert np.allclose(corrected, exact, rtol=1e-9, atol=1e-12)
    assert np.allclose(printed[0], exact[0], rtol=1e-9, atol=1e-12)  # eq. 14 is fine
    assert exact[1][0] == 0 < 2 * 2.0 * 0.01 == pytest.approx(printed[1][0])
    assert np.max(np.abs(printed[1] - exact[1]) / np.max(exact[1])) > 1e-3


def test_printed_right_side_misses_several_modes_by_their_misalignment():
    target, a0 = lora_problem(0, 20, 15, 5, 0.1)
    seen = along(ExactFlow(target, a0), target, np.linspace(0, 20, 201))
    for form in ("printed", "reduced", "corrected"):
        misses = [np.max(np.abs(side - true)) for side, true in zip(seen.right_sides(form), seen.right_sides("exact"))]
        assert min(misses) > 0.01


def test_coupling_is_not_of_order_eps_squared():
    """Measured earlier: 1 to 134 times eps^2 (times not stated); t <= 30, 20 x 15, r = 5, 6 starts: exponent about 1.2."""
    times, scales, largest = np.linspace(0, 30, 301), np.array([1e-1, 1e-2, 1e-3, 1e-4]), []
    for eps in scales:
        problems = [lora_problem(seed, 20, 15, 5, eps) for seed in range(6)]
        largest.append([np.max(np.abs(along(ExactFlow(*p), p[0], times).coupling)) for p in problems])
    exponent = np.polyfit(np.log(scales), np.log(np.mean(largest, axis=1)), 1)[0]
    assert exponent == pytest.approx(1.18, abs=0.1)
    assert 0.5 < np.min(np.array(largest)[0] / 0.1**2) < 1.5
    assert 100 < np.max(np.array(largest)[-1] / 1e-4**2) < 1000


def test_misalignment_on_the_way():
    """Measured earlier: .02 to .25 even at eps = 1e-4; the same starts: .007 to .09, and .03 to .3 at .01."""
    times, off = np.linspace(0, 30, 601), 1 - np.eye(5)
    for eps, low, high in [(1e-2, 0.01, 0.35), (1e-4, 0.003, 0.12)]:
        problems = [lora_problem(seed, 20, 15, 5, eps) for seed in range(6)]
        largest = [np.max(np.abs(along(ExactFlow(*p), p[0], times).phi * off)) for p in problems]
        assert low < min(largest) < max(largest) < high
        assert max(largest) > 100 * eps**2


# --- The reduced system, eq. 17-19. ----------------------------------------------------------------------------------


def solve(strength, seed, times, corrected):
    slope = lambda t, y: np.array(reduced_system(y[0], y[1], strength, corrected))  # noqa: E731
    return solve_ivp(slope, (0, times[-1]), [0.0, seed], t_eval=times, rtol=1e-11, atol=1e-14, method="Radau").y


def test_reduced_system_as_printed_is_logistic():
    """gamma = 2 Phi + k: Phi grows like a logistic curve of twice the seed, log(2)/(2 lambda) too early, never tanh^2."""
    strength, seed, times = 1.5, 1e-4, np.linspace(0, 10, 101)
    phi, gamma = solve(strength, seed, times, corrected=False)
    assert np.allclose(gamma, 2 * phi + seed, atol=1e-9)
    assert np.abs(phi - logistic(times, strength, 2 * seed)).max() < 2e-4
    early = np.log(2) / (2 * strength)
    assert np.abs(phi - logistic(times + early, strength, seed)).max() < 2e-4


def test_corrected_reduced_system_is_the_scalar_law():
    strength, seed, times = 1.5, 0.05, np.linspace(0, 6, 61)
    phi, gamma = solve(strength, seed, times, corrected=True)
    assert np.allclose(gamma**2 - 4 * phi**2, seed**2, atol=1e-8)
    assert np.abs(phi - scalar_flow(times, strength, seed)).max() < 1e-7


def residual(curve, times, strength):
    """Of eq. 18, with gamma from eq. 17, relative to its largest side; derivatives by differences."""
    slope = np.gradient(curve, times, edge_order=2)
    gamma = slope / (strength - curve)
    right = reduced_system(curve, gamma, strength)[1]
    return np.max(np.abs(np.gradient(gamma, times, edge_order=2) - right)[2:-2]) / np.max(np.abs(right))


def test_tanh_squared_does_not_solve_the_reduced_system_and_the_logistic_function_does():
    """Claim P2-appC.3."""
    times, strength = np.linspace(0, 4, 4001), 1.5
    assert residual(logistic(times, strength, 0.1), times, strength) < 1e-3
    assert residual(tanh_squared(times, [strength], "openreview")[:, 0], times, strength) > 0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: projections(np.eye(3), np.eye(2), np.eye(2)), r"shapes \(..., 3, r\) and \(..., r, 3\)"),
        (lambda: projections(np.eye(3), np.zeros((3, 0)), np.zeros((0, 3))), "r >= 1"),
        (lambda: projections(np.eye(3) * np.nan, np.eye(3), np.eye(3)), "target must hold no NaN"),
        (lambda: projections(np.eye(2), np.eye(2), np.eye(2)).right_sides("true"), "form must be one of 'printed'"),
        (lambda: reduced_system(np.nan, 1.0, 1.0), "phi must hold no NaN"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_strengths_of_the_helper():
    assert np.allclose(np.linalg.svd(lora_problem(0, 9, 7, 2, 1.0)[0], compute_uv=False)[:5], STRENGTHS)
