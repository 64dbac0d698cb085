"""Comparing two methods over seeds and tasks: tests, intervals, effect sizes, and what a study can see at all.

Differences are always paired: the same task, data order and seed with one method and with the other. Scores and
margins are in the same unit, points in this book.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from companion import _validate

__all__ = [
    "Comparison", "Interval", "compare", "equivalence", "hierarchical_bootstrap", "holm", "minimum_detectable_effect", "paired_power",
]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two methods.

    Attributes
    ----------
    n : int
        Number of pairs.
    difference : float
        Mean of first minus second.
    low, high : float
        Student's interval around it.
    t, p : float
        Paired t statistic with n - 1 degrees of freedom, and its p-value, two-sided.
    d_z : float
        Mean of the differences over their standard deviation (Cohen's d_z).
    d_av : float
        Mean of the differences over the root mean square of the two methods' standard deviations (Cohen's d_av), which
        is the d that P2 table 4 prints.
    """

    n: int
    difference: float
    low: float
    high: float
    t: float
    p: float
    d_z: float
    d_av: float


@dataclass(frozen=True)
class Interval:
    """A number with an interval.

    Attributes
    ----------
    value, low, high : float
        The estimate and the ends of the interval.
    """

    value: float
    low: float
    high: float


def compare(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Comparison:
    """Paired comparison of the scores of two methods.

    Parameters
    ----------
    first, second : array_like, shape (n,)
        Scores of the same runs, in the same order; n >= 2.
    level : float
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    Comparison
        With p = 1 and d = 0 if all differences are zero, and p = 0 if they are all the same other number.

    Raises
    ------
    ValueError
        Fewer than two pairs, different lengths, NaN or infinity, or a level outside (0, 1).

    Examples
    --------
    >>> found = compare([84.9, 84.4, 84.6], [83.6, 83.9, 83.8])
    >>> f"{found.difference:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p:.3f}"
    '0.87 [-0.14, 1.87], p = 0.065'
    """
    a, b = _scores("first", first), _scores("second", second)
    if a.shape != b.shape:
        raise ValueError(f"first and second must have the same length, got {a.size} and {b.size}")
    difference = a - b
    mean, spread = difference.mean(), difference.std(ddof=1)
    error = spread / np.sqrt(a.size)
    half = stats.t.ppf(0.5 + _validate.probability("level", level) / 2, a.size - 1) * error
    t = _ratio(mean, error)
    return Comparison(
        n=a.size,
        difference=float(mean),
        low=float(mean - half),
        high=float(mean + half),
        t=t,
        p=float(2 * stats.t.sf(abs(t), a.size - 1)),
        d_z=_ratio(mean, spread),
        d_av=_ratio(mean, np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)),
    )


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted for several tests by Holm's step-down method (Holm, 1979).

    Rejecting what is below alpha afterwards keeps the probability of one false rejection or more at alpha, whatever the
    tests have to do with each other.

    Parameters
    ----------
    p_values : array_like, shape (n,)
        One for each test.

    Returns
    -------
    ndarray, shape (n,)
        In the order of the tests, at most 1.

    Raises
    ------
    ValueError
        No p-value, or one outside [0, 1].

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3)
    array([0.03, 0.06, 0.06])
    """
    p = _validate.reals("p_values", p_values)
    if p.ndim != 1 or not p.size or p.min() < 0 or p.max() > 1:
        raise ValueError(f"p_values must be one or more numbers in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    adjusted = np.empty_like(p)
    adjusted[order] = steps
    return adjusted


def equivalence(differences: ArrayLike, margin: float = 0.5) -> float:
    """p-value of two one-sided t tests (TOST; Schuirmann, 1987) that the mean difference lies within the margin.

    Parameters
    ----------
    differences : array_like, shape (n,)
        Paired differences, n >= 2.
    margin : float
        Differences below this are of no importance; > 0, in the unit of the differences.

    Returns
    -------
    float
        Below alpha: the methods are equivalent up to the margin, at that level. Large values say nothing: they come from
        a difference as well as from too few runs.

    Raises
    ------
    ValueError
        Fewer than two differences, NaN or infinity, or a margin that is not positive.

    Examples
    --------
    >>> round(equivalence([0.1, -0.1, 0.2, 0.0, 0.1], margin=0.5), 4)
    0.0005
    """
    values = _scores("differences", differences)
    margin = _validate.positive("margin", margin)
    error = values.std(ddof=1) / np.sqrt(values.size)
    nearest = min(values.mean() + margin, margin - values.mean())
    return float(stats.t.sf(_ratio(nearest, error), values.size - 1))


def minimum_detectable_effect(spread: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean difference that a two-sided paired t test finds with the given power.

    Parameters
    ----------
    spread : float
        Standard deviation of the paired differences, from earlier runs; >= 0.
    n : int
        Number of pairs, >= 2.
    alpha : float
        Level of the test; with Holm's method over m tests, alpha / m is safe.
    power : float
        Probability of finding it; larger than alpha.

    Returns
    -------
    float
        In the unit of `spread`.

    Raises
    ------
    ValueError
        n < 2, a negative spread, or probabilities outside 0 < alpha < power < 1.

    Examples
    --------
    >>> round(minimum_detectable_effect(spread=0.5, n=5), 2)
    0.84
    """
    if _validate.number("spread", spread) < 0:
        raise ValueError(f"spread must be a standard deviation >= 0, got {spread!r}")
    n = _validate.integer("n", n, 2)
    if not _validate.probability("alpha", alpha) < _validate.probability("power", power):
        raise ValueError(f"power must be larger than alpha, got power={power!r} and alpha={alpha!r}")
    top = 1.0
    while _power(top, n, alpha) < power:
        top *= 2
    return float(spread * optimize.brentq(lambda shift: _power(shift, n, alpha) - power, 0, top, xtol=1e-10) / np.sqrt(n))


