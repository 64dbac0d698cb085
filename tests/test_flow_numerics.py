"""Integration against the exact flow, descent against torch's optimisers, and what either does to the balance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import _ode
from companion.flow_numerics import OPTIMIZERS, Trajectory, descend, integrate, quadratic_loss
from companion.gradient_flow import ExactFlow, balance, balance_defect
from flow_problems import STRENGTHS, frame, lora_problem, with_spectrum

pytestmark = pytest.mark.filterwarnings("error")


def positive(rng, size):
    """A symmetric matrix with eigenvalues from 0.3 to 2."""
    turn = frame(rng, size, size)
    return turn * rng.uniform(0.3, 2, size) @ turn.T


# --- Integration. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", _ode.METHODS)
def test_methods_agree_with_the_exact_flow(method):
    target, a0 = lora_problem(0, 6, 5, 2, 0.3)
    path = integrate(target, a0, None, [0.0, 1.0, 4.0], method=method, rtol=1e-8)
    assert np.abs(path.updates() - ExactFlow(target, a0).update([0.0, 1.0, 4.0])).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 7))
def test_any_start_keeps_its_balance_and_loses_loss(seed, m, n, r):
    """Claim P2-lem4.1, from starts that are not balanced."""
    rng = np.random.default_rng(seed)
    target, a0, b0 = rng.standard_normal((m, n)), rng.standard_normal((m, r)), rng.standard_normal((r, n))
    path = integrate(target, a0, b0, np.linspace(0, 5, 6), rtol=1e-11)
    assert np.abs(balance(path.a, path.b) - balance(a0, b0)).max() < 1e-8 * max(1, np.abs(balance(a0, b0)).max())
    assert np.all(np.diff(quadratic_loss(path.updates(), target)) < 1e-9)


def test_path_of_factors():
    target, a0 = lora_problem(1, 8, 6, 3, 0.1)
    path = integrate(target, a0, None, 2.0)
    assert isinstance(path, Trajectory)
    assert (path.times.shape, path.a.shape, path.b.shape) == ((1,), (1, 8, 3), (1, 3, 6))
    assert np.allclose(path.updates()[0], path.a[0] @ path.b[0])
    flow = ExactFlow(target, a0)
    assert path.mode_amplitudes(target)[0] == pytest.approx(flow.mode_amplitudes(2.0), abs=1e-8)
    assert path.singular_values()[0] == pytest.approx(flow.singular_values(2.0), abs=1e-8)


def test_default_start_of_peft():
    """Not balanced: the exact law of an average balance is off by a few percent, integration is not."""
    rng = np.random.default_rng(0)
    target, a0 = with_spectrum(rng, 64, 48, STRENGTHS), rng.uniform(-1, 1, (64, 16)) / np.sqrt(64)
    times = np.linspace(0, 6, 13)
    assert balance_defect(a0, np.zeros((16, 48))) > 0.5
    path = integrate(target, a0, None, times, rtol=1e-11)
    error = np.abs(ExactFlow(target, a0, tolerance=np.inf).singular_values(times) - path.singular_values()).max()
    assert 1e-3 < error < 0.2


# --- Curvature. ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 4), st.integers(1, 4))
def test_readings_of_the_curvature_agree_where_they_meet(seed, m, n, r):
    rng = np.random.default_rng(seed)
    target, a0, left, right = rng.standard_normal((m, n)), rng.standard_normal((m, r)), positive(rng, m), positive(rng, n)
    update = rng.standard_normal((3, m, n))
    same = [(left, None), left, np.kron(left, np.eye(n))], [(left, right), np.kron(left, right)], [(None, None), None]
    for group in same:
        losses = [quadratic_loss(update, target, h) for h in group]
        paths = [integrate(target, a0, None, [1.0], curvature=h).updates() for h in group]
        assert all(np.allclose(x, losses[0]) for x in losses)
        assert all(np.allclose(x, paths[0], atol=1e-7) for x in paths)
    root = np.linalg.cholesky(left).T
    assert quadratic_loss(update, target, left) == pytest.approx(np.sum((root @ (update - target)) ** 2, axis=(1, 2)) / 2)


@pytest.mark.parametrize("kind", ["left", "right", "both", "full"])
def test_flow_with_curvature_is_its_gradient_flow(kind):
    """Short steps of descent along autograd's gradient of the loss."""
    rng = np.random.default_rng(0)
    target, a0, b0 = rng.standard_normal((4, 3)), rng.standard_normal((4, 2)), rng.standard_normal((2, 3))
    left, right = positive(rng, 4), positive(rng, 3)
    h = {"left": left, "right": (None, right), "both": (left, right), "full": positive(rng, 12)}[kind]
    a, b = torch.tensor(a0, requires_grad=True), torch.tensor(b0, requires_grad=True)
    rest = (a @ b - torch.tensor(target)).reshape(-1)
    whole = {"left": np.kron(left, np.eye(3)), "right": np.kron(np.eye(4), right), "both": np.kron(left, right)}.get(kind, h)
    loss = rest @ torch.tensor(np.asarray(whole)) @ rest / 2
    loss.backward()
    assert quadratic_loss(a0 @ b0, target, h) == pytest.approx(loss.item())
    path = descend(target, a0, b0, steps=1, step_size=1e-3, curvature=h)
    assert np.allclose((a0 - path.a[1]) / 1e-3, a.grad.numpy())
    assert np.allclose((b0 - path.b[1]) / 1e-3, b.grad.numpy())
    times = [0.0, 1e-4]
    moved = integrate(target, a0, b0, times, curvature=h)
    assert np.allclose((a0 - moved.a[1]) / 1e-4, a.grad.numpy(), atol=0.02)


