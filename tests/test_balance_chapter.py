"""The chapter *The balance invariant*: its theorems on random factors, the checks of its exercises, its figures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import expm

from companion.balance import balance, balance_defect
from companion.book import balance_figures, checks
from companion.flow_numerics import descend, integrate

SIZES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))


def draws(seed, m, n, r):
    rng = np.random.default_rng(seed)
    return rng, rng.standard_normal((m, r)), rng.standard_normal((r, n)), rng.standard_normal((m, n))


# --- What the chapter proves. ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_the_symmetry_of_any_loss(sizes):
    """Part 1 of the theorem on symmetry, against autograd, for a loss that is not quadratic."""
    _, a, b, goal = draws(*sizes)
    a, b = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    torch.sum(torch.cosh(torch.sin(a @ b - torch.tensor(goal)))).backward()
    assert torch.allclose(a.T.detach() @ a.grad, b.grad @ b.detach().T, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_which_fields_are_gradients(sizes):
    """(AX, -XB) is the gradient of tr X Phi / 2 for symmetric X; for others its Jacobian is not symmetric."""
    rng, a, b, _ = draws(*sizes)
    r = a.shape[1]
    x = rng.standard_normal((r, r))
    even = torch.tensor(x + x.T)
    pair = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    torch.trace(even @ (pair[0].T @ pair[0] - pair[1] @ pair[1].T) / 2).backward()
    assert torch.allclose(pair[0].grad, pair[0].detach() @ even)
    assert torch.allclose(pair[1].grad, -even @ pair[1].detach())
    jacobian = np.kron(np.eye(len(a)), x.T)  # of vec A -> vec A X, row by row
    assert np.allclose(jacobian, jacobian.T) == np.allclose(x, x.T)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rotations_commute_with_the_flow_and_stretches_do_not(seed):
    rng, a, b, goal = draws(seed, 5, 4, 3)
    a, b, skew = a / 2, b / 2, rng.standard_normal((3, 3))
    turn = expm(skew - skew.T)
    before = integrate(goal, a, b, [0.7])
    after = integrate(goal, a @ turn, turn.T @ b, [0.7])
    assert np.abs(after.a - before.a @ turn).max() < 1e-7
    stretch = np.diag([4.0, 1.0, 0.25])
    other = integrate(goal, a @ stretch, np.linalg.inv(stretch) @ b, [0.7])
    assert np.abs(other.updates() - before.updates()).max() > 1e-3


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0.001, 1.0))
def test_drift_of_one_step(sizes, rate):
    _, a, b, goal = draws(*sizes)
    path = descend(goal, a, b, steps=1, step_size=rate)
    g = a @ b - goal
    right = rate**2 * (b @ g.T @ g @ b.T - a.T @ g @ g.T @ a)
    found = balance(path.a[1], path.b[1]) - balance(a, b)
    assert np.allclose(found, right, rtol=0, atol=1e-12 * max(1, np.abs(path.a).max() ** 2, np.abs(path.b).max() ** 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bound_on_the_drift_of_descent(seed):
    _, a, b, goal = draws(seed, 5, 4, 3)
    path = descend(goal, a, b, steps=300, step_size=0.01)
    g = path.updates() - goal
    losses = np.sum(g**2, axis=(1, 2)) / 2
    squares = np.sum((g @ path.b.mT) ** 2, axis=(1, 2)) + np.sum((path.a.mT @ g) ** 2, axis=(1, 2))
    assume(np.all(losses[1:] <= losses[:-1] - 0.005 * squares[:-1] + 1e-14))
    drift = np.linalg.norm(balance(path.a, path.b) - balance(a, b), ord="nuc", axis=(1, 2))
    assert np.all(drift <= 0.02 * (losses[0] - losses) + 1e-12)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.floats(0.0, 0.95))
def test_the_law_of_momentum(sizes, mu):
    _, a, b, goal = draws(*sizes)
    path = descend(goal, a, b, steps=30, step_size=1e-3, optimizer="momentum", momentum=mu)
    d, e, phi = np.diff(path.a, axis=0), np.diff(path.b, axis=0), balance(path.a, path.b)
    q = d.mT @ d - e @ e.mT
    left = np.diff(phi, axis=0)
    assert np.allclose(left[1:], mu * left[:-1] + q[1:] + mu * q[:-1], rtol=0, atol=1e-12 * max(1, np.abs(phi).max()))
    assert np.allclose(left[0], q[0], rtol=0, atol=1e-12 * max(1, np.abs(phi).max()))


def test_momentum_and_descent_at_rest():
    """Sum over a run: drift (1 + mu) / (1 - mu) times the sum of second-order terms."""
    path = descend([[1.0]], [[0.5]], steps=4000, step_size=0.01, optimizer="momentum")
    d, e = np.diff(path.a, axis=0), np.diff(path.b, axis=0)
    drift = (balance(path.a, path.b)[-1] - balance(path.a, path.b)[0]).item()
    assert drift == pytest.approx(19 * np.sum(d**2 - e**2), rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 6), (8, 3)])
def test_mean_drift_of_noise(shape):
    """Against 20,000 noisy steps."""
    rng, a, b, g = draws(3, *shape, 2)
    rate, noise, count = 0.1, 0.7, 20_000
    noisy = g + noise * rng.standard_normal((count, *shape))
    found = np.mean(balance(a - rate * noisy @ b.T, b - rate * a.T @ noisy), axis=0) - balance(a, b)
    m, n = shape
    right = rate**2 * (b @ g.T @ g @ b.T - a.T @ g @ g.T @ a + noise**2 * (m * b @ b.T - n * a.T @ a))
    assert np.abs(found - right).max() < 0.03 * np.abs(right).max()


def test_one_mode_under_descent():
    path = descend([[2.0]], [[0.3]], [[0.1]], steps=100, step_size=0.1)
    phi, g = balance(path.a, path.b).ravel(), path.updates().ravel() - 2
    assert phi[1:] == pytest.approx((1 - 0.01 * g[:-1] ** 2) * phi[:-1], abs=1e-13)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 4.0), st.floats(1e-4, 2.0))
def test_integral_of_one_mode(strength, c):
    """The closed form in the chapter against quadrature."""
    found, _ = quad(lambda s: (strength - s) / (2 * np.hypot(s, c / 2)), 0, strength, points=[min(c, strength / 2)], limit=200)
    closed = (strength * np.arcsinh(2 * strength / c) + c / 2 - np.hypot(strength, c / 2)) / 2
    assert closed == pytest.approx(found, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0))
def test_balanced_factors_and_their_product(seed, c):
    rng = np.random.default_rng(seed)
    a, b = split(rng.standard_normal((6, 3)) @ rng.standard_normal((3, 5)), 3, c)
    p, q, m = a @ a.T, b.T @ b, a @ b
    assert np.allclose(p @ p - c * p, m @ m.T) and np.allclose(q @ q + c * q, m.T @ m)
    assert balance_defect(a, b) < 1e-9


# --- Exercises. ------------------------------------------------------------------------------------------------------


def step_drift(a, b, g, rate, decay):
    ga, gb, q = g @ b.T, a.T @ g, 1 - rate * decay
    return (q**2 - 1) * balance(a, b) + rate**2 * (ga.T @ ga - gb @ gb.T)


def rates(a, b, rate_a, rate_b):
    return a.T @ a / rate_a - b @ b.T / rate_b


def split(matrix, r, c):
    u, s, vt = np.linalg.svd(matrix)
    beta = np.hypot(s[:r], c / 2) - c / 2
    return u[:, :r] * np.sqrt(beta + c), np.sqrt(beta)[:, None] * vt[:r]


def half_life(rate, noise, n):
    return np.log(2) / (rate * noise**2 * n)


def test_right_answers_pass():
    assert checks.balance_step(step_drift) and checks.balance_step(step_drift, seed=1)
    assert checks.balance_rates(rates) and checks.balance_rates(lambda a, b, x, y: y * rates(a, b, x, y))
    assert checks.balance_factors(split) and checks.balance_factors(split, seed=1)
    assert checks.balance_factors(lambda m, r, c: (lambda a, b: (-a, -b))(*split(m, r, c)))
    assert checks.balance_half_life(half_life) and checks.balance_half_life(half_life, seed=1)


@pytest.mark.parametrize(
    "check, answer, hint",
    [
        (checks.balance_step, lambda a, b, g, rate, decay: step_drift(a, b, g, rate, 0), "first order"),
        (checks.balance_step, lambda a, b, g, rate, decay: step_drift(a, b, g, rate**0.5, decay), "rate\\^2"),
        (checks.balance_step, lambda *_: 0.0, "r x r"),
        (checks.balance_rates, lambda a, b, x, y: balance(a, b), "divide each term"),
        (checks.balance_rates, lambda a, b, x, y: rates(a, b, 1 / x, 1 / y), "divide each term"),
        (checks.balance_rates, lambda a, b, x, y: np.eye(2), "depend on A"),
        (checks.balance_rates, lambda a, b, x, y: 1.0, "r x r"),
        (checks.balance_factors, lambda m, r, c: split(m, r, 0), "multiple is"),
        (checks.balance_factors, lambda m, r, c: (split(m, r, c)[0] * 2, split(m, r, c)[1] / 2), "multiple of the identity"),
        (checks.balance_factors, lambda m, r, c: (split(m, r, c)[0] * 2, split(m, r, c)[1]), "product is off"),
        (checks.balance_factors, lambda m, r, c: split(m, r, c)[::-1], "shapes"),
        (checks.balance_half_life, lambda rate, noise, n: half_life(rate, noise, n) / rate, "units of time"),
        (checks.balance_half_life, lambda rate, noise, n: half_life(rate, noise, n) / np.log(2), "expected"),
    ],
)
def test_wrong_answers_get_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)


# --- Figures. --------------------------------------------------------------------------------------------------------


def test_figures_draw_what_they_are_given():
    path = np.linspace(0, 1, 5), np.linspace(0, 1, 5)
    ax = balance_figures.one_mode(1.0, [path, path], path, path)
    names = [text.get_text() for text in ax.legend().get_texts()]
    assert names == ["minima, a b = λ", "gradient flow", "gradient descent", "Adam"]
    minima = ax.lines[0].get_xydata()
    assert np.allclose(minima.prod(axis=1), 1)
    ax = balance_figures.drift_by_step([0.1, 0.01], {"x": [1, 0.1], "y": [2, 2]}, {"x": [1, 0.1]})
    assert [text.get_text() for text in ax.legend().get_texts()] == ["x", "y", "predicted"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    curves = {"l.query": [1, 0.5], "l.value": [1, 0.2]}
    axes = balance_figures.along_a_run([1, 2], {"a": curves, "b": curves, "c": curves}, [1, 0.3])
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert [line.get_linestyle() for line in axes[0].lines] == ["--", "-", ":"]
    plt.close("all")


def test_figures_draw_where_they_are_told():
    path = np.linspace(0, 1, 5), np.linspace(0, 1, 5)
    for draw in (
        lambda ax: balance_figures.one_mode(1.0, [path], path, path, ax=ax),
        lambda ax: balance_figures.drift_by_step([0.1, 0.01], {"x": [1, 0.1]}, {}, ax=ax),
        lambda ax: balance_figures.along_a_run([1, 2], {"a": {"value": [1, 0.5]}}, [1, 0.3], axes=[ax])[0],
    ):
        ax = plt.subplots()[1]
        assert draw(ax) is ax and ax.get_xlabel()
        plt.close("all")
