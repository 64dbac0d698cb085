"""Simulations of the chapter *Reading the rank off the first gradient*."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import svds

__all__ = ["cost_of_keeping", "example_noise", "flips_of", "model_errors", "signed_sums", "taylor", "top"]

DENSE = 200  # smaller side up to which a whole decomposition is as fast as one mode


def top(matrices: np.ndarray) -> np.ndarray:
    """Largest singular values of a stack of matrices, shape (..., m, d) to (...)."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrices.mT @ matrices)[..., -1], 0))


def cost_of_keeping(
    squares: ArrayLike, shape: tuple[int, int], draws: int, rng: np.random.Generator, noise: float = 1.0
) -> np.ndarray:
    """What keeping the first mode adds to the squared error, one mode planted in noise.

    Parameters
    ----------
    squares : array_like, shape (k,)
        Squared strengths of the mode, in units of ``noise² max(shape)``.
    shape : (int, int)
    draws : int
        Noise matrices to average over; each is used for all strengths.
    rng : numpy Generator
    noise : float
        Standard deviation of an entry.

    Returns
    -------
    ndarray, shape (k,)
        Mean of ``||y u v' - M||² - ||M||²`` with the first mode ``y u v'`` of M + noise, in units of
        ``noise² max(shape)``.
    """
    unit = noise**2 * max(shape)
    cost = []
    for _ in range(draws):
        matrix = noise * rng.standard_normal((max(shape), min(shape)))
        corner = matrix[0, 0]
        for strength in np.sqrt(np.asarray(squares) * unit):
            matrix[0, 0] = corner + strength  # the vectors of the mode are unit vectors
            y, u, v = _first_mode(matrix)
            cost.append(y * y - 2 * strength * y * u[0] * v[0])
    return np.mean(np.reshape(cost, (draws, -1)), axis=0) / unit


def _first_mode(matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    if matrix.shape[1] > DENSE:
        u, y, vt = svds(matrix, k=1, v0=np.ones(min(matrix.shape)))
        return y[0], u[:, 0], vt[0]
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    y, v = np.sqrt(values[-1]), vectors[:, -1]
    return y, matrix @ v / y, v


def flips_of(n: int, flips: int, rng: np.random.Generator) -> np.ndarray:
    """Coin tosses, centred and scaled to mean square 1, as the package takes them from 64 examples on: (flips, n)."""
    signs = rng.choice([-1.0, 1.0], (flips, n))
    signs -= signs.mean(axis=1, keepdims=True)
    return signs / signs.std(axis=1, keepdims=True)


def signed_sums(
    n: int, rng: np.random.Generator, scales: ArrayLike = 1.0, flips: int = 9, shape: tuple[int, int] = (64, 32)
) -> tuple[np.ndarray, np.ndarray]:
    """All that the first gradient of a linear task and its flips take from n examples.

    Parameters
    ----------
    n : int
    rng : numpy Generator
    scales : array_like, shape (d,), or float
        Standard deviations of the inputs.
    flips : int
    shape : (int, int)
        Outputs and inputs, (m, d).

    Returns
    -------
    (ndarray, ndarray), shapes (1 + flips, d, d) and (1 + flips, m, d)
        ``sum e_i x_i x_i' / n`` and ``sum e_i noise_i x_i' / n``: first with all e_i = 1, then for each flip.
    """
    m, d = shape
    x, noise = scales * rng.standard_normal((n, d)), rng.standard_normal((n, m))
    weights = np.vstack([np.ones(n), flips_of(n, flips, rng)])
    second, cross = (np.array([(a * w[:, None]).T @ x / n for w in weights]) for a in (x, noise))
    return second, cross


def example_noise(kind: str, size: int, n: int, entries: int, rng: np.random.Generator) -> np.ndarray:
    """Noise in the gradients of n examples, `size` times, shape (size, n, entries).

    "Gaussian"; "heavy-tailed": each example has its own scale, so that entries have a t law with three degrees of freedom;
    "skewed": a centred exponential number for each example, times one matrix that all examples share.
    """
    if kind == "Gaussian":
        return rng.standard_normal((size, n, entries))
    if kind == "heavy-tailed":
        return rng.standard_normal((size, n, entries)) * np.sqrt(3 / rng.chisquare(3, (size, n, 1)))
    if kind == "skewed":
        return (rng.exponential(size=(size, n, 1)) - 1) * rng.standard_normal((size, 1, entries))
    raise ValueError(f"kind: got {kind!r}; accepted: 'Gaussian', 'heavy-tailed', 'skewed'")


def model_errors(size: float, rng: np.random.Generator, steps: int = 600, rate: float = 0.3) -> tuple[float, float]:
    """How far the quadratic model of a loss is off while LoRA of rank 8 trains one hidden layer.

    The network is ``V tanh(W x)`` with 32 inputs, 32 hidden units and 8 outputs; W is trained from W_0 on 200 examples whose
    outputs are those of ``W_0 +`` a planted update of rank 4, plus noise.

    Parameters
    ----------
    size : float
        Norm of the planted update over that of W_0.
    rng : numpy Generator
    steps, rate : int, float
        Gradient steps and their size.

    Returns
    -------
    (float, float)
        Largest ``|model - loss|`` over the decrease of the loss since the point of expansion: about W_0, and about the
        weights after a tenth of the steps.
    """
    n, width, outputs = 200, 32, 8
    x, w0 = rng.standard_normal((n, width)), rng.standard_normal((width, width)) / np.sqrt(width)
    v = rng.standard_normal((outputs, width)) / np.sqrt(width)
    left, right = (np.linalg.qr(rng.standard_normal((width, 4)))[0] for _ in range(2))
    update = left * [1, 0.8, 0.6, 0.4] @ right.T
    update *= size * np.linalg.norm(w0) / np.linalg.norm(update)
    y = np.tanh(x @ (w0 + update).T) @ v.T + 0.1 * rng.standard_normal((n, outputs))
    a, b, path = rng.standard_normal((8, width)) / np.sqrt(width), np.zeros((width, 8)), []
    for _ in range(steps):
        h = np.tanh(x @ (w0 + b @ a).T)
        gradient = (((h @ v.T - y) @ v) * (1 - h**2)).T @ x / n
        a, b = a - rate * b.T @ gradient, b - rate * gradient @ a.T
        path.append(w0 + b @ a)
    tenth, every = steps // 10, steps // 20
    about = ((w0, path[every - 1 :: every]), (path[tenth - 1], path[tenth + every - 1 :: every]))
    start, early = (_model_error(base, later, x, v, y) for base, later in about)
    return start, early


def _model_error(base: np.ndarray, path: list[np.ndarray], x: np.ndarray, v: np.ndarray, y: np.ndarray) -> float:
    start, errors = taylor(base, 0 * base, x, v, y)[0], []
    for w in path:
        now, (_, slope, bend) = taylor(w, 0 * w, x, v, y)[0], taylor(base, w - base, x, v, y)
        errors.append(abs(start + slope + bend / 2 - now) / (start - now))
    return max(errors)


def taylor(w: np.ndarray, d: np.ndarray, x: np.ndarray, v: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Loss of ``v tanh(w x)`` at w, and its first two derivatives along d."""
    h, dz = np.tanh(x @ w.T), x @ d.T
    first = (1 - h**2) * dz
    residual, moved, bent = h @ v.T - y, first @ v.T, (-2 * h * first * dz) @ v.T
    parts = np.sum(residual**2) / 2, np.sum(residual * moved), np.sum(moved**2 + residual * bent)
    return tuple(float(part) / len(x) for part in parts)
