"""Speed of the exact flow as ratios against DOP853 at equal accuracy: ``python tests/bench/bench_gradient_flow.py``.

768 x 768, true rank 5, r = 50, eps = 1e-3, singular values at 200 times. The one singular value decomposition of the
target is timed apart. DOP853 is given the problem twice: as it stands, and already reduced to the 55 x 50 and 50 x 5
numbers that move, which is more than a solver can be asked to find out. Its error is that against the exact flow, whose
own error against many digits is at most 1e-11 (tests/test_gradient_flow.py).
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.linalg import qr, svd

from companion.flow_numerics import integrate
from companion.gradient_flow import ExactFlow

ROUNDS = 5
TIMES = np.linspace(0, 20, 200)
STRENGTHS = np.array([2.0, 1.8, 1.5, 1.2, 1.0])
SIZE, RANK, EPS, RTOL = 768, 50, 1e-3, 1e-12


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(rounds: int = ROUNDS) -> None:
    rng = np.random.default_rng(0)
    frame = lambda n, r: qr(rng.standard_normal((n, r)))[0]  # noqa: E731
    left, right, a0 = frame(SIZE, 5), frame(SIZE, 5), EPS * frame(SIZE, RANK)
    target = left * STRENGTHS @ right.T
    basis = qr(np.hstack([left, a0]))[0]
    small = basis.T @ target @ right, basis.T @ a0, None
    flow = ExactFlow(target, a0)

    ours = lambda: ExactFlow(target, a0).singular_values(TIMES)  # noqa: E731
    after = lambda: flow.singular_values(TIMES)  # noqa: E731
    reduced = lambda: integrate(*small, TIMES, rtol=RTOL).singular_values()  # noqa: E731
    whole = lambda: integrate(target, a0, None, TIMES[::20], rtol=RTOL)  # noqa: E731  (a path of every time is 123 MB)

    error = np.abs(reduced()[:, :5] - after()[:, :5]).max()
    calls = {"setup": lambda: ExactFlow(target, a0), "svd": lambda: svd(target, full_matrices=False), "after": after}
    calls |= {"ours": ours, "reduced": reduced}
    found = np.array([[seconds(call) for call in calls.values()] for _ in range(rounds)])
    middle = dict(zip(calls, np.median(found, axis=0), strict=True))
    direct = seconds(whole)
    beyond = np.median(found[:, 0] - found[:, 1]) + middle["after"]
    print(f"svd of the target                              {middle['svd']:8.4f} s")
    print(f"exact flow beyond it, {TIMES.size} times                 {beyond:8.4f} s")
    solvers = [("DOP853, 10 of the times", direct), ("DOP853 on the reduced problem, all times", middle["reduced"])]
    for name, taken in solvers:
        print(f"{name:46s} {taken:8.3f} s   ratio {taken / beyond:.3g} beyond the svd, {taken / middle['ours']:.3g} with it")
    print(f"DOP853 at rtol {RTOL:g} is within {error:.1g} of the exact flow")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
