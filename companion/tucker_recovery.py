"""Is a tensor recovered by gradient descent on a Tucker factorisation? P2 theorem 5.2, from many starts at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion import _stacks, _tensors, _validate
from companion.tucker_flow import start_point

__all__ = ["Recovery", "recover"]

LOOK = 50  # steps between two looks at the errors


@dataclass(frozen=True)
class Recovery:
    """What gradient descent reached from many starts.

    Attributes
    ----------
    errors : ndarray, shape (starts,)
        ``||Delta T - T*||_F / ||T*||_F`` at the end.
    slopes : ndarray, shape (starts,)
        Norm of the whole gradient at the end, over ``||T*||_F``: near 0 with a large error is a saddle or a local minimum,
        clearly above 0 is a run that has not ended.
    steps : int
        Taken, by all.
    tolerance : float
        Error that counts as recovered.
    """

    errors: np.ndarray
    slopes: np.ndarray
    steps: int
    tolerance: float

    @property
    def failure_rate(self) -> float:
        """Share of the starts whose error is above the tolerance."""
        return float(np.mean(~(self.errors <= self.tolerance)))


def recover(
    target: ArrayLike,
    ranks: Sequence[int],
    *,
    starts: int,
    steps: int,
    step_size: float,
    rng: np.random.Generator | int,
    kind: str = "orthonormal",
    eps: float | None = None,
    tolerance: float = 1e-6,
) -> Recovery:
    """Gradient descent from many random starts, and which of them recover the target (P2 theorem 5.2).

    The theorem says that every run converges to ``T*`` when ``r_k >= s_k``. Its proof refers to theorem 4.3, on matrices. A
    run can stay near a saddle for longer than any number of steps: where a mode that is still missing overlaps little with
    the start, its time is a power of one over that overlap (`companion.tucker_law`).

    Parameters
    ----------
    target : array_like, shape (d_1, ..., d_N)
        Not zero.
    ranks : sequence of int
        ``1 <= r_k <= d_k``.
    starts : int
        How many, >= 1; they move at the same time, memory grows with them.
    steps : int
        At most so many. All stop when all errors are at a thousandth of the tolerance.
    step_size : float
        > 0, as for `descend`.
    rng : numpy.random.Generator or int
    kind, eps
        Of the starts, as for `start_point`.
    tolerance : float
        Relative error up to which a target counts as recovered, > 0.

    Returns
    -------
    Recovery

    Raises
    ------
    TypeError, ValueError
        As for `descend` and `start_point`; a target of zeros.

    Examples
    --------
    A tensor of Tucker rank (2, 2, 2), with that rank and with one less in the first mode:

    >>> target = start_point("small", (5, 5, 5), (2, 2, 2), eps=1.0, rng=0).to_tensor()
    >>> settings = dict(starts=4, steps=3000, step_size=0.2, rng=1)
    >>> [recover(target, ranks, **settings).failure_rate for ranks in ((2, 2, 2), (1, 2, 2))]
    [0.0, 1.0]
    """
    goal = _tensors.tensor("target", target)
    if not (size := np.linalg.norm(goal)):
        raise ValueError("target must not be zero: its relative error is not defined")
    number, count = _validate.integer("starts", starts, 1), _validate.integer("steps", steps, 1)
    h, level = _validate.positive("step_size", step_size), _validate.positive("tolerance", tolerance)
    draws = np.random.default_rng(rng) if rng is not None else None
    points = [start_point(kind, goal.shape, ranks, eps, draws) for _ in range(number)]
    core = np.array([point.core for point in points])
    factors = tuple(np.array([point.factors[k] for point in points]) for k in range(goal.ndim))
    for step in range(1, count + 1):
        core, factors = _stacks.moved(goal, core, factors, h, step)
        if step % LOOK == 0 and np.all(_errors(goal, core, factors) <= 1e-3 * level * size):
            break
    core_slope, factor_slopes = _stacks.slopes(goal, core, factors)
    slopes = np.sqrt(sum(_stacks.norms(part) ** 2 for part in (core_slope, *factor_slopes)))
    return Recovery(_errors(goal, core, factors) / size, slopes / size, step, level)


def _errors(goal: np.ndarray, core: np.ndarray, factors: tuple[np.ndarray, ...]) -> np.ndarray:
    return _stacks.norms(_stacks.multiply(core, factors) - goal)
