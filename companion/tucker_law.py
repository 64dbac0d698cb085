"""One component of a Tucker factorisation on its own, and what P2's lemma F.1 says of several.

A core of one entry g between N aligned factors of length a each, towards a target of strength lambda, follows::

    dg/dt = (lambda - g a^N) a^N,    a^2 = c + g^2,

as ``a^2 - g^2 = c`` is conserved. From factors of size eps and a zero core ("core-zero") c is eps^2, from all of size
eps ("small") it is 0. Factors that start with different lengths eps_k along the component have c_k each, and ``a_1 ...
a_N`` stands for a^N: so a random start can be read, with ``eps_k = ||A_k(0)'u_k||``, about ``sqrt(r_k / d_k)`` for
orthonormal factors. The learned strength ``g a^N`` reaches half of lambda at a time that is a *power* of eps, about
``1 / (lambda eps^2)`` and ``1 / (2 lambda eps^2)`` for N = 3. P2 theorem 5.1 says that it follows the tanh^2 law of
matrix LoRA, whose time is a logarithm. N = 1 is matrix LoRA, and `companion.scalar_flow` its closed form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import beta

from companion import _factors, _stacks, _tensors, _validate
from companion._tucker_clock import Clock
from companion.tucker import Tucker

__all__ = ["Coupling", "GramDefect", "coupling", "gram_defect", "tucker_half_time", "tucker_scalar_flow"]

STARTS = ("small", "core-zero", "orthonormal")


def tucker_scalar_flow(
    times: ArrayLike, strength: float, eps: ArrayLike | None = None, start: str = "core-zero", order: int = 3
) -> np.ndarray:
    """The learned strength ``g a^N`` of one aligned component: P2 theorem 5.1 for a target of rank one.

    Parameters
    ----------
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    strength : float
        lambda > 0.
    eps : float, optional
        > 0, for "small" and "core-zero"; for "core-zero" also N numbers, one for each factor.
    start : str
        "core-zero" (a = eps, g = 0), "orthonormal" (a = 1, g = 0) or "small" (a = g = eps), as in
        `companion.tucker_flow.start_point`, where the sign of the core is random; here it is that of the target. With the
        other sign such an aligned start runs into the saddle at 0 and stays there.
    order : int
        N >= 1, the number of factors.

    Returns
    -------
    ndarray, shape (T,)
        A float for a single time. From the time as a function of the value, by quadrature: right to a shift of the time by
        about 5e-15 of it, and so to 1e-8 of lambda where the rise comes before ``1e6 / lambda``.

    Raises
    ------
    TypeError, ValueError
        Numbers out of range, times that are not sorted, an unknown start, or eps missing or given in vain.

    Examples
    --------
    >>> tucker_scalar_flow([0.0, 9.0, 10.8, 13.0], 1.0, eps=0.3).round(3)
    array([0.   , 0.051, 0.492, 1.   ])
    """
    t, power = _factors.moments(times), _validate.integer("order", order, 1)
    goal = _validate.positive("strength", strength)
    g, constants = _start(start, eps, power)
    return _factors.like(t, Clock(goal, g, constants).strengths(np.atleast_1d(t)))


def tucker_half_time(
    strength: float,
    eps: ArrayLike | None = None,
    start: str = "core-zero",
    order: int = 3,
    fraction: float = 0.5,
    leading: bool = False,
) -> float:
    """When one aligned component has a fraction of its strength, by quadrature; or the leading term of it for small eps.

    The leading term is ``B(1/2, (N-1)/2) / 2 / (lambda eps^(N-1))`` from "core-zero" (B is the beta function) and
    ``1 / ((N-1) lambda eps^(N-1))`` from "small", whatever the fraction: for N = 3 ``1 / (lambda eps^2)`` and
    ``1 / (2 lambda eps^2)``. Matrix LoRA's is logarithmic (`companion.scalar_flow.activation_times`).

    Parameters
    ----------
    strength : float
        lambda > 0.
    eps : float, optional
        As for `tucker_scalar_flow`; one number for the leading term.
    start : str
        As for `tucker_scalar_flow`.
    order : int
        N >= 1; at least 2 for the leading term.
    fraction : float
        Between 0 and 1.
    leading : bool
        The leading term instead of the time itself.

    Returns
    -------
    float
        0 where the start is there already.

    Raises
    ------
    TypeError, ValueError
        As for `tucker_scalar_flow`; the leading term for N = 1 or for the start "orthonormal", which has no small eps.

    Examples
    --------
    >>> [round(tucker_half_time(1.0, eps), 1) for eps in (0.3, 0.1, 0.03)]
    [10.8, 99.7, 1110.8]
    """
    goal, power = _validate.positive("strength", strength), _validate.integer("order", order, 1)
    level = _validate.probability("fraction", fraction)
    g, constants = _start(start, eps, power)
    if leading:
        if power == 1 or start == "orthonormal" or np.ndim(eps):
            raise ValueError(f"leading: needs order >= 2 and one small eps, got order {power}, {start!r} and eps {eps!r}")
        ahead = beta(0.5, (power - 1) / 2) / 2 if start == "core-zero" else 1 / (power - 1)
        return float(ahead / (goal * eps ** (power - 1)))
    return Clock(goal, g, constants).time(level)


def _start(start: str, eps: ArrayLike | None, order: int) -> tuple[float, np.ndarray]:
    """g(0) and the conserved ``a_k^2 - g^2``, shape (N,)."""
    _factors.choice("start", start, STARTS)
    if (eps is None) != (start == "orthonormal"):
        raise ValueError(f"eps must be given for 'small' and 'core-zero', not for 'orthonormal', got {eps!r} and {start!r}")
    sizes = np.ones(()) if eps is None else _validate.reals("eps", eps)
    if sizes.shape not in [(), (order,)][: 1 if start == "small" else 2] or np.any(sizes < 1e-150):
        raise ValueError(f"eps must be > 0 (1e-150 at least), one number or, for 'core-zero', {order} of them, got {eps!r}")
    squares = np.broadcast_to(sizes**2, order)
    return (float(sizes), np.zeros(order)) if start == "small" else (0.0, squares)


@dataclass(frozen=True)
class GramDefect:
    """How far ``A A'`` of a factor with orthonormal columns is from ``(r/d) I``.

    Attributes
    ----------
    frobenius : float
        ``||A A' - (r/d) I||_F``; ``sqrt(r (1 - r/d))`` for any A with orthonormal columns.
    spectral : float
        ``||A A' - (r/d) I||_2``; ``max(1 - r/d, r/d)``. No multiple of I is nearer than 1/2 for r < d.
    printed : float
        ``sqrt(r^3 / d^2)``, the order that P2's proof of lemma F.1 prints for the first.
    """

    frobenius: float
    spectral: float
    printed: float


def gram_defect(factor: ArrayLike) -> GramDefect:
    """P2 lemma F.1's step ``A A' ~ I/d`` (its next line: ``~ (r/d) I``) on a factor.

    ``A A'`` has rank r, the identity rank d: for r < d they are not close, whatever d is.

    Parameters
    ----------
    factor : array_like, shape (d, r)
        Divided by its root mean square singular value first.

    Returns
    -------
    GramDefect

    Raises
    ------
    TypeError, ValueError
        No matrix, zero, NaN or infinity.

    Examples
    --------
    >>> found = gram_defect(np.eye(768, 4))
    >>> round(found.frobenius, 3), round(found.spectral, 3), round(found.printed, 3)
    (1.995, 0.995, 0.01)
    """
    a = _factors.matrix("factor", factor)
    d, r = a.shape
    if not np.any(a):
        raise ValueError("factor must not be zero")
    squares = np.zeros(d)  # eigenvalues of A A', with those that are 0
    values = np.linalg.svd(a / np.max(np.abs(a)), compute_uv=False)
    squares[: values.size] = values**2 * (r / np.sum(values**2))
    apart = squares - r / d
    return GramDefect(float(np.linalg.norm(apart)), float(np.max(np.abs(apart))), float(np.sqrt(r**3) / d))


@dataclass(frozen=True)
class Coupling:
    """The terms between modes in the equation of one factor, beside P2's bound.

    Attributes
    ----------
    measured : float
        Frobenius norm of the part of ``U_k' dA_k/dt`` that the scalar equations leave out.
    own : float
        Frobenius norm of the part that they keep.
    printed : float
        ``(r_k / d_k) ||Delta T - T*||_F``, P2 eq. 27 without its constant.
    """

    measured: float
    own: float
    printed: float

    @property
    def constant(self) -> float:
        """The C_k that eq. 27 needs at this point; infinite where the bound is 0."""
        return self.measured / self.printed if self.printed else float("inf") if self.measured else 0.0


def coupling(target: ArrayLike, tucker: Tucker, mode: int) -> Coupling:
    """Inter-modal coupling in the equation of factor k, as P2 appendix F.2 and lemma F.1 (eq. 27) have it.

    With the singular vectors u_i, v_i of the target's unfolding and ``P = Delta T``'s unfolding without A_k, eq. 26
    projected on u_i is ``u_i' dA_k/dt = (u_i' R_(k) v_i) v_i'P' + the rest``. P2's scalar equations keep the first term
    only; the rest, for all i together, is the coupling. P2 defines the word nowhere; this is our reading.

    Parameters
    ----------
    target : array_like, shape (d_1, ..., d_N)
    tucker : Tucker, or any pair of a core (r_1, ..., r_N) and N factors (d_k, r_k)
        A point of the flow. The bound is meant for factors of size 1; with small ones both sides of eq. 27 differ by
        powers of that size.
    mode : int
        k from 0; negative from the end.

    Returns
    -------
    Coupling

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, NaN or infinity, or no such mode.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> factors = tuple(np.linalg.qr(rng.standard_normal((8, 2)))[0] for _ in range(3))
    >>> found = coupling(rng.standard_normal((8, 8, 8)), Tucker(rng.standard_normal((2, 2, 2)), factors), 0)
    >>> round(found.measured / found.own, 1), round(found.constant, 1)
    (0.6, 0.7)
    """
    core, factors = _tensors.core_and_factors("tucker", tucker)
    goal = _stacks.goal(target, tuple(len(a) for a in factors))
    k = _tensors.mode_index(mode, goal.ndim)
    left, _, right = _factors.svd(_stacks.unfold(goal, k))
    rest = goal - _stacks.multiply(core, factors)
    others = _stacks.unfold(_stacks.multiply(core, factors, skip=k), k)  # (r_k, product of the others)
    seen = left.T @ _stacks.unfold(rest, k)  # (s, product of the others)
    own = np.sum(seen * right.T, axis=1, keepdims=True) * (right.T @ others.T)
    measured = seen @ others.T - own
    bound = factors[k].shape[1] / factors[k].shape[0] * np.linalg.norm(rest)
    return Coupling(float(np.linalg.norm(measured)), float(np.linalg.norm(own)), float(bound))
