"""Checks of the exercises in the chapter *tanh² or logistic? The exact dynamics*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np

from companion.gradient_flow import ExactFlow
from companion.scalar_flow import crossing_times, logistic, seed_strengths

TARGET = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # of exercise 3


def dynamics_rise(rise_time: Callable[[float], float]) -> bool:
    """Exercise 1: the time in which a mode with a small seed goes from 10 % to 90 %."""
    for strength in (0.5, 1.0, 3.0):
        times = np.linspace(0, 40 / strength, 40_001)
        curve = logistic(times, strength, 1e-8)
        right = np.subtract(*crossing_times(times, np.column_stack([curve, curve]), strength * np.array([0.9, 0.1])))
        given = rise_time(strength)
        assert not np.isclose(given, 2 * right, rtol=1e-3), "the rate of the logistic curve is 2 lambda, not lambda"
        assert np.isclose(given, right, rtol=1e-4), f"lambda = {strength}: {given:.4g} given, {right:.4g} expected"
    return True


def dynamics_seeds(seeds: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int = 0) -> bool:
    """Exercise 2: the seeds R_ii² without a QR factorisation."""
    rng = np.random.default_rng(seed)
    for m, s, r in ((12, 3, 3), (20, 5, 5), (16, 4, 8)):
        u, v = (np.linalg.qr(rng.standard_normal((size, s)))[0] for size in (m, 9))
        target = u * np.arange(s, 0, -1.0) @ v.T
        a0 = 0.01 * np.linalg.qr(rng.standard_normal((m, r)))[0]
        given, right = np.asarray(seeds(target, a0)), seed_strengths(target, a0)
        lengths = np.sum((a0.T @ np.linalg.svd(target)[0][:, :s]) ** 2, axis=0)
        assert given.shape == (s,), f"one seed for each of the {s} modes, got shape {given.shape}"
        assert not np.allclose(given, lengths), "these are eps² rho_i²: project out what the stronger modes share"
        assert np.allclose(given, right, rtol=1e-6), f"m = {m}, r = {r}: {given} given, {right} expected"
    return True


def dynamics_unlearned(a0: np.ndarray) -> bool:
    """Exercise 3: a start that meets P2's assumption, from which the second mode of `TARGET` is not learned."""
    a0 = np.asarray(a0, dtype=float)
    assert a0.shape == (4, 2), f"a start of rank 2 for a 4 x 3 target has shape (4, 2), got {a0.shape}"
    gram = a0.T @ a0
    assert np.allclose(gram, gram[0, 0] * np.eye(2), atol=1e-12), "the columns are not orthogonal and of one length"
    overlaps = np.abs(a0[:2]) / np.sqrt(gram[0, 0])  # |column . u_i|: u_1 and u_2 are the first two unit vectors
    assert np.all(overlaps > 0.01), "P2's assumption: no column may be orthogonal to u_1 or u_2"
    reached = np.diag(ExactFlow(TARGET, a0).limit())
    assert np.isclose(reached[0], 2), f"the first mode should be learned; its limit is {reached[0]:.3g}"
    assert abs(reached[1]) < 1e-9, f"the second mode is learned: its limit is {reached[1]:.3g}; what is R_22?"
    return True


def dynamics_order(largest_eps: Callable[[float, float, float, float], float]) -> bool:
    """Exercise 4: the scale below which the stronger of two modes is half learned first, by the seeds."""
    for strong, weak, r_1, r_2 in ((1.05, 0.95, 0.2, 0.6), (2.0, 1.0, 0.05, 0.9), (1.0, 0.9, 0.3, 0.5)):
        given = largest_eps(strong, weak, r_1, r_2)
        gaps = []
        for eps in (0.9 * given, 1.1 * given):
            strengths, seeds = np.array([strong, weak]), (eps * np.array([r_1, r_2])) ** 2
            gaps.append(np.diff(np.log(4 * strengths / seeds) / (2 * strengths))[0])
        case = f"lambda = {strong}, {weak}, R = {r_1}, {r_2}"
        assert gaps[0] > 0, f"{case}: below eps = {given:.3g} the weaker mode still comes first"
        assert gaps[1] < 0, f"{case}: above eps = {given:.3g} the stronger mode still comes first"
    return True