def test_curvature_and_the_late_balance():
    """Lemma 4.1 needs no isotropy: the balance is kept for every H."""
    rng = np.random.default_rng(0)
    target, a0 = rng.standard_normal((5, 4)), 0.1 * frame(rng, 5, 3)
    path = integrate(target, a0, None, [0.0, 3.0, 9.0], curvature=positive(rng, 20), rtol=1e-11)
    assert np.abs(balance(path.a, path.b) - 0.01 * np.eye(3)).max() < 1e-9


# --- Descent. --------------------------------------------------------------------------------------------------------


def by_torch(optimizer, parameters, rate, decay):
    if optimizer in ("gd", "momentum"):
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9 if optimizer == "momentum" else 0, weight_decay=decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    return kind(parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_torch(optimizer, decay):
    target, a0 = lora_problem(0, 7, 6, 3, 0.1)
    a, b = (torch.nn.Parameter(torch.tensor(x)) for x in (a0, np.zeros((3, 6))))
    stepper, goal = by_torch(optimizer, [a, b], 0.02, decay), torch.tensor(target)
    for _ in range(50):
        stepper.zero_grad()
        (torch.sum((a @ b - goal) ** 2) / 2).backward()
        stepper.step()
    path = descend(target, a0, steps=50, step_size=0.02, optimizer=optimizer, weight_decay=decay)
    assert path.times == pytest.approx(0.02 * np.arange(51))
    assert np.abs(path.a[-1] - a.detach().numpy()).max() < 1e-9
    assert np.abs(path.b[-1] - b.detach().numpy()).max() < 1e-9


def test_short_steps_follow_the_flow():
    target, a0 = lora_problem(0, 12, 10, 5, 0.1)
    errors = []
    for size in (0.02, 0.01, 0.005):
        path = descend(target, a0, steps=round(4 / size), step_size=size, every=round(1 / size))
        assert path.times == pytest.approx([0, 1, 2, 3, 4])
        errors.append(np.abs(path.updates() - ExactFlow(target, a0).update(path.times)).max())
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.05)


def drift(steps_to=20.0, size=0.1, eps=0.1, **options):
    target, a0 = lora_problem(0, 20, 15, 5, eps)
    path = descend(target, a0, steps=round(steps_to / size), step_size=size, **options)
    found = balance(path.a, path.b)
    return np.linalg.norm(found[-1] - found[0])


