"""The time of one aligned Tucker component as a function of its strength, by quadrature, and its inverse.

With y the learned share ``g a_1 ... a_N / lambda``, ``z = log(y / (1 - y))`` and ``S = sum_k g^2 / a_k^2`` the scalar
flow of `companion.tucker_law` has ``dt/dz = g / (lambda a_1 ... a_N (1 + S))``; from above lambda, with ``z = -log(y - 1)``,
that over y. This is smooth however sudden the rise is in time, and Gauss's rule on short panels gives it to
rounding.
"""

import numpy as np

_nodes, _weights = np.polynomial.legendre.leggauss(12)
NODES, WEIGHTS = (_nodes + 1) / 2, _weights / 2  # on (0, 1)
PANEL = 0.5
END = 40.0  # of z: the share is 1 to rounding
SMALL = 1e-9  # of the shortest factor, and of the strength: so far a core from 0 grows in proportion to the time


class Clock:
    """The way of one component from its start to its strength.

    Parameters
    ----------
    strength : float
        lambda.
    core : float
        g(0) >= 0.
    constants : ndarray, shape (N,)
        Squared lengths of the factors minus that of the core; > 0 where the core is 0, else >= 0.
    """

    def __init__(self, strength: float, core: float, constants: np.ndarray):
        self.strength, self.constants = strength, constants
        with np.errstate(divide="ignore", over="ignore"):  # from so small a start that its time is no number: infinite
            grown = np.prod(np.sqrt(constants))
            self.rate = grown**2  # of the share, at a core of 0
            first = core or SMALL * min(np.sqrt(constants.min()), strength / grown)
            log_share = np.log(first) + np.sum(np.log(constants + first**2)) / 2 - np.log(strength)
            self.offset = 0.0 if core else float(first / (strength * grown))  # the time of `start`
            self.above = bool(log_share > 0)
            rest = -np.log(np.abs(np.expm1(log_share)))  # infinite for a start at the strength itself
            self.start = float(min(rest if self.above else log_share + rest, END))

    def time(self, share: float) -> float:
        """When y is first at `share`, between 0 and 1; 0 where it starts there or above."""
        end = float(np.log(share / (1 - share)))
        if self.above or end <= self.start:
            return share / self.rate if self.offset else 0.0
        return self.offset + float(np.sum(self._spent(*self._panels(end))))

    def strengths(self, times: np.ndarray) -> np.ndarray:
        """``lambda y`` at these times, shape (T,)."""
        low, high = self._panels(END)
        until = self.offset + np.append(0.0, np.cumsum(self._spent(low, high)))
        shares = np.where(times < self.offset, self.rate * times, 1.0)
        rows = np.flatnonzero((times >= self.offset) & (times < until[-1]))
        if rows.size:
            panel = np.searchsorted(until, times[rows], side="right") - 1
            shares[rows] = np.exp(self._log_share(self._reached(low[panel], high[panel], times[rows] - until[panel])))
        return self.strength * shares

    def _panels(self, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of panels from the start to `end`."""
        edges = np.linspace(self.start, end, max(1, int(np.ceil((end - self.start) / PANEL))) + 1)
        return edges[:-1], edges[1:]

    def _reached(self, first: np.ndarray, last: np.ndarray, times: np.ndarray) -> np.ndarray:
        """z at so much time after `first`, of which there is enough before `last`: Newton's method in a bracket."""
        low, high, z = first, last, (first + last) / 2
        with np.errstate(invalid="ignore"):  # infinite times: the first z
            for _ in range(100):
                late = self._spent(first, z) - times
                low, high = np.where(late > 0, low, z), np.where(late > 0, z, high)
                new = z - late / self._slowness(z)
                new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
                done, z = np.max(np.abs(new - z)) < 1e-13, new
                if done:
                    break
        return z

    def _spent(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The time from one z to the other."""
        nodes = low[:, None] + (high - low)[:, None] * NODES
        return (high - low) * (self._slowness(nodes) @ WEIGHTS)

    def _slowness(self, z: np.ndarray) -> np.ndarray:
        """dt/dz, as ``g / (lambda a_1 ... a_N (1 + S))``, over y from above."""
        log_share = self._log_share(z)
        core = np.exp(self._log_core(log_share + np.log(self.strength)))
        lengths = self.constants + core[..., None] ** 2
        grown = self.strength * np.prod(np.sqrt(lengths), axis=-1) * (1 + np.sum(core[..., None] ** 2 / lengths, axis=-1))
        with np.errstate(divide="ignore", over="ignore"):
            return core / grown / (np.exp(log_share) if self.above else 1.0)

    def _log_share(self, z: np.ndarray) -> np.ndarray:
        return np.log1p(np.exp(-z)) if self.above else -np.logaddexp(0.0, -z)

    def _log_core(self, log_strength: np.ndarray) -> np.ndarray:
        """log g where ``g a_1 ... a_N`` is given: Newton's method from above on a convex function of it."""
        with np.errstate(divide="ignore"):
            x = np.minimum(log_strength / (self.constants.size + 1), log_strength - np.sum(np.log(self.constants)) / 2)
        for _ in range(100):
            squares = np.exp(2 * x)[..., None]
            lengths = self.constants + squares
            over = x + np.sum(np.log(lengths), axis=-1) / 2 - log_strength
            step = over / (1 + np.sum(squares / lengths, axis=-1))
            x = x - step
            if np.max(np.abs(step)) < 1e-14 * (1 + np.max(np.abs(x))):
                break
        return x
