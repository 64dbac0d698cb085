"""Checks of the exercises in the chapter on the Marchenko-Pastur law.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np

from companion.marchenko_pastur import MarchenkoPastur, noise_edge, spike_threshold


def mp_edges(edge: float, smallest: float) -> bool:
    """Exercise 1: noise edge and smallest visible signal of a 384 x 1536 matrix with noise 0.02."""
    shape, noise = (384, 1536), 0.02
    assert not np.isclose(edge, noise_edge(shape, 1.0)), "edge: multiply by the standard deviation of an entry"
    assert np.isclose(edge, noise_edge(shape, noise), rtol=1e-3), f"edge: {edge:.4g} is not sigma (sqrt(m) + sqrt(n))"
    assert smallest < edge, "smallest: a signal is visible well below the edge, because noise pushes it up"
    right = spike_threshold(shape, noise)
    assert np.isclose(smallest, right, rtol=1e-3), f"smallest: {smallest:.4g} is not sigma (m n)^(1/4)"
    return True


def mp_nonzero_median(nonzero_median: Callable[[float], float]) -> bool:
    """Exercise 2: median of the eigenvalues that are not zero, as a function of a ratio above 1."""
    for ratio in (4.0, 1.5, 30.0):
        given, right = nonzero_median(ratio), ratio * MarchenkoPastur(1 / ratio).ppf(0.5)
        assert given > 0, f"ratio {ratio}: the median is 0; count only the eigenvalues above the atom"
        assert np.isclose(given, right, rtol=1e-6), f"ratio {ratio}: {given:.4g} given, {right:.4g} expected"
    return True


def mp_third_moment(third_moment: Callable[[float], float]) -> bool:
    """Exercise 3: third moment of the law with variance 1, as a function of the ratio."""
    for ratio in (0.2, 1.0, 3.0):
        given, right = third_moment(ratio), 1 + 3 * ratio + ratio**2
        assert np.isclose(given, right, rtol=1e-4), f"ratio {ratio}: {given:.4g} given, {right:.4g} expected"
    return True


def mp_false_alarms(threshold: Callable[[tuple[int, int], float], float], seed: int = 0) -> bool:
    """Exercise 4: a threshold that pure noise exceeds in about 1 matrix of 100, as a function of shape and noise."""
    rng = np.random.default_rng(seed)
    for shape, noise in (((40, 60), 1.0), ((30, 120), 0.1)):
        tops = np.linalg.svd(noise * rng.standard_normal((1000, *shape)), compute_uv=False)[:, 0]
        share = float(np.mean(tops > threshold(shape, noise)))
        assert share <= 0.03, f"{shape}: {share:.1%} of 1000 noise matrices stand above it, too many"
        assert share >= 0.002, f"{shape}: {share:.1%} of 1000 noise matrices stand above it, so signal is wasted"
    return True


def mp_flatten(flatten: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> bool:
    """Exercise 5: a transformation that gives a matrix with unequal row variances the spectrum of plain noise."""
    rng = np.random.default_rng(seed)
    p, n = 200, 800
    rows = np.exp(0.7 * rng.standard_normal(p))  # standard deviation of each row
    flat = np.asarray(flatten(rows[:, None] * rng.standard_normal((p, n))))
    assert flat.shape == (p, n), f"the result must keep the shape {(p, n)}, got {flat.shape}"
    s2 = np.linalg.svd(flat, compute_uv=False) ** 2 / n
    law = MarchenkoPastur(p / n, float(np.mean(s2)))
    distance = float(np.max(np.abs(law.cdf(np.sort(s2)) - (np.arange(p) + 0.5) / p)))
    assert distance < 0.03, f"distance {distance:.3f} from the law: do all rows have the same variance now?"
    return True
