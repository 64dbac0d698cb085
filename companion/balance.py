"""What gradient flow conserves: the balance ``A'A - B B'`` of the factors (P2 lemma 4.1)."""

import numpy as np
from numpy.typing import ArrayLike

from companion import _validate
from companion._factors import transpose

__all__ = ["balance", "balance_defect"]


def balance(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """``A'A - B B'``, which gradient flow leaves as it is (P2 lemma 4.1).

    Parameters
    ----------
    a : array_like, shape (..., m, r)
    b : array_like, shape (..., r, n)
        Factors, or stacks of factors along a path.

    Returns
    -------
    ndarray, shape (..., r, r)

    Raises
    ------
    ValueError
        Shapes that do not multiply, NaN or infinity.

    Examples
    --------
    >>> balance(0.1 * np.eye(3, 2), np.zeros((2, 4))).round(4)
    array([[0.01, 0.  ],
           [0.  , 0.01]])
    """
    a, b = _validate.reals("a", a), _validate.reals("b", b)
    if a.ndim < 2 or b.ndim < 2 or not a.shape[-1] == b.shape[-2] >= 1:
        raise ValueError(f"a must have shape (..., m, r) and b (..., r, n) with r >= 1, got {a.shape} and {b.shape}")
    return transpose(a) @ a - b @ transpose(b)


def balance_defect(a: ArrayLike, b: ArrayLike) -> float | np.ndarray:
    """How far ``A'A - B B'`` is from a multiple of the identity, relative to the size of the factors.

    ``||A'A - B B' - c I||_2 / (tr(A'A + B B') / r)`` with ``c = tr(A'A - B B') / r``. For ``B = 0`` the denominator is c.

    Parameters
    ----------
    a : array_like, shape (..., m, r)
    b : array_like, shape (..., r, n)

    Returns
    -------
    float or ndarray, shape (...)
        0 for P2's start, for r = 1 and for factors of zeros; about ``2 sqrt(r/m) + r/m`` for a Gaussian ``A`` and
        ``B = 0``.

    Raises
    ------
    ValueError
        Shapes that do not multiply, NaN or infinity.

    Examples
    --------
    PEFT's default, uniform entries, for width 768 and rank 8:

    >>> a = np.random.default_rng(0).uniform(-1, 1, (768, 8)) / np.sqrt(768)
    >>> round(balance_defect(a, np.zeros((8, 768))), 2)
    0.18
    """
    difference = balance(a, b)
    r = difference.shape[-1]
    size = (np.sum(np.square(a), axis=(-1, -2)) + np.sum(np.square(b), axis=(-1, -2))) / r
    constant = np.trace(difference, axis1=-2, axis2=-1) / r
    rest = np.linalg.norm(difference - constant[..., None, None] * np.eye(r), ord=2, axis=(-2, -1))
    defect = np.divide(rest, size, out=np.zeros_like(size), where=size > 0)
    return defect if defect.ndim else float(defect)
