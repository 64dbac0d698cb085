"""Tests of a measurement against a printed statement: yes, no, or not resolved.

A measurement is one number or several, each with an interval (of width zero where there is no error to state). Every
predicate asks the same of all of them. It answers `True` when all intervals lie where the statement says, `False` when
one lies wholly elsewhere, and `None` when the intervals allow both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Interval = tuple[float, float]


def _all(answers: Sequence[bool | None]) -> bool | None:
    if not answers:
        raise ValueError("a test needs a value or more, got none")
    return False if False in answers else None if None in answers else True


def _inside(interval: Interval, low: float, high: float) -> bool | None:
    if low <= interval[0] and interval[1] <= high:
        return True
    return False if interval[1] < low or interval[0] > high else None


def between(intervals: Sequence[Interval], bounds: Sequence[float]) -> bool | None:
    """Every value lies in the closed range `bounds`."""
    low, high = bounds
    return _all([_inside(interval, low, high) for interval in intervals])


def at_least(intervals: Sequence[Interval], bound: float) -> bool | None:
    """Every value is `bound` or more."""
    return between(intervals, (bound, math.inf))


def at_most(intervals: Sequence[Interval], bound: float) -> bool | None:
    """Every value is `bound` or less."""
    return between(intervals, (-math.inf, bound))


def above(intervals: Sequence[Interval], bound: float) -> bool | None:
    """Every value is larger than `bound`."""
    return at_least(intervals, math.nextafter(bound, math.inf))


def below(intervals: Sequence[Interval], bound: float) -> bool | None:
    """Every value is smaller than `bound`."""
    return at_most(intervals, math.nextafter(bound, -math.inf))


def equals(intervals: Sequence[Interval], value: float) -> bool | None:
    """Every value is `value`, up to the last of six digits."""
    return between(intervals, (value - 1e-6 * max(1, abs(value)), value + 1e-6 * max(1, abs(value))))


def decreasing(intervals: Sequence[Interval], least: float) -> bool | None:
    """Every value is smaller than the one before by more than `least`."""
    return increasing([(-high, -low) for low, high in intervals], least)


def increasing(intervals: Sequence[Interval], least: float) -> bool | None:
    """Every value is larger than the one before by more than `least`."""
    if len(intervals) < 2:
        raise ValueError(f"a sequence needs two values or more, got {len(intervals)}")
    steps = [(b[0] - a[1], b[1] - a[0]) for a, b in zip(intervals, intervals[1:], strict=False)]
    return above(steps, least)


def reproduces(intervals: Sequence[Interval], effect: Mapping[str, float]) -> bool | None:
    """Every interval reaches the printed effect `value` and excludes `null`, which is what no effect would give.

    An effect larger than the printed one reproduces it; one that is certainly smaller does not.
    """
    return _all([_reproduces(interval, effect["value"], effect["null"]) for interval in intervals])


def _reproduces(interval: Interval, value: float, null: float) -> bool | None:
    sign = math.copysign(1, value - null)
    near, far = sorted(sign * (end - null) for end in interval)
    if far < abs(value - null):
        return False
    return True if near > 0 else None


PREDICATES: dict[str, Callable[..., bool | None]] = {
    function.__name__: function
    for function in (between, at_least, at_most, above, below, equals, decreasing, increasing, reproduces)
}
WORDS: dict[str, Callable[..., str]] = {
    "between": lambda bounds: f"from {bounds[0]:g} to {bounds[1]:g}",
    "at_least": lambda bound: f"{bound:g} or more",
    "at_most": lambda bound: f"{bound:g} or less",
    "above": lambda bound: f"above {bound:g}",
    "below": lambda bound: f"below {bound:g}",
    "equals": lambda value: f"equal to {value:g}",
    "decreasing": lambda least: "decreasing" if least == 0 else f"decreasing by more than {least:g}",
    "increasing": lambda least: "increasing" if least == 0 else f"increasing by more than {least:g}",
    "reproduces": lambda effect: f"the interval reaches {effect['value']:g} and excludes {effect['null']:g}",
}
