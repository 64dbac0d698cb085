"""The K* rule of P1: its tasks, noise thresholds of least squares, decay rates, and the rank.

The model is ``Y = X W* + noise E`` with samples in rows and no intercept, weights are (d_in, d_out) as in P1 eq. 3, and
modes are numbered from k = 0. Singular values are those of the weights themselves, with nothing divided out. The rule
that holds is in `companion.reduced_rank`; P1's tables are in `companion.kstar_tables`.
"""

from dataclasses import dataclass
from math import sqrt
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from companion import _validate
from companion.decay import DecayFit, decay_by_layer, decay_rate, fit_decay, k_star

__all__ = [
    "DecayFit",
    "LinearTask",
    "Sample",
    "decay_by_layer",
    "decay_rate",
    "fit_decay",
    "k_star",
    "ols",
    "ols_noise_edge",
    "paper_tasks",
    "paper_threshold",
]


class Sample(NamedTuple):
    """Data of a task.

    Attributes
    ----------
    x : ndarray, shape (n_samples, d_in)
        Inputs, as all three with a leading axis if a `size` was asked for.
    y : ndarray, shape (n_samples, d_out)
        Outputs.
    weights : ndarray, shape (d_in, d_out)
        The true ones.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class LinearTask:
    """P1's synthetic task (section 3.1): ``Y = X W* + noise E``, with X and E standard normal.

    ``W* = U diag(scale * decay**-k) V'`` for k = 0 … min(d_in, d_out) - 1, where U and V have orthonormal columns with
    the uniform (Haar) distribution. P1 prints no equation for W*; this one gives its tables.

    Parameters
    ----------
    decay : float
        P1's rho, ``>= 1``; 1, which P1 excludes, makes all singular values equal.
    n_samples : int
    noise : float
        Standard deviation of the noise in one output, P1's sigma, ``>= 0``.
    d_in, d_out : int
        P1 has 64 and 32.
    scale : float
        The leading singular value, P1's C, positive.

    Raises
    ------
    TypeError, ValueError
        An argument of another kind or outside its range.

    Examples
    --------
    >>> x, y, weights = LinearTask(decay=3.0, n_samples=500, noise=0.1).sample(rng=0)
    >>> x.shape, y.shape, np.linalg.svd(weights, compute_uv=False)[:3].round(3)
    ((500, 64), (500, 32), array([1.   , 0.333, 0.111]))
    """

    decay: float
    n_samples: int
    noise: float
    d_in: int = 64
    d_out: int = 32
    scale: float = 1.0

    def __post_init__(self) -> None:
        if _validate.number("decay", self.decay) < 1:
            raise ValueError(f"decay must be >= 1, got {self.decay!r}")
        for name in ("n_samples", "d_in", "d_out"):
            _validate.integer(name, getattr(self, name), 1)
        _validate.noise_level(self.noise)
        _validate.positive("scale", self.scale)

    @property
    def singular_values(self) -> np.ndarray:
        """Of W*, ``scale * decay**-k``, shape (min(d_in, d_out),)."""
        return self.scale * float(self.decay) ** -np.arange(min(self.d_in, self.d_out))

    def sample(
        self, rng: np.random.Generator | int, size: int | None = None, weights: ArrayLike | None = None,
        n_samples: int | None = None,
    ) -> Sample:  # fmt: skip
        """Draw weights and data.

        Parameters
        ----------
        rng : numpy Generator or int
            A generator, or the seed of a new one.
        size : int, optional
            Number of independent draws, stacked on a leading axis; without it there is one, and no such axis.
        weights : array_like, shape (d_in, d_out) or (size, d_in, d_out), optional
            Take these instead: for fresh test data, or for a W* with another spectrum.
        n_samples : int, optional
            Another number of samples than the task's.

        Returns
        -------
        Sample
            x, y and weights.

        Raises
        ------
        TypeError, ValueError
            `rng` is neither a generator nor an integer, `weights` has another shape, NaN or infinity, a number is out
            of range.

        Examples
        --------
        >>> rng, task = np.random.default_rng(0), LinearTask(decay=2.0, n_samples=100, noise=0.1)
        >>> train = task.sample(rng)
        >>> task.sample(rng, weights=train.weights, n_samples=1000).y.shape
        (1000, 32)
        """
        if isinstance(rng, bool) or not isinstance(rng, (np.random.Generator, Integral)):
            raise TypeError(f"rng must be a numpy.random.Generator or an integer seed, got {rng!r}")
        rng = np.random.default_rng(rng)
        stack = () if size is None else (_validate.integer("size", size, 1),)
        n = self.n_samples if n_samples is None else _validate.integer("n_samples", n_samples, 1)
        if weights is None:
            left, right = (_haar(rng, (*stack, d, len(self.singular_values))) for d in (self.d_in, self.d_out))
            w = left * self.singular_values @ right.mT
        elif (w := _validate.reals("weights", weights)).shape != (*stack, self.d_in, self.d_out):
            raise ValueError(f"weights must have shape {(*stack, self.d_in, self.d_out)}, got {w.shape}")
        x = rng.standard_normal((*stack, n, self.d_in))
        return Sample(x, x @ w + self.noise * rng.standard_normal((*stack, n, self.d_out)), w)


def _haar(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal(shape))
    return q * np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]


def paper_tasks() -> list[tuple[str, LinearTask]]:
    """The ten tasks of P1's table 3.2, in its order.

    Returns
    -------
    list of (str, LinearTask)

    Examples
    --------
    >>> [(name, task.decay, task.n_samples, task.noise) for name, task in paper_tasks()][6:8]
    [('Small data', 2.0, 100, 0.1), ('Large data', 2.0, 2000, 0.1)]
    """
    names = ("Weak signal", "Moderate", "Strong", "Very strong", "Domain-specific", "Narrow")
    tasks = [(name, LinearTask(decay, 500, 0.1)) for name, decay in zip(names, (1.2, 1.5, 2.0, 3.0, 5.0, 10.0), strict=True)]
    tasks += [("Small data", LinearTask(2.0, 100, 0.1)), ("Large data", LinearTask(2.0, 2000, 0.1))]
    return [*tasks, ("Noisy", LinearTask(2.0, 500, 0.5)), ("Clean", LinearTask(2.0, 500, 0.01))]


def ols(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Least-squares weights ``(X'X)^-1 X'Y``, without intercept (P1 equation 3).

    Parameters
    ----------
    x : array_like, shape (n, d_in)
    y : array_like, shape (n, d_out)

    Returns
    -------
    ndarray, shape (d_in, d_out)

    Raises
    ------
    TypeError
        `x` or `y` does not hold real numbers.
    ValueError
        Other shapes, NaN or infinity, fewer samples than inputs, or dependent columns of `x` (a constant column is
        fine, a column of zeros is not): X'X has no inverse.

    Examples
    --------
    >>> ols([[1, 0], [1, 1], [1, 2]], [[1], [3], [5]]).round(6).tolist()
    [[1.0], [2.0]]
    """
    x, y = _validate.reals("x", x), _validate.reals("y", y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not x.size or not y.size:
        raise ValueError(f"x and y must be matrices with the same number of rows, got shapes {x.shape} and {y.shape}")
    n, d = x.shape
    if n < d:
        raise ValueError(f"x must have at least as many samples as inputs, got shape {x.shape}: X'X has no inverse")
    weights, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    if rank < d:
        raise ValueError(f"x must have independent columns, got rank {rank} with {d} columns: X'X has no inverse")
    return weights


def paper_threshold(noise: float, dim: int, n_samples: int) -> float:
    """P1's noise threshold ``tau = noise (1 + sqrt(dim / n_samples))``, as printed (equation 5).

    It is the edge of the singular values of an (n_samples, dim) noise matrix over ``sqrt(n_samples)``. P1 applies it to
    least-squares weights, whose noise ends elsewhere: at `ols_noise_edge`.

    Parameters
    ----------
    noise : float
        Standard deviation of one noise entry, ``>= 0``.
    dim : int
        The d of eq. 5. P1 does not say which: the column K* of its table 3.2 was made with d_out.
    n_samples : int

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        A negative or non-finite noise, or counts that are not integers ``>= 1``.

    Examples
    --------
    >>> round(paper_threshold(noise=0.1, dim=64, n_samples=500), 4)
    0.1358
    """
    dim, n = _validate.integer("dim", dim, 1), _validate.integer("n_samples", n_samples, 1)
    return _validate.noise_level(noise) * (1.0 + sqrt(dim / n))


def ols_noise_edge(noise: float, d_in: int, d_out: int, n_samples: int) -> float:
    """Where the singular values of pure noise in least-squares weights end.

    ``noise (sqrt(n d_out) + sqrt(d_in (n + d_out - d_in))) / (n - d_in)``: the noise is ``(X'X)^-1 X'E``, and this is the
    upper edge of a Fisher matrix (Wachter 1980). White inputs of variance 1, all dimensions large; the largest singular
    value of a finite matrix lies a little below. To first order: ``noise (sqrt(d_in) + sqrt(d_out)) / sqrt(n - d_in)``.

    Parameters
    ----------
    noise : float
        Standard deviation of one noise entry, ``>= 0``.
    d_in, d_out, n_samples : int
        Number of inputs, of outputs, and of samples, which must be more than the inputs.

    Returns
    -------
    float
        In the units of the weights.

    Raises
    ------
    TypeError, ValueError
        A negative or non-finite noise, counts that are not integers ``>= 1``, or ``n_samples <= d_in``.

    Examples
    --------
    >>> [round(ols_noise_edge(0.1, 64, 32, n), 4) for n in (100, 500, 2000)]
    [0.3404, 0.0687, 0.0314]
    """
    d_in, d_out = _validate.integer("d_in", d_in, 1), _validate.integer("d_out", d_out, 1)
    n = _validate.integer("n_samples", n_samples, 1)
    if n <= d_in:
        raise ValueError(f"n_samples must be more than d_in={d_in}, got {n}: the noise of least squares has no edge")
    return _validate.noise_level(noise) * (sqrt(n * d_out) + sqrt(d_in * (n + d_out - d_in))) / (n - d_in)
