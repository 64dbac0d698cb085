"""Gradient flow of a Tucker factorisation towards a target tensor: P2 section 5 in the linearised regime.

Core G and factors A_1 ... A_N of ``Delta T = G x_1 A_1 ... x_N A_N`` follow the gradient flow of
``||Delta T - T*||_F^2 / 2`` (P2 theorem 5.1, with the residual ``R = T* - Delta T``)::

    dA_k/dt = R_(k) (kron of A_j, j != k) G_(k)'   (P2 eq. 26),    dG/dt = R x_1 A_1' ... x_N A_N'.

For every mode ``A_k'A_k - G_(k) G_(k)'`` is conserved (`tucker_balance`): the derivative of either term is ``M_k +
M_k'`` with ``M_k = A_k' R_(k) (kron of A_j, j != k) G_(k)'``. From ``G(0) = 0`` and factors with orthonormal columns,
up to their scale, ``Delta T`` never has more than s_k mode-k singular values, s_k those of the target: a column
combination of ``A_k(0)`` orthogonal to span(U_k) stays as it is, and its part of the core stays 0. So the ranks
beyond "converge to zero" (P2 appendix F.3) by being 0 all along; not from a small random core. `integrate`
follows the flow from any start and `descend` takes steps of gradient descent. From many starts at once:
`companion.tucker_recovery`. What one component does on its own, and P2's lemma F.1: `companion.tucker_law`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _factors, _ode, _stacks, _tensors, _validate
from companion.tucker import Tucker

__all__ = [
    "TuckerPath",
    "descend",
    "integrate",
    "start_point",
    "tucker_balance",
    "tucker_balance_defect",
]

STARTS = ("small", "core-zero", "orthonormal")


@dataclass(frozen=True)
class TuckerPath:
    """Core and factors along a path.

    Attributes
    ----------
    times : ndarray, shape (T,)
        For `descend` the number of steps times their size.
    core : ndarray, shape (T, r_1, ..., r_N)
    factors : tuple of ndarray, shapes (T, d_k, r_k)
    """

    times: np.ndarray
    core: np.ndarray
    factors: tuple[np.ndarray, ...]

    def point(self, index: int = -1) -> Tucker:
        """Core and factors at one of the times, by default the last.

        Parameters
        ----------
        index : int
            Into `times`.

        Returns
        -------
        Tucker
        """
        return Tucker(self.core[index], tuple(a[index] for a in self.factors))

    def tensors(self) -> np.ndarray:
        """``Delta T`` at each time.

        Returns
        -------
        ndarray, shape (T, d_1, ..., d_N)
        """
        return _stacks.multiply(self.core, self.factors)

    def errors(self, target: ArrayLike) -> np.ndarray:
        """``||Delta T - T*||_F`` at each time; half its square is the loss.

        Parameters
        ----------
        target : array_like, shape (d_1, ..., d_N)

        Returns
        -------
        ndarray, shape (T,)

        Raises
        ------
        TypeError, ValueError
            A target of another shape, NaN or infinity.
        """
        return _stacks.norms(self.tensors() - self._goal(target))

    def mode_singular_values(self, mode: int) -> np.ndarray:
        """Singular values of the unfolding of ``Delta T``, from large to small at each time (P2 theorem 5.1).

        Parameters
        ----------
        mode : int
            k from 0; negative from the end.

        Returns
        -------
        ndarray, shape (T, min(r_k, product of the other ranks))
            Without the zeros beyond.

        Raises
        ------
        TypeError, ValueError
            No integer, or no such mode.
        """
        k = _tensors.mode_index(mode, len(self.factors))
        small = _stacks.multiply(self.core, [np.linalg.qr(a, mode="r") for a in self.factors])
        return np.linalg.svd(_stacks.unfold(small, k, batch=1), compute_uv=False)

    def mode_amplitudes(self, target: ArrayLike, mode: int) -> np.ndarray:
        """``u_i' Delta T_(k) v_i`` along the singular vectors of the target's unfolding: how much of each is learned.

        Parameters
        ----------
        target : array_like, shape (d_1, ..., d_N)
        mode : int
            k from 0; negative from the end.

        Returns
        -------
        ndarray, shape (T, s_k)
            By decreasing mode-k singular value of the target, for those that exceed rounding.

        Raises
        ------
        TypeError, ValueError
            A target of another shape, NaN or infinity, or no such mode.
        """
        goal, k = self._goal(target), _tensors.mode_index(mode, len(self.factors))
        left, _, right = _factors.svd(_stacks.unfold(goal, k))
        return np.einsum("ds,tde,es->ts", left, _stacks.unfold(self.tensors(), k, batch=1), right, optimize=True)

    def _goal(self, target: ArrayLike) -> np.ndarray:
        return _stacks.goal(target, tuple(a.shape[-2] for a in self.factors))


def start_point(
    kind: str,
    dims: Sequence[int],
    ranks: Sequence[int],
    eps: float | None = None,
    rng: np.random.Generator | int | None = None,
) -> Tucker:
    """A random start of one of three kinds.

    =============  ================================  ==================================================
    kind           factors                           core
    =============  ================================  ==================================================
    "small"        ``eps`` x orthonormal columns     Gaussian, of Frobenius norm ``eps``
    "core-zero"    ``eps`` x orthonormal columns     0
    "orthonormal"  orthonormal columns               0: what one uses in practice, no change at first
    =============  ================================  ==================================================

    P2's "small initialization" (theorem 5.1) is one of the first two; lemma F.1 has the factors of both and leaves the core
    open.

    Parameters
    ----------
    kind : str
    dims : sequence of int
        ``(d_1, ..., d_N)``, N >= 2.
    ranks : sequence of int
        ``1 <= r_k <= d_k``.
    eps : float, optional
        > 0; for "small" and "core-zero", and for them only.
    rng : numpy.random.Generator or int
        Where the random numbers come from.

    Returns
    -------
    Tucker

    Raises
    ------
    TypeError
        No generator or seed, or dimensions or ranks that are no integers.
    ValueError
        An unknown kind, ranks that do not fit, or eps missing, not positive or given in vain.

    Examples
    --------
    >>> core, factors = start_point("core-zero", (4, 5, 6), (2, 2, 3), eps=0.1, rng=0)
    >>> core.shape, bool(np.allclose(factors[2].T @ factors[2], 0.01 * np.eye(3)))
    ((2, 2, 3), True)
    """
    _factors.choice("kind", kind, STARTS)
    d = _tensors.dimensions(dims)
    r = _tensors.ranks_of(ranks, d)
    if (eps is None) != (kind == "orthonormal"):
        raise ValueError(f"eps must be given for 'small' and 'core-zero', not for 'orthonormal', got {eps!r} and {kind!r}")
    size = 1.0 if eps is None else _validate.positive("eps", eps)
    if rng is None:
        raise TypeError("rng must be a numpy.random.Generator or an integer seed, got None")
    draws = np.random.default_rng(rng)
    factors = tuple(size * np.linalg.qr(draws.standard_normal(shape))[0] for shape in zip(d, r, strict=True))
    core = draws.standard_normal(r) if kind == "small" else np.zeros(r)
    return Tucker(core * (size / np.linalg.norm(core) if kind == "small" else 1.0), factors)


def integrate(
    target: ArrayLike,
    start: Tucker,
    times: ArrayLike,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float | None = None,
) -> TuckerPath:
    """Gradient flow of ``||Delta T - T*||_F^2 / 2`` on core and factors by numerical integration (P2 theorem 5.1).

    Parameters
    ----------
    target : array_like, shape (d_1, ..., d_N)
        ``T*``.
    start : Tucker, or any pair of a core (r_1, ..., r_N) and N factors (d_k, r_k)
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    method : str
        "DOP853", "RK45", "RK23", "LSODA", or for stiff problems "Radau", "BDF" (small ones: they form a Jacobian).
    rtol, atol : float
        Tolerances of scipy's `solve_ivp`. `atol` is by default `rtol` times the largest entry of the start, at most
        `rtol`.

    Returns
    -------
    TuckerPath

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN or infinity, times that are negative or not sorted, an unknown method.
    RuntimeError
        The solver gave up or left the finite numbers; its message is passed on.

    Examples
    --------
    From small factors nothing happens for about ``1 / (lambda eps^2)``:

    >>> start = Tucker(np.zeros((1, 1, 1)), tuple(0.1 * np.eye(2, 1) for _ in range(3)))
    >>> target = np.zeros((2, 2, 2))
    >>> target[0, 0, 0] = 1.0
    >>> integrate(target, start, [0.0, 50.0, 110.0]).mode_singular_values(0)[:, 0].round(3).tolist()
    [0.0, 0.0, 1.0]
    """
    core, factors = _tensors.core_and_factors("start", start)
    goal = _stacks.goal(target, tuple(len(a) for a in factors))
    t = np.atleast_1d(_factors.moments(times))
    shapes = [core.shape, *(a.shape for a in factors)]

    def slope(x: np.ndarray) -> np.ndarray:
        return _stacks.pack(*_stacks.slopes(goal, *_stacks.unpack(x, shapes)))

    found = _ode.states(slope, _stacks.pack(core, factors), t, method, rtol, atol)
    return TuckerPath(t, *_stacks.unpack(found, shapes))


def descend(target: ArrayLike, start: Tucker, *, steps: int, step_size: float, every: int = 1) -> TuckerPath:
    """Gradient descent on core and factors together.

    Parameters
    ----------
    target : array_like, shape (d_1, ..., d_N)
    start : Tucker, or any pair of a core (r_1, ..., r_N) and N factors (d_k, r_k)
    steps : int
        How many, >= 1.
    step_size : float
        > 0. For a target of norm 1 and orthonormal factors 0.2 is safe; a target of norm lambda asks for about
        ``lambda^{-2N/(N+1)}`` times that where it is above 1.
    every : int
        Keep every so many steps; the first state and the last are always kept.

    Returns
    -------
    TuckerPath
        Its times are the number of steps times `step_size`.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN, counts that are no integers or below 1, or steps so large that the factors overflow.

    Examples
    --------
    >>> target = np.random.default_rng(0).standard_normal((3, 3, 3))
    >>> start = start_point("orthonormal", (3, 3, 3), (3, 3, 3), rng=1)
    >>> descend(target, start, steps=400, step_size=0.02, every=200).errors(target).round(3).tolist()
    [4.356, 0.0, 0.0]
    """
    core, factors = _tensors.core_and_factors("start", start)
    goal = _stacks.goal(target, tuple(len(a) for a in factors))
    count, kept = _validate.integer("steps", steps, 1), _validate.integer("every", every, 1)
    h = _validate.positive("step_size", step_size)
    states, times = [(core, factors)], [0.0]
    for step in range(1, count + 1):
        core, factors = _stacks.moved(goal, core, factors, h, step)
        if step % kept == 0 or step == count:
            states.append((core, factors)), times.append(step * h)
    stacked = tuple(np.array([factors[k] for _, factors in states]) for k in range(goal.ndim))
    return TuckerPath(np.array(times), np.array([core for core, _ in states]), stacked)


def tucker_balance(core: ArrayLike, factors: Sequence[ArrayLike]) -> tuple[np.ndarray, ...]:
    """``A_k'A_k - G_(k) G_(k)'`` for every mode, which gradient flow leaves as it is.

    The counterpart of P2 lemma 4.1, which P2 does not give for Tucker factors. Hence for "core-zero" starts
    ``A_k'A_k = eps^2 I + G_(k) G_(k)'`` at all times, and a core of one entry g has ``|a|^2 = eps^2 + g^2``.

    Parameters
    ----------
    core : array_like, shape (..., r_1, ..., r_N)
    factors : sequence of array_like, shapes (..., d_k, r_k)
        Or stacks of them along a path, as in `TuckerPath`.

    Returns
    -------
    tuple of ndarray, shapes (..., r_k, r_k)

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN or infinity.

    Examples
    --------
    >>> start = start_point("core-zero", (4, 5, 6), (1, 2, 2), eps=0.1, rng=0)
    >>> [bool(np.allclose(x, 0.01 * np.eye(len(x)))) for x in tucker_balance(*start)]
    [True, True, True]
    """
    g, matrices = _stacks.checked(core, factors)
    unfolded = [_stacks.unfold(g, k, batch=g.ndim - len(matrices)) for k in range(len(matrices))]
    pairs = zip(matrices, unfolded, strict=True)
    return tuple(_factors.transpose(a) @ a - x @ _factors.transpose(x) for a, x in pairs)


def tucker_balance_defect(core: ArrayLike, factors: Sequence[ArrayLike]) -> float | np.ndarray:
    """How far the balance of the worst mode is from a multiple of the identity, relative to the size of core and factors.

    As `companion.balance.balance_defect`: ``||D_k - c_k I||_2 / (tr(A_k'A_k + G_(k) G_(k)') / r_k)`` with
    ``D_k = A_k'A_k - G_(k) G_(k)'`` and ``c_k = tr(D_k) / r_k``.

    Parameters
    ----------
    core : array_like, shape (..., r_1, ..., r_N)
    factors : sequence of array_like, shapes (..., d_k, r_k)

    Returns
    -------
    float or ndarray, shape (...)
        0 for "core-zero" and "orthonormal" starts, and along the flow from them.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN or infinity.

    Examples
    --------
    >>> starts = {kind: start_point(kind, (9, 9, 9), (3, 3, 3), eps=0.1, rng=0) for kind in ("core-zero", "small")}
    >>> {kind: round(tucker_balance_defect(*start), 2) for kind, start in starts.items()}
    {'core-zero': 0.0, 'small': 0.11}
    """
    g, matrices = _stacks.checked(core, factors)
    energy, worst = np.sum(g**2, axis=tuple(range(-len(matrices), 0))), 0.0
    for a, difference in zip(matrices, tucker_balance(g, matrices), strict=True):
        r = a.shape[-1]
        constant = np.trace(difference, axis1=-2, axis2=-1) / r
        rest = np.linalg.norm(difference - constant[..., None, None] * np.eye(r), ord=2, axis=(-2, -1))
        size = (np.sum(a**2, axis=(-2, -1)) + energy) / r
        worst = np.maximum(worst, np.divide(rest, size, out=np.zeros_like(size), where=size > 0))
    return worst if np.ndim(worst) else float(worst)
