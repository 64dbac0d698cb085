"""Least squares cut to a rank: every rank at once, and a regressor that chooses the rank.

With ``X = QR``, the noise of the least-squares weights ``R^-1 Q'Y`` depends on X, but that of the matrix ``Z = Q'Y`` does
not: its entries are independent with the variance of the noise in Y, whatever X is. So modes are told from noise in Z,
where the Marchenko-Pastur law holds, and the weights are projected on the right singular vectors of Z that are kept. That
is reduced-rank regression (Izenman 1975; Bunea, She and Wegkamp 2011).
"""

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
from companion.rank_sweep import RankSweep, rank_sweep, squared_errors

__all__ = ["RankSweep", "ReducedRankRegression", "new_input_thresholds", "rank_sweep"]

RULES = ("gavish-donoho", "gavish-donoho-2014", "edge", "paper", "cv")


def new_input_thresholds(noise: float, d_in: int, d_out: int, n_samples: int, *, estimated: bool = False) -> np.ndarray:
    """Gavish and Donoho's optimal hard threshold for the singular values of Z, made for the error at *new* inputs.

    Theirs (2014) is made for the error at the inputs of the sample, where noise counts less than at new ones. In the limit
    of many samples the first threshold is theirs.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise in one output, ``>= 0``.
    d_in, d_out, n_samples : int
        Number of inputs, of outputs, and of samples (one less if a mean is taken out). New inputs have the covariance of
        those of the sample, whatever it is; with no more samples than inputs, it is taken to be white.
    estimated : bool
        `noise` is an estimate, from the residuals or without residuals from Z: the first threshold then is one standard
        error of it higher.

    Returns
    -------
    ndarray, shape (min(d_in, d_out, n_samples),)
        Decreasing. Singular value k = 0, 1, … is kept if it is above threshold k and those before it are kept.

    Raises
    ------
    TypeError, ValueError
        A negative or non-finite noise, or counts that are not integers ``>= 1``.

    Notes
    -----
    Z is ``m = min(d_in, n_samples)`` by ``n = d_out``. In units of the noise let w be the squared singular value of a
    mode of the signal ``R W``. Observed is ``y² = (w + m)(w + n)/w``, with a left vector of which ``m (1 + n/w)²/y²`` is
    noise outside the signal (`companion.marchenko_pastur.spiked_overlaps`). At the inputs of the sample keeping the mode
    gains ``w - m - n - 3 m n/w``, whose zero is the threshold of 2014. At new inputs noise outside the signal counts
    ``c = (n_samples - 1)/(n_samples - 1 - d_in)`` times as much as signal, the mean of an inverse Wishart matrix for
    Gaussian inputs, and the gain is ``w - m - n - 3 m n/w - (c - 1) m (1 + n/w)²``: positive above the one positive zero of
    ``w³ - (n + c m) w² - (1 + 2c) m n w - (c - 1) m n²``. With fewer samples than inputs d_in and n_samples change places
    in c, which is kept finite where they are closer than 2.

    With k > 0 modes kept, what is left is m - k by n - k, of which the next one takes a row and a column: ``m - k - 1`` and
    ``n - k - 1`` stand for m and n, and 1, the noise along the signal, is added to y² and subtracted from the gain. The
    first threshold is left in the published form, which is a little higher: while nothing is kept, a mode of noise can
    cost any multiple of the risk.

    Examples
    --------
    >>> [new_input_thresholds(1.0, 64, 32, n)[:3].round(2).tolist() for n in (100, 500, 10**9)]
    [[19.23, 18.88, 18.68], [16.13, 15.83, 15.65], [15.83, 15.53, 15.36]]
    >>> round(gavish_donoho_threshold((64, 32), noise=1.0), 2)
    15.83
    """
    noise = _validate.noise_level(noise)
    inputs, outputs = _validate.integer("d_in", d_in, 1), _validate.integer("d_out", d_out, 1)
    samples = _validate.integer("n_samples", n_samples, 1)
    fewer, more = sorted((inputs, samples))
    more = max(more, fewer + 2)
    cost = (more - 1) / (more - 1 - fewer)
    rows = min(inputs, samples)
    left_over = [(rows, outputs, 0), *((rows - k - 1, outputs - k - 1, 1) for k in range(1, min(rows, outputs)))]
    thresholds = np.array([_threshold(m, n, cost, own) for m, n, own in left_over])
    if estimated:  # relative standard error of the noise, from the residuals or from the entries of Z
        thresholds[0] *= 1 + 1 / sqrt(2 * outputs * (samples - inputs if samples > inputs else rows))
    return noise * thresholds


