"""Checks of the exercises in the chapter *K\\* done right*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np

from companion.book.kstar_rules import degrees_of_freedom
from companion.kstar import LinearTask


def kdone_z(z_values: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int = 0) -> bool:
    """Exercise 1: the singular values of Z from X'X and X'Y."""
    x, y, _ = LinearTask(1.5, 90, 0.3, 12, 7).sample(np.random.default_rng(seed))
    x = x * np.geomspace(1, 20, 12)
    gram, cross = x.T @ x, x.T @ y
    right = np.linalg.svd(np.linalg.qr(x)[0].T @ y, compute_uv=False)
    given = np.sort(np.asarray(z_values(gram, cross)))[::-1]
    assert given.shape == right.shape, f"7 singular values expected, got an array of shape {given.shape}"
    weights = np.linalg.svd(np.linalg.solve(gram, cross), compute_uv=False)
    assert not np.allclose(given, weights), "these are the singular values of the weights: one triangular solve too many"
    upper = np.linalg.svd(np.linalg.solve(np.linalg.cholesky(gram).T, cross), compute_uv=False)
    assert not np.allclose(given, upper), "transpose the factor: R'Z = X'Y, with R'R = X'X"
    assert np.allclose(given, right), f"{right[:3].round(3)} … expected, got {given[:3].round(3)} …"
    return True


def kdone_examples(examples_needed: Callable[[float, float, int, int], int]) -> bool:
    """Exercise 2: the least number of examples with which one mode gains at new inputs."""
    for s, noise, d_in, d_out in ((0.1, 0.1, 64, 32), (0.5, 0.1, 20, 40), (0.02, 0.05, 64, 32)):
        n = np.arange(d_in + 2, 20_000)
        w, c = n * (s / noise) ** 2, (n - 1) / (n - 1 - d_in)
        in_sample = w - d_in - d_out - 3 * d_in * d_out / w
        new = in_sample - (c - 1) * d_in * (1 + d_out / w) ** 2
        given, right = examples_needed(s, noise, d_in, d_out), int(n[np.argmax(new > 0)])
        first = int(n[np.argmax(in_sample > 0)])
        assert given == right or given != first, "that is enough at the inputs of the sample; new inputs need more"
        assert given == right, f"s = {s}, noise {noise}, {d_in} by {d_out}: {right} examples expected, got {given}"
    return True


def kdone_df(degrees: Callable[[np.ndarray, int], float], seed: int = 0) -> bool:
    """Exercise 3: the divergence of cutting a matrix to a rank."""
    rng = np.random.default_rng(seed)
    for shape in ((6, 4), (3, 5)):
        Z = rng.standard_normal(shape)
        right = degrees_of_freedom(np.linalg.svd(Z, compute_uv=False), shape)
        for r in (1, 2):
            given = degrees(Z, r)
            assert not np.isclose(given, r * (sum(shape) - r)), "that is the number of free parameters, which is less"
            assert np.isclose(given, right[r], rtol=1e-3), f"{shape}, rank {r}: {right[r]:.3f} expected, got {given:.3f}"
    return True
