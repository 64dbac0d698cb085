"""What noise looks like: the Marchenko-Pastur law and the singular values of signal plus noise.

Two normalisations occur, and every docstring says which one it uses.

* :class:`MarchenkoPastur` is about *eigenvalues of the sample covariance* ``X @ X.T / n``: ``X`` of shape ``(p, n)``,
  independent entries of mean 0 and variance ``variance``, and ``ratio = p / n``.
* The functions are about *singular values of the matrix itself*, of shape ``(m, n)``, whose noise has standard
  deviation ``noise`` in every entry. No square root of a dimension is divided out.

The bridge: the squared singular values of an ``(m, n)`` noise matrix, divided by ``max(m, n)``, follow
``MarchenkoPastur(min(m, n) / max(m, n), noise**2)``.
"""

from dataclasses import dataclass
from math import isfinite, pi, sqrt
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize.elementwise import find_root

from companion._validate import Shape, matrix_shape, noise_level, nonnegative, number, reals, spectrum

__all__ = [
    "MarchenkoPastur",
    "edge_fluctuation",
    "estimate_noise",
    "gavish_donoho_threshold",
    "noise_edge",
    "spike_threshold",
    "spiked_overlaps",
    "spiked_singular_value",
]


@dataclass(frozen=True)
class MarchenkoPastur:
    """Limit law of the eigenvalues of ``X @ X.T / n`` for pure noise ``X`` of shape ``(p, n)``.

    With ``[a, b]`` the support and ``c`` the ratio, the continuous part has density
    ``sqrt((b - x)(x - a)) / (2 pi c variance x)`` and mass ``min(1, 1/c)``; the rest is an atom at zero
    (Marchenko and Pastur 1967, with all population eigenvalues equal).

    Parameters
    ----------
    ratio : float
        ``c = p / n > 0``. Above 1 only ``n`` of the ``p`` eigenvalues differ from zero.
    variance : float, default 1.0
        Variance of one entry of ``X``, positive.

    Raises
    ------
    TypeError
        An argument is not a real number.
    ValueError
        An argument is not finite and positive, or the upper edge overflows.

    Examples
    --------
    >>> law = MarchenkoPastur(ratio=4.0)
    >>> law.support, law.atom, law.cdf(0.0)
    ((1.0, 9.0), 0.75, 0.75)
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ratio", "variance"):
            value = number(name, getattr(self, name))
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
            object.__setattr__(self, name, value)
        if not isfinite(self.support[1]):
            raise ValueError(f"ratio {self.ratio!r} with variance {self.variance!r}: the upper edge overflows")

    @property
    def support(self) -> tuple[float, float]:
        """Ends ``variance (1 -+ sqrt(ratio))^2`` of the continuous part (the atom at zero is apart)."""
        root = sqrt(self.ratio)
        inner = (1.0 - self.ratio) / (1.0 + root)  # 1 - root, without cancellation near ratio 1
        return self.variance * inner * inner, self.variance * (1.0 + root) * (1.0 + root)

    @property
    def atom(self) -> float:
        """Mass at zero, ``max(0, 1 - 1/ratio)``."""
        return max(0.0, 1.0 - 1.0 / self.ratio)

    @property
    def mean(self) -> float:
        """First moment, atom included; equal to ``variance``."""
        return self.variance

    @property
    def var(self) -> float:
        """Second central moment, atom included; equal to ``ratio * variance**2``."""
        return self.ratio * self.variance * self.variance

    def pdf(self, x: ArrayLike) -> float | np.ndarray:
        """Density of the continuous part, of mass ``1 - atom``.

        Parameters
        ----------
        x : array_like, any shape
            Eigenvalues; infinities are allowed.

        Returns
        -------
        float or ndarray, shape of `x`
            Zero outside the support and at its ends, except ``inf`` at ``x = 0`` when ``ratio`` is 1.

        Raises
        ------
        TypeError
            `x` does not hold real numbers.
        ValueError
            `x` holds NaN.

        Examples
        --------
        >>> round(MarchenkoPastur(ratio=0.25).pdf(1.0), 4)
        0.6164
        """
        x = reals("x", x, infinite=True)
        a, b = self.support
        inside = (x > a) & (x < b)
        t = np.where(inside, x, b)
        with np.errstate(over="ignore"):  # next to the pole at zero the density may exceed the largest float
            out = np.sqrt(b - t) / self.variance * (np.sqrt(t - a) / t) / (2.0 * pi * self.ratio)
        return _like(np.where((x == 0) & (self.ratio == 1), np.inf, np.where(inside, out, 0.0)))

    def cdf(self, x: ArrayLike) -> float | np.ndarray:
        """Distribution function: the probability of an eigenvalue ``<= x``, atom included.

        Closed form; absolute error about ``1e-16 (1 + 1/sqrt(ratio))``, the rounding of ``x`` itself.

        Parameters
        ----------
        x : array_like, any shape
            Eigenvalues; infinities are allowed.

        Returns
        -------
        float or ndarray, shape of `x`
            Continuous from the right.

        Raises
        ------
        TypeError
            `x` does not hold real numbers.
        ValueError
            `x` holds NaN.

        Examples
        --------
        >>> MarchenkoPastur(ratio=0.25).cdf([0.25, 1.0, 2.25]).round(4)
        array([0.    , 0.5534, 1.    ])
        """
        x = reals("x", x, infinite=True)
        a, b = self.support
        t = np.clip(x, a, b)
        theta = 2.0 * np.arctan2(np.sqrt(t - a), np.sqrt(b - t))
        out = self.atom + (2.0 / pi) * self._mass(theta) / max(1.0, self.ratio)
        return _like(np.where(x >= b, 1.0, np.where(x < 0, 0.0, np.minimum(out, 1.0))))

    def ppf(self, q: ArrayLike) -> float | np.ndarray:
        """Quantile: the smallest ``x`` with ``cdf(x) >= q``; at ``q = 0`` the lowest point that has mass.

        Parameters
        ----------
        q : array_like, any shape
            Probabilities in [0, 1].

        Returns
        -------
        float or ndarray, shape of `q`
            Exact at the ends: ``q <= atom`` gives 0 when ``ratio > 1``, 0 and 1 give the edges of the support otherwise.

        Raises
        ------
        TypeError
            `q` does not hold real numbers.
        ValueError
            `q` holds NaN or a number outside [0, 1].

        Examples
        --------
        >>> round(MarchenkoPastur(ratio=0.25).ppf(0.5), 4)
        0.916
        """
        q = reals("q", q)
        if np.any((q < 0) | (q > 1)):
            raise ValueError(f"q must lie in [0, 1], got values from {q.min():.4g} to {q.max():.4g}")
        a, b = self.support
        goal = np.clip((q - self.atom) * max(1.0, self.ratio), 0.0, 1.0) * (pi / 2.0)
        theta = find_root(lambda t, mass: self._mass(t) - mass, (np.zeros(q.shape), pi), args=(goal,)).x
        out = np.clip(a + (b - a) * np.sin(theta / 2.0) ** 2, a, b)
        return _like(np.where(q == 1, b, np.where(q > self.atom, out, a if self.ratio <= 1 else 0.0)))

    def rvs(self, size: int | tuple[int, ...], rng: np.random.Generator | int) -> float | np.ndarray:
        """Independent draws, atom included (the eigenvalues of *one* matrix are not independent).

        Parameters
        ----------
        size : int or tuple of int
            Shape of the result.
        rng : numpy Generator or int
            A generator, or the seed of a new one. ``None`` is refused: what cannot be redrawn is no evidence.

        Returns
        -------
        ndarray, shape `size`

        Raises
        ------
        TypeError
            `rng` is neither a generator nor an integer.

        Examples
        --------
        >>> MarchenkoPastur(ratio=0.25).rvs(3, rng=0).round(4)
        array([1.1429, 0.601 , 0.3243])
        """
        if isinstance(rng, bool) or not isinstance(rng, (np.random.Generator, Integral)):
            raise TypeError(f"rng must be a numpy.random.Generator or an integer seed, got {rng!r}")
        return self.ppf(np.random.default_rng(rng).random(size))

    def _mass(self, theta: np.ndarray) -> np.ndarray:
        """Integral from 0 to theta of sin(t)^2 / (1 + q^2 - 2 q cos t), where q = min(sqrt(c), 1/sqrt(c)).

        With x = variance (1 + c - 2 sqrt(c) cos(theta)) the continuous part has density
        (2/pi) sin(theta)^2 / (1 + q^2 - 2 q cos(theta)) / max(1, c) in theta: no edge singularity at any ratio.
        """
        root = sqrt(self.ratio)
        q = min(root, 1.0 / root)
        gap = abs(1.0 - self.ratio) / (1.0 + root) / max(1.0, root)  # 1 - q, without cancellation
        angle = np.arctan2(q * np.sin(theta), gap + 2.0 * q * np.sin(theta / 2.0) ** 2)  # sum_j q^j sin(j theta)/j
        if q < 0.04:  # (angle - q sin(theta))/q^2 would cancel: sum its series, j = 2 ... 13
            tail = sum(q ** (j - 2) * np.sin(j * theta) / j for j in range(13, 1, -1))
        else:
            tail = (angle - q * np.sin(theta)) / (q * q)
        return np.where(theta >= pi, pi / 2.0, np.clip((theta + angle - tail) / 2.0, 0.0, pi / 2.0))


def noise_edge(shape: Shape, noise: float) -> float:
    """Where the singular values of pure noise end: ``noise * (sqrt(m) + sqrt(n))``, in the units of the matrix.

    Almost-sure limit of the largest singular value of an ``(m, n)`` matrix of independent entries with standard
    deviation ``noise`` and a finite fourth moment (Yin, Bai and Krishnaiah 1988).

    Parameters
    ----------
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float
        Standard deviation of one noise entry, ``>= 0``.

    Returns
    -------
    float
        ``>= 0``, not divided by a root of a dimension.

    Raises
    ------
    TypeError
        `noise` is not a real number.
    ValueError
        `noise` is negative or not finite, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    >>> round(noise_edge((384, 1536), noise=0.02), 4)
    1.1758
    """
    m, n = matrix_shape(shape)
    return noise_level(noise) * (sqrt(m) + sqrt(n))


def edge_fluctuation(shape: Shape, noise: float) -> tuple[float, float]:
    """Centre and scale such that ``(largest singular value - centre) / scale`` is nearly Tracy-Widom (real case).

    Johnstone (2001) with the symmetric centring of Ma (2012), carried from the eigenvalue to its square root:
    ``centre = noise (sqrt(m - 1/2) + sqrt(n - 1/2))`` and
    ``scale = noise/2 (1/sqrt(m - 1/2) + 1/sqrt(n - 1/2))^(1/3)``. Gaussian noise, from about ten rows on.

    Parameters
    ----------
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float
        Standard deviation of one noise entry, ``>= 0``.

    Returns
    -------
    (float, float)
        Centre and scale, in the units of the matrix.

    Raises
    ------
    TypeError
        `noise` is not a real number.
    ValueError
        `noise` is negative or not finite, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    One noise matrix in a hundred exceeds this:

    >>> centre, scale = edge_fluctuation((384, 1536), noise=0.02)
    >>> round(centre + 2.02 * scale, 4)
    1.184
    """
    m, n = matrix_shape(shape)
    p, q = sqrt(m - 0.5), sqrt(n - 0.5)
    return noise_level(noise) * (p + q), noise / 2.0 * (1.0 / p + 1.0 / q) ** (1.0 / 3.0)


def spike_threshold(shape: Shape, noise: float) -> float:
    """Singular value above which a planted signal is seen: ``noise * (m n)^(1/4)``.

    At and below it no singular value of signal plus noise leaves the bulk (Baik, Ben Arous and Peche 2005;
    Benaych-Georges and Nadakuditi 2012).

    Parameters
    ----------
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float
        Standard deviation of one noise entry, ``>= 0``.

    Returns
    -------
    float
        For the *true* singular value; the observed one at this strength is the noise edge.

    Raises
    ------
    TypeError
        `noise` is not a real number.
    ValueError
        `noise` is negative or not finite, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    >>> round(spike_threshold((384, 1536), noise=0.02), 4)
    0.5543
    """
    m, n = matrix_shape(shape)
    return noise_level(noise) * sqrt(sqrt(m) * sqrt(n))


def spiked_singular_value(signal: ArrayLike, shape: Shape, noise: float) -> float | np.ndarray:
    """Singular value observed for a planted one: ``sqrt((s^2 + m noise^2)(s^2 + n noise^2)) / s``.

    Parameters
    ----------
    signal : array_like, any shape
        True singular values ``s >= 0`` of a low-rank matrix, in the units of the matrix.
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float
        Standard deviation of one noise entry, ``>= 0``.

    Returns
    -------
    float or ndarray, shape of ``signal``
        The large-matrix limit (Benaych-Georges and Nadakuditi 2012, sec. 3.1); the noise edge at and below the spike
        threshold; ``signal`` itself when ``noise`` is 0.

    Raises
    ------
    TypeError
        `signal` or `noise` is not real.
    ValueError
        `signal` or `noise` is negative or not finite, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    The first of these is not visible: it shows the noise edge.

    >>> spiked_singular_value([0.5, 1.0, 2.0], (384, 1536), 0.02).round(3)
    array([1.176, 1.365, 2.189])
    """
    (m, n), threshold, s = matrix_shape(shape), spike_threshold(shape, noise), nonnegative("signal", signal)
    if noise == 0:
        return _like(s)
    s = np.maximum(s, threshold)  # at the threshold the formula equals the noise edge
    return _like(np.hypot(s, sqrt(m) * noise) * (np.hypot(s, sqrt(n) * noise) / s))


def spiked_overlaps(signal: ArrayLike, shape: Shape, noise: float) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Squared cosines between planted and observed singular vectors: left (length m), right (length n).

    ``(s^4 - m n noise^4) / (s^2 (s^2 + m noise^2))`` on the left, ``n`` for ``m`` in the last bracket on the right
    (Benaych-Georges and Nadakuditi 2012, sec. 3.1).

    Parameters
    ----------
    signal : array_like, any shape
        True singular values ``s >= 0`` of a low-rank matrix, in the units of the matrix.
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float
        Standard deviation of one noise entry, ``>= 0``.

    Returns
    -------
    (float, float) or (ndarray, ndarray), each of the shape of ``signal``
        Left and right, the large-matrix limit; 0 at and below the spike threshold.

    Raises
    ------
    TypeError
        `signal` or `noise` is not real.
    ValueError
        `signal` or `noise` is negative or not finite, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    >>> left, right = spiked_overlaps([0.5, 1.0, 2.0], (384, 1536), 0.02)
    >>> left.round(3), right.round(3)
    (array([0.   , 0.785, 0.957]), array([0.   , 0.561, 0.862]))
    """
    (m, n), threshold, s = matrix_shape(shape), spike_threshold(shape, noise), nonnegative("signal", signal)
    seen, s = s > threshold, np.maximum(s, threshold or 1.0)
    clear = np.where(seen, 1.0 - (threshold / s) ** 4, 0.0)
    return _like(clear / (1.0 + m * (noise / s) ** 2)), _like(clear / (1.0 + n * (noise / s) ** 2))


