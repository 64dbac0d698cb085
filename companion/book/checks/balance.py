"""Checks of the exercises in the chapter *The balance invariant*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from companion.balance import balance, balance_defect

Factors = tuple[np.ndarray, np.ndarray]


def balance_step(step_drift: Callable[..., np.ndarray], seed: int = 0) -> bool:
    """Exercise 1: the change of ``A'A - B B'`` in one step with weight decay."""
    rng = np.random.default_rng(seed)
    for shape, r, rate, decay in (((5, 4), 2, 0.1, 0.0), ((5, 4), 2, 0.1, 0.3), ((3, 6), 3, 0.02, 1.0)):
        a, b, g = rng.standard_normal((shape[0], r)), rng.standard_normal((r, shape[1])), rng.standard_normal(shape)
        right = balance(*_decayed_step(a, b, g, rate, decay)) - balance(a, b)
        given = np.asarray(step_drift(a, b, g, rate, decay))
        assert given.shape == (r, r), f"the change of an r x r matrix is r x r = {r} x {r}, got shape {given.shape}"
        hint = "what does (1 - rate decay) do to the terms of first order?" if decay else "only terms with rate^2 remain"
        assert np.allclose(given, right, rtol=0, atol=1e-12), f"decay {decay}: off by {np.abs(given - right).max():.1e}; {hint}"
    return True


def _decayed_step(a: np.ndarray, b: np.ndarray, g: np.ndarray, rate: float, decay: float) -> Factors:
    return (1 - rate * decay) * a - rate * g @ b.T, (1 - rate * decay) * b - rate * a.T @ g


def balance_rates(invariant: Callable[..., np.ndarray], seed: int = 0) -> bool:
    """Exercise 2: what is conserved if the two factors learn at different rates."""
    rng = np.random.default_rng(seed)
    for rate_a, rate_b in ((1.0, 1.0), (1.0, 16.0), (0.5, 2.0)):
        a, b = rng.standard_normal((5, 2)), rng.standard_normal((2, 4))
        path = [invariant(*factors, rate_a, rate_b) for factors in _unequal_flow(a, b, rng.standard_normal((5, 4)), rate_a, rate_b)]
        assert np.shape(path[0]) == (2, 2), f"an r x r matrix is asked for, here 2 x 2, got shape {np.shape(path[0])}"
        off = np.abs(np.subtract(path[-1], path[0])).max() / np.abs(path[0]).max()
        assert off < 1e-7, f"rates {rate_a:g} and {rate_b:g}: it changes by {off:.1%}; divide each term by a rate"
        assert np.any(path[0]), "zero is conserved too, but says nothing"
        assert not np.allclose(path[0], invariant(1.1 * a, b, rate_a, rate_b)), "it must depend on A"
    return True


def _unequal_flow(a: np.ndarray, b: np.ndarray, goal: np.ndarray, rate_a: float, rate_b: float) -> list[Factors]:
    m, r = a.shape

    def factors(x: np.ndarray) -> Factors:
        return x[: m * r].reshape(m, r), x[m * r :].reshape(r, -1)

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        a, b = factors(x)
        g = np.tanh(a @ b - goal)
        return -np.concatenate([rate_a * (g @ b.T).ravel(), rate_b * (a.T @ g).ravel()])

    found = solve_ivp(slope, (0, 0.4), np.concatenate([a.ravel(), b.ravel()]), method="DOP853", rtol=1e-11, atol=1e-12)
    return [factors(a_and_b) for a_and_b in found.y.T]


def balance_factors(split: Callable[..., Factors], seed: int = 0) -> bool:
    """Exercise 3: factors of a given matrix with a given balance."""
    rng = np.random.default_rng(seed)
    for (m, n), r, c in (((6, 5), 2, 0.0), ((6, 5), 3, 0.25), ((4, 7), 4, 2.0)):
        matrix = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
        a, b = (np.asarray(x, float) for x in split(matrix, r, c))
        assert a.shape == (m, r) and b.shape == (r, n), f"shapes {(m, r)} and {(r, n)} are asked for, got {a.shape}, {b.shape}"
        assert np.allclose(a @ b, matrix), f"the product is off by {np.abs(a @ b - matrix).max():.2g}"
        assert balance_defect(a, b) < 1e-10, "A'A - B B' must be a multiple of the identity"
        assert np.allclose(balance(a, b), c * np.eye(r)), f"the multiple is {balance(a, b)[0, 0]:.3g}, not {c:g}"
    return True


def balance_half_life(half_life: Callable[[float, float, int], float], seed: int = 0) -> bool:
    """Exercise 4: the time in which the noise of mini-batches halves the balance of a square product."""
    for rate, noise, n in ((0.05, 0.3, 12), (0.01, 1.0, 384)):
        given, right = half_life(rate, noise, n), np.log(2) / (rate * noise**2 * n)
        assert not np.isclose(given, right / rate), "in units of time, not of steps: time is steps times rate"
        assert np.isclose(given, right, rtol=1e-6), f"rate {rate}, noise {noise}, n = {n}: {given:.4g}, expected {right:.4g}"
    rng = np.random.default_rng(seed)
    a, b, rate, noise, n, draws = rng.standard_normal((6, 2)), rng.standard_normal((2, 6)), 0.1, 0.5, 6, 4000
    kicks = noise * rng.standard_normal((draws, n, n))
    shrunk = np.trace(np.mean(balance(a - rate * kicks @ b.T, b - rate * a.T @ kicks), axis=0)) / np.trace(balance(a, b))
    law = 0.5 ** (rate / half_life(rate, noise, n))
    assert abs(shrunk - law) < 0.02, f"one noisy step keeps {shrunk:.3f} of the balance on average, the answer says {law:.3f}"
    return True
