"""Checks of the exercises in the chapter *Reading the rank off the first gradient*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable
from math import ceil

import numpy as np

from companion.marchenko_pastur import noise_edge
from companion.rank_rules import gap_rank


def gradient_examples(examples_needed: Callable[[float, float, tuple[int, int]], int]) -> bool:
    """Exercise 1: examples from which a mode pays."""
    assert examples_needed(1.0, 1.0, (64, 64)) == 192, "64 × 64, strength and noise 1: C is 3, so 3 · 64 = 192"
    assert examples_needed(0.5, 1.0, (64, 64)) == 768, "half the strength takes four times the examples"
    assert examples_needed(1.0, 2.0, (64, 64)) == 768, "twice the noise takes four times the examples"
    for shape in ((64, 256), (256, 64)):
        found = examples_needed(1.0, 1.0, shape)
        assert found == ceil(256 * (1.25 + np.sqrt(1 + 3.5 + 0.0625)) / 2), f"{shape}: C(1/4) is 1.693, got {found}"
    return True


def gradient_cliff(steepest: Callable[[int], np.ndarray]) -> bool:
    """Exercise 2: the steepest spectrum whose rank the largest gap finds."""
    for s in (2, 5, 12):
        values = np.asarray(steepest(s), float)
        assert values.shape == (s,) and np.all(np.diff(values) <= 0), f"return {s} values from large to small"
        assert np.isclose(values[-1], 1), f"the last value is 1, got {values[-1]:.3g}"
        assert values[0] >= 0.99 * s, f"the first of {s} values is at least {0.99 * s:.4g}, got {values[0]:.4g}"
        found = gap_rank([*values, 0, 0])
        assert found == s, f"the gap rule finds {found} of your {s} values: every earlier gap must be smaller than 1"
    return True


def gradient_level(flips: int, examples: int, left_out: int) -> bool:
    """Exercise 3: the smallest group with a level of two per cent."""
    q = flips + 1
    assert q & (q - 1) == 0, f"with the identity a group has a power of two as its size; {flips} flips make {q}"
    assert q >= 50, f"{flips} flips have level 1/{q}, more than 2 %"
    assert q == 64, f"a smaller group does: {q // 2} is enough"
    assert examples == q, f"each of the {q} blocks needs an example, and one is enough"
    assert left_out == 14, "a random subset of k flips keeps the level 1/(k + 1); at most 2 % needs k of 49 or more"
    return True


def gradient_refit(refit_floor: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> bool:
    """Exercise 4: the floor from residuals of least squares."""
    rng = np.random.default_rng(0)
    n, m, d = 256, 64, 32
    inputs = rng.standard_normal((n, d)) * np.geomspace(2, 0.5, d)
    noise = rng.standard_normal((n, m))
    signs = np.repeat([[1.0, -1.0] * 4, [1.0, 1.0, -1.0, -1.0] * 2, [1.0] * 4 + [-1.0] * 4], n // 8, axis=1)
    edge = noise_edge((m, d), 1 / np.sqrt(n))
    floors = {}
    for strength in (0.0, 3.0, 30.0):
        update = strength * np.outer(np.ones(m), np.ones(d)) / np.sqrt(m * d)
        floors[strength] = float(refit_floor(inputs, inputs @ update.T + noise, signs))
    assert abs(floors[30.0] - floors[0.0]) < 0.01 * edge, "the floor still depends on the update: flip residuals of the fit"
    ratio = floors[0.0] / edge
    assert abs(ratio - 1) < 0.15, f"the floor is {ratio:.2f} times the edge of the noise: whitened? scaled by n / (n - d)?"
    return True
