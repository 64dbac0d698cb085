"""One mode on its own: the scalar law of gradient flow, its logistic limit, seeds and activation times.

A mode of strength lambda (a singular value of the target) that starts aligned, with ``a^2 - b^2 = k`` for its two
factors, follows::

    d Phi/dt = (lambda - Phi) sqrt(4 Phi^2 + k^2),    Phi(0) = 0,

where ``Phi = u'Mv`` and k, the *seed strength*, is conserved; k -> 0 gives a logistic curve of rate 2 lambda. From P2's
start, ``A(0) = eps * (orthonormal columns)`` and ``B(0) = 0``, mode i behaves like this with ``k_i = eps^2 R_ii^2``, R
from the QR factorisation of ``(U' A(0) / eps)'`` with the modes by decreasing strength: what the stronger modes have
taken of A's columns is not there for a weaker one (`seed_strengths`). This holds for separated strengths and small eps;
`companion.gradient_flow.ExactFlow` needs neither.
"""

import numpy as np
from numpy.typing import ArrayLike

from companion import _factors, _validate

__all__ = ["activation_times", "crossing_times", "late_rate", "logistic", "scalar_flow", "seed_strengths"]


def scalar_flow(times: ArrayLike, strengths: ArrayLike, seeds: ArrayLike) -> np.ndarray:
    """The solution of ``d Phi/dt = (lambda - Phi) sqrt(4 Phi^2 + k^2)`` from ``Phi(0) = 0``, in closed form.

    With ``Phi = (k/2) sinh u`` the equation is ``du/dt = 2 lambda - k sinh u``, a Riccati equation in ``e^u``.

    Parameters
    ----------
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    strengths : array_like, shape (s,), or float
        lambda_i >= 0.
    seeds : array_like, shape (s,), or float
        k_i >= 0, in the unit of the strengths; 0 gives a mode that stays 0.

    Returns
    -------
    ndarray, shape (T, s)
        Without the dimension of an argument that is a single number.

    Raises
    ------
    ValueError
        Negative strengths or seeds, of different lengths, or times that are negative, not sorted, NaN or infinite.

    Examples
    --------
    >>> scalar_flow([0.0, 2.0, 4.0], 1.5, 0.01).round(3)
    array([0.   , 0.604, 1.495])
    """
    t, strength, k = _modes(times, strengths, seeds)
    w = np.hypot(strength, k / 2)
    grown, decay = -np.expm1(-2 * w * t), np.exp(-2 * w * t)
    ceiling = 2 * (strength + _ratio(strength**2, w + k / 2))  # k (y+ - 1), where y+ is the limit of y = e^u
    slope = ceiling / (1 + _ratio(k, 2 * (strength + w)))
    height = _ratio(k * ceiling * grown, k + slope * decay)  # k (y - 1)
    return height * (1 + _ratio(k, k + height)) / 4


def logistic(times: ArrayLike, strengths: ArrayLike, seeds: ArrayLike) -> np.ndarray:
    """``lambda / (1 + (4 lambda / k) e^{-2 lambda t})``, the limit of the scalar law for small seeds.

    Parameters
    ----------
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    strengths : array_like, shape (s,), or float
        lambda_i >= 0.
    seeds : array_like, shape (s,), or float
        k_i >= 0.

    Returns
    -------
    ndarray, shape (T, s)
        Without the dimension of an argument that is a single number. About k/4 at time 0, where the scalar law has 0.

    Raises
    ------
    ValueError
        Negative strengths or seeds, of different lengths, or times that are negative, not sorted, NaN or infinite.

    Examples
    --------
    >>> logistic([0.0, 2.0, 4.0], 1.5, 0.01).round(3)
    array([0.002, 0.603, 1.494])
    """
    t, strength, k = _modes(times, strengths, seeds)
    start = _ratio(k, 4 * strength)
    return strength * _ratio(start, start + np.exp(-2 * strength * t))


def seed_strengths(target: ArrayLike, a0: ArrayLike, b0: ArrayLike | None = None) -> np.ndarray:
    """Seed of each mode of the target: ``R_ii^2``, where ``A(0)'U = Q R`` with the modes by decreasing strength.

    ``|R_ii|`` is the length of ``A(0)'u_i`` after what it shares with the stronger modes is projected out. P2's
    ``rho_i = ||A(0)'u_i|| / eps`` (theorem 4.2) leaves out the projection.

    Parameters
    ----------
    target : array_like, shape (m, n)
    a0 : array_like, shape (m, r)
        ``A(0)``, eps included.
    b0 : array_like, shape (r, n), optional
        ``B(0)``. The seeds are then those of ``A(0)'U + B(0)V``, what grows of a small start.

    Returns
    -------
    ndarray, shape (s,)
        k_i >= 0 for the s nonzero singular values of the target, 0 beyond the r-th.

    Raises
    ------
    ValueError
        Shapes that do not fit, r = 0, NaN or infinity.

    Examples
    --------
    >>> seed_strengths(np.diag([2.0, 1.0]), [[0.3, 0.0], [0.4, 0.1]]).round(4)
    array([0.09, 0.01])
    """
    goal, a, b = _factors.start(target, a0, b0)
    u, strengths, v = _factors.svd(goal)
    seeds = np.zeros(strengths.size)
    diagonal = np.diag(np.linalg.qr(a.T @ u + b @ v, mode="r"))
    seeds[: diagonal.size] = diagonal**2
    return seeds