def test_drift_of_the_balance():
    """Measured earlier: .0044, .0025, .0013, .0007 for steps .1 ... .0125, momentum .08, Adam 1.3 (start not stated).

    Here ||change||_F to time 20, 20 x 15, r = 5, eps = 0.1; momentum and Adam with steps of .01.
    """
    drifts = [drift(size=size) for size in (0.1, 0.05, 0.025, 0.0125)]
    assert drifts == pytest.approx([0.0031, 0.0019, 0.0011, 0.0006], abs=6e-5)
    assert drifts == pytest.approx([0.0044, 0.0025, 0.0013, 0.0007], rel=0.35)
    assert drifts[3] / drifts[2] == pytest.approx(0.5, abs=0.03)
    assert drift(size=0.01, optimizer="momentum") == pytest.approx(0.09, abs=0.01)
    assert 1 < drift(size=0.01, optimizer="adam") < 2


def test_weight_decay_shrinks_the_balance():
    target, a0 = lora_problem(0, 20, 15, 5, 0.5)
    path = descend(target, a0, steps=4000, step_size=1e-3, weight_decay=0.2)
    found = np.trace(balance(path.a, path.b), axis1=1, axis2=2) / 5
    assert found / 0.25 == pytest.approx(np.exp(-2 * 0.2 * path.times), rel=1e-2)


def surplus(**options):
    """The largest sixth singular value on the way, of a target of rank 5 and r = 8."""
    target, a0 = lora_problem(0, 20, 15, 8, 0.01)
    return descend(target, a0, steps=2000, step_size=0.01, **options).singular_values()[:, 5].max()


def test_what_keeps_the_surplus_at_zero_and_what_does_not():
    """Measured earlier: Adam .17, noise .02 (settings not stated)."""
    rng = np.random.default_rng(1)
    sides = [{"curvature": np.diag(rng.uniform(0.5, 2, 20))}, {"curvature": (None, np.eye(15) * 0.5)}]
    for options in [{}, {"optimizer": "momentum"}, {"weight_decay": 0.05}, *sides]:
        assert surplus(**options) < 1e-14
    for options in [{"optimizer": "adam"}, {"optimizer": "adamw", "weight_decay": 0.05}]:
        assert 0.01 < surplus(**options) < 0.2
    assert 1e-6 < surplus(noise=0.1, rng=0) < 0.05
    assert 1e-5 < surplus(curvature=np.diag(rng.uniform(0.3, 2, 300)))


def test_noise_is_that_of_its_seed():
    target, a0 = lora_problem(0, 6, 5, 2, 0.1)
    noisy = lambda rng: descend(target, a0, steps=20, step_size=0.05, noise=0.3, rng=rng).a  # noqa: E731
    assert np.array_equal(noisy(3), noisy(3))
    assert np.array_equal(noisy(3), noisy(np.random.default_rng(3)))
    assert not np.array_equal(noisy(3), noisy(4))


def test_kept_steps():
    target, a0 = lora_problem(0, 6, 5, 2, 0.1)
    path = descend(target, a0, steps=7, step_size=0.5 / 3, every=3)
    assert path.times == pytest.approx(np.array([0, 3, 6, 7]) * 0.5 / 3)
    whole = descend(target, a0, steps=7, step_size=0.5 / 3)
    assert np.array_equal(path.a, whole.a[[0, 3, 6, 7]])


# --- Errors. ---------------------------------------------------------------------------------------------------------

