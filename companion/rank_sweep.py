"""Least squares cut to every rank at once; public through `companion.reduced_rank`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _validate

__all__ = ["RankSweep", "rank_sweep"]

WELL_CONDITIONED = 1e-3  # least ratio of the diagonal of R for which it is taken from X'X; below, from X itself


@dataclass(frozen=True)
class RankSweep:
    """Fits of every rank r = 0 … K, K = min(d_in, d_out); made by `rank_sweep`.

    Attributes
    ----------
    singular_values : ndarray, shape (..., K)
        Of the matrix that is cut: the weights, or Z.
    r2 : ndarray, shape (..., K + 1), or None
        R² on the test data for each rank, averaged over the outputs as `sklearn.metrics.r2_score` does.
    excess_risk : ndarray, shape (..., K + 1), or None
        Expected squared error on new inputs beyond the noise, summed over the outputs, for each rank.
    """

    singular_values: np.ndarray
    r2: np.ndarray | None
    excess_risk: np.ndarray | None


def rank_sweep(
    x: ArrayLike, y: ArrayLike, *, test: tuple[ArrayLike, ArrayLike] | None = None, weights: ArrayLike | None = None,
    covariance: ArrayLike | None = None, method: str = "ols",
) -> RankSweep:  # fmt: skip
    """R² and excess risk of every rank from one singular value decomposition, without intercept (P1 table 3.4).

    Leading axes of the arrays are independent problems, solved together.

    Parameters
    ----------
    x : array_like, shape (..., n, d_in)
    y : array_like, shape (..., n, d_out)
        Training data, ``n >= d_in``.
    test : pair of array_like, shapes (..., m, d_in) and (..., m, d_out), optional
        Fresh inputs and outputs; gives `r2`.
    weights : array_like, shape (..., d_in, d_out), optional
        The true ones; gives `excess_risk`, ``E |x'(W_r - W*)|²``.
    covariance : array_like, shape (d_in, d_in), optional
        Of new inputs; the identity by default, where the risk is the squared Frobenius distance.
    method : {"ols", "reduced-rank"}
        Cut the singular value decomposition of the least-squares weights (P1), or project them on the leading right
        singular vectors of ``Z = Q'Y``.

    Returns
    -------
    RankSweep

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN or infinity, fewer samples than inputs, dependent columns of `x`, an unknown method.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w, x = np.diag([2.0, 0.01, 0.01]), rng.standard_normal((50, 3))
    >>> sweep = rank_sweep(x, x @ w + 0.3 * rng.standard_normal((50, 3)), weights=w)
    >>> sweep.excess_risk.round(3).tolist()
    [4.0, 0.008, 0.034, 0.035]
    """
    x, y = _samples("x", x, "y", y)
    if method not in ("ols", "reduced-rank"):
        raise ValueError(f"method must be 'ols' or 'reduced-rank', got {method!r}")
    r, z = _triangle(x, y)
    w = np.linalg.solve(r, z)
    left, values, right = np.linalg.svd(w if method == "ols" else z, full_matrices=False)
    left = left * values[..., None, :] if method == "ols" else w @ right.mT
    r2 = risk = None
    if test is not None:
        a, b = _samples("test[0]", test[0], "test[1]", test[1])
        if a.shape[:-2] != x.shape[:-2] or (a.shape[-1], b.shape[-1]) != w.shape[-2:]:
            raise ValueError(f"test must fit x and y of shapes {x.shape} and {y.shape}, got {a.shape} and {b.shape}")
        gram, cross = a.mT @ a, a.mT @ b
        rest = np.sum(b * b, axis=-2) - np.sum(w * (2 * cross - gram @ w), axis=-2)
        total = np.sum((b - b.mean(axis=-2, keepdims=True)) ** 2, axis=-2)
        r2 = _r2(squared_errors(gram, cross - gram @ w, rest, left, right), total)
    if weights is not None:
        if (true := _validate.reals("weights", weights)).shape != w.shape:
            raise ValueError(f"weights must have shape {w.shape}, got {true.shape}")
        error = true - w
        gram = np.eye(x.shape[-1]) if covariance is None else _covariance(covariance, x.shape[-1])
        risk = squared_errors(gram, gram @ error, np.sum(error * (gram @ error), axis=-2), left, right).sum(axis=-1)
    return RankSweep(values, r2, risk)


def _samples(first: str, x: ArrayLike, second: str, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of matrices with the same leading axes and the same number of rows."""
    x, y = (_finite(name, np.asarray(a)) for name, a in ((first, x), (second, y)))
    if x.ndim < 2 or x.shape[:-1] != y.shape[:-1] or not x.size or not y.size:
        raise ValueError(f"{first} and {second} must be matrices with as many rows each, got {x.shape} and {y.shape}")
    return x, y


