"""Rank rules: from the singular values of one matrix to a rank.

Every rule takes the singular values first (any order, they are sorted), then its own parameter, and returns an
``int >= 0``. `RULES` maps names to rules; `make_rule` turns a name, a name with a parameter (``"energy:0.9"``) or a
callable into a function of a whole spectrum (`Spectrum`), which is what `companion.spectral_lora` applies per matrix.
`allocate` decides for all matrices together, under a budget of parameters.
"""

from collections.abc import Callable
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from companion._validate import matrix_shape
from companion.allocation import Allocation, allocate, permuted_ranks, proportional_ranks

__all__ = [
    "RULES",
    "Allocation",
    "Spectrum",
    "allocate",
    "energy_rank",
    "floor_rank",
    "gap_rank",
    "make_rule",
    "permuted_ranks",
    "proportional_ranks",
    "ratio_rank",
    "threshold_rank",
]


class Spectrum(Protocol):
    """What a rule may read: a spectrum, its noise floor and where it came from.

    `companion.gradients.GradientSpectrum` is one; any object with these attributes is.

    Attributes
    ----------
    singular_values : ndarray, shape (min(shape),)
        Of the mean gradient. A sketch holds the leading ones only and says so by an attribute ``truncated = True``.
    shape : (int, int)
        (out, in) of the weight.
    n_examples : int
    floors : ndarray, shape (flips,)
        Largest singular value of each sign-flipped mean.
    flip_energies : ndarray, shape (flips,), or None
        Squared Frobenius norm of each sign-flipped mean.
    noise_floor : float
        The largest of `floors`.
    level : float
        Probability that the first singular value exceeds `noise_floor` where there is no signal.
    """

    singular_values: np.ndarray
    shape: tuple[int, int]
    n_examples: int
    floors: np.ndarray
    flip_energies: np.ndarray | None

    @property
    def noise_floor(self) -> float: ...

    @property
    def level(self) -> float: ...


def gap_rank(singular_values: ArrayLike, max_rank: int | None = None) -> int:
    """Index of the largest absolute gap (P2 Algorithm 1, lines 5-7).

    With gaps ``delta_i = s_i - s_{i+1}``, i = 1 … k-1, the rank is ``argmax_i delta_i``, clipped to `max_rank`.

    Parameters
    ----------
    singular_values : array_like, shape (k,)
    max_rank : int, optional
        Largest rank returned (line 7 of the algorithm clips, it does not search again).

    Returns
    -------
    int
        Ties: the smallest index. Zero spectrum: 0. One non-zero value (no gap to compare): 1.

    Raises
    ------
    ValueError
        `singular_values` is not a non-empty list of finite numbers ``>= 0``, or `max_rank` not an integer ``>= 0``.

    Examples
    --------
    >>> gap_rank([5, 4, 1, 0.5])
    2

    Notes
    -----
    For an exponential or power-law spectrum the largest absolute gap is the first one by construction, whatever the data
    carry: the rule answers 1. P2 asks for a threshold fraction tau as well and never uses it.
    """
    values = _singular_values(singular_values)
    if values[0] == 0:
        return 0
    if values.size == 1:
        return _clip(1, max_rank)
    return _clip(int(np.argmax(values[:-1] - values[1:])) + 1, max_rank)


def ratio_rank(singular_values: ArrayLike, max_rank: int | None = None) -> int:
    """Index of the largest ratio ``s_i / s_{i+1}``, i = 1 … k-1, clipped to `max_rank`.

    Parameters
    ----------
    singular_values : array_like, shape (k,)
    max_rank : int, optional
        Largest rank returned.

    Returns
    -------
    int
        Ties: the smallest index. A value at rounding level (``<= k * eps * s_1``) counts as zero, and a ratio to zero as
        infinite, so that an exactly low-rank matrix gets its rank. Zero spectrum: 0. One non-zero value: 1.

    Raises
    ------
    ValueError
        `singular_values` is not a non-empty list of finite numbers ``>= 0``, or `max_rank` not an integer ``>= 0``.

    Examples
    --------
    >>> ratio_rank([5, 4, 1, 0.5])
    2

    Notes
    -----
    A gradient's numerical rank is at most the number of distinct tokens (or examples) behind it, and the ratio there is
    huge: the answer may be that number and not a property of the task.
    """
    values = _singular_values(singular_values)
    if values[0] == 0:
        return 0
    significant = values[values > values.size * np.finfo(float).eps * values[0]]
    if significant.size < values.size or values.size == 1:
        return _clip(int(significant.size), max_rank)
    return _clip(int(np.argmax(values[:-1] / values[1:])) + 1, max_rank)


