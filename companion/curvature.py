"""The quadratic loss of P2's appendix A: ``||H^{1/2} (update - target)||_F^2 / 2`` for the readings of H."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from companion import _factors, _validate

__all__ = ["quadratic_loss"]

Curvature = np.ndarray | tuple[np.ndarray | None, np.ndarray | None] | None


def quadratic_loss(update: ArrayLike, target: ArrayLike, curvature: Curvature = None) -> float | np.ndarray:
    """``||H^{1/2} (update - target)||_F^2 / 2`` (P2 appendix A).

    Parameters
    ----------
    update : array_like, shape (..., m, n)
    target : array_like, shape (m, n)
    curvature : array_like or pair, optional
        H, symmetric and without negative eigenvalues. P2 eq. 9-10 leave open what it acts on; a matrix of shape (m, m)
        acts from the left, as eq. 10 is printed; (m n, m n) acts on the entries row by row, as a Hessian does; a pair
        (left, right) of shapes (m, m) and (n, n), either of them None, gives ``left (update - target) right``. None is
        the identity.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, or a curvature that is not symmetric or has a negative eigenvalue.

    Examples
    --------
    >>> quadratic_loss([[1.0, 0.0]], [[0.0, 2.0]]), quadratic_loss([[1.0, 0.0]], [[0.0, 2.0]], (None, np.diag([4.0, 1.0])))
    (2.5, 4.0)
    """
    goal, x = _factors.matrix("target", target), _validate.reals("update", update)
    if x.shape[-2:] != goal.shape:
        raise ValueError(f"update must have shape (..., m, n) = (..., {goal.shape[0]}, {goal.shape[1]}), got {x.shape}")
    loss = np.sum((x - goal) * hessian(curvature, goal.shape)(x - goal), axis=(-2, -1)) / 2
    return loss if loss.ndim else float(loss)


def hessian(curvature: Curvature, shape: _validate.Shape) -> Callable[[np.ndarray], np.ndarray]:
    """The curvature as a map of (..., m, n) to (..., m, n)."""
    m, n = shape
    if curvature is None:
        return lambda x: x
    if not isinstance(curvature, tuple):
        h = _validate.reals("curvature", curvature)
        if h.shape == (m * n, m * n) and h.shape != (m, m):
            _check_curvature("curvature", h, m * n)
            return lambda x: (x.reshape(*x.shape[:-2], m * n) @ h).reshape(x.shape)
        curvature = h, None
    if len(curvature) != 2:
        raise ValueError(f"curvature must be one matrix or a pair (left, right), got {len(curvature)} of them")
    left, right = (None if part is None else _validate.reals("curvature", part) for part in curvature)
    if left is not None:
        _check_curvature(f"curvature from the left, or ({m * n}, {m * n}) on all entries,", left, m)
    if right is not None:
        _check_curvature("curvature from the right", right, n)
    return lambda x: (x if left is None else left @ x) if right is None else (x if left is None else left @ x) @ right


def _check_curvature(name: str, h: np.ndarray, size: int) -> None:
    if h.shape != (size, size):
        raise ValueError(f"{name} must have shape ({size}, {size}), got {h.shape}")
    if not np.allclose(h, h.T, rtol=1e-10, atol=1e-12 * np.max(np.abs(h))):
        raise ValueError(f"{name} must be symmetric")
    if (least := np.linalg.eigvalsh(h)[0]) < -1e-10 * np.max(np.abs(h)):
        raise ValueError(f"{name} must have no negative eigenvalue, got {least:.3g}")