TARGET, START = np.diag([2.0, 1.0, 0.5])[:, :2], 0.1 * np.eye(3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [-1.0]}, "times must be >= 0"),
        ({"times": [2.0, 1.0]}, "times must be sorted, got 2 before 1"),
        ({"a0": np.zeros((3, 0))}, "r >= 1"),
        ({"a0": np.eye(2, 3)}, "lora_A.T"),
        ({"b0": np.zeros((2, 3))}, r"b0 must have shape \(r, n\) = \(2, 2\)"),
        ({"target": np.full((3, 2), np.nan)}, "target must hold no NaN"),
        ({"method": "euler"}, "method must be one of 'DOP853'.*got 'euler'"),
        ({"rtol": 0.0}, "rtol must be > 0"),
        ({"atol": -1.0}, "atol must be > 0"),
        ({"curvature": np.eye(2)}, r"curvature from the left, or \(6, 6\) on all entries, must have shape \(3, 3\)"),
        ({"curvature": (None, np.eye(3))}, r"curvature from the right must have shape \(2, 2\)"),
        ({"curvature": (np.eye(3),)}, r"pair \(left, right\), got 1"),
        ({"curvature": np.triu(np.ones((3, 3)))}, "must be symmetric"),
        ({"curvature": -np.eye(6)}, "curvature must have no negative eigenvalue, got -1"),
    ],
)
def test_wrong_integrations(options, message):
    arguments = {"target": TARGET, "a0": START, "b0": None, "times": [1.0]} | options
    with pytest.raises(ValueError, match=message):
        integrate(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"step_size": 0.0}, "step_size must be > 0"),
        ({"step_size": 70.0, "steps": 200}, "step_size 70.0 is too large: the factors overflow at step"),
        ({"optimizer": "sgd"}, "optimizer must be one of 'gd', 'momentum'.*got 'sgd'"),
        ({"momentum": 1.0}, r"momentum and both betas must lie in \[0, 1\)"),
        ({"betas": (0.9, 1.0)}, r"momentum and both betas must lie in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0"),
        ({"noise": -1.0}, "noise must be a standard deviation"),
        ({"every": 0}, "every must be >= 1"),
    ],
)
def test_wrong_descents(options, message):
    with pytest.raises(ValueError, match=message):
        descend(TARGET, START, **{"steps": 10, "step_size": 0.1} | options)


def test_noise_needs_a_seed():
    with pytest.raises(TypeError, match="rng must be"):
        descend(TARGET, START, steps=1, step_size=0.1, noise=0.1)
    with pytest.raises(TypeError, match="steps must be an integer"):
        descend(TARGET, START, steps=1.5, step_size=0.1)


@pytest.mark.parametrize("method", _ode.METHODS)
def test_solvers_that_give_up(method):
    """A pole at t = 1, and a slope that is not finite to begin with."""
    with pytest.raises(RuntimeError, match=f"{method} stopped (at|after) time"):
        _ode.states(lambda x: x**2, np.ones(1), np.array([0.5, 2.0]), method, rtol=1e-6)
    with pytest.raises(RuntimeError, match=f"{method} stopped after time 0: the slope overflows"):
        integrate(TARGET, 1e200 * START, 1e200 * np.ones((2, 2)), [1.0], method=method)


def test_a_state_that_leaves_the_numbers_under_a_finite_slope():
    with pytest.raises(RuntimeError, match="RK45 stopped after time 0: the state is no longer finite"):
        _ode.states(lambda x: np.full_like(x, 1e308), np.array([1e308]), np.array([2.0]), "RK45")


@pytest.mark.parametrize("method", ["DOP853", "RK45", "LSODA"])
def test_tolerances_suit_small_starts_and_small_entries_beside_large_ones(method):
    """dx/dt = x from 1e-12, and from 1e-3 beside a number of 1e8 that stays."""
    tiny = _ode.states(lambda x: x, np.array([1e-12]), np.array([20.0]), method)
    assert tiny[0, 0] == pytest.approx(1e-12 * np.exp(20), rel=1e-7)
    mixed = _ode.states(lambda x: x * [0, 1], np.array([1e8, 1e-3]), np.array([3.0]), method)
    assert mixed[0].tolist() == pytest.approx([1e8, 1e-3 * np.exp(3)], rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratic_loss(np.eye(2), TARGET), r"update must have shape \(..., m, n\) = \(..., 3, 2\)"),
        (lambda: quadratic_loss(np.full((3, 2), np.nan), TARGET), "update must hold no NaN"),
        (lambda: integrate(TARGET, START, None, [1.0]).mode_amplitudes(np.eye(4)), "a0 must have shape"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