def threshold_rank(singular_values: ArrayLike, constant: float, shape: tuple[int, int], n_examples: int) -> int:
    """Largest r with ``s_r² >= constant * max(shape) / n_examples``: equation 7 of P2 (6 for a known update).

    Parameters
    ----------
    singular_values : array_like, shape (k,)
        Of the *mean* gradient over the examples.
    constant : float, > 0
        C' of P2. The rule is consistent only for ``C' > v (sqrt(m) + sqrt(n))² / max(m, n)`` with v the variance of one
        entry of one example's gradient; P2 gives no value.
    shape : (int, int)
        Shape of the matrix; ``d_max`` of P2 is its larger side.
    n_examples : int, >= 1
        n of P2's threshold, not a side of the matrix.

    Returns
    -------
    int
        Equality counts as above. 0 when nothing reaches the threshold.

    Raises
    ------
    ValueError
        `singular_values` is not a non-empty list of finite numbers ``>= 0``, or another argument is out of range.

    Examples
    --------
    The threshold on s² is 2 * 6 / 12 = 1:

    >>> threshold_rank([5, 4, 1, 0.5], constant=2.0, shape=(4, 6), n_examples=12)
    3
    """
    values = _singular_values(singular_values)
    _positive("constant", constant)
    _positive("n_examples", n_examples)
    with np.errstate(over="ignore"):  # an infinite square is above any threshold
        return int(np.count_nonzero(values**2 >= constant * max(matrix_shape(shape)) / n_examples))


def energy_rank(singular_values: ArrayLike, fraction: float = 0.9) -> int:
    """Smallest r whose leading values carry `fraction` of the energy ``sum s_i²`` (tau of P2, appendix G.5).

    Parameters
    ----------
    singular_values : array_like, shape (k,)
    fraction : float, in (0, 1]

    Returns
    -------
    int
        Never decreases in `fraction`. Zero spectrum: 0. ``fraction=1`` gives the number of values that change the sum in
        double precision.

    Raises
    ------
    ValueError
        `singular_values` is not a non-empty list of finite numbers ``>= 0``, or `fraction` is not in (0, 1].

    Examples
    --------
    >>> energy_rank([5, 4, 1, 0.5], fraction=0.9)
    2
    """
    values = _singular_values(singular_values)
    _positive("fraction", fraction)
    if fraction > 1:
        raise ValueError(f"fraction: got {fraction!r}; accepted: 0 < fraction <= 1")
    if values[0] == 0:
        return 0
    energy = np.cumsum((values / values[0]) ** 2)  # relative to s_1: no overflow, no underflow of the leading terms
    return int(np.searchsorted(energy, fraction * energy[-1])) + 1


def floor_rank(singular_values: ArrayLike, floor: float) -> int:
    """Number of singular values strictly above a noise floor.

    Parameters
    ----------
    singular_values : array_like, shape (k,)
    floor : float, >= 0
        For example `GradientSpectrum.noise_floor`, or `companion.marchenko_pastur.noise_edge` for iid noise.

    Returns
    -------
    int
        A value equal to the floor is noise. ``floor=0`` counts the non-zero values.

    Raises
    ------
    ValueError
        `singular_values` is not a non-empty list of finite numbers ``>= 0``, or `floor` is negative or not finite.

    Examples
    --------
    >>> floor_rank([5, 4, 1, 0.5], floor=1.0)
    2
    """
    values = _singular_values(singular_values)
    if not _is_number(floor) or floor < 0:
        raise ValueError(f"floor: got {floor!r}; accepted: a finite number >= 0")
    return int(np.count_nonzero(values > floor))


RULES: dict[str, Callable[..., int]] = {
    "gap": gap_rank,
    "ratio": ratio_rank,
    "threshold": threshold_rank,
    "energy": energy_rank,
    "floor": floor_rank,
}
"""The rules by the names that `make_rule` and ``companion ranks --rule`` take."""

# How each named rule is fed from a whole spectrum; `parameter` is what stands after the colon in "name:parameter".
_FEED: dict[str, Callable[[Spectrum, float | None], int]] = {
    "gap": lambda s, parameter: gap_rank(s.singular_values, None if parameter is None else int(parameter)),
    "ratio": lambda s, parameter: ratio_rank(s.singular_values, None if parameter is None else int(parameter)),
    "threshold": lambda s, parameter: threshold_rank(s.singular_values, parameter, s.shape, s.n_examples),
    "energy": lambda s, parameter: energy_rank(s.singular_values, *(() if parameter is None else (parameter,))),
    "floor": lambda s, parameter: floor_rank(s.singular_values, s.noise_floor * (1.0 if parameter is None else parameter)),
}


_ONE = SimpleNamespace(singular_values=np.ones(1), shape=(1, 1), n_examples=1, noise_floor=1.0)


