"""Checks of the exercises in the chapter *Is too much rank benign?*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np

from companion.flow_numerics import descend


def surplus_rate(rate: Callable[[np.ndarray, int, float], float]) -> bool:
    """Exercise 1: the late rate for every r below m, given the strengths, r and the scale of the start."""
    strengths = np.array([2.0, 1.5, 1.2, 0.5])
    for eps in (1e-3, 0.4):
        w, half = np.hypot(strengths, eps**2 / 2), eps**2 / 2
        for r, right in ((4, w[3] - half), (9, w[3] - half), (2, w[1] - w[2]), (3, w[2] - w[3])):
            given = rate(strengths, r, eps)
            hint = "the weakest mode against c/2" if r >= 4 else "the last learned mode against the first that is not"
            assert np.isclose(given, right), f"r = {r}, eps = {eps}: {given:.4g} given, {right:.4g} expected; {hint}"
    return True


def surplus_muon(orthogonalise: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> bool:
    """Exercise 2: U V' of the compact decomposition of a gradient; rows stay in its row space."""
    rng = np.random.default_rng(seed)
    for k in (5, 2):
        gradient = rng.standard_normal((5, k)) @ rng.standard_normal((k, 9))
        given = np.asarray(orthogonalise(gradient))
        assert given.shape == (5, 9), f"the shape is that of the gradient, (5, 9), got {given.shape}"
        values = np.linalg.svd(given, compute_uv=False)
        assert np.allclose(values[:k], 1), f"rank {k}: the singular values become 1, got {values[:k].round(3)}"
        rows = np.linalg.svd(gradient)[2][:k]
        left = np.linalg.norm(given - given @ rows.T @ rows)
        assert left < 1e-8, f"rank {k}: rows leave the row space of the gradient; drop the modes that are zero"
    return True


def surplus_seeded(exponent: float) -> bool:
    """Exercise 3: the power of eps with which the surplus of a start with B(0) = eps * frame shrinks."""
    assert not np.isclose(exponent, 1, atol=0.1), "A is of size eps and B is of size eps: look at their product"
    assert np.isclose(exponent, 2, atol=0.02), f"the largest surplus goes like eps^2, got the power {exponent:.2f}"
    return True


def surplus_decay(limit: Callable[[np.ndarray, float], np.ndarray], seed: int = 0) -> bool:
    """Exercise 4: the limit of training with weight decay, isotropic loss."""
    rng = np.random.default_rng(seed)
    frame = lambda size: np.linalg.qr(rng.standard_normal((size, 3)))[0]  # noqa: E731
    target, start = (frame(8) * [2.0, 1.0, 0.4]) @ frame(6).T, 0.1 * frame(8)
    for decay in (0.1, 0.7):
        given = np.asarray(limit(target, decay))
        found = descend(target, start, steps=4000, step_size=0.1, weight_decay=decay, every=4000).updates()[-1]
        values = np.linalg.svd(given, compute_uv=False)[:3].round(3)
        expected = np.linalg.svd(found, compute_uv=False)[:3].round(3)
        assert np.allclose(given, found, atol=1e-5), f"decay {decay}: singular values {values}, training ends at {expected}"
    return True
