"""The flow seen along the modes of the target: P2's appendix C, as printed and corrected.

`projections` gives ``Phi_i``, ``alpha_i``, ``beta_i`` (P2 eq. 13) of any factors, and `Projections.right_sides` what
lemma C.1 and the reduced system say of their rates of change beside what the rates are. Letters as in
`companion.gradient_flow`: the target is ``sum_i lambda_i u_i v_i'``, ``M = A B``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _factors, _validate
from companion._factors import transpose

__all__ = ["Projections", "projections", "reduced_system"]

SIDES = ("printed", "reduced", "corrected", "exact")


@dataclass(frozen=True)
class Projections:
    """Factors seen along the modes of a target, for all pairs of modes.

    The diagonals are P2 eq. 13.

    Attributes
    ----------
    strengths : ndarray, shape (s,)
        lambda_i.
    phi : ndarray, shape (..., s, s)
        ``u_i' M v_j``; Phi_i on the diagonal, the misalignment off it (P2 appendix C.4).
    alpha, beta : ndarray, shape (..., s, s)
        ``u_i' A A' u_j`` and ``v_i' B'B v_j``; alpha_i and beta_i on the diagonal.
    phi_rate, gamma_rate : ndarray, shape (..., s)
        What the flow does: ``d Phi_i/dt`` and ``d(alpha_i + beta_i)/dt``, from the factors, without differences.
    """

    strengths: np.ndarray
    phi: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    phi_rate: np.ndarray
    gamma_rate: np.ndarray

    @property
    def gamma(self) -> np.ndarray:
        """``alpha_i + beta_i``, shape (..., s) (P2 eq. 17-18)."""
        return _diagonal(self.alpha) + _diagonal(self.beta)

    @property
    def coupling(self) -> np.ndarray:
        """``E_ij``, shape (..., s, s), read as ``u_i'AA'u_j - v_i'B'Bv_j``; i = j is set to 0.

        P2 lemma C.1 prints ``u_i'(AA' - BB')u_j``, where AA' is m x m and BB' is r x r; its proof uses
        ``u_i'(A'A - BB')u_j``, which asks for r = m and is then 0 by the balance.
        """
        return (self.alpha - self.beta) * (1 - np.eye(self.strengths.size))

    def right_sides(self, form: str = "printed") -> tuple[np.ndarray, np.ndarray]:
        """What a formula says of ``d Phi_i/dt`` and ``d gamma_i/dt``.

        Parameters
        ----------
        form : str
            "printed": P2 eq. 14-15, with ``v_i'Mv_j`` (which asks for m = n) read as ``u_i'Mv_j``. "reduced": P2 eq. 17-18,
            the same without coupling. "corrected": eq. 17 with ``4 (lambda_i - Phi_i) Phi_i`` for eq. 18, which holds
            when a mode is aligned. "exact": `phi_rate` and `gamma_rate`.

        Returns
        -------
        (ndarray, ndarray), each of shape (..., s)

        Raises
        ------
        ValueError
            An unknown form.
        """
        _factors.choice("form", form, SIDES)
        if form == "exact":
            return self.phi_rate, self.gamma_rate
        own = _diagonal(self.phi)
        rates = reduced_system(own, self.gamma, self.strengths, corrected=form == "corrected")
        coupled = np.sum(self.coupling * self.phi, axis=-1) if form == "printed" else 0.0
        return rates[0] - coupled, rates[1]


def projections(target: ArrayLike, a: ArrayLike, b: ArrayLike) -> Projections:
    """``Phi``, ``alpha`` and ``beta`` of factors along the modes of the target, with their exact rates of change.

    Parameters
    ----------
    target : array_like, shape (m, n)
    a : array_like, shape (..., m, r)
    b : array_like, shape (..., r, n)
        Factors, or stacks of them along a path; a rotation between them changes nothing (`ExactFlow.factors`).

    Returns
    -------
    Projections

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or infinity.

    Examples
    --------
    One aligned mode: the printed right side of eq. 15 is not what happens, the corrected one is.

    >>> seen = projections([[2.0]], [[0.5]], [[0.4]])
    >>> [round(float(seen.right_sides(form)[1][0]), 3) for form in ("exact", "printed", "corrected")]
    [1.44, 1.476, 1.44]
    """
    goal = _factors.matrix("target", target)
    a, b = _validate.reals("a", a), _validate.reals("b", b)
    m, n = goal.shape
    if a.ndim < 2 or b.ndim < 2 or a.shape[-2] != m or b.shape[-1] != n or not a.shape[-1] == b.shape[-2] >= 1:
        raise ValueError(f"a and b must have shapes (..., {m}, r) and (..., r, {n}) r >= 1, got {a.shape} and {b.shape}")
    left, strengths, right = _factors.svd(goal)
    p, q = left.T @ a, b @ right  # (..., s, r) and (..., r, s)
    aa, bb = transpose(a) @ a, b @ transpose(b)
    phi, alpha, beta = p @ q, p @ transpose(p), transpose(q) @ q
    lost = _diagonal(p @ (aa + bb) @ q)
    norms = _diagonal(p @ bb @ transpose(p)) + _diagonal(transpose(q) @ aa @ q)  # ||M'u_i||^2 + ||Mv_i||^2
    return Projections(
        strengths,
        phi,
        alpha,
        beta,
        phi_rate=strengths * (_diagonal(alpha) + _diagonal(beta)) - lost,
        gamma_rate=4 * strengths * _diagonal(phi) - 2 * norms,
    )


def reduced_system(
    phi: ArrayLike, gamma: ArrayLike, strengths: ArrayLike, corrected: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Right sides of P2's two equations for one mode: ``(lambda - Phi) gamma`` and ``2 (lambda - Phi) gamma``.

    As printed (eq. 17-18), gamma is 2 Phi plus a constant and Phi follows a logistic curve, no tanh^2. With
    ``4 (lambda - Phi) Phi`` in place of eq. 18, ``gamma^2 - 4 Phi^2`` is constant and Phi follows the scalar law.

    Parameters
    ----------
    phi, gamma : array_like, shape (..., s)
        ``Phi_i`` and ``alpha_i + beta_i``.
    strengths : array_like, shape (s,), or float
        lambda_i.
    corrected : bool
        Eq. 18 as it should be.

    Returns
    -------
    (ndarray, ndarray), each of shape (..., s)
        ``d Phi/dt`` and ``d gamma/dt``.

    Raises
    ------
    ValueError
        NaN or infinity.

    Examples
    --------
    >>> [float(side) for side in reduced_system(0.5, 1.0, 2.0)]
    [1.5, 3.0]
    """
    x, g = _validate.reals("phi", phi), _validate.reals("gamma", gamma)
    rest = _validate.reals("strengths", strengths) - x
    return rest * g, rest * x * 4 if corrected else rest * g * 2


def _diagonal(x: np.ndarray) -> np.ndarray:
    return np.diagonal(x, axis1=-2, axis2=-1)
