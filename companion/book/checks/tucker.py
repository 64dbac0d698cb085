"""Checks of the exercises in the chapter *Tucker: three ranks instead of one*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from companion.book import circuits
from companion.tucker import Tucker, parameter_counts
from companion.tucker_law import tucker_half_time


def tucker_saving(saving: Callable[[Sequence[int], Sequence[int]], float]) -> bool:
    """Exercise 1: the fair count over that of Tucker-LoRA."""
    for dims, ranks in product([(12, 64, 768), (50, 60, 70), (9, 256, 256)], [(2, 2, 2), (4, 2, 2), (2, 3, 3)]):
        counts, given = parameter_counts(dims, ranks), saving(dims, ranks)
        right = counts.lora_fair / counts.tucker
        hint = "take the smallest of the three unfoldings, each with its own rank s_k"
        assert np.isclose(given, right), f"{dims}, {ranks}: {given:.4g} given, {right:.4g} expected; {hint}"
    return True


def tucker_export(export: Callable[[np.ndarray, Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray]], seed: int = 0) -> bool:
    """Exercise 2: B and A of an output projection, (model dim) x (heads x head dim)."""
    rng = np.random.default_rng(seed)
    for dims, ranks in (((20, 3, 5), (2, 2, 3)), ((20, 3, 5), (6, 2, 2))):
        core, factors = rng.standard_normal(ranks), tuple(rng.standard_normal(s) for s in zip(dims, ranks, strict=True))
        b, a = export(core, factors)
        rank = min(ranks[0], ranks[1] * ranks[2])
        assert b.shape == (20, rank) and a.shape == (rank, 15), f"B is 20 x {rank} and A {rank} x 15, got {b.shape}, {a.shape}"
        right = Tucker(core, factors).to_tensor().reshape(20, 15)
        assert np.allclose(b @ a, right), "B A is not the update: U_2 (x) U_3 belongs to the columns, with heads first"
    return True


def tucker_power(leading: Callable[[float, float, int], float]) -> bool:
    """Exercise 3: the leading term of the half-time when all N factors and the core are eps."""
    for strength, eps, order in ((1.0, 1e-2, 2), (1.5, 0.05, 3), (0.7, 0.1, 5)):
        given, right = leading(strength, eps, order), tucker_half_time(strength, eps, "small", order, leading=True)
        hint = "with a = g, dg/dt is about lambda g^N: integrate dg / (lambda g^N) from eps on"
        assert np.isclose(given, right), f"N = {order}, eps = {eps}: {given:.4g} given, {right:.4g} expected; {hint}"
    return True


def tucker_circuit(rank_bound: Callable[[list, int], int], seed: int = 0) -> bool:
    """Exercise 4: a bound on the mode-k rank from the units of a decomposable circuit."""
    rng = np.random.default_rng(seed)
    for variable, right in ((0, 4), (1, 4), (2, 3)):
        given = rank_bound(circuits.two_level((6, 6, 6), 4, 3, rng), variable)
        assert given == right, f"variable {variable}: {given} given, {right} expected; count the inputs on that variable"
    return True
