"""Least squares cut to a rank: every rank at once, and a regressor that chooses the rank.

With ``X = QR``, the noise of the least-squares weights ``R^-1 Q'Y`` depends on X, but that of the matrix ``Z = Q'Y`` does
not: its entries are independent with the variance of the noise in Y, whatever X is. So modes are told from noise in Z,
where the Marchenko-Pastur law holds, and the weights are projected on the right singular vectors of Z that are kept. That
is reduced-rank regression (Izenman 1975; Bunea, She and Wegkamp 2011).
"""

from dataclasses import dataclass
from math import nan, sqrt
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from companion import _validate
from companion.kstar import paper_threshold
from companion.marchenko_pastur import estimate_noise, gavish_donoho_threshold, noise_edge

__all__ = ["RankSweep", "ReducedRankRegression", "rank_sweep"]

RULES = ("gavish-donoho", "edge", "paper", "cv")
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
        r2 = _r2(_squared_errors(gram, cross - gram @ w, rest, left, right), total)
    if weights is not None:
        if (true := _validate.reals("weights", weights)).shape != w.shape:
            raise ValueError(f"weights must have shape {w.shape}, got {true.shape}")
        error = true - w
        gram = np.eye(x.shape[-1]) if covariance is None else _covariance(covariance, x.shape[-1])
        risk = _squared_errors(gram, gram @ error, np.sum(error * (gram @ error), axis=-2), left, right).sum(axis=-1)
    return RankSweep(values, r2, risk)


