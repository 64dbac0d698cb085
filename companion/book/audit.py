"""Can the printed numbers be true? Rounding as intervals, whole-number counts, t tests, effect sizes.

Every function takes numbers *as they are printed* (strings: "0.10" is not "0.1"; floats are exact) and returns what the
values behind them allow. What lies outside is impossible, whatever the data were; what lies inside is possible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from math import ceil, floor, hypot, inf, isqrt, sqrt

import pandas as pd
from scipy import stats

from companion import _validate

TOLERANCE = 1e-9  # a value on the end of an interval is inside, whatever floating point adds


@dataclass(frozen=True)
class Interval:
    """All values a number may have, both ends included; arithmetic gives all values that the operands allow.

    The result is as narrow as it can be if every operand enters the formula once, and too wide otherwise:
    `interval("2.1") / "0.15"` is 13.23 to 14.83, and nothing less.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low must be <= high, got {self.low!r} and {self.high!r}")

    def __add__(self, other: Printed) -> Interval:
        other = interval(other, "other")
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Printed) -> Interval:
        return self + interval(other, "other") * -1

    def __mul__(self, other: Printed) -> Interval:
        other = interval(other, "other")
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def __truediv__(self, other: Printed) -> Interval:
        other = interval(other, "other")
        if other.low < 0 or other.high == 0:
            raise ValueError(f"other must be positive, got {other}")
        low = self.low / other.high if self.low >= 0 else self.low / other.low if other.low else -inf
        high = self.high / other.high if self.high <= 0 else self.high / other.low if other.low else inf
        return Interval(low, high)

    def distance(self, other: Printed) -> float:
        """How far two intervals are apart; 0 if they share a value: one number can be the other."""
        other = interval(other, "other")
        gap = max(self.low - other.high, other.low - self.high)
        return gap if gap > TOLERANCE else 0.0

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}"


Printed = str | float | Interval


def interval(value: Printed, name: str = "value") -> Interval:
    """The values a printed number stands for: half a unit of its last digit on either side, ends included.

    A text is a plain decimal number as printed, a float is exact, an interval stays; errors call the value `name`.

    Examples
    --------
    >>> print(interval("0.29"), "|", interval("0.290"))
    0.285 to 0.295 | 0.2895 to 0.2905
    """
    if isinstance(value, Interval):
        return value
    if not isinstance(value, str):
        return Interval(x := _validate.number(name, value), x)
    text = value.strip().replace("−", "-")
    if not (match := re.fullmatch(r"[+-]?\d+(?:\.(\d+))?", text)):
        raise ValueError(f"{name} must be a number as printed, such as '0.29', got {value!r}")
    digits, last = int(text.replace(".", "")), 10 ** len(match[1] or "")
    return Interval((digits - 0.5) / last, (digits + 0.5) / last)


def _spread(value: Printed, name: str) -> Interval:
    """The values of a printed standard deviation: not negative."""
    if (found := interval(value, name)).high < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    return Interval(max(found.low, 0.0), found.high)


def _totals(mean: Interval, n: int) -> range:
    """Sums of n whole numbers with this mean."""
    return range(ceil(n * mean.low - TOLERANCE), floor(n * mean.high + TOLERANCE) + 1)


def _least_squares(total: int, n: int) -> int:
    """Smallest sum of squares of n whole numbers with this sum: all as equal as they can be."""
    low, above = divmod(total, n)
    return (n - above) * low**2 + above * (low + 1) ** 2


def _exists(n: int, total: int, squares: int) -> bool:
    """Whether n whole numbers have this sum and this sum of squares."""
    if n == 1 or (squares - total) % 2 or squares < _least_squares(total, n):
        return n == 1 and squares == total**2
    if n >= 5 or (n == 4 and total % 2):  # nothing else is asked, by the three-square theorem
        return True
    return any(_exists(n - 1, total - x, squares - x * x) for x in range(-isqrt(squares), isqrt(squares) + 1))


def grim(mean: Printed, n: int) -> bool:
    """Whether n whole numbers can have this mean (Brown and Heathers, 2017): `grim("5.1", 5)` is False."""
    return len(_totals(interval(mean, "mean"), _validate.integer("n", n, 1))) > 0


