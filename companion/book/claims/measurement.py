"""What a chapter measured for a claim: numbers, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real

DIGITS = 4  # as shown, and as a notebook keeps them
ERROR_DIGITS = 2  # of half the width of an interval: the value and its ends are shown as far as these go
EXACT_DIGITS = 9  # as compared with a bound when a chapter runs: all that rounding errors leave alone


@dataclass(frozen=True)
class Measurement:
    """What a chapter measured for a claim: values, each with an interval that holds it.

    A value is shown with four digits, and where it has an error with no more of them than the error allows.

    Attributes
    ----------
    values : tuple of float
        One number or several.
    low, high : tuple of float
        Ends of the interval around each; equal to the values where no error is stated.

    Raises
    ------
    ValueError
        If there is no value, or a value is not finite or not inside its interval.
    """

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not len(self.values) == len(self.low) == len(self.high):
            raise ValueError(f"a measurement needs values, each with an interval, got {asdict(self)}")
        for value, low, high in zip(self.values, self.low, self.high, strict=True):
            if not -math.inf < low <= value <= high < math.inf:
                raise ValueError(f"a value lies in its interval, got {value!r} and [{low!r}, {high!r}]")

    def __str__(self) -> str:
        """The values as a reader sees them: intervals in brackets, to two digits of half their width."""
        return ", ".join(map(_range, self.values, self.low, self.high))

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """The intervals as pairs, which is what predicates take."""
        return list(zip(self.low, self.high, strict=True))


def measured(values: float | Sequence[float], error: float | Sequence[float] | None = None) -> Measurement:
    """A measurement, for `assess`.

    Parameters
    ----------
    values : float or sequence of float
        What was measured: a number, a list, an array of one dimension, a series.
    error : float or sequence of float, optional
        Half the width of the interval around each value; none is stated by default.

    Returns
    -------
    Measurement
        Values and intervals.

    Raises
    ------
    ValueError
        If there is no value, something is not a finite number, an error is negative, or the numbers of values and
        errors differ.
    """
    numbers, errors = _numbers(values), [0.0] if error is None else _numbers(error)
    if not numbers or errors is None:
        raise ValueError(f"a measurement needs finite numbers, got {values!r} with error {error!r}")
    errors = errors * len(numbers) if len(errors) == 1 else errors
    if len(errors) != len(numbers) or min(errors) < 0:
        raise ValueError(f"a measurement needs one error >= 0 for all values or for each, got {error!r} for {values!r}")
    ends = [[value + sign * width for value, width in zip(numbers, errors, strict=True)] for sign in (0, -1, 1)]
    return Measurement(*(tuple(rounded(number, EXACT_DIGITS) for number in end) for end in ends))


class _Pending:
    """Stands for a measurement whose runs are not recorded yet."""

    def __repr__(self) -> str:
        return "PENDING"


PENDING = _Pending()


def recorded(values: object, error: object = None) -> Measurement | _Pending:
    """A measurement from the records of a study that may still be running.

    Parameters
    ----------
    values, error
        As for `measured`.

    Returns
    -------
    Measurement or PENDING
        ``PENDING``, with which `assess` leaves a claim open, if there is no value or a value or error is NaN: a run that
        it takes is missing.
    """
    given = [_plain(part) for part in (values, error) if part is not None]
    numbers = [_plain(x) for part in given for x in (part if isinstance(part, list | tuple | range) else [part])]
    missing = not numbers or not given or given[0] in ([], ()) or any(x is None or x != x for x in numbers)  # noqa: PLR0124
    return PENDING if missing else measured(values, error)


def _numbers(values: object) -> list[float] | None:
    """One number or several as floats; None if something in them is not a finite number."""
    plain = _plain(values)
    several = [_plain(value) for value in plain] if isinstance(plain, list | tuple | range) else [plain]
    if all(isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in several):
        return [float(value) for value in several]
    return None


def _plain(value: object) -> object:
    """Arrays, series, tensors and their scalars as Python lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def rounded(number: float, digits: int = DIGITS) -> float:
    return float(f"{number:.{digits}g}")


def _number(value: float) -> str:
    """Four digits, without an exponent where that is readable."""
    value = rounded(value)
    return f"{value:.{DIGITS}g}" if value and not 1e-4 <= abs(value) < 1e6 else f"{value:.10f}".rstrip("0").rstrip(".")


def _range(value: float, low: float, high: float) -> str:
    shown, start, end = map(_number, (value, low, high))
    if shown == start == end:
        return shown
    numbers = [rounded(number) for number in (value, low, high)]  # as a notebook keeps them
    size = max(map(abs, numbers))
    decimals = min(_decimals((numbers[2] - numbers[1]) / 2, ERROR_DIGITS), _decimals(size, DIGITS))
    shown, start, end = (round(number, decimals) + 0.0 for number in numbers)  # without a negative zero
    if 1e-4 <= size < 1e6:
        shown, start, end = (f"{number:.{max(decimals, 0)}f}" for number in (shown, start, end))
    else:
        shown, start, end = map(_number, (shown, start, end))
    return f"{shown} [{start}, {end}]"


def _decimals(number: float, digits: int) -> int:
    """Decimals with which a number larger than 0 has so many digits; negative for tens and hundreds."""
    return digits - 1 - int(f"{number:e}".partition("e")[2])