class ReducedRankRegression(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares for several outputs, cut to the rank that the data support.

    Parameters
    ----------
    rank : {"gavish-donoho", "edge", "paper", "cv"} or int
        "gavish-donoho" and "edge" keep the singular values of Z above the optimal hard threshold (Gavish and Donoho
        2014) or above the noise edge. "cv" takes the rank with the least squared error in cross-validation. "paper" is
        P1's rule in the reading that always gives a rank: cut the singular value decomposition of the *weights* at
        ``tau = noise (1 + sqrt(d_in / n))``. A number is the rank itself, at most min(n_features, n_targets).
    noise : float, optional
        Standard deviation of the noise in one output. By default it is estimated from the residuals, or, where the fit
        leaves none (as many inputs as samples), from the spectrum of Z with the median rule.
    fit_intercept : bool
        Centre the data first. P1 has no intercept.
    cv : int or splitter
        Folds of "cv"; an integer means contiguous folds. Near as many samples as features no split is like the whole.

    Attributes
    ----------
    coef_ : ndarray, shape (n_targets, n_features) or (n_features,)
    intercept_ : float or ndarray, shape (n_targets,)
    rank_ : int
        Number of modes kept; 0 predicts the mean.
    noise_ : float
        Given or estimated standard deviation of the noise.
    singular_values_ : ndarray
        In decreasing order: of Z, of shape (min(rank of X, n_targets),); of the weights for "paper".
    threshold_ : float
        What they were compared with; NaN for "cv" and a number.
    n_features_in_ : int

    Raises
    ------
    TypeError, ValueError
        From `fit`: an unknown `rank` or one that is too large, a negative `noise`, "paper" without more samples than
        inputs. NaN, infinity and shapes as everywhere in scikit-learn.

    Notes
    -----
    Both thresholds are made for the error at the inputs of the sample. At new inputs noise counts ``n / (n - d_in)`` times
    as much: with few samples per input and a signal near the threshold they keep too much.

    Constant and dependent columns are allowed: the fit has the least norm. With one output there is one mode, kept or
    not. There are no sample weights: they would make the noise in Z unequal.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.standard_normal((200, 20)), 0.2 * rng.standard_normal((20, 2)) @ rng.standard_normal((2, 10))
    >>> model = ReducedRankRegression().fit(x, x @ w + rng.standard_normal((200, 10)))
    >>> model.rank_, round(model.noise_, 2), round(model.threshold_, 1), model.singular_values_[:3].round(1).tolist()
    (2, 0.99, 8.8, [34.8, 28.6, 6.0])
    """

    def __init__(
        self, rank: str | int = "gavish-donoho", noise: float | None = None, *, fit_intercept: bool = True, cv: object = 5
    ) -> None:
        self.rank = rank
        self.noise = noise
        self.fit_intercept = fit_intercept
        self.cv = cv

    def fit(self, X: ArrayLike, y: ArrayLike) -> "ReducedRankRegression":
        """Fit the weights and choose their rank.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
        y : array_like, shape (n_samples, n_targets) or (n_samples,)

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            See the class.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        single, y = y.ndim == 1, y.reshape(len(y), -1).astype(np.float64)
        self._check_rank((X.shape[1], y.shape[1]), len(X))
        fit = _Fit(X, y, self.fit_intercept)
        self.noise_ = fit.noise() if self.noise is None else _validate.noise_level(self.noise)
        left, self.singular_values_, right, self.threshold_ = self._modes(fit)
        if self.rank == "cv":
            self.rank_ = self._cross_validated(X, y)
        elif isinstance(self.rank, str):
            rounding = max(X.shape) * np.finfo(float).eps * self.singular_values_.max(initial=0.0)
            self.rank_ = int(np.count_nonzero(self.singular_values_ > max(self.threshold_, rounding)))
        else:
            self.rank_ = min(int(self.rank), self.singular_values_.size)
        coef = (left[:, : self.rank_] @ right[: self.rank_]).T
        intercept = fit.y_mean - coef @ fit.x_mean
        self.coef_, self.intercept_ = (coef[0], float(intercept[0])) if single else (coef, intercept)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the outputs.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples, n_targets) or (n_samples,)
            As `y` was.

        Raises
        ------
        ValueError
            Not fitted; another number of features, NaN or infinity.
        """
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_.T + self.intercept_

    def _cross_validated(self, x: np.ndarray, y: np.ndarray) -> int:
        """The smallest of the ranks with the least squared error on the held-out folds."""
        errors = np.zeros(min(x.shape[1], y.shape[1]) + 1)
        for kept, held in check_cv(self.cv).split(x):
            fit = _Fit(x[kept], y[kept], self.fit_intercept)
            left, _, right, _ = self._modes(fit)
            a = x[held] - fit.x_mean
            e = y[held] - fit.y_mean - a @ fit.weights
            found = _squared_errors(a.T @ a, a.T @ e, np.sum(e * e, axis=0), left, right).sum(axis=-1)
            errors += np.pad(found, (0, errors.size - found.size), mode="edge")
        return int(np.argmin(errors))

    def _check_rank(self, shape: tuple[int, int], n_samples: int) -> None:
        most = min(shape)
        if isinstance(self.rank, Integral) and not isinstance(self.rank, bool):
            if not 0 <= self.rank <= most:
                raise ValueError(f"rank must lie between 0 and {most} for weights of shape {shape}, got {self.rank}")
        elif self.rank not in RULES:
            raise ValueError(f"rank must be one of {', '.join(map(repr, RULES))} or an integer, got {self.rank!r}")
        elif self.rank == "paper" and n_samples <= shape[0]:
            raise ValueError(f"rank='paper' needs more samples than features, got {n_samples} and {shape[0]} (P1 eq. 3)")

    def _modes(self, fit: "_Fit") -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """What is cut: factors of the weights, singular values, and the threshold."""
        if self.rank == "paper":
            left, values, right = np.linalg.svd(fit.weights, full_matrices=False)
            return left * values, values, right, paper_threshold(self.noise_, len(left), fit.n_samples)
        _, values, right = np.linalg.svd(fit.z, full_matrices=False)
        rule = {"gavish-donoho": gavish_donoho_threshold, "edge": noise_edge}.get(self.rank)
        threshold = rule(fit.z.shape, noise=self.noise_) if rule and values.size else nan
        return fit.weights @ right.T, values, right, threshold


class _Fit:
    """Full-rank least squares of least norm: centred data, Z, weights and what is left over."""

    def __init__(self, x: np.ndarray, y: np.ndarray, intercept: bool) -> None:
        self.n_samples = len(x)
        self.x_mean, self.y_mean = (a.mean(axis=0) if intercept else np.zeros(a.shape[1]) for a in (x, y))
        x, y = x - self.x_mean, y - self.y_mean
        left, values, right = np.linalg.svd(x, full_matrices=False)
        p = np.count_nonzero(values > max(x.shape) * np.finfo(float).eps * values.max(initial=0.0))
        self.z = left[:, :p].T @ y
        self.weights = right[:p].T @ (self.z / values[:p, None])
        self.free = len(x) - p - bool(intercept)
        self.squares = float(np.sum((y - x @ self.weights) ** 2))

    def noise(self) -> float:
        """Standard deviation of the noise, from the residuals if there are any."""
        if self.free > 0:
            return sqrt(self.squares / (self.free * self.z.shape[1]))
        return estimate_noise(np.linalg.svd(self.z, compute_uv=False), self.z.shape)


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


def _squared_errors(gram: np.ndarray, cross: np.ndarray, rest: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
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
