"""Ranks under a budget: which singular directions of which matrices to pay for.

One more rank in matrix l costs ``costs[l]`` parameters (``out + in`` for LoRA) and, in the quadratic model with
curvature kappa_l, lowers the loss by ``s_{r+1}^2 / (2 kappa_l)``. Gains of one matrix never increase with the rank, so
a choice of directions is a choice of ranks. Buying by gain per parameter is right for equal costs and can lose at the
end of the budget for unequal ones; `allocate` is exact for both. `proportional_ranks` and `permuted_ranks` are the
competitors that look at less: weights only, or nothing.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from math import gcd

import numpy as np

from companion import _validate

__all__ = ["Allocation", "allocate", "permuted_ranks", "proportional_ranks"]

MAX_STATES = 10**10  # directions times units of budget that dynamic programming may visit; about two seconds per 10^9


class Allocation(dict[str, int]):
    """Ranks by matrix, with what they cost.

    Attributes
    ----------
    budget, spent, unspent : int
        Parameters allowed, used and left over. Something is left over when the spectra hold nothing more to buy, when
        `max_rank` stops it, or when no combination of costs fills the budget better.
    gain : float
        Sum of the gains of all kept directions.
    """

    def __init__(self, ranks: Mapping[str, int], budget: int, spent: int, gain: float) -> None:
        super().__init__(ranks)
        self.budget, self.spent, self.gain = budget, spent, gain

    @property
    def unspent(self) -> int:
        return self.budget - self.spent


def allocate(
    spectra: Mapping[str, object],
    costs: Mapping[str, int],
    budget: int,
    min_rank: int = 0,
    max_rank: int | None = None,
    curvature: Mapping[str, float] | None = None,
) -> Allocation:
    """Ranks with the largest total gain that cost no more than the budget; exact, also for unequal costs.

    Maximises ``sum_l sum_{i <= r_l} s_{l,i}^2 / (2 kappa_l)`` over the ranks r_l subject to
    ``sum_l r_l costs_l <= budget``. Among equal gains the cheaper choice wins, then, at equal costs, the first matrix.
    Directions without gain are never bought.

    Parameters
    ----------
    spectra : mapping of str to array or Spectrum
        Singular values of each matrix in any order, or an object that has them as `singular_values`.
    costs : mapping of str to int
        Parameters that one rank costs in each matrix, for the same names.
    budget : int
        Parameters to spend in all.
    min_rank, max_rank : int, optional
        Bounds on the rank of every matrix; a matrix never gets more than it has singular values.
    curvature : mapping of str to float, optional
        kappa_l > 0 of each matrix; 1 for all by default.

    Returns
    -------
    Allocation
        A dict of ranks with `spent`, `unspent`, `budget` and `gain`.

    Raises
    ------
    TypeError
        A number of the wrong type.
    ValueError
        No spectrum, names that differ, a cost or curvature that is not positive, bounds that contradict each other, or
        a budget that does not pay for `min_rank` everywhere; the message says what is missing.

    Notes
    -----
    Dynamic programming over the budget in units of the greatest common divisor of the costs. Matrices of equal cost are
    one class whose best k directions are its k largest gains, so the work is (directions) x (units of budget).

    Examples
    --------
    >>> spectra = {"a": [3.7416573867739413], "b": [3.1622776601683795, 3.1622776601683795]}
    >>> ranks = allocate(spectra, costs={"a": 6, "b": 5}, budget=10)
    >>> dict(ranks), ranks.spent, round(ranks.gain)
    ({'a': 0, 'b': 2}, 10, 10)
    """
    gains, prices = _checked(spectra, costs, curvature)
    low = _validate.integer("min_rank", min_rank, 0)
    high = None if max_rank is None else _validate.integer("max_rank", max_rank, low)
    budget = _validate.integer("budget", budget, 0)
    kept = {name: values[:high] for name, values in gains.items()}
    floor = {name: min(low, values.size) for name, values in kept.items()}
    needed = sum(rank * prices[name] for name, rank in floor.items())
    if needed > budget:
        raise ValueError(f"budget {budget} does not pay for min_rank={low} everywhere, which costs {needed}")
    extra = {name: values[floor[name] :] for name, values in kept.items()}
    ranks = _best({name: values[values > 0] for name, values in extra.items()}, prices, budget - needed)
    ranks = {name: rank + floor[name] for name, rank in ranks.items()}
    spent = sum(rank * prices[name] for name, rank in ranks.items())
    return Allocation(ranks, budget, spent, float(sum(kept[name][:rank].sum() for name, rank in ranks.items())))


def _best(gains: Mapping[str, np.ndarray], prices: Mapping[str, int], budget: int) -> dict[str, int]:
    """How many of the leading gains of each matrix to buy."""
    classes = defaultdict(list)
    for name in gains:
        classes[prices[name]].append(name)
    unit = gcd(*classes)
    # For every class: all its gains from large to small, with the place of their matrix; a stable sort keeps the order.
    ordered, owners = {}, {}
    for price, names in classes.items():
        values = np.concatenate([gains[name] for name in names])
        places = np.concatenate([np.full(gains[name].size, place) for place, name in enumerate(names)])
        order = np.argsort(-values, kind="stable")[: budget // price]
        ordered[price], owners[price] = values[order], places[order]
    everything = sum(price * values.size for price, values in ordered.items())  # a larger budget changes nothing
    counts = _counts(ordered, min(budget, everything) // unit, unit)
    ranks = {}
    for price, names in classes.items():
        bought = np.bincount(owners[price][: counts[price]], minlength=len(names))
        ranks |= dict(zip(names, bought.tolist(), strict=True))
    return {name: ranks[name] for name in gains}


def _counts(ordered: Mapping[int, np.ndarray], states: int, unit: int) -> dict[int, int]:
    """How many directions of each class to buy: dynamic programming over what is spent, in units."""
    work = sum(values.size for values in ordered.values()) * (states + 1)
    if work > MAX_STATES:
        raise ValueError(
            f"the costs have the common divisor {unit}, which makes the exact search too long ({work:.1e} steps, at "
            f"most {MAX_STATES:.0e}): round costs and budget to a larger unit, or set max_rank"
        )
    best, choices = np.zeros(states + 1), {}  # best[b]: largest gain for at most b units
    for price, values in ordered.items():
        step, total = price // unit, 0.0
        choice, new = np.zeros(states + 1, dtype=np.int64), best.copy()
        for count, value in enumerate(values.tolist(), start=1):
            total += value
            offer = best[: states + 1 - count * step] + total
            better = offer > new[count * step :]
            new[count * step :][better] = offer[better]
            choice[count * step :][better] = count
        best, choices[price] = new, choice
    counts, left = {}, int(np.argmax(best))  # the first of equal values: the cheapest
    for price in reversed(ordered):
        counts[price] = int(choices[price][left])
        left -= counts[price] * (price // unit)
    return counts


def proportional_ranks(
    weights: Mapping[str, float],
    costs: Mapping[str, int],
    budget: int,
    min_rank: int = 0,
    max_rank: int | None = None,
) -> dict[str, int]:
    """Ranks in proportion to weights, as far as whole numbers and a budget allow; equal weights spread it evenly.

    One rank after the other goes to the matrix with the largest ``w / (r + 1/2)`` that can still pay for it (the method
    of Webster and Sainte-Lague for seats in a parliament: no bias towards large or small weights).

    Parameters
    ----------
    weights : mapping of str to float
        One number >= 0 for each matrix; a weight of zero gets `min_rank`.
    costs : mapping of str to int
        Parameters of one rank in each matrix, ``out + in``.
    budget : int
        Parameters in all.
    min_rank, max_rank : int
        Bounds on every rank; `max_rank` may be None.

    Returns
    -------
    dict of str to int
        Ranks by name; ties go to the name that comes first.

    Raises
    ------
    ValueError
        Names that differ, a weight that is negative or not finite, all weights zero, or a budget below `min_rank` for all.
    TypeError
        A cost, bound or budget that is no integer.

    Examples
    --------
    >>> proportional_ranks({"a": 3.0, "b": 1.0}, {"a": 10, "b": 10}, budget=80)
    {'a': 6, 'b': 2}
    """
    low = _validate.integer("min_rank", min_rank, 0)
    high = None if max_rank is None else _validate.integer("max_rank", max_rank, low)
    left = _validate.integer("budget", budget, 0)
    _same_names("weights", weights, costs=costs)
    shares = {name: _validate.number(f"weights[{name!r}]", weight) for name, weight in weights.items()}
    if min(shares.values()) < 0 or not any(shares.values()):
        raise ValueError(f"weights must be >= 0 and not all zero, got {shares}")
    prices = {name: _validate.integer(f"costs[{name!r}]", costs[name], 1) for name in shares}
    ranks = dict.fromkeys(shares, low)
    left -= low * sum(prices.values())
    if left < 0:
        raise ValueError(f"budget: {budget} does not pay for min_rank={low} in every matrix; that costs {budget - left}")
    order = {name: place for place, name in enumerate(shares)}
    heap = [(-share / (low + 0.5), order[name], name) for name, share in shares.items() if share > 0]
    heapq.heapify(heap)
    while heap:
        _, place, name = heapq.heappop(heap)
        if prices[name] > left or ranks[name] == high:
            continue  # what is left only shrinks: this matrix is done
        ranks[name] += 1
        left -= prices[name]
        heapq.heappush(heap, (-shares[name] / (ranks[name] + 0.5), place, name))
    return ranks


def permuted_ranks(ranks: Mapping[str, int], costs: Mapping[str, int], rng: np.random.Generator) -> dict[str, int]:
    """The same ranks on randomly exchanged matrices of equal cost: the control that an allocation has to beat.

    Parameters
    ----------
    ranks : mapping of str to int
    costs : mapping of str to int
        Parameters of one rank; only matrices of the same cost exchange theirs, so that the total stays.
    rng : numpy Generator

    Returns
    -------
    dict of str to int

    Raises
    ------
    ValueError
        Names that differ, or nothing to exchange.

    Examples
    --------
    >>> ranks, costs = {"a": 1, "b": 2, "c": 3, "d": 7}, {"a": 8, "b": 8, "c": 8, "d": 9}
    >>> permuted_ranks(ranks, costs, np.random.default_rng(0))
    {'a': 3, 'b': 1, 'c': 2, 'd': 7}
    """
    _same_names("ranks", ranks, costs=costs)
    groups = defaultdict(list)
    for name in ranks:
        groups[costs[name]].append(name)
    result = dict(ranks)
    for names in groups.values():
        result.update(zip(names, (ranks[names[i]] for i in rng.permutation(len(names))), strict=True))
    return result


def _same_names(first: str, mapping: Mapping[str, object], **others: Mapping[str, object]) -> None:
    if not mapping:
        raise ValueError(f"{first} is empty: there is nothing to allocate ranks to")
    for name, other in others.items():
        if set(other) != set(mapping):
            differing = ", ".join(map(repr, sorted(set(other) ^ set(mapping), key=str)[:3]))
            raise ValueError(f"{name} and {first} must have the same names; only one of them has {differing}")


def _checked(
    spectra: Mapping[str, object], costs: Mapping[str, int], curvature: Mapping[str, float] | None
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Gains of every matrix from large to small, and costs; errors name the matrix."""
    _same_names("spectra", spectra, costs=costs, curvature=spectra if curvature is None else curvature)
    prices = {name: _validate.integer(f"costs[{name!r}]", costs[name], 1) for name in spectra}
    gains = {}
    for name, given in spectra.items():
        values = _validate.nonnegative(f"spectra[{name!r}]", getattr(given, "singular_values", given))
        if values.ndim != 1 or not values.size:
            raise ValueError(f"spectra[{name!r}] must hold singular values in one dimension, got shape {values.shape}")
        kappa = 1.0 if curvature is None else _validate.positive(f"curvature[{name!r}]", curvature[name])
        gains[name] = np.sort(values)[::-1] ** 2 / (2 * kappa)
    return gains, prices
