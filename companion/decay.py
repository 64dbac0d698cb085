"""Geometric decay of singular values and P1's rank from it; public through `companion.kstar`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp, inf, log, nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from companion import _validate

__all__ = ["DecayFit", "decay_by_layer", "decay_rate", "fit_decay", "k_star"]

SHORTEST_PIECE = 3  # modes: a line through two has no residual
ROUNDING = 1e-10  # variance of the logarithms of singular values below which a fit counts as exact


def k_star(decay: float, threshold: float, scale: float = 1.0) -> int:
    """P1's rank ``ceil(log(scale / threshold) / log(decay))`` (equation 6; equation 2 is the case ``scale = 1``).

    The number of modes of ``scale * decay**-k``, k = 0, 1, …, above the threshold. A quotient within rounding of an
    integer counts as that integer. Theorem 1 calls this rank optimal; with the printed threshold it is not.

    Parameters
    ----------
    decay : float
        P1's rho, more than 1.
    threshold : float
        P1's tau, positive: `paper_threshold`, or another one.
    scale : float
        P1's C, positive; `DecayFit.scale` estimates it.

    Returns
    -------
    int
        0 when no mode is above the threshold; not limited by the size of a matrix.

    Raises
    ------
    TypeError, ValueError
        An argument is not a finite number in its range.

    Examples
    --------
    >>> [k_star(decay, 0.1 * (1 + (32 / 500) ** 0.5)) for decay in (1.2, 1.5, 2.0, 3.0, 5.0, 10.0)]
    [12, 6, 3, 2, 2, 1]
    """
    if _validate.number("decay", decay) <= 1:
        raise ValueError(f"decay must be > 1, got {decay!r}: the modes never fall below a threshold")
    quotient = (log(_validate.positive("scale", scale)) - log(_validate.positive("threshold", threshold))) / log(decay)
    nearest = round(quotient)
    return max(0, nearest if abs(quotient - nearest) <= 1e-12 * max(1.0, quotient) else ceil(quotient))


@dataclass(frozen=True)
class DecayFit:
    """Geometric decay of singular values, in one piece or several; made by `fit_decay`.

    Attributes
    ----------
    modes : int
        Number of leading modes fitted.
    starts : tuple of int
        First mode of each piece; the first of them is 0.
    decays : tuple of float
        P1's rho of each piece, ``>= 1``. NaN if there were fewer than two modes: a line needs two points.
    levels : tuple of float
        Fitted singular value at the start of each piece.
    rms : float
        Root mean square of the residuals of the logarithms; 0.05 is 5 % of a singular value.
    """

    modes: int
    starts: tuple[int, ...]
    decays: tuple[float, ...]
    levels: tuple[float, ...]
    rms: float

    @property
    def scale(self) -> float:
        """The fitted value at mode 0, which takes the place of C in eq. 6 where that is not known.

        P1 (sec. 6) calls C "the leading singular value" and "estimable" and gives no recipe. The other reading is the
        largest singular value observed, which noise inflates.
        """
        return self.levels[0]

    def k_star(self, threshold: float) -> int:
        """Number of modes of the fitted curve above a threshold: eq. 6 with the fitted C if there is one piece.

        Parameters
        ----------
        threshold : float
            Positive.

        Returns
        -------
        int
            The last piece is continued beyond the modes that were fitted.

        Raises
        ------
        TypeError, ValueError
            Fewer than two modes were fitted, or the threshold is not positive or below a last piece without decay.
        """
        threshold = _validate.positive("threshold", threshold)
        if self.modes < 2:
            raise ValueError(f"there is no decay rate: {self.modes} of the two modes that a line needs were fitted")
        lengths = [*np.diff(self.starts).tolist(), inf]
        for start, length, decay, level in zip(self.starts, lengths, self.decays, self.levels, strict=True):
            above = 0 if level <= threshold else k_star(decay, threshold, level) if decay > 1 else inf
            if above < length:
                return start + above
        raise ValueError(f"threshold must be above the last piece, which does not decay, got {threshold!r}")


def fit_decay(singular_values: ArrayLike, threshold: float, max_pieces: int = 1, min_modes: int = 0) -> DecayFit:
    """Fit lines to ``log s_k`` over k for the modes above a threshold (P1 equation 4).

    Several pieces are the "piecewise rho model" that P1 wishes for (sec. 6). The best breakpoints are found exactly, by
    dynamic programming, and the number of pieces by the Bayesian information criterion (Yao 1988) with three parameters a
    piece. Pieces have three modes or more and need not join.

    Parameters
    ----------
    singular_values : array_like, shape (k,)
        In any order, ``>= 0``.
    threshold : float
        Modes above it are fitted, ``>= 0``; P1 takes eq. 5.
    max_pieces : int
        Largest number of pieces.
    min_modes : int
        Fit at least so many leading modes, whatever the threshold. P1 table 3.3 estimates the decay of tasks with a
        single mode above the threshold, which eq. 4 cannot do; ``min_modes=2`` gives its numbers.

    Returns
    -------
    DecayFit
        With NaN if there are fewer than two modes to fit.

    Raises
    ------
    TypeError, ValueError
        `singular_values` is not a list of finite numbers ``>= 0``, or another argument is out of range.

    Notes
    -----
    The criterion takes residuals as independent; those of sorted singular values are not, and a spectrum that bends
    smoothly (a power law) is cut into as many pieces as are allowed. Pieces describe; they are no evidence of a break.

    Examples
    --------
    >>> fit = fit_decay([8.0, 4.0, 2.0, 0.5, 0.45, 0.405, 0.3645], threshold=0.0, max_pieces=3)
    >>> fit.starts, np.round(fit.decays, 4).tolist(), round(fit.scale, 4), fit.k_star(0.4)
    ((0, 3), [2.0, 1.1111], 8.0, 6)
    """
    s = _validate.nonnegative("singular_values", singular_values)
    if s.ndim != 1:
        raise ValueError(f"singular_values must be one list of numbers, got shape {s.shape}")
    if _validate.number("threshold", threshold) < 0:
        raise ValueError(f"threshold must be >= 0, got {threshold!r}")
    most, least = _validate.integer("max_pieces", max_pieces, 1), _validate.integer("min_modes", min_modes, 0)
    s = np.sort(s[s > 0])[::-1]
    y = np.log(s[: max(np.count_nonzero(s > threshold), least)])
    if y.size < 2:
        return DecayFit(y.size, (0,), (nan,), (nan,), nan)
    starts = _pieces(y, most)
    slopes, firsts, squares = zip(*(_line(piece) for piece in np.split(y, starts[1:])), strict=True)
    decays, levels = tuple(exp(-slope) for slope in slopes), tuple(exp(first) for first in firsts)
    return DecayFit(y.size, tuple(starts), decays, levels, sqrt(sum(squares) / y.size))


def decay_rate(singular_values: ArrayLike, threshold: float, min_modes: int = 0) -> float:
    """P1's decay rate: ``rho = exp(-slope)`` of a line through ``log s_k`` above the threshold (equation 4).

    Parameters
    ----------
    singular_values, threshold, min_modes
        As for `fit_decay`.

    Returns
    -------
    float
        ``>= 1``. NaN, for one reason only: fewer than two modes are above the threshold.

    Raises
    ------
    TypeError, ValueError
        As for `fit_decay`.

    Examples
    --------
    >>> round(decay_rate([1.0, 0.5, 0.25, 0.1, 0.1], threshold=0.2), 6), decay_rate([1.0, 0.1], threshold=0.2)
    (2.0, nan)
    """
    return fit_decay(singular_values, threshold, min_modes=min_modes).decays[0]


def decay_by_layer(spectra: Mapping[str, object], threshold: float | Mapping[str, float]) -> pd.DataFrame:
    """Decay rate, C and K* of every matrix of a model (P1 section 6, point 3).

    Parameters
    ----------
    spectra : mapping of str to array or Spectrum
        Singular values of each matrix in any order, or an object that has them as `singular_values`.
    threshold : float or mapping of str to float
        Where the noise of these matrices ends, ``>= 0``; one for all, or one for each name.

    Returns
    -------
    pandas.DataFrame
        A row for each matrix: `modes` above the threshold, `decay`, `scale` and `rms` of the line through them, and
        `k_star` (eq. 6). NaN and NA with fewer than two modes; NA for threshold 0 or a spectrum without decay.

    Raises
    ------
    TypeError, ValueError
        No spectrum, a threshold that is missing or out of range, or singular values that `fit_decay` refuses.

    Examples
    --------
    >>> spectra = {"query": [4.0, 2.0, 1.0, 0.5], "value": [3.0, 0.1]}
    >>> print(decay_by_layer(spectra, threshold=0.4).round(3))
           modes  decay  scale  rms  k_star
    query      4    2.0    4.0  0.0       4
    value      1    NaN    NaN  NaN    <NA>
    """
    if not spectra:
        raise ValueError("spectra is empty: there is no matrix to fit")
    levels = threshold if isinstance(threshold, Mapping) else dict.fromkeys(spectra, threshold)
    if missing := [name for name in spectra if name not in levels]:
        raise ValueError(f"threshold must have every name of spectra, got none for {missing[0]!r}")
    rows = {}
    for name, given in spectra.items():
        fit = fit_decay(getattr(given, "singular_values", given), levels[name])
        rank = fit.k_star(levels[name]) if levels[name] > 0 and fit.decays[0] > 1 else pd.NA
        rows[name] = (fit.modes, fit.decays[0], fit.scale, fit.rms, rank)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["modes", "decay", "scale", "rms", "k_star"])
    return table.astype({"k_star": "Int64"})


def _line(y: np.ndarray) -> tuple[float, float, float]:
    """Slope, first value and sum of squared residuals of the least-squares line through equally spaced points."""
    k = np.arange(y.size) - (y.size - 1) / 2
    mean = float(y.mean())
    slope = min(float(k @ (y - mean) / (k @ k)), 0.0)  # of sorted values: above 0 by rounding only
    return slope, mean + slope * k[0], float(np.sum((y - mean - slope * k) ** 2))


def _pieces(y: np.ndarray, most: int) -> list[int]:
    """First points of the pieces: least squares for a number of pieces, the criterion between the numbers."""
    m = y.size
    most = min(most, m // SHORTEST_PIECE)
    if most < 2:
        return [0]
    cost = _costs(y)
    squares, choices, fits = cost[0], [], [([0], cost[0, -1])]
    for _ in range(1, most):
        total = squares[:-1, None] + cost[1:]  # the last piece starts at i = 1, 2, … and ends at j
        choices.append(np.argmin(total, axis=0) + 1)
        squares = np.min(total, axis=0)
        starts = [m]
        for choice in reversed(choices):
            starts.insert(0, int(choice[starts[0] - 1]))
        fits.append(([0, *starts[:-1]], squares[-1]))
    scores = [m * log(max(total / m, ROUNDING)) + 3 * len(starts) * log(m) for starts, total in fits]
    return fits[int(np.argmin(scores))][0]


def _costs(y: np.ndarray) -> np.ndarray:
    """Sum of squared residuals of a line through points i to j, at [i, j]; infinite for pieces that are too short."""
    m = y.size
    cost = np.full((m, m), inf)
    for i in range(m - SHORTEST_PIECE + 1):
        k, z = np.arange(m - i), y[i:] - y[i]
        mean, spread = np.cumsum(z) / (k + 1), k * (k + 1.0) * (k + 2.0) / 12
        along = np.cumsum(k * z) - k * (k + 1) / 2 * mean
        residual = np.cumsum(z * z) - (k + 1) * mean**2 - along**2 / np.maximum(spread, 1)
        cost[i, i + SHORTEST_PIECE - 1 :] = np.maximum(residual, 0)[SHORTEST_PIECE - 1 :]
    return cost
