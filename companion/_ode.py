"""Numerical integration of the flows, for the modules that follow them from any start."""

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from companion import _factors, _validate

METHODS = ("DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA")


def states(
    slope: Callable[[np.ndarray], np.ndarray],
    first: np.ndarray,
    times: np.ndarray,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float | None = None,
) -> np.ndarray:
    """The state (n,) at each of the sorted times, shape (T, n), from `first` at time 0.

    A step ends at each of the times: interpolating inside a step would cost four digits. `atol` is by default `rtol` times
    the largest entry of the start, at most `rtol`. RuntimeError where the solver gives up or leaves the finite numbers.
    """
    _factors.choice("method", method, METHODS)
    relative = _validate.positive("rtol", rtol)
    absolute = relative * min(1.0, np.max(np.abs(first)) or 1.0) if atol is None else _validate.positive("atol", atol)
    x, now, found = first, 0.0, []
    for time in times:
        if time > now:
            x, now = _advance(slope, x, (now, time), method=method, rtol=relative, atol=absolute), time
        found.append(x)
    return np.array(found)


def _advance(slope: Callable[[np.ndarray], np.ndarray], x: np.ndarray, span: tuple[float, float], **options) -> np.ndarray:
    method = options["method"]

    def seen(time: float, y: np.ndarray) -> np.ndarray:
        found = slope(y)
        if (time == span[0] or method == "LSODA") and not np.all(np.isfinite(found)):
            raise FloatingPointError(f"the slope overflows at time {time:.4g}")  # the solver would go on for ever
        return found

    try:  # in between a trial step may be so long that it overflows; the solvers then try a shorter one
        with np.errstate(over="ignore", invalid="ignore"):
            solved = solve_ivp(seen, span, x, **options)
    except (FloatingPointError, ValueError) as error:  # ValueError: the implicit methods factor a Jacobian, which must be finite
        raise RuntimeError(f"{method} stopped after time {span[0]:.4g}: {error}") from error
    if not solved.success:
        raise RuntimeError(f"{method} stopped at time {solved.t[-1]:.4g}: {solved.message}")
    if not np.all(np.isfinite(solved.y[:, -1])):
        raise RuntimeError(f"{method} stopped after time {span[0]:.4g}: the state is no longer finite")
    return solved.y[:, -1]
