"""Checks of the exercises in the chapter *SpectralLoRA on GLUE*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from companion.allocation import allocate
from companion.rank_rules import Spectrum, gap_rank, make_rule
from companion.statistics import minimum_detectable_effect


def glue_seeds(seeds_needed: Callable[[float, float], int]) -> bool:
    """Exercise 1: the fewest seeds that find an effect at a spread."""
    for effect, spread in ((0.3, 0.56), (1.0, 0.5), (0.5, 1.2)):
        n = seeds_needed(effect, spread)
        assert n == int(n) and n >= 2, f"a number of seeds is 2 or more, got {n}"
        found = minimum_detectable_effect(spread, n)
        assert found <= effect, f"{n} seeds find {found:.2f} at a spread of {spread}, and not yet {effect}"
        fewer = minimum_detectable_effect(spread, n - 1) if n > 2 else np.inf
        assert fewer > effect, f"{n - 1} seeds would do for {effect} at a spread of {spread}"
    return True


def glue_exchange(keeps_budget: Callable[[Mapping[str, int], Mapping[str, int]], bool]) -> bool:
    """Exercise 2: whether every exchange of ranks keeps the number of parameters."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = "abcd"[: rng.integers(2, 5)]
        ranks, costs = (dict(zip(names, rng.integers(1, 3, len(names)).tolist(), strict=True)) for _ in range(2))
        swaps = [(ranks[x] - ranks[y]) * (costs[x] - costs[y]) for x, y in combinations(names, 2)]
        right = not any(swaps)
        answer = keeps_budget(ranks, costs)
        assert answer == right, f"ranks {ranks}, costs {costs}: got {answer}, but exchanges change the total by {swaps}"
    return True


def glue_greedy(gains: Mapping[str, Sequence[float]], costs: Mapping[str, int], budget: int) -> bool:
    """Exercise 3: an instance where greedy gets less than a tenth of the optimum."""
    for name, row in gains.items():
        assert len(row) and min(row) > 0, f"gains[{name!r}]: positive numbers, please"
        assert list(row) == sorted(row, reverse=True), f"gains[{name!r}] must not increase, they are squared singular values"
    best = allocate({name: np.sqrt(2 * np.array(row)) for name, row in gains.items()}, costs, budget).gain
    offers = sorted(((gain / costs[name], gain, costs[name]) for name, row in gains.items() for gain in row), reverse=True)
    got, left = 0.0, budget
    for _, gain, cost in offers:
        if cost > left:
            break
        got, left = got + gain, left - cost
    assert got < 0.1 * best, f"greedy gets {got:g} of {best:g}: not below a tenth"
    return True


def glue_rule(rule: Callable[[Spectrum], int], spectra: Mapping[str, Spectrum], planted: Mapping[str, int]) -> bool:
    """Exercise 4: a rule that is nearer to the planted ranks than the largest gap."""
    answer = make_rule(rule)
    mine = np.mean([abs(answer(s) - planted[name]) for name, s in spectra.items()])
    gap = np.mean([abs(gap_rank(s.singular_values) - planted[name]) for name, s in spectra.items()])
    constant = len({answer(s) for s in spectra.values()}) == 1
    assert not constant, "a rule that gives one rank to all matrices reads nothing"
    assert mine < gap, f"mean error {mine:.2f}; the largest gap has {gap:.2f}"
    return True