def paired_power(effect: float, spread: float, n: int, alpha: float = 0.05, one_tailed: bool = False) -> float:
    """Probability that a paired t test finds a true mean difference.

    Parameters
    ----------
    effect : float
        The true mean of the differences.
    spread : float
        Their standard deviation, in the same unit; > 0.
    n : int
        Number of pairs, >= 2.
    alpha : float
        Level of the test.
    one_tailed : bool
        Only a difference above zero counts as found.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        n < 2, a spread that is not positive, a number that is not finite, or a level outside (0, 1).

    Examples
    --------
    >>> round(paired_power(effect=0.84, spread=0.5, n=5), 1)
    0.8
    """
    if _validate.number("spread", spread) <= 0:
        raise ValueError(f"spread must be a standard deviation > 0, got {spread!r}")
    n, alpha = _validate.integer("n", n, 2), _validate.probability("alpha", alpha)
    return _power(_validate.number("effect", effect) / spread * np.sqrt(n), n, alpha, one_tailed)


def _power(shift: float, n: int, alpha: float, one_tailed: bool = False) -> float:
    """Of a t test whose statistic has this noncentrality."""
    critical = stats.t.ppf(1 - alpha / (1 if one_tailed else 2), n - 1)
    wrong_side = 0.0 if one_tailed else np.nan_to_num(stats.nct.cdf(-critical, n - 1, shift))  # scipy: NaN where it underflows
    return float(stats.nct.sf(critical, n - 1, shift) + wrong_side)


def hierarchical_bootstrap(
    differences: Mapping[str, Sequence[float]], rng: np.random.Generator, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Mean over tasks of the mean difference over seeds, with an interval that knows both sources of chance.

    Tasks are drawn with replacement, then seeds within each drawn task. Every task counts the same, however many seeds
    it has.

    Parameters
    ----------
    differences : mapping of str to sequence of float
        Paired differences of the seeds, by task; two tasks or more.
    rng : numpy.random.Generator
        Draws the resamples.
    draws : int
        Number of resamples, >= 100.
    level : float
        Coverage of the percentile interval. With few tasks it is narrower than it should be: five tasks have only 126
        different resamples.

    Returns
    -------
    Interval
        The mean and the percentile interval.

    Raises
    ------
    ValueError
        Fewer than two tasks, a task without a seed, NaN or infinity, too few draws, or a level outside (0, 1).

    Examples
    --------
    >>> scores = {"rte": [1.0, 2.0], "mrpc": [0.0, 1.0], "stsb": [0.5, 0.5]}
    >>> print(f"{hierarchical_bootstrap(scores, np.random.default_rng(0)).value:.3f}")
    0.833
    """
    values = [_scores(f"differences[{name!r}]", seeds, least=1) for name, seeds in differences.items()]
    if len(values) < 2:
        raise ValueError(f"differences must hold two tasks or more, got {len(values)}")
    draws = _validate.integer("draws", draws, 100)
    tail = (1 - _validate.probability("level", level)) / 2
    tasks = rng.integers(len(values), size=(draws, len(values)))
    means = np.empty(tasks.shape)
    for number, seeds in enumerate(values):
        drawn = tasks == number
        means[drawn] = seeds[rng.integers(seeds.size, size=(drawn.sum(), seeds.size))].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [tail, 1 - tail])
    return Interval(float(np.mean([seeds.mean() for seeds in values])), float(low), float(high))


def _scores(name: str, values: ArrayLike, least: int = 2) -> np.ndarray:
    x = _validate.reals(name, values)
    if x.ndim != 1 or x.size < least:
        raise ValueError(f"{name} must hold {least} numbers or more in one dimension, got shape {x.shape}")
    return x


def _ratio(value: float, scale: float) -> float:
    """`value / scale`, where no value over no scale is nothing and a value over no scale is infinite."""
    if scale > 0:
        return float(value / scale)
    return 0.0 if value == 0 else float(np.copysign(np.inf, value))