def _threshold(m: int, n: int, cost: float, own: int) -> float:
    """Of unit noise; the zero as the eigenvalue of a companion matrix: the real parts of the other two are not positive."""
    zeros = np.roots([1.0, -(own + n + cost * m), -(1 + 2 * cost) * m * n, -(cost - 1) * m * n * n])
    w = float(zeros.real.max())
    return sqrt((w + m) * (w + n) / w + own)


class ReducedRankRegression(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares for several outputs, cut to the rank that the data support.

    Parameters
    ----------
    rank : {"gavish-donoho", "gavish-donoho-2014", "edge", "paper", "cv"} or int
        "gavish-donoho" keeps the singular values of Z above Gavish and Donoho's optimal hard threshold, made for the error
        at new inputs: `new_input_thresholds`. "gavish-donoho-2014" takes their threshold as printed, for the error at the
        inputs of the sample, and "edge" the noise edge. "cv" takes the rank with the least squared error in
        cross-validation. "paper" is P1's rule in the reading that always gives a rank: cut the singular value
        decomposition of the *weights* at ``tau = noise (1 + sqrt(d_in / n))``. A number is the rank itself, at most
        min(n_features, n_targets).
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
        What they were compared with, for "gavish-donoho" the last of several; `rank_` of them are above it. NaN for "cv"
        and a number.
    n_features_in_ : int

    Raises
    ------
    TypeError, ValueError
        From `fit`: an unknown `rank` or one that is too large, a negative `noise`, "paper" without more samples than
        inputs. NaN, infinity and shapes as everywhere in scikit-learn.

    Notes
    -----
    In 1,000 random tasks (decay 1.2 to 10, 8 to 128 inputs and outputs, 1.2 to 30 samples per input, white and correlated
    inputs) "gavish-donoho" had at most 1.14 times the mean excess risk of the best truncation of the least-squares
    weights, with the noise given or estimated. The printed threshold had more than 1.15 times in 13 % of them with the
    noise given and in 18 % with an estimate, and up to 30 times. Searched for, 1.4 times is found for "gavish-donoho" too at
    8 inputs and outputs, with all modes near the threshold or a signal far below the noise, and 4 times with one of each.

    Constant and dependent columns are allowed: the fit has the least norm. With one output there is one mode, kept or
    not. There are no sample weights: they would make the noise in Z unequal.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.standard_normal((200, 20)), 0.2 * rng.standard_normal((20, 2)) @ rng.standard_normal((2, 10))
    >>> model = ReducedRankRegression().fit(x, x @ w + rng.standard_normal((200, 10)))
    >>> model.rank_, round(model.noise_, 2), round(model.threshold_, 1), model.singular_values_[:3].round(1).tolist()
    (2, 0.99, 8.0, [34.8, 28.6, 6.0])
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
        left, values, right, thresholds = self._modes(fit)
        if self.rank == "cv":
            self.rank_ = self._cross_validated(X, y)
        elif isinstance(self.rank, str):
            rounding = max(X.shape) * np.finfo(float).eps * values.max(initial=0.0)
            self.rank_ = int(np.argmin([*(values > np.maximum(thresholds, rounding)), False]))  # the first that is not above
        else:
            self.rank_ = min(int(self.rank), values.size)
        self.singular_values_ = values
        self.threshold_ = float(thresholds[min(self.rank_, values.size - 1)]) if values.size else nan
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
            found = squared_errors(a.T @ a, a.T @ e, np.sum(e * e, axis=0), left, right).sum(axis=-1)
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

    def _modes(self, fit: "_Fit") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What is cut: factors of the weights, singular values, and the threshold of each."""
        _, values, right = np.linalg.svd(fit.weights if self.rank == "paper" else fit.z, full_matrices=False)
        left, threshold = fit.weights @ right.T, nan
        if self.rank == "paper":
            threshold = paper_threshold(self.noise_, len(fit.weights), fit.n_samples)
        elif self.rank == "gavish-donoho" and values.size:
            threshold = new_input_thresholds(
                self.noise_, fit.inputs, fit.z.shape[1], max(fit.free, 0) + len(fit.z), estimated=self.noise is None
            )
        elif self.rank in ("gavish-donoho-2014", "edge") and values.size:
            rule = noise_edge if self.rank == "edge" else gavish_donoho_threshold
            threshold = rule(fit.z.shape, noise=self.noise_)
        return left, values, right, np.broadcast_to(threshold, values.shape)


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
        self.inputs = p if self.free > 0 else x.shape[1]
        self.squares = float(np.sum((y - x @ self.weights) ** 2))

    def noise(self) -> float:
        """Standard deviation of the noise, from the residuals if there are any."""
        if self.free > 0:
            return sqrt(self.squares / (self.free * self.z.shape[1]))
        return estimate_noise(np.linalg.svd(self.z, compute_uv=False), self.z.shape)