def estimate_noise(singular_values: ArrayLike, shape: Shape) -> float:
    """Standard deviation of the noise entries, from the spectrum of low-rank signal plus noise.

    Matches the median to the Marchenko-Pastur median (Gavish and Donoho 2014); then removes the k values that stand
    above the implied noise edge by two fluctuations (pure noise does so once in a hundred matrices), treats the others
    as the spectrum of an (m - k, n - k) noise matrix, and repeats until none stands out. k only grows, so this ends.
    A spectrum that decays all the way has no noise part to find.

    Parameters
    ----------
    singular_values : array_like, shape (min(m, n),)
        *All* singular values of the matrix, zeros included, in any order.
    shape : tuple of int
        ``(m, n)`` of the matrix.

    Returns
    -------
    float
        ``>= 0``; 0 for an all-zero spectrum.

    Raises
    ------
    TypeError
        `singular_values` does not hold real numbers.
    ValueError
        `singular_values` is not ``min(m, n)`` finite numbers ``>= 0``, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    >>> matrix = 0.1 * np.random.default_rng(0).standard_normal((100, 400))
    >>> values = np.linalg.svd(matrix, compute_uv=False)
    >>> round(estimate_noise(values, matrix.shape), 3)
    0.1
    """
    m, n = matrix_shape(shape)
    s = np.sort(spectrum(singular_values, (m, n)))[::-1]
    k = 0
    while True:
        rest = (m - k, n - k)
        noise = float(np.median(s[k:])) / _median_singular_value(rest)
        centre, scale = edge_fluctuation(rest, noise)
        above = int(np.count_nonzero(s[k:] > centre + 2.0 * scale))
        if above == 0 or noise == 0:
            return noise
        k += above