def attainable(mean: Printed, sd: Printed, n: int, ddof: int = 1) -> list[tuple[float, float]]:
    """Pairs of mean and standard deviation that n whole numbers can have within what is printed (after Anaya, 2016).

    If there are none, the two printed numbers are impossible.

    Parameters
    ----------
    mean, sd : str, float or Interval
        As printed.
    n, ddof : int
        How many whole numbers, >= 2; the sum of squares is divided by n - ddof.

    Examples
    --------
    >>> attainable("5.1", "0.22", 30), attainable("2.5", "0.5", 4, ddof=0)
    ([], [(2.5, 0.5)])
    """
    mean, sd, n = interval(mean, "mean"), _spread(sd, "sd"), _validate.integer("n", n, 2)
    shift, found = floor(mean.low), []  # the same standard deviation, smaller numbers
    for total in _totals(mean - shift, n):
        low, high = ((n - ddof) * end**2 + total**2 / n for end in (sd.low, sd.high))
        for squares in range(ceil(low - TOLERANCE), floor(high + TOLERANCE) + 1):
            if _exists(n, total, squares):
                found.append((shift + total / n, sqrt(max(squares - total**2 / n, 0) / (n - ddof))))
    return found


def smallest_sd(mean: Printed, n: int, ddof: int = 1) -> float:
    """Smallest standard deviation of n whole numbers with this mean; infinite if none have it."""
    totals = _totals(interval(mean, "mean"), _validate.integer("n", n, 2))
    return min((sqrt(max(_least_squares(k, n) - k**2 / n, 0) / (n - ddof)) for k in totals), default=inf)


def one_sample_t(mean: Printed, sd: Printed, n: int, null: float = 0.0) -> Interval:
    """t of n values against `null`: `one_sample_t("5.1", "0.22", 30, null=5)` is 1.217 to 3.821."""
    return (interval(mean, "mean") - null) / _spread(sd, "sd") * sqrt(_validate.integer("n", n, 2))


def paired_t(difference: Printed, sd: Printed, sd_other: Printed, n: int, ddof: int = 1) -> Interval:
    """Paired t that two standard deviations allow: the differences have one from |s1 - s2| to s1 + s2.

    Parameters
    ----------
    difference, sd, sd_other : str, float or Interval
        Mean of the first minus mean of the second, and the standard deviations of the two.
    n, ddof : int
        Number of pairs, >= 2; the sums of squares were divided by n - ddof.

    Examples
    --------
    >>> print(paired_t("0.8", "0.29", "0.38", n=5))
    2.466 to 23.76
    """
    first, second = _spread(sd, "sd"), _spread(sd_other, "sd_other")
    of_differences = Interval(first.distance(second), first.high + second.high)
    return interval(difference, "difference") / of_differences * sqrt(_validate.integer("n", n, 2) - 1 + ddof)


def paired_r(difference: Printed, sd: Printed, sd_other: Printed, t: Printed, n: int, ddof: int = 1) -> Interval:
    """Correlation of the pairs that a printed t > 0 implies, other parameters as in `paired_t`.

    Outside of -1 to 1 it is impossible: `paired_r(0.8, 0.29, 0.38, 3.18, n=5)` is -0.399.
    """
    first, second, ends = _spread(sd, "sd"), _spread(sd_other, "sd_other"), []
    if first.low * second.low == 0:
        raise ValueError(f"sd and sd_other must be > 0, got {sd} and {sd_other}")
    spread = interval(difference, "difference") / interval(t, "t") * sqrt(_validate.integer("n", n, 2) - 1 + ddof)
    for a, b in ((first, second), (second, first)):
        for s, d in ((s, d) for s in (b.low, b.high) for d in (spread.low, spread.high)):
            lowest = min(max(sqrt(max(s**2 - d**2, 0)), a.low), a.high)  # where it is least; it is convex
            ends += [(x**2 + s**2 - d**2) / (2 * x * s) for x in (a.low, lowest, a.high)]
    return Interval(min(ends), max(ends))


def p_value(t: Printed, df: float, one_tailed: bool = False) -> Interval:
    """p of a t statistic, two-tailed or towards positive t: `p_value("0.50", 29)` is 0.6174 to 0.6243."""
    t, tails = interval(t, "t"), 1 if one_tailed else 2
    if not one_tailed:
        t = Interval(max(t.low, -t.high, 0.0), max(abs(t.low), abs(t.high)))
    return Interval(*sorted(tails * float(stats.t.sf(end, df)) for end in (t.high, t.low)))


