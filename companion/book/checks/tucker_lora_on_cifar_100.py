"""Checks of the exercises in the chapter *Tucker-LoRA on CIFAR-100*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable, Sequence

import numpy as np

from companion.tucker import parameter_counts, unfolding_ranks

Points = list[tuple[float, float]]


def vision_frontier(on_frontier: Callable[[Points], Points]) -> bool:
    """Exercise 1: the points that no other beats."""
    cases = {
        "a smaller one with more accuracy": ([(10, 5.0), (5, 6.0)], [(5, 6.0)]),
        "as much accuracy for less": ([(10, 5.0), (5, 5.0)], [(5, 5.0)]),
        "each better in one": ([(1, 1.0), (2, 3.0), (3, 2.0), (4, 4.0)], [(1, 1.0), (2, 3.0), (4, 4.0)]),
        "two that are equal beat neither": ([(2, 3.0), (2, 3.0)], [(2, 3.0), (2, 3.0)]),
        "the same parameters": ([(2, 3.0), (2, 4.0)], [(2, 4.0)]),
    }
    for name, (points, right) in cases.items():
        given = on_frontier(points)
        assert sorted(given) == right, f"{name}: {points} gives {right}, got {given}"
    return True


def vision_match(matching_rank: Callable[[Sequence[int], Sequence[int]], int]) -> bool:
    """Exercise 2: the largest rank of LoRA that costs no more than Tucker-LoRA."""
    for ranks, dims in (((4, 2, 2), (12, 64, 768)), ((6, 13, 4), (6, 32, 192)), ((3, 4, 5), (5, 7, 9)), ((1, 1, 1), (12, 64, 768))):
        given, right = matching_rank(ranks, dims), parameter_counts(dims, ranks).tucker // (dims[0] * dims[1] + dims[2])
        hint = "a rank of LoRA costs d1 d2 + d3, and the rank is a whole number, rounded down"
        assert given == right, f"{ranks} of {dims}: {given} given, {right} expected; {hint}"
    return True


def vision_heads(head_friendly: Callable[[Sequence[int], int, np.random.Generator], np.ndarray], seed: int = 0) -> bool:
    """Exercise 3: a tensor of ranks (1, r, r)."""
    for dims, rank in (((12, 64, 48), 8), ((6, 8, 48), 3)):
        tensor = np.asarray(head_friendly(dims, rank, np.random.default_rng(seed)))
        assert tensor.shape == dims, f"the tensor has the shape {dims}, got {tensor.shape}"
        given = unfolding_ranks(tensor)
        hint = "let every head have the same matrix of this rank, times a number of its own"
        assert tuple(given) == (1, rank, rank), f"Tucker rank {tuple(given)} given, {(1, rank, rank)} expected; {hint}"
    return True
