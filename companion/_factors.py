"""What the modules on the flow of ``A B`` share: checks of a start and of times, and the linear algebra of factors."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from companion import _validate

Start = tuple[np.ndarray, np.ndarray, np.ndarray]


def matrix(name: str, values: ArrayLike, accepted: str = "a matrix (two dimensions, none of them empty)") -> np.ndarray:
    """A finite float matrix that is not empty."""
    x = _validate.reals(name, values)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name} must be {accepted}, got shape {x.shape}")
    return x


def start(target: ArrayLike, a0: ArrayLike, b0: ArrayLike | None) -> Start:
    """Target (m, n), ``A(0)`` (m, r) and ``B(0)`` (r, n), zero if it is None."""
    goal = matrix("target", target)
    m, n = goal.shape
    a = matrix("a0", a0, f"of shape (m, r) = ({m}, r >= 1) for a target of shape {goal.shape}")
    if len(a) != m:
        hint = "; PEFT's lora_A is (r, in): pass lora_A.T, and the target as (in, out)" if a.shape[1] == m else ""
        raise ValueError(f"a0 must have shape (m, r) = ({m}, r) for a target of shape {goal.shape}, got {a.shape}{hint}")
    r = a.shape[1]
    b = np.zeros((r, n)) if b0 is None else _validate.reals("b0", b0)
    if b.shape != (r, n):
        raise ValueError(f"b0 must have shape (r, n) = ({r}, {n}), got {b.shape}")
    return goal, a, b


def moments(times: ArrayLike) -> np.ndarray:
    """Times >= 0 in one dimension (or a single one), not decreasing."""
    t = _validate.nonnegative("times", times)
    if t.ndim > 1 or not t.size:
        raise ValueError(f"times must be one number or one dimension of them, got shape {t.shape}")
    if t.ndim and (steps := np.diff(t)).size and steps.min() < 0:
        k = int(np.argmax(steps < 0))
        raise ValueError(f"times must be sorted, got {t[k]:.4g} before {t[k + 1]:.4g}")
    return t


def choice(name: str, value: str, accepted: Iterable[str]) -> str:
    """One of the accepted words."""
    if value not in (words := list(accepted)):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}")
    return value


def svd(target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compact singular value decomposition: U (m, s), the s values that exceed rounding, V (n, s)."""
    u, values, vt = np.linalg.svd(target, full_matrices=False)
    s = int(np.sum(values > max(target.shape) * np.finfo(float).eps * values[0]))
    return u[:, :s], values[:s], vt[:s].T


def transpose(x: np.ndarray) -> np.ndarray:
    """The last two dimensions exchanged."""
    return np.swapaxes(x, -1, -2)


def product_singular_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Singular values of ``a @ b`` for stacks (..., p, r) and (..., r, q), from factors no larger than r where that pays."""
    if a.shape[-1] < min(a.shape[-2], b.shape[-1]):
        a, b = np.linalg.qr(a, mode="r"), transpose(np.linalg.qr(transpose(b), mode="r"))
    return np.linalg.svd(a @ b, compute_uv=False)


def coordinates(basis: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`basis` (m, s) continued to an orthonormal basis of its span with that of `factor` (m, r); `factor` in it."""
    if np.any(factor):
        more = np.linalg.qr(np.hstack([basis, factor]))[0][:, basis.shape[1] :]
        basis = np.hstack([basis, more])
    return basis, basis.T @ factor


def like(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Without the first dimension if there is only one time."""
    return values if times.ndim else values[0]
