"""Rules that choose a rank, compared on many data sets at once, for the chapter *K\\* done right*."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from companion.decay import fit_decay, k_star
from companion.kstar import LinearTask, paper_threshold
from companion.marchenko_pastur import gavish_donoho_threshold, noise_edge
from companion.rank_sweep import squared_errors
from companion.reduced_rank import new_input_thresholds

__all__ = ["Folds", "degrees_of_freedom", "held_out_rank", "rule_risks", "shrunk", "weights_with"]

GRID = (4, 8, 16, 32)  # the ranks that P1 section 4.2 says people try
FOLDS = 5


def weights_with(singular_values: ArrayLike, d_in: int, d_out: int, rng: np.random.Generator, size: int) -> np.ndarray:
    """Weights with these singular values and uniform (Haar) singular vectors, shape (size, d_in, d_out)."""
    frames = LinearTask(2.0, 1, 0.0, d_in, d_out).sample(rng, size=size, n_samples=1).weights
    left, _, right = np.linalg.svd(frames, full_matrices=False)
    return left * np.asarray(singular_values) @ right


def degrees_of_freedom(singular_values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Divergence of cutting a matrix to rank r = 0 … K as a function of its entries, shape (..., K + 1).

    ``r max(shape) + sum over k < r <= l of (s_k² + s_l²)/(s_k² - s_l²)`` (Mukherjee, Chen, Wang and Zhu 2015). Unlike
    ``r (m + n - r)`` it knows that close singular values make an unsteady cut.
    """
    s2 = singular_values**2
    gaps = s2[..., :, None] - s2[..., None, :]
    pairs = (s2[..., :, None] + s2[..., None, :]) / np.where(gaps > 0, gaps, np.inf)
    pairs = np.triu(pairs, 1)  # (…, K, K), k < l
    total = np.zeros((*s2.shape[:-1], s2.shape[-1] + 1))
    for r in range(1, s2.shape[-1] + 1):
        total[..., r] = r * max(shape) + np.sum(pairs[..., :r, r:], axis=(-2, -1))
    return total


