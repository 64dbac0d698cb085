"""The tanh^2 law as P2 prints it (theorem 4.2 and appendix C.3), in all its forms.

Nothing here predicts the flow; `companion.gradient_flow.ExactFlow` and `companion.scalar_flow` do. These are the printed
formulas, with the readings that the print leaves open, so that they can be measured. Strengths are the singular values
lambda_i of the target.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from companion import _factors, _validate
from companion.scalar_flow import crossing_times

__all__ = ["fit_tanh_squared", "tanh_activation_times", "tanh_shifts", "tanh_squared"]

FORMS = ("theorem", "abstract", "appendix", "openreview", "fitted")


def tanh_squared(
    times: ArrayLike,
    strengths: ArrayLike,
    form: str = "theorem",
    shifts: ArrayLike | None = None,
    rates: ArrayLike | None = None,
    one_sided: bool = False,
) -> np.ndarray:
    """``lambda_i tanh^2(theta_i(t))`` with the angle of one of the printed forms.

    ============  ==========================================  =====================================
    form          theta                                       where
    ============  ==========================================  =====================================
    "theorem"     ``(lambda^2 t + c) / sqrt(2)``              P2 eq. 4
    "abstract"    ``lambda^2 t / sqrt(2)``                    P2 abstract; no offset, no eps
    "appendix"    ``lambda t / sqrt(2) + c``                  P2 eq. 19, said to yield eq. 4
    "openreview"  ``lambda t / sqrt(2)``                      the abstract of another public version
    "fitted"      ``rate t + shift``, 0 before its zero       ours: the shape alone (`fit_tanh_squared`)
    ============  ==========================================  =====================================

    Parameters
    ----------
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    strengths : array_like, shape (s,)
        lambda_i >= 0.
    form : str
        One of the table.
    shifts : array_like, shape (s,), optional
        c_i for "theorem" and "appendix" (`tanh_shifts`), the fitted shifts for "fitted"; the others have none.
    rates : array_like, shape (s,), optional
        For "fitted" only.
    one_sided : bool
        The charitable reading: 0 while theta is negative. As printed, with ``c_i`` about ``log eps``, the square makes the
        curve start near lambda_i, fall to 0 and rise again. "fitted" is always one-sided.

    Returns
    -------
    ndarray, shape (T, s)
        Without the first dimension for a single time.

    Raises
    ------
    ValueError
        An unknown form, shifts or rates that the form lacks or does not have, negative strengths or times, NaN.

    Examples
    --------
    At time 0 nothing has been learned; the theorem says that nearly everything has:

    >>> tanh_squared(0.0, [3.0, 1.5], shifts=np.log([0.01, 0.01])).round(3)
    array([2.982, 1.491])
    """
    _factors.choice("form", form, FORMS)
    t, strength = _factors.moments(times), _vector("strengths", strengths)
    needed = {"shifts": form in ("theorem", "appendix", "fitted"), "rates": form == "fitted"}
    for name, values in (("shifts", shifts), ("rates", rates)):
        if (values is not None) != needed[name]:
            raise ValueError(f"{name}: the form {form!r} {'needs' if needed[name] else 'has no'} {name}, got {values!r}")
    c = _vector("shifts", shifts, strength.size, signed=True) if needed["shifts"] else 0.0
    t = t[..., None]
    if form == "fitted":
        angle = _vector("rates", rates, strength.size, signed=True) * t + c
    else:
        angle = {
            "theorem": (strength**2 * t + c) / np.sqrt(2),
            "abstract": strength**2 * t / np.sqrt(2),
            "appendix": strength * t / np.sqrt(2) + c,
            "openreview": strength * t / np.sqrt(2),
        }[form]
    return strength * np.tanh(np.maximum(angle, 0) if one_sided or form == "fitted" else angle) ** 2


def tanh_shifts(target: ArrayLike, a0: ArrayLike) -> np.ndarray:
    """``c_i = log(eps^2 rho_i^2) / 2`` with ``eps rho_i = ||A(0)'u_i||`` (P2 theorem 4.2).

    Parameters
    ----------
    target : array_like, shape (m, n)
    a0 : array_like, shape (m, r)
        ``A(0)``, eps included.

    Returns
    -------
    ndarray, shape (s,)
        ``-inf`` for a mode that A(0) is orthogonal to.

    Raises
    ------
    ValueError
        Shapes that do not fit, r = 0, NaN or infinity.

    Examples
    --------
    >>> tanh_shifts(np.diag([2.0, 1.0]), [[0.01], [0.1]]).round(3)
    array([-4.605, -2.303])
    """
    goal, a, _ = _factors.start(target, a0, None)
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(_factors.svd(goal)[0].T @ a, axis=1))


def fit_tanh_squared(times: ArrayLike, curves: ArrayLike, strengths: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Rates and shifts of the one-sided ``lambda tanh^2(rate t + shift)`` nearest to each curve, by least squares.

    Parameters
    ----------
    times : array_like, shape (T,)
        Sorted, >= 0.
    curves : array_like, shape (T, s)
        What happened: singular values or mode amplitudes.
    strengths : array_like, shape (s,)
        lambda_i > 0.

    Returns
    -------
    (ndarray, ndarray), each of shape (s,)
        For `tanh_squared` with ``form="fitted"``. NaN for a curve that does not reach half its strength.

    Raises
    ------
    ValueError
        Shapes that do not fit, strengths that are not positive, NaN, or times that are negative or not sorted.

    Examples
    --------
    A logistic curve of rate 2 lambda passes for a tanh^2 of rate 0.68 lambda:

    >>> from companion.scalar_flow import logistic
    >>> times = np.linspace(0, 20, 401)
    >>> rates, shifts = fit_tanh_squared(times, logistic(times, [1.5], 1e-4), [1.5])
    >>> (rates / 1.5).round(2)
    array([0.68])
    """
    t, strength = _factors.moments(times), _vector("strengths", strengths)
    y = _validate.reals("curves", curves)
    if t.ndim != 1 or y.shape != (t.size, strength.size):
        raise ValueError(f"curves must have shape (T, s) = {(t.size, strength.size)}, got {y.shape}")
    if np.any(strength == 0):
        raise ValueError("strengths must be > 0")
    rates, shifts = np.full((2, strength.size), np.nan)
    halves = crossing_times(t, y, strength / 2)
    for i in np.flatnonzero(np.isfinite(halves)):
        rate = 0.68 * strength[i]
        first = rate, np.arctanh(np.sqrt(0.5)) - rate * halves[i]
        miss = lambda p, y=y[:, i] / strength[i]: np.tanh(np.maximum(p[0] * t + p[1], 0)) ** 2 - y  # noqa: E731
        rates[i], shifts[i] = least_squares(miss, first, x_scale=np.abs(first)).x
    return rates, shifts


