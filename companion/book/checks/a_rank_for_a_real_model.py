"""Checks of the exercises in the chapter *A rank for a real model*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable
from math import comb
from types import SimpleNamespace

import numpy as np


def rank_level(flips: int, best_level: float) -> bool:
    """Exercise 1: flips for a level of 2%, and the best level of 8 examples."""
    assert flips == round(1 / 0.02) - 1, f"flips: with {flips} the level is 1/({flips} + 1) = {1 / (flips + 1):.3f}"
    splits = comb(8, 4)
    assert not np.isclose(best_level, 1 / (splits + 1)), "best_level: a split and its mirror image give the same floor"
    assert np.isclose(best_level, 1 / (splits / 2 + 1)), f"best_level: 8 examples have {splits // 2} distinct splits"
    return True


def rank_leak(leak: Callable[[np.ndarray], float], seed: int = 0) -> bool:
    """Exercise 2: the share of a common signal that a flipped mean keeps."""
    balanced = np.array([1, -1, 1, -1, -1, 1])
    assert leak(balanced) == 0, f"balanced signs leak nothing, got {leak(balanced)}"
    assert np.isclose(leak(np.ones(5)), 1) and np.isclose(leak(-np.ones(5)), 1), "equal signs leak everything: 1"
    tosses = np.random.default_rng(seed).choice([-1, 1], (4000, 8))
    average = np.mean([leak(signs) for signs in tosses])
    assert np.isclose(average, 0.273, atol=0.02), f"8 coin tosses leak .273 on average, got {average:.3f}"
    return True


def rank_rule(rule: Callable) -> bool:
    """Exercise 3: modes above the floor, at least 10% of the energy, at most 8."""

    def answer(values, floor):
        values = np.array(values, float)
        spectrum = SimpleNamespace(singular_values=values, noise_floor=floor, shape=(len(values),) * 2, n_examples=64)
        return rule(spectrum)

    assert answer([5, 4, 1, 1], 2.0) == 2, "two modes are above the floor"
    assert answer([1.0] * 20, 2.0) == 2, "nothing is above the floor, but 10% of the energy takes 2 of 20 equal modes"
    assert answer([9.0] * 20, 2.0) == 8, "never more than 8"
    assert isinstance(answer([5, 4, 1, 1], 2.0), int), "a rank is an integer"
    return True
