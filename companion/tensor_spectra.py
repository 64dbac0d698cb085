"""Singular values of the unfoldings of a tensor, their noise floors, and the ranks that rules read off them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _tensors, _validate
from companion.rank_rules import make_rule

__all__ = ["ModeSpectrum", "mode_floors", "mode_ranks", "mode_singular_values", "mode_spectra", "unfolding_ranks"]


def mode_singular_values(tensor: ArrayLike) -> list[np.ndarray]:
    """Singular values of every unfolding, the mode-k singular values (P2 appendix F.1).

    Parameters
    ----------
    tensor : array_like, shape (d_1, ..., d_N)

    Returns
    -------
    list of ndarray, shapes (min(d_k, product of the other dimensions),)
        One for each mode, in decreasing order. All have the sum of squares ``||tensor||_F^2``.

    Raises
    ------
    TypeError, ValueError
        No real numbers, order < 2, an empty dimension, NaN or infinity.

    Examples
    --------
    >>> tensor = np.zeros((2, 3, 2))
    >>> tensor[0, 0, 0], tensor[1, 1, 0] = 2.0, 1.0
    >>> [values.round(3).tolist() for values in mode_singular_values(tensor)]
    [[2.0, 1.0], [2.0, 1.0, 0.0], [2.236, 0.0]]
    """
    x = _tensors.tensor("tensor", tensor)
    return [np.linalg.svd(_tensors.unfold(x, k), compute_uv=False) for k in range(x.ndim)]


def unfolding_ranks(tensor: ArrayLike, tolerance: float | None = None) -> tuple[int, ...]:
    """Numerical rank of every unfolding: the Tucker rank ``(s_1, ..., s_N)`` (P2 theorem 5.2).

    The rank of unfolding k *is* s_k, at most the product of the others. P2's theorem says that matrix LoRA needs the rank
    ``s_1 s_2`` on any unfolding; it needs s_k on unfolding k.

    Parameters
    ----------
    tensor : array_like, shape (d_1, ..., d_N)
    tolerance : float, optional
        Values up to this fraction of an unfolding's largest count as zero; by default its longer side times the rounding
        unit of the tensor's own precision, as in `numpy.linalg.matrix_rank`.

    Returns
    -------
    tuple of int

    Raises
    ------
    TypeError, ValueError
        As for `mode_singular_values`, or a tolerance that is no finite number >= 0.

    Examples
    --------
    P2's example has ``s_3 = 1`` and a mode-1 unfolding of rank 3, not ``s_1 s_2 = 9``:

    >>> core = np.eye(3)[:, :, None]
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("abc,ia,jb,kc", core, *(rng.standard_normal((8, r)) for r in core.shape))
    >>> unfolding_ranks(tensor)
    (3, 3, 1)
    """
    rounding = _rounding_unit(tensor)
    x = _tensors.tensor("tensor", tensor)
    if tolerance is not None and _validate.number("tolerance", tolerance) < 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance!r}")
    found = []
    for d, values in zip(x.shape, mode_singular_values(x), strict=True):
        least = max(d, x.size // d) * rounding if tolerance is None else tolerance
        found.append(int(np.sum(values > least * values[0])))
    return tuple(found)


def _rounding_unit(tensor: ArrayLike) -> float:
    """That of the entries as they came, before they are made double precision."""
    dtype = np.asarray(tensor).dtype
    return float(np.finfo(dtype if np.issubdtype(dtype, np.floating) else float).eps)


@dataclass(frozen=True)
class ModeSpectrum:
    """What the rank rules read of one mode: a `companion.rank_rules.Spectrum` of an unfolding.

    Attributes
    ----------
    mode : int
        From 0.
    singular_values : ndarray, shape (min(shape),)
        Mode-k singular values, in decreasing order.
    shape : (int, int)
        Of the unfolding, ``(d_k, product of the others)``.
    floors : ndarray, shape (flips,)
        Largest mode-k singular value of each sign-flipped tensor (`mode_floors`).
    n_examples : int, optional
        Examples behind the tensor; the rule "threshold" asks for it.
    flip_energies : None
        Not kept.
    """

    mode: int
    singular_values: np.ndarray
    shape: tuple[int, int]
    floors: np.ndarray
    n_examples: int | None = None
    flip_energies: None = None

    @property
    def noise_floor(self) -> float:
        """Largest of `floors`; without signal in this mode its first value exceeds it with probability `level`.

        Raises ValueError if there are none.
        """
        if not self.floors.size:
            raise ValueError("floors: none were given, and this rule needs them; mode_floors makes them of flipped tensors")
        return float(self.floors.max())

    @property
    def level(self) -> float:
        """False-alarm rate of `noise_floor` in one mode, 1 / (number of flips + 1)."""
        return 1.0 / (self.floors.size + 1)


def mode_floors(flipped: Iterable[ArrayLike]) -> np.ndarray:
    """Largest singular value of every unfolding of sign-flipped tensors, the noise floors of the modes.

    A sign-flipped tensor is the average gradient with whole examples multiplied by balanced signs +-1: the signal cancels,
    the noise stays (`companion.gradients.gradient_spectra` does it for matrices).

    Parameters
    ----------
    flipped : iterable of array_like, shapes (d_1, ..., d_N)
        One for each flip, all of one shape.

    Returns
    -------
    ndarray, shape (flips, N)

    Raises
    ------
    TypeError, ValueError
        As for `mode_singular_values`; no tensor at all, or tensors of different shapes.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    >>> mode_floors(noise).round(1).tolist()
    [[6.3, 6.0, 6.3], [7.2, 6.4, 6.3], [6.8, 6.3, 6.2]]
    """
    found, shape = [], None
    for tensor in flipped:
        x = _tensors.tensor("flipped tensors", tensor)
        if x.shape != (shape or x.shape):
            raise ValueError(f"flipped tensors must have one shape, got {shape} and {x.shape}")
        shape = x.shape
        found.append([values[0] for values in mode_singular_values(x)])
    if not found:
        raise ValueError("flipped must hold at least one tensor, got none")
    return np.array(found)


def mode_spectra(tensor: ArrayLike, floors: ArrayLike | None = None, n_examples: int | None = None) -> list[ModeSpectrum]:
    """The spectrum of every mode with its noise floors, ready for a rank rule.

    Parameters
    ----------
    tensor : array_like, shape (d_1, ..., d_N)
        An average gradient, or an update.
    floors : array_like, shape (flips, N), optional
        As from `mode_floors`.
    n_examples : int, optional
        Behind the average, for the rule "threshold".

    Returns
    -------
    list of ModeSpectrum

    Raises
    ------
    TypeError, ValueError
        As for `mode_singular_values`; floors that are negative, not finite or of another shape; `n_examples` below 1.

    Examples
    --------
    >>> [spectrum.shape for spectrum in mode_spectra(np.ones((2, 3, 4)))]
    [(2, 12), (3, 8), (4, 6)]
    """
    x = _tensors.tensor("tensor", tensor)
    limits = np.empty((0, x.ndim)) if floors is None else _validate.nonnegative("floors", floors)
    if limits.ndim != 2 or limits.shape[1] != x.ndim:
        raise ValueError(f"floors must have shape (flips, {x.ndim}) for a tensor of order {x.ndim}, got {limits.shape}")
    count = None if n_examples is None else _validate.integer("n_examples", n_examples, 1)
    return [
        ModeSpectrum(k, values, (d, x.size // d), limits[:, k], count)
        for k, (d, values) in enumerate(zip(x.shape, mode_singular_values(x), strict=True))
    ]


def mode_ranks(
    tensor: ArrayLike,
    rule: str | Callable[[ModeSpectrum], int] | Sequence[str | Callable[[ModeSpectrum], int]],
    floors: ArrayLike | None = None,
    n_examples: int | None = None,
) -> tuple[int, ...]:
    """A rank for every mode, by a rule of `companion.rank_rules` on the mode's singular values.

    P2 appendix G.4 takes the largest gap (``"gap"``) of each layer and weight type.

    Parameters
    ----------
    tensor : array_like, shape (d_1, ..., d_N)
        An average gradient, or an update.
    rule : str, callable, or a sequence of them
        As for `companion.rank_rules.make_rule`: ``"gap"``, ``"energy:0.9"``, ``"floor"`` and so on. One for all modes, or
        one for each mode.
    floors : array_like, shape (flips, N), optional
        As from `mode_floors`; "floor" needs them.
    n_examples : int, optional
        Behind the average; "threshold" needs it.

    Returns
    -------
    tuple of int
        0 where the rule keeps nothing of a mode; `hosvd` refuses such ranks, there is nothing to train.

    Raises
    ------
    TypeError, ValueError
        As for `mode_spectra` and `make_rule`; a number of rules that is not that of the modes.

    Notes
    -----
    The modes are decided one by one. A Tucker rank never exceeds the product of the others, the answers may: such a rank
    adds parameters and no tensors, and nothing is changed here.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> signal = 30 * np.einsum("i,j,k", *(np.linalg.qr(rng.standard_normal((d, 1)))[0][:, 0] for d in (4, 5, 6)))
    >>> floors = mode_floors(rng.standard_normal((9, 4, 5, 6)))
    >>> mode_ranks(signal + rng.standard_normal((4, 5, 6)), "floor", floors)
    (1, 1, 1)
    >>> mode_ranks(signal, ["gap", "ratio", lambda spectrum: 3])
    (1, 1, 3)
    """
    spectra = mode_spectra(tensor, floors, n_examples)
    rules = [rule] * len(spectra) if isinstance(rule, str) or callable(rule) else list(rule)
    if len(rules) != len(spectra):
        raise ValueError(f"rule must be one for all modes or one for each of the {len(spectra)} modes, got {len(rules)}")
    return tuple(make_rule(one)(spectrum) for one, spectrum in zip(rules, spectra, strict=True))