def _finite(name: str, x: np.ndarray) -> np.ndarray:
    """What `_validate.reals` gives, faster: a finite sum proves all finite, and nothing is copied."""
    with np.errstate(invalid="ignore", over="ignore"):
        finite = x.dtype == np.float64 and np.isfinite(np.sum(x))
    return x if finite else _validate.reals(name, x)


def _triangle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and ``Z = Q'Y`` of ``X = QR`` for a stack of problems, without forming Q."""
    n, d = x.shape[-2:]
    if n < d:
        raise ValueError(f"x must have at least as many samples as inputs, got shape {x.shape}: X'X has no inverse")
    try:  # R'R = X'X loses digits with the square of the condition number, and is several times faster
        r = np.linalg.cholesky(x.mT @ x).mT
        if np.all(_spread(r) > WELL_CONDITIONED):
            return r, np.linalg.solve(r.mT, x.mT @ y)
    except np.linalg.LinAlgError:
        pass
    r = np.linalg.qr(np.concatenate([x, y], axis=-1), mode="r")
    if np.any(_spread(r[..., :d, :d]) <= n * np.finfo(float).eps):
        raise ValueError("x must have independent columns: X'X has no inverse")
    return r[..., :d, :d], r[..., :d, d:]


def _spread(r: np.ndarray) -> np.ndarray:
    diagonal = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
    return diagonal.min(axis=-1) / np.maximum(diagonal.max(axis=-1), np.finfo(float).tiny)


def squared_errors(gram: np.ndarray, cross: np.ndarray, rest: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Column sums of ``(y - x left[:, :r] right[:r])^2`` for r = 0 … K, shape (..., K + 1, d_out).

    Given ``gram = x'x`` and, for the residuals e of rank K, ``cross = x'e`` and ``rest``, the column sums of ``e^2``. From
    the last rank down: with a_k the columns of ``x left``, dropping mode k adds
    ``right_k (2 a_k'e + right_k a_k'a_k + 2 sum_{l > k} right_l a_k'a_l)``.
    """
    gram = left.mT @ gram @ left
    inner = 2 * (left.mT @ cross) + (2 * np.triu(gram, 1) + gram * np.eye(gram.shape[-1])) @ right
    steps = np.concatenate([right * inner, rest[..., None, :]], axis=-2)
    return np.maximum(np.cumsum(steps[..., ::-1, :], axis=-2)[..., ::-1, :], 0.0)


def _r2(squares: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean over the outputs of 1 - squares / total; scikit-learn's value for an output that is constant."""
    total = np.broadcast_to(total[..., None, :], squares.shape)
    constant = np.where(squares > 0, 0.0, 1.0)
    return np.where(total > 0, 1 - squares / np.where(total > 0, total, 1.0), constant).mean(axis=-1)


def _covariance(given: ArrayLike, d: int) -> np.ndarray:
    gram = _validate.reals("covariance", given)
    if gram.shape != (d, d) or not np.allclose(gram, gram.T):
        raise ValueError(f"covariance must be a symmetric {d} x {d} matrix, got shape {gram.shape}")
    if (least := np.linalg.eigvalsh(gram)[0]) < -1e-9 * np.abs(gram).max():
        raise ValueError(f"covariance must have no negative eigenvalue, got {least:.4g}")
    return gram
