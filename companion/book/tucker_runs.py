"""Gradient descent on many Tucker factorisations at once, with all that happens on the way.

`companion.tucker_recovery.recover` tells where many starts end; here they can be followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

from companion import _stacks
from companion.tucker import Tucker
from companion.tucker_flow import start_point

__all__ = ["Runs", "diagonal", "follow", "overlap_half_time", "start_in_basis"]


@dataclass(frozen=True)
class Runs:
    """Core and factors of all runs along the way.

    Attributes
    ----------
    times : ndarray, shape (T,)
        Steps times their size.
    core : ndarray, shape (T, starts, r_1, ..., r_N)
    factors : tuple of ndarray, shapes (T, starts, d_k, r_k)
    """

    times: np.ndarray
    core: np.ndarray
    factors: tuple[np.ndarray, ...]

    def tensors(self) -> np.ndarray:
        """``Delta T``, shape (T, starts, d_1, ..., d_N)."""
        return _stacks.multiply(self.core, self.factors)

    def errors(self, target: np.ndarray) -> np.ndarray:
        """``||Delta T - T*||_F / ||T*||_F``, shape (T, starts)."""
        rest = (self.tensors() - target).reshape(*self.core.shape[:2], -1)
        return np.linalg.norm(rest, axis=-1) / np.linalg.norm(target)

    def diagonals(self, count: int) -> np.ndarray:
        """The first entries of the superdiagonal of ``Delta T``, shape (T, starts, count): amplitudes of diagonal targets."""
        index = np.arange(count)
        return self.tensors()[(slice(None), slice(None), *[index] * len(self.factors))]

    def point(self, time: int, start: int) -> Tucker:
        """Core and factors of one run at one of the times."""
        return Tucker(self.core[time, start], tuple(a[time, start] for a in self.factors))


def follow(target: np.ndarray, starts: Sequence[Tucker], *, steps: int, step_size: float, every: int) -> Runs:
    """Gradient descent on ``||Delta T - T*||_F^2 / 2`` from each start; kept are the first state and every so many steps.

    Parameters
    ----------
    target : ndarray, shape (d_1, ..., d_N)
    starts : sequence of Tucker
        All of the same shapes.
    steps, every : int
    step_size : float

    Returns
    -------
    Runs
    """
    core = np.array([point.core for point in starts])
    factors = tuple(np.array([point.factors[k] for point in starts]) for k in range(target.ndim))
    states = [(core, factors)]
    for step in range(1, steps + 1):
        core, factors = _stacks.moved(target, core, factors, step_size, step)
        if step % every == 0:
            states.append((core, factors))
    kept = tuple(np.array([factors[k] for _, factors in states]) for k in range(target.ndim))
    return Runs(step_size * every * np.arange(len(states)), np.array([core for core, _ in states]), kept)


def start_in_basis(
    dims: Sequence[int], ranks: Sequence[int], target_ranks: Sequence[int], rng: np.random.Generator, eps: float | None = None
) -> Tucker:
    """A random start with a zero core, in an orthonormal basis of the span of target and start.

    The flow never leaves that span, so a target of Tucker rank s in dimension d moves as one in dimension s + r whose first
    s_k coordinates are those of the target.

    Parameters
    ----------
    dims, ranks, target_ranks : sequence of int
        d_k, r_k and s_k, with ``r_k <= d_k - s_k``.
    rng : numpy.random.Generator
    eps : float, optional
        Length of the factors' columns, by default 1.

    Returns
    -------
    Tucker
        Factors of shape (s_k + r_k, r_k).
    """
    kind = "orthonormal" if eps is None else "core-zero"
    core, factors = start_point(kind, dims, ranks, eps, rng)
    parts = zip(factors, target_ranks, strict=True)
    return Tucker(core, tuple(np.vstack([a[:s], np.linalg.qr(a[s:], mode="r")]) for a, s in parts))


def diagonal(strengths: Sequence[float], dims: Sequence[int]) -> np.ndarray:
    """A tensor with strengths on its superdiagonal: one component each.

    Parameters
    ----------
    strengths : sequence of float
    dims : sequence of int

    Returns
    -------
    ndarray, shape (d_1, ..., d_N)
    """
    tensor = np.zeros(dims)
    index = np.arange(len(strengths))
    tensor[(index,) * len(dims)] = strengths
    return tensor


def overlap_half_time(strength: float, overlaps: Sequence[float]) -> float:
    """When half of a component is learned from factors of length 1 and a zero core, for small overlaps.

    The core follows the factors, so the squared overlaps obey ``dy_k/dt = 2 lambda^2 (1 - y_k) y_1 ... y_N``. That holds as
    long as ``lambda^2`` times the product of all y but one is small, whichever is left out; one small overlap is not enough.

    Parameters
    ----------
    strength : float
        lambda.
    overlaps : sequence of float
        ``|A_k(0)'u_k|``, > 0 and at most 1.

    Returns
    -------
    float
        0 if the product of the squares is 1/2 or more.
    """
    missing = 1 - np.square(overlaps)

    def learned(s: float) -> float:
        return np.prod(1 - missing * np.exp(-s))

    if learned(0.0) >= 0.5:
        return 0.0
    end = brentq(lambda s: learned(s) - 0.5, 0.0, 50.0)
    # In s = exp(v) the integrand has no peak, however small the overlaps are.
    whole = quad(lambda v: np.exp(v) / learned(np.exp(v)), -60.0, np.log(end), limit=500)[0]
    return float(whole / (2 * strength**2))