def make_rule(rule: str | Callable[[Spectrum], int]) -> Callable[[Spectrum], int]:
    """Turn a rule's name or a callable into a function of a `Spectrum`.

    Parameters
    ----------
    rule : str or callable
        A name in `RULES`, with its parameter after a colon where it has one: ``"gap"``, ``"gap:16"`` (clipped at 16),
        ``"ratio"``, ``"energy:0.9"``, ``"threshold:2.5"`` (C', required), ``"floor"``, ``"floor:1.1"`` (1.1 times the
        measured floor). Or any callable that takes a spectrum and returns an integer >= 0.

    Returns
    -------
    callable
        ``spectrum -> int``; what the rule answers is checked to be an integer between 0 and ``min(spectrum.shape)``.
        Of a truncated spectrum (a sketch of k values) a named rule answers what it would of the whole one, cut at k:
        ``"floor"`` and ``"threshold"`` always, ``"gap"`` where no later gap can be larger, ``"ratio"`` and
        ``"energy"`` never.

    Raises
    ------
    ValueError
        No such name, or a parameter that is missing, not a number or out of range. The returned function raises it when a
        rule answers something else than such an integer, or would need the rest of a truncated spectrum.

    Examples
    --------
    >>> values = [5, 4, 1, 0.5]
    >>> spectrum = SimpleNamespace(singular_values=values, shape=(4, 6), noise_floor=1.0)
    >>> rules = "gap", "energy:0.9", "floor:0.5", lambda s: s.shape[0]
    >>> [make_rule(rule)(spectrum) for rule in rules]
    [2, 2, 3, 4]
    """
    if callable(rule):
        return lambda spectrum: _checked_rank(rule(spectrum), spectrum, getattr(rule, "__name__", repr(rule)))
    name, _, text = str(rule).partition(":")
    if name not in RULES:
        raise ValueError(f"rule: got {rule!r}; accepted: a callable or one of {', '.join(sorted(RULES))}")
    if name == "threshold" and not text:
        raise ValueError("rule: 'threshold' needs its constant C' (P2 gives none), for example 'threshold:2.5'")
    try:
        parameter = float(text) if text else None
    except ValueError:
        raise ValueError(f"rule: got {rule!r}; what stands after the colon must be a number") from None
    if name in ("gap", "ratio") and parameter is not None and not (parameter.is_integer() and parameter >= 0):
        raise ValueError(f"rule: got {rule!r}; {name} takes an integer >= 0, the largest rank")
    _FEED[name](_ONE, parameter)  # a parameter out of range is found now, and not after the spectra have been measured

    def rank_of(spectrum: Spectrum) -> int:
        if getattr(spectrum, "truncated", False):
            _check_leading_suffice(name, spectrum)
        return _checked_rank(_FEED[name](spectrum, parameter), spectrum, name)

    return rank_of


def _check_leading_suffice(name: str, spectrum: Spectrum) -> None:
    values = _singular_values(spectrum.singular_values)
    # a gap further down is at most the last value known
    settled = name in ("floor", "threshold") or (name == "gap" and np.max(-np.diff(values), initial=0.0) >= values[-1])
    if not settled:
        raise ValueError(
            f"rule {name!r}: this spectrum holds the first {values.size} of {min(spectrum.shape)} singular values, which "
            "do not settle it; accepted: 'floor', 'threshold', or a spectrum made with sketch=None"
        )


def _checked_rank(rank, spectrum: Spectrum, name: str) -> int:
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 <= rank <= min(spectrum.shape):
        raise ValueError(f"rule {name!r} returned {rank!r}; accepted: an integer from 0 to {min(spectrum.shape)}")
    return int(rank)


def _singular_values(values: ArrayLike) -> np.ndarray:
    """Checked and sorted in decreasing order, float64, shape (k,)."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"singular_values: not an array ({error})") from None
    if array.size and array.dtype.kind not in "iuf":
        raise ValueError(f"singular_values: got dtype {array.dtype}; accepted: real numbers")
    array = array.astype(float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"singular_values: got shape {array.shape}; accepted: a non-empty 1-D array")
    if not np.all(np.isfinite(array)) or array.min() < 0:
        raise ValueError("singular_values: got negative, NaN or infinite entries; accepted: finite numbers >= 0")
    return np.sort(array)[::-1]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(value))


def _positive(name: str, value: float) -> None:
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{name}: got {value!r}; accepted: a finite number > 0")


def _clip(rank: int, max_rank: int | None) -> int:
    if max_rank is None:
        return rank
    if isinstance(max_rank, bool) or not isinstance(max_rank, Integral) or max_rank < 0:
        raise ValueError(f"max_rank: got {max_rank!r}; accepted: an integer >= 0 or None")
    return min(rank, int(max_rank))
