"""Checks of the exercises in the chapter *Auditing the tables*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable, Sequence
from math import factorial

import numpy as np

from companion.book.audit import PRINTED, Interval

P1_TABLE_33 = {(1.2, "1.19"): "0.8", (1.5, "1.46"): "2.7", (2, "1.87"): "6.5", (3, "2.96"): "1.3", (5, "5.01"): "0.2",
               (10, "8.84"): "11.6"}  # fmt: skip


def audit_error(error_range: Callable[[float, str], Interval]) -> bool:
    """Exercise 1: relative errors in per cent that a printed estimate allows."""
    found = error_range(1.5, "1.46")
    assert isinstance(found, Interval), "return an interval: compute with interval(estimate)"
    assert found.low >= 0, "an error without sign is not negative"
    assert np.allclose([found.low, found.high], [7 / 3, 3]), f"1.46 for 1.5 is an error of 2.333 to 3 %, got {found}"
    for (true, estimate), printed in P1_TABLE_33.items():
        found = error_range(true, estimate)
        assert found.distance(printed) == 0, f"{estimate} for {true}: {printed} % is possible, but not in {found}"
    return True


def audit_grim(first_decimals: Callable[[int], int]) -> bool:
    """Exercise 2: how many first decimals the mean of n whole numbers can show."""
    assert first_decimals(1) == 1, "one whole number is printed with the decimal 0"
    assert first_decimals(4) == 6, "4 runs: .0, .5, and .25 and .75 rounded either way"
    for n, right in ((5, 5), (7, 7), (8, 10), (9, 9), (10, 10), (23, 10)):
        assert first_decimals(n) == right, f"{n} runs reach {right} of the ten decimals, got {first_decimals(n)}"
    return True


def audit_one_run(one_run: Callable[[str, int], bool], singles: Sequence[str]) -> bool:
    """Exercise 3: RTE scores that a single run can have."""
    assert one_run("50.0", 4) and not one_run("51.0", 4), "4 examples: 0, 25, 50, 75 or 100 % in one run"
    assert one_run("33.3", 3) and not one_run("33.4", 3), "one of 3 examples is 33.33 %, which prints as 33.3"
    column = list(PRINTED["P2 table 3"].RTE)
    assert all(one_run(text, 5 * 277) for text in column), "means of five runs are multiples of 1/1385"
    assert list(singles) == ["75.8"], f"210 of 277 is 75.81 %; the other four are no multiple of 1/277, got {singles}"
    return True


def audit_witness(scores: Callable[..., tuple[np.ndarray, np.ndarray]]) -> bool:
    """Exercise 4: two arrays with a given difference, standard deviations and paired t."""
    tests = PRINTED["P2 tests"].iloc[:5][["difference", "sd", "sd_other", "t"]].astype(float)
    for name, (difference, sd, sd_other, t) in tests.iterrows():
        a, b = (np.asarray(x, float) for x in scores(difference, sd, sd_other, t, 5))
        assert a.shape == b.shape == (5,), f"{name}: five scores each, got shapes {a.shape} and {b.shape}"
        got = [np.mean(a - b), np.std(a, ddof=1), np.std(b, ddof=1)]
        for what, value, right in zip(("difference", "first s.d.", "second s.d."), got, (difference, sd, sd_other)):
            assert np.isclose(value, right), f"{name}: the {what} is {value:.4g}, not {right}"
        found = got[0] / np.std(a - b, ddof=1) * np.sqrt(5)
        assert np.isclose(found, t), f"{name}: t is {found:.4g}, not {t}; which correlation does it need?"
    return True


def audit_exact(exact_p: Callable[[int, int], float]) -> bool:
    """Exercise 5: two-tailed p of Spearman's correlation, by counting."""
    assert np.isclose(exact_p(4, 0), 2 / factorial(4)), "only one order of 4 has no difference in rank: p = 2/24"
    assert np.isclose(exact_p(4, 2), 2 * 4 / 24), "4 ranks: three swaps of neighbours have S = 2"
    found = exact_p(12, 16)
    assert np.isclose(found, 8628 / factorial(12)), f"12 ranks, S <= 16: p is 1.80e-5, got {found:.3g}"
    return True