def gavish_donoho_threshold(
    shape: Shape, noise: float | None = None, singular_values: ArrayLike | None = None
) -> float:
    """Hard threshold for singular values with the least worst-case squared error as the matrix grows.

    Known noise: ``lambda(beta) sqrt(max(m, n)) noise`` with ``beta = min(m, n) / max(m, n)`` and
    ``lambda(beta) = sqrt(2 (beta + 1) + 8 beta / (beta + 1 + sqrt(beta^2 + 14 beta + 1)))``. Unknown noise:
    ``lambda(beta) / sqrt(Marchenko-Pastur median)`` times the median singular value (Gavish and Donoho 2014; at
    ``beta = 1`` the factors are ``4/sqrt(3)`` and 2.858).

    Parameters
    ----------
    shape : tuple of int
        ``(m, n)`` of the matrix.
    noise : float, optional
        Standard deviation of one noise entry. Exactly one of ``noise`` and ``singular_values`` must be given.
    singular_values : array_like, shape (min(m, n),), optional
        All singular values of the matrix, in any order.

    Returns
    -------
    float
        In the units of the matrix; below it singular values are set to zero, above it they are kept as they are.

    Raises
    ------
    TypeError
        `noise` or `singular_values` is not real.
    ValueError
        Both or none of `noise` and `singular_values` are given, one of them is negative or not finite, not all singular
        values are given, or `shape` is not a pair of integers ``>= 1``.

    Examples
    --------
    4/sqrt(3) times sqrt(100):

    >>> round(gavish_donoho_threshold((100, 100), noise=1.0), 2)
    23.09
    """
    m, n = matrix_shape(shape)
    if (noise is None) == (singular_values is None):
        raise ValueError("give exactly one of noise and singular_values")
    beta = min(m, n) / max(m, n)
    factor = sqrt(2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + sqrt(beta * beta + 14.0 * beta + 1.0)))
    if noise is None:
        noise = float(np.median(spectrum(singular_values, (m, n)))) / _median_singular_value((m, n))
    return factor * sqrt(max(m, n)) * noise_level(noise)


def _median_singular_value(shape: Shape) -> float:
    """Median singular value of an (m, n) matrix of standard noise."""
    return sqrt(max(shape) * MarchenkoPastur(min(shape) / max(shape)).ppf(0.5))


def _like(out: np.ndarray) -> float | np.ndarray:
    return float(out) if np.ndim(out) == 0 else out
