"""Gradient flow of a product ``A B`` towards a target, solved exactly: P2's model of LoRA in the linearised regime.

``A`` is m x r, ``B`` is r x n, the target ``M*`` (P2: the oracle update) is m x n, and the flow of the loss
``||A B - M*||_F^2 / 2`` is::

    dA/dt = (M* - A B) B',    dB/dt = A' (M* - A B)    (P2 eq. 1-2).

P2 starts from ``A(0) = eps * (orthonormal columns)`` and ``B(0) = 0``. Then ``A'A - B B'`` is ``eps^2 I`` at all times
(P2 lemma 4.1), and `ExactFlow` has the solution in closed form; so it has for any start with ``A'A - B B' = c I``, c of
either sign. Other starts: `companion.flow_numerics.integrate`. One mode on its own: `companion.scalar_flow`. What P2
prints: `companion.tanh_law` (theorem 4.2) and `companion.projected_flow` (appendix C).

In PEFT, ``delta_W (out, in) = scaling * lora_B (out, r) @ lora_A (r, in)``, the random factor is on the input side: P2
transposed. With ``a0 = sqrt(scaling) * lora_A.T``, ``b0 = sqrt(scaling) * lora_B.T`` and the target ``delta_W.T`` this
module's ``A B`` is ``delta_W.T``, and its time is ``scaling`` times that of the flow of lora_A and lora_B.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import blas

from companion import _factors
from companion._factors import transpose
from companion.balance import balance, balance_defect

__all__ = ["ExactFlow", "balance", "balance_defect"]

MAX_EXPONENT = 8.0  # of e^{Fh} in one step; 20 costs eight digits, at 30 the Cholesky factor does not exist
PAUSE, MAX_STEPS = 64, 10**6  # steps from one look at whether the limit is reached to the next, and in all


class ExactFlow:
    """The flow from a balanced start, at any time, without integration.

    With ``A(0)'A(0) - B(0)B(0)' = c I`` the stacked factor ``Q = [A; B']`` obeys ``dQ/dt = F Q - Q Q'Q / 2`` with
    ``F = [[c/2 I, M*], [M*', -c/2 I]]``. One step of length h is ``Q <- e^{Fh} Q L^{-T}`` with
    ``L L' = I + Q' (integral_0^h e^{2Fs} ds) Q`` (Fukumizu 1998; Saxe, McClelland and Ganguli 2014; Braun et al. 2022).
    F has the eigenvalues ``+-sqrt(lambda_i^2 + c^2/4)``, ``+c/2`` (m - s times) and ``-c/2`` (n - s times).

    Everything happens in a basis of ``span(U, A(0))`` and ``span(V, B(0)')``, of at most 2 s + 2 r directions, from
    ``B(0) = 0`` with at most s columns: after one decomposition of the target the work does not depend on m and n.

    Parameters
    ----------
    target : array_like, shape (m, n)
        ``M*``; zero and repeated singular values are fine.
    a0 : array_like, shape (m, r)
        ``A(0)``, of any scale (P2: eps times orthonormal columns).
    b0 : array_like, shape (r, n), optional
        ``B(0)``, zero by default.
    tolerance : float
        Largest `balance_defect` of the start that is accepted. With ``inf`` the law is applied to any start, with
        ``c = tr(A'A - B B') / r``: then it is an approximation, whose error can be looked at.

    Attributes
    ----------
    constant : float
        c, for P2's start eps^2.
    strengths : ndarray, shape (s,)
        ``lambda_1 >= ... >= lambda_s > 0``, the singular values of the target that exceed rounding.
    left, right : ndarray, shapes (m, s) and (n, s)
        Its singular vectors U and V.

    Raises
    ------
    ValueError
        Shapes that do not fit, r = 0, NaN or infinity, or a start that is not balanced; the message has its defect.

    Notes
    -----
    ``Q`` is found up to a rotation of its columns: ``A B``, ``A A'`` and ``B'B`` are exact, ``A`` and ``B`` are not. The
    work grows with ``lambda_1 t`` until the update rests within 1e-10 of its limit; after 10^6 steps there is an error.

    Examples
    --------
    Two modes of a 4 x 3 target, learned one after the other:

    >>> target = np.diag([2.0, 1.0, 0.0, 0.0])[:, :3]
    >>> start = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0]
    >>> flow = ExactFlow(target, 0.01 * start)
    >>> flow.singular_values([0, 3, 6, 12]).round(2).tolist()
    [[0.0, 0.0], [0.25, 0.0], [2.0, 0.29], [2.0, 1.0]]
    """

    def __init__(self, target: ArrayLike, a0: ArrayLike, b0: ArrayLike | None = None, tolerance: float = 1e-10) -> None:
        goal, a, b = _factors.start(target, a0, b0)
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0, got {tolerance!r}")
        r = a.shape[1]
        self.constant = float(np.sum(a * a) - np.sum(b * b)) / r
        if (defect := balance_defect(a, b)) > tolerance:
            raise ValueError(
                f"a0 and b0 are not balanced: A'A - B B' is {self.constant:.3g} times the identity only up to a relative "
                f"{defect:.2g}, accepted is {tolerance:.1g}; companion.flow_numerics.integrate takes any start"
            )
        self.left, self.strengths, self.right = _factors.svd(goal)
        self._shape, self._rank = goal.shape, min(r, *goal.shape)
        self._surplus = a[:, r:]
        if not np.any(b) and r > (kept := max(self.strengths.size, 1)):
            # Columns of A orthogonal to U: with B = 0 they stay as they are, and their rows of B stay 0.
            a = a @ np.linalg.qr(a.T @ self.left, mode="complete")[0]
            a, self._surplus, b = a[:, :kept], a[:, kept:], b[:kept]
        self._left, a = _factors.coordinates(self.left, a)
        self._right, b = _factors.coordinates(self.right, b.T)
        s, half = self.strengths.size, self.constant / 2
        # Eigenvectors of F for mode i: (cos u_i; sin v_i) and (-sin u_i; cos v_i), tan(2 angle) = lambda_i / (c/2).
        self._cos = np.sin(np.arctan2(self.strengths, -half) / 2)[:, None]
        self._sin = np.sin(np.arctan2(self.strengths, half) / 2)[:, None]
        plus, minus = self._cos * a[:s] + self._sin * b[:s], self._cos * b[:s] - self._sin * a[:s]
        self._start = np.vstack([plus, minus, a[s:], b[s:]])  # (d, r) with d <= 2s + 2r; (d, s) from B = 0 with r > s
        mode = np.hypot(self.strengths, half)
        self._rates = np.concatenate([mode, -mode, np.full(len(a) - s, half), np.full(len(b) - s, -half)])
        self._cuts = [s, 2 * s, s + len(a)]

    def factors(self, times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """``A(t)`` and ``B(t)`` up to a rotation: ``A R`` and ``R'B`` with an orthogonal R that depends on t.

        Parameters
        ----------
        times : array_like, shape (T,), or float
            Sorted, >= 0.

        Returns
        -------
        (ndarray, ndarray), shapes (T, m, r) and (T, r, n)
            Without the first dimension for a single time.

        Raises
        ------
        ValueError
            Times that are negative, not sorted, NaN or infinite.
        """
        a, b = self._reduced(t := _factors.moments(times))
        surplus = np.broadcast_to(self._surplus, (len(a), *self._surplus.shape))
        a = np.concatenate([self._left @ a, surplus], axis=-1)
        b = np.concatenate([b @ self._right.T, np.zeros((len(b), surplus.shape[-1], self._shape[1]))], axis=-2)
        return _factors.like(t, a), _factors.like(t, b)

    def update(self, times: ArrayLike) -> np.ndarray:
        """``M(t) = A(t) B(t)``.

        Parameters
        ----------
        times : array_like, shape (T,), or float
            Sorted, >= 0.

        Returns
        -------
        ndarray, shape (T, m, n)
            Without the first dimension for a single time. T m n numbers: for spectra there is `singular_values`.

        Raises
        ------
        ValueError
            Times that are negative, not sorted, NaN or infinite.
        """
        a, b = self._reduced(t := _factors.moments(times))
        return _factors.like(t, self._left @ (a @ b) @ self._right.T)

    def singular_values(self, times: ArrayLike) -> np.ndarray:
        """Singular values of ``M(t)``, from large to small at each time (P2: sigma_i(t)).

        Parameters
        ----------
        times : array_like, shape (T,), or float
            Sorted, >= 0.

        Returns
        -------
        ndarray, shape (T, min(r, m, n))
            Without the first dimension for a single time. From ``B(0) = 0`` all beyond the s-th are exactly 0: the rows of
            B never leave span(V).

        Raises
        ------
        ValueError
            Times that are negative, not sorted, NaN or infinite.
        """
        found = _factors.product_singular_values(*self._reduced(t := _factors.moments(times)))
        values = np.zeros((len(found), self._rank))
        values[:, : found.shape[1]] = found[:, : self._rank]
        return _factors.like(t, values)

    def mode_amplitudes(self, times: ArrayLike) -> np.ndarray:
        """``u_i' M(t) v_i``, how much of each mode of the target is learned (P2 eq. 13: Phi_i).

        Parameters
        ----------
        times : array_like, shape (T,), or float
            Sorted, >= 0.

        Returns
        -------
        ndarray, shape (T, s)
            In the order of `strengths`, whatever the singular values of ``M(t)`` are. For repeated strengths the modes
            are those of one of many bases.

        Raises
        ------
        ValueError
            Times that are negative, not sorted, NaN or infinite.
        """
        a, b = self._reduced(t := _factors.moments(times))
        s = self.strengths.size
        return _factors.like(t, np.sum(a[:, :s] * transpose(b)[:, :s], axis=-1))

    def error(self, times: ArrayLike) -> float | np.ndarray:
        """``||M(t) - M*||_F``; half its square is the loss.

        Parameters
        ----------
        times : array_like, shape (T,), or float
            Sorted, >= 0.

        Returns
        -------
        float or ndarray, shape (T,)

        Raises
        ------
        ValueError
            Times that are negative, not sorted, NaN or infinite.
        """
        a, b = self._reduced(t := _factors.moments(times))
        distance = np.linalg.norm(a @ b - self._goal(), axis=(-2, -1))
        return distance if t.ndim else float(distance[0])

    def limit(self) -> np.ndarray:
        """``M(t)`` for t to infinity.

        From a generic start the best approximation of the target of rank r (P2 theorems 4.2c and 4.3a). A mode that the
        start does not hold, up to 1e-12 of its norm, is not learned, and among equal strengths the start decides.

        Returns
        -------
        ndarray, shape (m, n)
        """
        return self._left @ self._limit() @ self._right.T

    def _limit(self) -> np.ndarray:
        """The limit in the reduced basis: what fills the columns of Q, from the fastest modes on."""
        s = self.strengths.size
        rows, used = self._start[:s], np.zeros((self._start.shape[1], 0))
        least = 1e-12 * np.linalg.norm(self._start)
        update = np.zeros_like(self._goal())
        ends = np.flatnonzero(np.diff(self.strengths) < -1e-10 * self.strengths[:-1]) + 1
        for low, high in pairwise([0, *ends, s] if s else []):
            block = rows[low:high] - rows[low:high] @ used @ used.T
            u, values, vt = np.linalg.svd(block, full_matrices=False)
            k = int(np.sum(values > least))
            update[low:high, low:high] = u[:, :k] @ u[:, :k].T * self.strengths[low:high].mean()
            used = np.hstack([used, vt[:k].T])
        return update

    def _goal(self) -> np.ndarray:  # the target in the reduced basis
        goal = np.zeros((self._left.shape[1], self._right.shape[1]))
        np.fill_diagonal(goal[: self.strengths.size], self.strengths)
        return goal

    def _reduced(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``A`` and ``B`` at each time in the reduced bases, shapes (T, p, r) and (T, r, q)."""
        q, now, states = self._start, 0.0, []
        for time in np.atleast_1d(times):
            q, now = self._advance(q, time - now), time
            states.append(q)
        return self._unstack(np.array(states))

    def _unstack(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        plus, minus, a, b = np.split(q, self._cuts, axis=-2)
        a = np.concatenate([self._cos * plus - self._sin * minus, a], axis=-2)
        return a, transpose(np.concatenate([self._sin * plus + self._cos * minus, b], axis=-2))

    def _advance(self, q: np.ndarray, span: float) -> np.ndarray:
        steps = max(1, int(np.ceil(np.max(np.abs(self._rates)) * span / MAX_EXPONENT))) if span else 0
        before = None
        for k in range(steps):
            if k % PAUSE == PAUSE - 1:
                before, arrived = self._arrived(q, before)
                if arrived:
                    break
                if k > MAX_STEPS:
                    raise ValueError(f"times: {span:.3g} more takes {steps:.1g} steps, M(t) is still moving; see limit()")
            q = _step(q, self._rates, span / steps)
        return q

    def _arrived(self, q: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """The update, and whether it is at its limit and stays there."""
        a, b = self._unstack(q)
        size, update = np.linalg.norm(self.strengths), a @ b
        rests = before is not None and np.linalg.norm(update - before) <= 1e-12 * size
        return update, bool(rests and np.linalg.norm(update - self._limit()) <= 1e-10 * size)


def _step(q: np.ndarray, rates: np.ndarray, h: float) -> np.ndarray:
    """``Q <- e^{Fh} Q L^{-T}``, rows of Q along the eigenvectors of F with eigenvalues `rates`."""
    integral = np.divide(np.expm1(2 * rates * h), 2 * rates, out=np.full_like(rates, h), where=rates != 0)
    lower = np.linalg.cholesky(np.eye(q.shape[1]) + q.T @ (integral[:, None] * q))
    return blas.dtrsm(1.0, lower, np.exp(rates * h)[:, None] * q, side=1, lower=1, trans_a=1)
