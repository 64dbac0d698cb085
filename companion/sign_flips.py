"""Balanced signs for the examples of a data set, the randomisation behind the noise floor."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np

from companion.batches import batch_size

__all__ = ["balanced_signs", "check_flips", "with_signs"]

MIN_EXAMPLES = 8
_STREAM_FROM = 64  # examples; below this the signs are drawn for the whole set at once, nearly orthogonal


def check_flips(flips: int) -> None:
    """ValueError unless `flips` is an integer >= 0."""
    if isinstance(flips, bool) or not isinstance(flips, Integral) or flips < 0:
        raise ValueError(f"flips: got {flips!r}; accepted: an integer >= 0")


def with_signs(dataloader: Iterable, flips: int, rng: np.random.Generator) -> Iterator[tuple[Any, np.ndarray]]:
    """Batches with the signs of their examples, shape (flips, examples).

    Small sets are read ahead, so that their signs are balanced splits, distinct and nearly orthogonal; from 64 examples
    on independent signs are so anyway, up to the exact centring in `companion.gradients`.
    """
    if not isinstance(dataloader, Iterable) and not hasattr(dataloader, "__getitem__"):
        raise TypeError(f"dataloader: got {type(dataloader).__name__}; accepted: an iterable of batches")
    batches, head, count = iter(dataloader), [], 0
    for batch in batches:
        head.append(batch)
        count += batch_size(batch)
        if count >= _STREAM_FROM:
            for batch in chain(head, batches):
                yield batch, rng.choice([-1.0, 1.0], (flips, batch_size(batch)))
            return
    if count == 0:
        raise ValueError("dataloader: it gave no examples")
    signs = balanced_signs(count, flips, rng) if flips else np.empty((0, count))
    ends = np.cumsum([batch_size(batch) for batch in head])
    yield from zip(head, np.split(signs, ends[:-1], axis=1), strict=True)


def balanced_signs(n: int, flips: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct splits of n examples into halves, as signs of shape (flips, n), as orthogonal to each other as they come.

    Raises ValueError below 8 examples and when there are fewer distinct splits than flips.
    """
    distinct = math.comb(n, n // 2) // (2 if n % 2 == 0 else 1)  # a split and its negative give the same floor
    if n < MIN_EXAMPLES:
        raise ValueError(
            f"dataloader: got {n} examples; a sign-flip floor needs at least {MIN_EXAMPLES} "
            f"({n} have {distinct} distinct balanced splits, best attainable level 1/{distinct + 1})"
        )
    if flips > distinct:
        raise ValueError(
            f"flips: got {flips}; {n} examples have {distinct} distinct balanced splits, best attainable level 1/{distinct + 1}"
        )
    base = np.where(np.arange(n) < n // 2, -1.0, 1.0)
    chosen = np.empty((0, n))
    while len(chosen) < flips:
        candidates = rng.permuted(np.tile(base, (64, 1)), axis=1)
        overlap = candidates @ chosen.T  # (64, chosen)
        cost = np.where(np.abs(overlap) >= n - 1, np.inf, overlap**2).sum(axis=1)  # the same split is never taken twice
        if np.isfinite(cost.min()):
            chosen = np.vstack([chosen, candidates[cost.argmin()]])
    return chosen
