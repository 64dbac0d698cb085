"""What the modules on Tucker decompositions share: checks of tensors and ranks, unfoldings, products along modes."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import tensorly
from numpy.typing import ArrayLike
from tensorly import tenalg

from companion import _validate


def tensor(name: str, values: ArrayLike) -> np.ndarray:
    """A finite float tensor of order >= 2 that is not empty."""
    x = _validate.reals(name, values)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{name} must be a tensor of order >= 2 (no dimension empty), got shape {x.shape}")
    return x


def dimensions(dims: Sequence[int]) -> tuple[int, ...]:
    """At least two integers >= 1."""
    sizes = whole_numbers("dims", dims)
    if len(sizes) < 2:
        raise ValueError(f"dims must be at least two integers >= 1, got {dims!r}")
    return sizes


def ranks_of(ranks: Sequence[int], dims: tuple[int, ...]) -> tuple[int, ...]:
    """One integer from 1 to d_k for each mode."""
    found = whole_numbers("ranks", ranks)
    if len(found) != len(dims):
        raise ValueError(f"ranks must be {len(dims)} integers, one for each mode of {dims}, got {ranks!r}")
    if any(r > d for r, d in zip(found, dims, strict=True)):
        raise ValueError(f"ranks must not exceed the dimensions {dims}, got {ranks!r}")
    return found


def whole_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Integers >= 1."""
    listed = tuple(values) if np.iterable(values) and not isinstance(values, str) else (None,)
    if any(not isinstance(v, Integral) or isinstance(v, bool) for v in listed):
        raise TypeError(f"{name} must be a sequence of integers, got {values!r}")
    if any(v < 1 for v in listed):
        raise ValueError(f"{name} must be integers >= 1, got {values!r}")
    return tuple(map(int, listed))


def mode_index(mode: int, order: int) -> int:
    """0 <= mode < order, from the end if negative."""
    if not isinstance(mode, Integral) or isinstance(mode, bool):
        raise TypeError(f"mode must be an integer, got {mode!r}")
    if not -order <= mode < order:
        raise ValueError(f"mode must be from {-order} to {order - 1} for a tensor of order {order}, got {mode}")
    return int(mode) % order


def core_and_factors(name: str, pair: tuple) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """A core (r_1, ..., r_N) and N factors (d_k, r_k), finite, as floats."""
    try:  # of any kind: tensorly's TuckerTensor is no Sequence
        first, others = pair
        listed = list(others)
        if isinstance(pair, np.ndarray):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair of a core and its factors, got {type(pair).__name__}") from None
    core = tensor(f"core of {name}", first)
    factors = tuple(_validate.reals(f"factors of {name}", factor) for factor in listed)
    if [f.shape[1:] for f in factors] != [(r,) for r in core.shape] or any(not f.size for f in factors):
        shapes = ", ".join(str(f.shape) for f in factors)
        raise ValueError(f"factors of {name} must have shapes (d_k, r_k) for its core of shape {core.shape}, got {shapes}")
    return core, factors


def unfold(x: np.ndarray, mode: int) -> np.ndarray:
    """Mode-k unfolding, shape (d_k, product of the others), the other modes in their order, the last one fastest."""
    with tensorly.backend_context("numpy", local_threadsafe=True):  # whatever backend the caller has chosen
        return tensorly.unfold(x, mode)


def multiply(x: np.ndarray, matrices: Sequence[np.ndarray], skip: int | None = None, transpose: bool = False) -> np.ndarray:
    """``x x_1 M_1 ... x_N M_N``, each matrix (p_k, q_k) on mode k of size q_k; of size p_k if transposed."""
    with tensorly.backend_context("numpy", local_threadsafe=True):
        return tenalg.multi_mode_dot(x, matrices, skip=skip, transpose=transpose)


def left_vectors(matrix: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Leading left singular vectors (d, count) and all min(d, columns) singular values.

    Vectors beyond the columns of a tall matrix complete an orthonormal basis.
    """
    rows, columns = matrix.shape
    wanted = min(rows, columns) if count is None else count
    if columns > rows:
        matrix = np.linalg.qr(matrix.T, mode="r").T  # the right vectors are not needed
    u, values, _ = np.linalg.svd(matrix, full_matrices=wanted > columns)
    return u[:, :wanted], values