def activation_times(strengths: ArrayLike, seeds: ArrayLike, fraction: float = 0.5) -> np.ndarray:
    """When a mode reaches a fraction of its strength: ``log(4 lambda / k) / (2 lambda)`` for one half.

    From the scalar law, of which the formula above is the limit for small seeds.

    Parameters
    ----------
    strengths : array_like, shape (s,), or float
        lambda_i > 0.
    seeds : array_like, shape (s,), or float
        k_i >= 0; a mode without a seed never activates.
    fraction : float
        Between 0 and 1.

    Returns
    -------
    ndarray, shape (s,), or float
        ``inf`` for a seed of 0.

    Raises
    ------
    ValueError
        Strengths that are not positive, negative seeds, different lengths, or a fraction outside (0, 1).

    Examples
    --------
    >>> activation_times([2.0, 1.0], [1e-4, 1e-4]).round(3)
    array([2.822, 5.298])
    """
    level = _validate.probability("fraction", fraction)
    strength, k = _pair(strengths, seeds)
    if np.any(strength == 0):
        raise ValueError("strengths must be > 0: a mode of strength 0 has no activation time")
    w = np.hypot(strength, k / 2)
    ceiling = 2 * (strength + strength**2 / (w + k / 2))  # k (y+ - 1), as in scalar_flow
    x = 2 * level * strength
    height = x + x**2 / (np.hypot(k, x) + k)  # k (y - 1) where (k/2) sinh u = level * strength
    lower = k / (2 * (strength + w))  # -y-
    with np.errstate(divide="ignore"):
        odds = np.log(ceiling) - np.log(k) + np.log(height + k * (1 + lower)) - np.log((1 + lower) * (ceiling - height))
    return odds / (2 * w)


def late_rate(strengths: ArrayLike, constant: float) -> np.ndarray:
    """``sqrt(lambda^2 + c^2/4) - |c|/2``: the rate at which a learned mode loses its last error, for r >= s.

    The slowest error is that of direction: A's columns still have a part outside span(U). The amplitude of the mode itself
    settles about twice as fast. The error of the whole update has the rate of the weakest mode (P2 theorem 4.3c prints
    lambda_s, appendix D lambda_s^2).

    Parameters
    ----------
    strengths : array_like, shape (s,), or float
        lambda_i >= 0.
    constant : float
        c of the start ``A'A - B B' = c I``, eps^2 for P2's.

    Returns
    -------
    ndarray, shape (s,), or float
        For r < s the rate is another one: about lambda_r - lambda_{r+1}.

    Raises
    ------
    ValueError
        A negative strength, NaN or infinity.

    Examples
    --------
    >>> [round(float(late_rate(0.5, eps**2)), 3) for eps in (1e-3, 0.1, 0.5)]
    [0.5, 0.495, 0.39]
    """
    strength = _validate.nonnegative("strengths", strengths)
    half = abs(_validate.number("constant", constant)) / 2
    return _ratio(strength**2, np.hypot(strength, half) + half)[()]


def crossing_times(times: ArrayLike, curves: ArrayLike, levels: ArrayLike) -> np.ndarray:
    """First time at which each curve reaches its level, from above or below, interpolated between the given times.

    Parameters
    ----------
    times : array_like, shape (T,)
        Sorted.
    curves : array_like, shape (T,) or (T, s)
        One column for each curve: singular values, mode amplitudes, errors.
    levels : array_like, shape (s,), or float

    Returns
    -------
    ndarray, shape (s,), or float
        NaN for a curve that does not get there.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, or times that are negative or not sorted.

    Examples
    --------
    >>> crossing_times([0.0, 1.0, 2.0], [[0.0, 4.0], [1.0, 2.0], [3.0, 1.0]], [2.0, 3.0])
    array([1.5, 0.5])
    """
    t, y = _factors.moments(times), _validate.reals("curves", curves)
    if t.ndim != 1 or y.ndim not in (1, 2) or len(y) != t.size:
        raise ValueError(f"curves must have shape (T,) or (T, s) for times of shape (T,), got {y.shape} and {t.shape}")
    level = _validate.reals("levels", levels)
    if level.shape not in ((), y.shape[1:]):
        raise ValueError(f"levels must be one number or one for each curve, {y.shape[1:]}, got shape {level.shape}")
    gap = (y - level).reshape(t.size, -1)
    gap = np.where(gap[0] > 0, -gap, gap)  # at or above 0 from the crossing on
    after, column = np.argmax(gap >= 0, axis=0), np.arange(gap.shape[1])
    before = np.maximum(after - 1, 0)
    beyond = _ratio(gap[after, column], gap[after, column] - gap[before, column])
    found = np.where(gap[after, column] >= 0, t[after] - beyond * (t[after] - t[before]), np.nan)
    return found.reshape(y.shape[1:])[()]


def _modes(times: ArrayLike, strengths: ArrayLike, seeds: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, strengths and seeds in shapes that broadcast to that of times followed by that of the strengths."""
    t, (strength, k) = _factors.moments(times), _pair(strengths, seeds)
    return t.reshape(t.shape + (1,) * strength.ndim), strength, k


def _pair(strengths: ArrayLike, seeds: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    strength, k = _validate.nonnegative("strengths", strengths), _validate.nonnegative("seeds", seeds)
    if strength.ndim > 1 or k.shape not in ((), strength.shape):
        raise ValueError(f"strengths and seeds must be numbers or of one length, got shapes {strength.shape} and {k.shape}")
    return strength, k


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below`` where below is not zero, 0 elsewhere."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)
