"""Products along modes and the gradient of a Tucker factorisation, for stacks: a path's times, or many starts at once.

Batch dimensions stand before those of the core and before those of every factor: core (..., r_1, ..., r_N), factors
(..., d_k, r_k).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from companion import _tensors, _validate
from companion._factors import transpose

Factors = tuple[np.ndarray, ...]


def multiply(x: np.ndarray, factors: Sequence[np.ndarray], skip: int | None = None, project: bool = False) -> np.ndarray:
    """``x x_1 A_1 ... x_N A_N`` without mode `skip`; with the transposed factors to `project`."""
    for k, a in enumerate(factors):
        if k != skip:
            x = _mode_product(x, a if project else transpose(a), k)
    return x


def _mode_product(x: np.ndarray, matrix: np.ndarray, mode: int) -> np.ndarray:
    """Mode `mode` of x, of size p, against the rows of a matrix (..., p, q)."""
    batch = matrix.ndim - 2
    moved = np.moveaxis(x, batch + mode, -1)
    flat = moved.reshape(*x.shape[:batch], -1, moved.shape[-1]) @ matrix
    return np.moveaxis(flat.reshape(*moved.shape[:-1], matrix.shape[-1]), -1, batch + mode)


def unfold(x: np.ndarray, mode: int, batch: int = 0) -> np.ndarray:
    """Mode-k unfolding of each tensor of a stack, shape (..., d_k, product of the others)."""
    moved = np.moveaxis(x, batch + mode, batch)
    return moved.reshape(*moved.shape[: batch + 1], -1)


def slopes(goal: np.ndarray, core: np.ndarray, factors: Sequence[np.ndarray]) -> tuple[np.ndarray, Factors]:
    """``dG/dt`` and every ``dA_k/dt`` (P2 eq. 26)."""
    batch, rest, found = core.ndim - goal.ndim, goal - multiply(core, factors), []
    for k in range(goal.ndim):
        seen = multiply(rest, factors, skip=k, project=True)  # (..., r_1, ..., d_k, ..., r_N)
        found.append(unfold(seen, k, batch) @ transpose(unfold(core, k, batch)))
    return _mode_product(seen, factors[-1], goal.ndim - 1), tuple(found)


def moved(goal: np.ndarray, core: np.ndarray, factors: Factors, h: float, step: int) -> tuple[np.ndarray, Factors]:
    """One step of gradient descent; ValueError where it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        core_slope, factor_slopes = slopes(goal, core, factors)
        core, factors = core + h * core_slope, tuple(a + h * da for a, da in zip(factors, factor_slopes, strict=True))
    if not (np.all(np.isfinite(core)) and all(np.all(np.isfinite(a)) for a in factors)):
        raise ValueError(f"step_size {h!r} is too large: core and factors overflow at step {step}")
    return core, factors


def norms(x: np.ndarray) -> np.ndarray:
    """Frobenius norm of each tensor of a stack, shape (T,)."""
    return np.linalg.norm(x.reshape(len(x), -1), axis=1)


def pack(core: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """Core and factors as one vector."""
    return np.concatenate([core.ravel(), *(a.ravel() for a in factors)])


def unpack(x: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, Factors]:
    """Core and factors of vectors (..., size), with the shapes of the core and of each factor."""
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = [part.reshape(*x.shape[:-1], *shape) for part, shape in zip(np.split(x, cuts, axis=-1), shapes, strict=True)]
    return parts[0], tuple(parts[1:])


def goal(target: ArrayLike, dims: tuple[int, ...]) -> np.ndarray:
    """The target, of the dimensions that the factors have."""
    x = _tensors.tensor("target", target)
    if x.shape != dims:
        raise ValueError(f"target must have the shape of the update, {dims}, got {x.shape}")
    return x


def checked(core: ArrayLike, factors: Sequence[ArrayLike]) -> tuple[np.ndarray, Factors]:
    """Core (..., r_1, ..., r_N) and factors (..., d_k, r_k) with equal batch dimensions."""
    g, matrices = _validate.reals("core", core), tuple(_validate.reals("factors", a) for a in factors)
    order = len(matrices)
    batch, ranks = g.shape[: g.ndim - order], g.shape[g.ndim - order :]
    fits = [a.ndim >= 2 and a.shape[:-2] == batch and a.shape[-1] == r for a, r in zip(matrices, ranks, strict=False)]
    if order < 2 or g.ndim < order or not all(fits):
        shapes = ", ".join(str(a.shape) for a in matrices)
        raise ValueError(
            f"core and factors must have shapes (..., r_1, ..., r_N) and (..., d_k, r_k) with N >= 2, got {g.shape}; {shapes}"
        )
    return g, matrices
