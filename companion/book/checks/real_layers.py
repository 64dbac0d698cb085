"""Checks of the exercises in the chapter *Do real layers follow the law?*

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq


def layers_linear_time(linear_time: Callable[[float, float], float]) -> bool:
    """Exercise 1: until when growth with a constant gradient stays within a tenth of the straight line."""
    angle = brentq(lambda x: np.sinh(x) / x - 1.1, 0.1, 3)
    for strength, scaling in ((0.5, 2.0), (0.03, 2.0), (0.5, 1.0)):
        given, right = linear_time(strength, scaling), angle / (2 * scaling * strength)
        assert not np.isclose(given, 2 * right, rtol=1e-2), "the argument of sinh is 2 s λ t, not s λ t"
        assert np.isclose(given, right, rtol=1e-2), f"λ = {strength}, s = {scaling}: {given:.4g} given, {right:.4g} expected"
    return True


def layers_onset(has_onset: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> bool:
    """Exercise 2: which modes end ten times above their seed or more."""
    ends, seeds = np.array([2.0, 0.5, 1.0, 0.9]), np.array([0.1, 0.1, 0.1, 0.1])
    given = np.asarray(has_onset(ends, seeds))
    assert given.shape == ends.shape and given.dtype == bool, "one True or False for each mode"
    assert given.tolist() == [True, False, True, False], "compare the last value with ten times the seed, 10 included"
    return True


def layers_r_squared(within_modes: Callable[[np.ndarray, np.ndarray], float], seed: int = 0) -> bool:
    """Exercise 3: R² in which every mode has a mean of its own."""
    rng = np.random.default_rng(seed)
    seen = rng.standard_normal((20, 3)).cumsum(axis=0) + [0.0, 5.0, 50.0]
    predicted = seen + 0.3 * rng.standard_normal(seen.shape)
    right = 1 - np.sum((seen - predicted) ** 2) / np.sum((seen - seen.mean(axis=0)) ** 2)
    pooled = 1 - np.sum((seen - predicted) ** 2) / np.sum((seen - seen.mean()) ** 2)
    given = within_modes(seen, predicted)
    assert not np.isclose(given, pooled, rtol=1e-6), "that is the R² with one mean for all modes"
    assert np.isclose(given, right, rtol=1e-6), f"{given:.4g} given, {right:.4g} expected"
    return True


def layers_sorted(sorted_correlation: Callable[[int, np.random.Generator], float], seed: int = 0) -> bool:
    """Exercise 4: the median Pearson correlation of two unrelated uniform samples, each sorted."""
    rng = np.random.default_rng(seed)
    for points, right in ((5, 0.919), (7, 0.930), (20, 0.970)):
        given = sorted_correlation(points, rng)
        assert given > 0.5, f"{points} points: sort both samples before they are correlated"
        assert abs(given - right) < 0.02, f"{points} points: {given:.3f} given, about {right} expected"
    return True