def shrunk(singular_values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Singular values of unit noise shrunk for the least squared error (Gavish and Donoho 2017), shape as given."""
    y2, (m, n) = singular_values**2, shape
    seen = singular_values > np.sqrt(m) + np.sqrt(n)
    return np.where(seen, np.sqrt(np.maximum((y2 - m - n) ** 2 - 4 * m * n, 0) / np.where(seen, y2, 1)), 0.0)


class Folds:
    """Sums of squares and products of the folds of many data sets of one size.

    Parameters
    ----------
    x, y : ndarray, shapes (size, n, d_in), (size, n, d_out)
    cuts : sequence of index arrays, optional
        Rows of each fold; `FOLDS` contiguous ones by default.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, cuts: Sequence[np.ndarray] | None = None) -> None:
        cuts = np.array_split(np.arange(x.shape[-2]), FOLDS) if cuts is None else cuts
        xs, ys = ([a[..., cut, :] for cut in cuts] for a in (x, y))
        self.gram = np.stack([a.mT @ a for a in xs])  # (folds, size, d_in, d_in)
        self.cross = np.stack([a.mT @ b for a, b in zip(xs, ys, strict=True)])
        self.squares = np.stack([np.sum(b * b, axis=-2) for b in ys])

    def __len__(self) -> int:
        return len(self.gram)

    def fit(self, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Z and least-squares weights, of all folds or of all but one; more samples than inputs are needed."""
        kept = [i for i in range(len(self)) if i != without]
        gram, cross = self.gram[kept].sum(axis=0), self.cross[kept].sum(axis=0)
        r = np.linalg.cholesky(gram).mT
        z = np.linalg.solve(r.mT, cross)
        return z, np.linalg.solve(r, z)

    def errors(self, fold: int, left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Squared error of ``left[:, :r] right[:r]`` on a fold for every r, given their product; shape (size, ranks)."""
        e = self.cross[fold] - self.gram[fold] @ weights
        rest = self.squares[fold] - np.sum(weights * (self.cross[fold] + e), axis=-2)
        return squared_errors(self.gram[fold], e, rest, left, right).sum(axis=-1)

    def cross_validated(self) -> np.ndarray:
        """Held-out squared error of reduced-rank regression at every rank, shape (size, ranks)."""
        total = 0.0
        for fold in range(len(self)):
            z, full = self.fit(without=fold)
            right = np.linalg.svd(z, full_matrices=False)[2]
            total = total + self.errors(fold, full @ right.mT, right, full)
        return total


def held_out_rank(folds: Folds, grid: Sequence[int] = GRID) -> np.ndarray:
    """The rank of a grid whose truncated least-squares weights err least on the last fold, shape (size,)."""
    _, full = folds.fit(without=len(folds) - 1)
    left, values, right = np.linalg.svd(full, full_matrices=False)
    tried = folds.errors(len(folds) - 1, left * values[:, None, :], right, full)
    grid = np.array([r for r in grid if r < tried.shape[1]])
    return grid[np.argmin(tried[:, grid], axis=1)]


def rule_risks(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, noise: float | None = None, covariance: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Excess risk that each rule leaves on each of many data sets, without intercept.

    Parameters
    ----------
    x : ndarray, shape (size, n, d_in)
    y : ndarray, shape (size, n, d_out)
        Training data; every four of the five folds must have more samples than inputs.
    weights : ndarray, shape (size, d_in, d_out)
        The true ones.
    noise : float, optional
        Standard deviation of the noise; estimated from the residuals by default.
    covariance : ndarray, shape (d_in, d_in), optional
        Of new inputs; the identity by default.

    Returns
    -------
    dict of str to ndarray, shape (size,)
        "best" is the least risk of any truncation of the least-squares weights, which takes the true weights to find.
    """
    (n, d_in), d_out, size = x.shape[1:], y.shape[-1], len(x)
    folds = Folds(x, y)
    z, full = folds.fit()
    _, s, right = np.linalg.svd(z, full_matrices=False)
    left = full @ right.mT
    u, s_w, vt = np.linalg.svd(full, full_matrices=False)
    gram, error = np.eye(d_in) if covariance is None else covariance, weights - full

    def risks(left, right):
        rest = np.sum(error * (gram @ error), axis=-2)
        return squared_errors(gram, gram @ error, rest, left, right).sum(axis=-1)

    projected, cut = risks(left, right), risks(u * s_w[:, None, :], vt)  # (size, ranks)
    squares = folds.squares.sum(axis=(0, 2)) - np.sum(s**2, axis=-1)
    sigma = np.full(size, noise) if noise is not None else np.sqrt(squares / ((n - d_in) * d_out))
    unit, shape = s / sigma[:, None], (d_in, d_out)
    tau = sigma * paper_threshold(1.0, d_in, n)
    new = new_input_thresholds(1.0, d_in, d_out, n, estimated=noise is None)
    lost = np.append(np.cumsum(unit[:, ::-1] ** 2, axis=1)[:, ::-1], np.zeros((size, 1)), axis=1)
    at = lambda table, ranks: np.take_along_axis(table, np.asarray(ranks)[:, None], axis=1)[:, 0]  # noqa: E731
    w_shrunk = (left * (shrunk(unit, shape) / unit)[:, None, :]) @ right - weights
    return {
        "best": cut.min(axis=1),
        "best of Z": projected.min(axis=1),
        "none": cut[:, -1],
        "P1, count": at(cut, _above(s_w, tau[:, None])),
        "P1, fit": at(cut, [_fitted(values, level, s.shape[1]) for values, level in zip(s_w, tau, strict=True)]),
        "4, 8, 16, 32": at(cut, held_out_rank(folds)),
        "edge": at(projected, _above(unit, noise_edge(shape, 1.0))),
        "optimal, 2014": at(projected, _above(unit, gavish_donoho_threshold(shape, 1.0))),
        "optimal, new inputs": at(projected, _above(unit, new)),
        "cross-validation": at(projected, np.argmin(folds.cross_validated(), axis=1)),
        "SURE": at(projected, np.argmin(lost + 2 * degrees_of_freedom(unit, shape), axis=1)),
        "shrinkage": np.sum(w_shrunk * (gram @ w_shrunk), axis=(-2, -1)),
    }


def _above(values: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
    """Number of leading values above their thresholds."""
    above = np.concatenate([values > thresholds, np.zeros((len(values), 1), bool)], axis=1)
    return np.argmin(above, axis=1)


def _fitted(values: np.ndarray, level: float, most: int) -> int:
    """P1 section 4.2: the fit of eq. 4, and the count where it cannot be evaluated."""
    fit = fit_decay(values, level)
    return min(k_star(fit.decays[0], level) if fit.modes > 1 and fit.decays[0] > 1 else fit.modes, most)