def tanh_activation_times(strengths: ArrayLike, eps: float) -> np.ndarray:
    """``sqrt(2) / lambda_i^2 * log(1 / eps)`` (P2 theorem 4.2b); `companion.scalar_flow.activation_times` has what holds.

    Parameters
    ----------
    strengths : array_like, shape (s,)
        lambda_i > 0.
    eps : float
        Scale of A(0), > 0.

    Returns
    -------
    ndarray, shape (s,)

    Raises
    ------
    ValueError
        Strengths or eps that are not positive.

    Examples
    --------
    >>> tanh_activation_times([3.0, 1.5, 0.5], eps=0.01).round(2)
    array([ 0.72,  2.89, 26.05])
    """
    strength = _vector("strengths", strengths)
    if np.any(strength == 0):
        raise ValueError("strengths must be > 0")
    return -np.sqrt(2) / strength**2 * np.log(_validate.positive("eps", eps))


def _vector(name: str, values: ArrayLike, size: int | None = None, signed: bool = False) -> np.ndarray:
    x = np.atleast_1d(_validate.reals(name, values) if signed else _validate.nonnegative(name, values))
    if x.ndim != 1 or size not in (None, x.size):
        raise ValueError(f"{name} must hold {'numbers' if size is None else size} in one dimension, got shape {x.shape}")
    return x