def cohens_d(difference: Printed, sd: Printed, sd_other: Printed, t: Printed, n: int) -> dict[str, Interval]:
    """Cohen's d of two methods with n runs each, by its usual definitions (Cohen, 1988; Lakens, 2013)."""
    first, second, t = _spread(sd, "sd"), _spread(sd_other, "sd_other"), interval(t, "t")
    difference, n = interval(difference, "difference"), _validate.integer("n", n, 2)
    pooled = Interval(*(hypot(a, b) / sqrt(2) for a, b in ((first.low, second.low), (first.high, second.high))))
    return {
        "pooled s.d.": difference / pooled, "mean s.d.": difference / ((first + second) / 2),
        "second s.d.": difference / second, "t / √n": t / sqrt(n), "t √(2/n)": t * sqrt(2 / n),
    }  # fmt: skip


def _table(text: str) -> pd.DataFrame:
    """A table as it is printed: texts, not numbers."""
    return pd.read_csv(StringIO(text), sep=r" *\| *", engine="python", dtype=str, index_col=0)


# What the drafts print. "P2 tests": table 4 and, last, section 6.3; means from table 3 and sections 6.3 and 6.4.
PRINTED: dict[str, pd.DataFrame] = {
    "P2 table 1": _table("""tau | 0.0 | 0.70 | 0.80 | 0.90 | 0.95
        score | 84.6 | 84.4 | 84.3 | 83.9 | 83.6
        sd    | 0.29 | 0.31 | 0.33 | 0.35 | 0.38
        rank  | 6.2  | 5.8  | 5.4  | 4.7  | 3.9""").T,
    "P2 table 2": _table("""batch | 64 | 128 | 256 | 512 | 1024
        overhead | 0.2  | 0.3  | 0.6  | 1.1  | 2.1""").T,
    "P2 table 3": _table("""method | CoLA | SST-2 | MRPC | STS-B | QQP | MNLI | QNLI | RTE | average
        Full FT       | 61.3 | 94.9 | 90.1 | 89.7 | 91.5 | 86.1 | 93.1 | 86.1 | 86.6
        Uniform r = 4 | 48.2 | 92.6 | 86.1 | 87.2 | 89.3 | 83.5 | 90.5 | 75.4 | 81.6
        Uniform r = 8 | 52.1 | 93.1 | 87.0 | 87.8 | 89.7 | 84.0 | 91.3 | 74.2 | 82.4
        AdaLoRA       | 56.8 | 93.8 | 88.2 | 88.5 | 90.5 | 84.8 | 92.0 | 75.8 | 83.8
        SpectralLoRA  | 58.1 | 94.2 | 88.9 | 89.0 | 91.0 | 85.4 | 92.5 | 77.7 | 84.6"""),
    "P2 tests": _table("""test | mean | other | difference | sd | sd_other | t | p | d
        GLUE average | 84.6 | 83.8 | +0.8  | 0.29 | 0.38 | 3.18 | 0.017 | 2.43
        SST-2        | 94.2 | 93.8 | +0.4  | 0.21 | 0.29 | 2.51 | 0.033 | 1.53
        MNLI         | 85.4 | 84.8 | +0.6  | 0.18 | 0.22 | 3.97 | 0.008 | 2.92
        RTE          | 77.7 | 75.8 | +1.9  | 0.61 | 0.72 | 4.01 | 0.008 | 2.83
        MT-Bench     | 6.67 | 6.48 | +0.19 | 0.07 | 0.08 | 3.75 | 0.010 | 2.57
        CIFAR-100    | 85.2 | 83.1 | +2.1  | 0.15 | 0.17 | 6.89 | 0.001 | 4.33
        GLUE, r = 8  | 84.6 | 82.4 |       | 0.29 | 0.41 | 6.52 | 0.001 | """),
    "P1 table 3.4": _table("""rank | 1 | 2 | 3 | 4 | 8 | 32
        R2      | 0.542 | 0.635 | 0.648 | 0.645 | 0.630 | 0.608
        percent | 89    | 104   | 107   | 106   | 104   | 100""").T,
}  # fmt: skip
SYNTHETIC = {"mean": "5.1", "sd": "0.22", "t": "0.50", "df": 29, "p": "0.62", "null": 5}  # P2 section 6.2
FIGURE_2B = {"mean": "5.1", "sd": "0.2", "p_above": 0.40, "null": 5}  # P2 section 4.3
CORRELATIONS = {"P2 figure 1(b)": ("0.997", 7, 1e-3), "P2 figure 3(b)": ("0.94", 12, 1e-5)}  # r, points, p is below
BERT_BASE_RTE = "66.4"  # not P2: Devlin et al. (2019), table 1, on the test set
