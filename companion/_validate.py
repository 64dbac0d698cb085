"""Argument checks of the mathematical modules. Errors name the argument, what was given and what is accepted."""

from math import isfinite
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike

Shape = tuple[int, int]


def number(name: str, value: float) -> float:
    """A finite real number as float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def positive(name: str, value: float) -> float:
    """A finite real number > 0."""
    if (x := number(name, value)) <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return x


def probability(name: str, value: float) -> float:
    """A real number strictly between 0 and 1."""
    if not 0 < (x := number(name, value)) < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
    return x


def integer(name: str, value: int, least: int) -> int:
    """An integer that is not too small."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return int(value)


def noise_level(noise: float) -> float:
    """A standard deviation: finite and >= 0."""
    if (value := number("noise", noise)) < 0:
        raise ValueError(f"noise must be a standard deviation >= 0, got {noise!r}")
    return value


def matrix_shape(shape: Shape) -> Shape:
    """A pair of positive integers."""
    pair = tuple(shape) if np.iterable(shape) else ()
    if len(pair) != 2 or any(not isinstance(d, Integral) or isinstance(d, bool) or d < 1 for d in pair):
        raise ValueError(f"shape must be a pair of integers >= 1, got {shape!r}")
    return int(pair[0]), int(pair[1])


def reals(name: str, x: ArrayLike, infinite: bool = False) -> np.ndarray:
    """A float array without NaN and, unless allowed, without infinity."""
    x = np.asarray(x)
    if x.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    if np.any(np.isnan(x)) or not (infinite or np.all(np.isfinite(x))):
        raise ValueError(f"{name} must hold no NaN{'' if infinite else ' and no infinity'}")
    return x.astype(float)


def nonnegative(name: str, x: ArrayLike) -> np.ndarray:
    """A finite float array without negative values."""
    if np.any((x := reals(name, x)) < 0):
        raise ValueError(f"{name} must be >= 0, got {x.min():.4g}")
    return x


def spectrum(singular_values: ArrayLike, shape: Shape) -> np.ndarray:
    """All ``min(shape)`` singular values of a matrix of this shape."""
    s = nonnegative("singular_values", singular_values)
    if s.shape != (min(shape),):
        raise ValueError(f"singular_values must be all {min(shape)} of a {shape} matrix, got an array of shape {s.shape}")
    return s
