"""The same flow by integration and by descent: any start, any curvature, and the optimisers people use.

`integrate` follows P2's gradient flow with scipy's solvers, from starts that `companion.gradient_flow.ExactFlow` refuses
(PEFT's default among them) and for the Hessian-weighted loss of P2's appendix A. `descend` takes the discrete steps of
gradient descent, momentum, Adam and AdamW, with torch's update rules, and can add the noise of mini-batches. ``A`` is
m x r, ``B`` is r x n.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _factors, _ode, _validate
from companion.curvature import Curvature, hessian, quadratic_loss

__all__ = ["Trajectory", "descend", "integrate", "quadratic_loss"]

OPTIMIZERS = ("gd", "momentum", "adam", "adamw")
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Trajectory:
    """Factors along a path.

    Attributes
    ----------
    times : ndarray, shape (T,)
        For `descend` the number of steps times their size.
    a : ndarray, shape (T, m, r)
    b : ndarray, shape (T, r, n)
    """

    times: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def updates(self) -> np.ndarray:
        """``A B`` at each time.

        Returns
        -------
        ndarray, shape (T, m, n)
        """
        return self.a @ self.b

    def singular_values(self) -> np.ndarray:
        """Singular values of ``A B``, from large to small at each time.

        Returns
        -------
        ndarray, shape (T, min(r, m, n))
        """
        rank = min(*self.a.shape[1:], self.b.shape[2])
        return _factors.product_singular_values(self.a, self.b)[:, :rank]

    def mode_amplitudes(self, target: ArrayLike) -> np.ndarray:
        """``u_i' A B v_i`` along the modes of a target (P2 eq. 13).

        Parameters
        ----------
        target : array_like, shape (m, n)

        Returns
        -------
        ndarray, shape (T, s)
            By decreasing singular value of the target.

        Raises
        ------
        ValueError
            A target of another shape, NaN or infinity.
        """
        goal, *_ = _factors.start(target, self.a[0], self.b[0])
        left, _, right = _factors.svd(goal)
        return np.einsum("tsr,trs->ts", left.T @ self.a, self.b @ right)


def integrate(
    target: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike | None,
    times: ArrayLike,
    curvature: Curvature = None,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float | None = None,
) -> Trajectory:
    """Gradient flow of ``||H^{1/2} (A B - M*)||_F^2 / 2`` by numerical integration.

    P2 eq. 1-2 for the identity, the loss of P2 eq. 10 for another H.

    Parameters
    ----------
    target : array_like, shape (m, n)
        ``M*``.
    a0 : array_like, shape (m, r)
    b0 : array_like, shape (r, n), or None
        Any start; None is zero.
    times : array_like, shape (T,), or float
        Sorted, >= 0.
    curvature : array_like or pair, optional
        H, as in `quadratic_loss`; the identity by default.
    method : str
        "DOP853", "RK45", "RK23", "LSODA", or for stiff problems "Radau", "BDF" (small ones: they form a Jacobian).
    rtol, atol : float
        Tolerances of scipy's `solve_ivp`. `atol` is by default `rtol` times the largest entry of the start, at most
        `rtol`.

    Returns
    -------
    Trajectory
        T (m + n) r numbers.

    Raises
    ------
    ValueError
        Shapes that do not fit, r = 0, NaN, times that are negative or not sorted, a curvature that is not symmetric or has a
        negative eigenvalue, or an unknown method.
    RuntimeError
        The solver gave up or left the finite numbers; its message is passed on.

    Examples
    --------
    A start that is not balanced:

    >>> a0 = np.random.default_rng(0).standard_normal((3, 2)) / 10
    >>> path = integrate(np.diag([2.0, 1.0, 0.5]), a0, None, [0.0, 2.0, 6.0])
    >>> path.singular_values().round(2).tolist()
    [[0.0, 0.0], [0.24, 0.04], [2.0, 0.99]]
    """
    goal, a, b = _factors.start(target, a0, b0)
    t = np.atleast_1d(_factors.moments(times))
    first = np.concatenate([a.ravel(), b.ravel()])
    found = _ode.states(_slopes(goal, a.shape[1], curvature), first, t, method, rtol, atol)
    return _trajectory(t, found, a.shape, b.shape)


def descend(
    target: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike | None = None,
    *,
    steps: int,
    step_size: float,
    optimizer: str = "gd",
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    curvature: Curvature = None,
    noise: float = 0.0,
    rng: np.random.Generator | int | None = None,
    every: int = 1,
) -> Trajectory:
    """Discrete steps on A and B together, with the update rules of torch's optimisers.

    Parameters
    ----------
    target : array_like, shape (m, n)
    a0 : array_like, shape (m, r)
    b0 : array_like, shape (r, n), optional
        Zero by default.
    steps : int
        How many, >= 1.
    step_size : float
        Learning rate, > 0. Gradient descent needs less than about ``2 / lambda_1``.
    optimizer : str
        "gd", "momentum" (heavy ball), "adam" or "adamw".
    momentum : float
        Of "momentum", in [0, 1). In units of gradient flow's time its steps are ``1 / (1 - momentum)`` times as long.
    betas : pair of float
        Of Adam's two averages, in [0, 1); its epsilon is 1e-8.
    weight_decay : float
        >= 0; added to the gradient, except for "adamw", which shrinks the factors apart from it.
    curvature : array_like or pair, optional
        As in `quadratic_loss`.
    noise : float
        Standard deviation of what is added, new at every step, to each entry of the gradient with respect to ``A B``: the
        noise of mini-batches.
    rng : numpy.random.Generator or int
        Needed if there is noise.
    every : int
        Keep every so many steps; the first state and the last are always kept.

    Returns
    -------
    Trajectory
        Its times are the number of steps times `step_size`.

    Raises
    ------
    TypeError
        Noise without a generator or seed, or a count that is no integer.
    ValueError
        Shapes that do not fit, r = 0, NaN, numbers outside the ranges above, an unknown optimiser, or steps so large
        that the factors overflow.

    Examples
    --------
    >>> target, a0 = np.diag([2.0, 1.0]), 0.1 * np.eye(2)
    >>> descend(target, a0, steps=200, step_size=0.05, every=100).singular_values().round(3)
    array([[0.   , 0.   ],
           [2.   , 0.983],
           [2.   , 1.   ]])
    """
    goal, a, b = _factors.start(target, a0, b0)
    count, kept = _validate.integer("steps", steps, 1), _validate.integer("every", every, 1)
    h, spread = _validate.positive("step_size", step_size), _validate.noise_level(noise)
    if spread and rng is None:
        raise TypeError("rng must be a numpy.random.Generator or an integer seed where there is noise, got None")
    draws = np.random.default_rng(rng) if spread else None
    rule = _rule(optimizer, h, momentum, betas, weight_decay)
    slopes = _slopes(goal, a.shape[1], curvature)
    x, states, times = np.concatenate([a.ravel(), b.ravel()]), [], []
    states.append(x), times.append(0.0)
    for step in range(1, count + 1):
        shake = draws.normal(0.0, spread, goal.shape) if spread else None
        with np.errstate(over="ignore", invalid="ignore"):
            x = rule(x, -slopes(x, shake))
        if not np.all(np.isfinite(x)):
            raise ValueError(f"step_size {step_size!r} is too large: the factors overflow at step {step}")
        if step % kept == 0 or step == count:
            states.append(x), times.append(step * h)
    return _trajectory(np.array(times), np.array(states), a.shape, b.shape)


def _slopes(goal: np.ndarray, r: int, curvature: Curvature) -> Callable[..., np.ndarray]:
    """``(dA/dt, dB/dt)`` as one vector, of (A, B) as one vector (P2 eq. 1-2; with H, of eq. 10)."""
    m, n = goal.shape
    curved = hessian(curvature, goal.shape)

    def slopes(x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        a, b = x[: m * r].reshape(m, r), x[m * r :].reshape(r, n)
        if curvature is None and noise is None:  # without forming A B
            da, db = goal @ b.T - a @ (b @ b.T), a.T @ goal - (a.T @ a) @ b
        else:
            pull = curved(goal - a @ b) + (0.0 if noise is None else noise)
            da, db = pull @ b.T, a.T @ pull
        return np.concatenate([da.ravel(), db.ravel()])

    return slopes


def _rule(optimizer: str, h: float, momentum: float, betas: tuple[float, float], weight_decay: float) -> Rule:
    """One step of an optimiser: (x, gradient) to the next x."""
    _factors.choice("optimizer", optimizer, OPTIMIZERS)
    if not 0 <= momentum < 1 or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"momentum and both betas must lie in [0, 1), got {momentum!r} and {betas!r}")
    if (decay := _validate.number("weight_decay", weight_decay)) < 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay!r}")
    first, second, step = 0.0, 0.0, 0

    def descent(x: np.ndarray, g: np.ndarray) -> np.ndarray:
        nonlocal first
        first = (momentum if optimizer == "momentum" else 0.0) * first + g + decay * x
        return x - h * first

    def adam(x: np.ndarray, g: np.ndarray) -> np.ndarray:
        nonlocal first, second, step
        if optimizer == "adam":
            g = g + decay * x
        else:
            x = x * (1 - h * decay)
        step += 1
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        return x - h * (first / (1 - betas[0] ** step)) / (np.sqrt(second / (1 - betas[1] ** step)) + 1e-8)

    return adam if optimizer.startswith("adam") else descent


def _trajectory(times: np.ndarray, states: np.ndarray, left: _validate.Shape, right: _validate.Shape) -> Trajectory:
    cut = left[0] * left[1]
    return Trajectory(times, states[:, :cut].reshape(-1, *left), states[:, cut:].reshape(-1, *right))
