"""Audit of printed numbers: never calls impossible what a sample has, and calls impossible what no sample has."""

import doctest
from fractions import Fraction
from itertools import combinations_with_replacement, product
from math import factorial, inf, isclose, sqrt

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from companion.book import audit, audit_figures
from companion.book.audit import PRINTED, Interval, interval
from companion.book.checks import auditing_the_tables as checks
from companion.statistics import compare

untimed = settings(deadline=None)  # a busy machine is no failure
seeds = st.integers(0, 10**6)
reals = st.floats(-1000, 1000)
counts = st.lists(st.integers(-20, 20), min_size=2, max_size=60)


# --- Intervals -------------------------------------------------------------------------------------------------------


def test_examples_are_true():
    assert doctest.testmod(audit).failed == 0


@untimed
@given(reals, st.integers(0, 4))
def test_a_printed_number_stands_for_what_was_rounded(x, digits):
    found = interval(f"{x:.{digits}f}")
    assert found.distance(x) == 0
    assert found.high - found.low == pytest.approx(10**-digits)


def test_ends_are_the_decimal_numbers_themselves():
    assert interval("0.29") == Interval(0.285, 0.295)
    assert interval("+2.1") == interval(" 2.1 ") == Interval(2.05, 2.15)
    assert interval("−0.4") == interval("-0.4") == Interval(-0.45, -0.35)
    assert interval("-0.0") == Interval(-0.05, 0.05) and interval("5") == Interval(4.5, 5.5)
    assert interval(5) == interval(np.float64(5)) == Interval(5.0, 5.0)


@untimed
@given(st.lists(reals, min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_arithmetic_holds_every_value(ends, u, v):
    a, b = Interval(*sorted(ends[:2])), Interval(*sorted(ends[2:]))
    x, y = (min(max(i.low + w * (i.high - i.low), i.low), i.high) for i, w in ((a, u), (b, v)))
    for found, value in ((a + b, x + y), (a - b, x - y), (a * b, x * y)):
        assert found.low - 1e-6 <= value <= found.high + 1e-6
    divisor = Interval(*sorted((abs(b.low) + 0.1, abs(b.high) + 0.1)))
    quotient = x / min(divisor.low + v * (divisor.high - divisor.low), divisor.high)
    assert (a / divisor).low - 1e-6 <= quotient <= (a / divisor).high + 1e-6


@untimed
@given(st.lists(reals, min_size=4, max_size=4))
def test_arithmetic_is_no_wider_than_the_corners(ends):
    a, b = Interval(*sorted(ends[:2])), Interval(*sorted(abs(e) + 0.1 for e in ends[2:]))
    corners = [x / y for x, y in product((a.low, a.high), (b.low, b.high))]
    assert (a / b) == Interval(min(corners), max(corners))


def test_division_by_what_may_be_zero():
    touching = Interval(0.0, 2.0)
    assert Interval(1, 2) / touching == Interval(0.5, inf)
    assert Interval(-2, -1) / touching == Interval(-inf, -0.5)
    assert Interval(-1, 1) / touching == Interval(-inf, inf)
    assert Interval(0, 0) / touching == Interval(0, 0)


def test_distance():
    assert Interval(1, 2).distance(Interval(2, 3)) == Interval(1, 2).distance(Interval(0, 5)) == 0
    assert Interval(1, 2).distance(Interval(2.5, 3)) == Interval(2.5, 3).distance(Interval(1, 2)) == 0.5
    assert Interval(0, 0.1 + 0.2).distance(Interval(0.3 + 1e-15, 1)) == 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: interval("about 5", "mean"), "mean must be a number as printed, such as '0.29', got 'about 5'"),
        (lambda: interval("< 0.001"), "value must be a number as printed"),
        (lambda: interval("1e-5"), "value must be a number as printed"),
        (lambda: interval(np.nan, "t"), "t must be finite"),
        (lambda: Interval(2, 1), "low must be <= high, got 2 and 1"),
        (lambda: Interval(1, 2) / Interval(-1, 1), "other must be positive, got -1 to 1"),
        (lambda: Interval(1, 2) / 0, "other must be positive"),
        (lambda: audit.grim("5.1", 0), "n must be >= 1"),
        (lambda: audit.attainable("5.1", "0.2", 1), "n must be >= 2"),
        (lambda: audit.attainable("5.1", "-0.2", 5), "sd must be >= 0, got -0.2"),
        (lambda: audit.paired_t("1.0", "0.2", "-0.3", 5), "sd_other must be >= 0, got -0.3"),
        (lambda: audit.paired_r("1.0", "0.2", "0.0", "2.0", 5), "sd and sd_other must be > 0, got 0.2 and 0.0"),
        (lambda: audit.smallest_sd("x", 5), "mean must be a number as printed"),
    ],
)
def test_errors_name_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_truth_value_is_no_number():
    with pytest.raises(TypeError, match="sd must be a real number, got True"):
        audit.paired_t("1.0", True, "0.2", 5)


# --- Whole numbers ---------------------------------------------------------------------------------------------------


@untimed
@given(counts, st.integers(0, 2), st.integers(0, 3), st.sampled_from([0, 1]))
def test_an_honest_report_of_counts_is_possible(sample, digits, sd_digits, ddof):
    mean, sd = np.mean(sample), pd.Series(sample).std(ddof=ddof)
    printed = f"{mean:.{digits}f}", f"{sd:.{sd_digits}f}"
    found = audit.attainable(*printed, len(sample), ddof)
    assert any(isclose(m, mean, abs_tol=1e-9) and isclose(s, sd, abs_tol=1e-6) for m, s in found)
    assert audit.grim(printed[0], len(sample))
    assert audit.smallest_sd(printed[0], len(sample), ddof) <= sd + 1e-9


def samples(n, low, high):
    """(sum, sum of squares) of all n whole numbers from low to high."""
    return {(sum(s), sum(x * x for x in s)) for s in combinations_with_replacement(range(low, high + 1), n)}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("ddof", [0, 1])
def test_impossible_is_exactly_what_no_sample_has(n, ddof):
    """Up to a standard deviation of 1.2 no number is further than 3 from a mean in [0, 2)."""
    pairs = [(Fraction(t, n), (q - Fraction(t * t, n)) / (n - ddof)) for t, q in samples(n, -4, 6)]
    pairs = [(m, v) for m, v in pairs if -1 < m < 3 and v < 2]
    for tenths in range(20):
        near = [v for m, v in pairs if abs(m - Fraction(tenths, 10)) <= Fraction(1, 20)]
        for hundredths in range(120):
            low, high = (max(Fraction(2 * hundredths + side, 200), 0) ** 2 for side in (-1, 1))
            printed = f"{tenths / 10:.1f}", f"{hundredths / 100:.2f}"
            assert bool(audit.attainable(*printed, n, ddof)) == any(low <= v <= high for v in near), printed


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_parity_and_the_smallest_sum_of_squares_decide_from_five_on(n):
    found = samples(n, -4, 4)
    for total, squares in product(range(-n, n + 1), range(25)):
        assert audit._exists(n, total, squares) == ((total, squares) in found)


@untimed
@given(st.integers(5, 40), st.integers(-60, 60), st.integers(0, 200))
def test_means_and_deviations_do_not_depend_on_where_zero_is(n, total, squares):
    shift = 7
    moved = total + n * shift, squares + 2 * shift * total + n * shift**2
    assert audit._exists(n, total, squares) == audit._exists(n, *moved)


@untimed
@given(st.integers(2, 40), st.integers(0, 99), st.sampled_from([0, 1]))
def test_smallest_standard_deviation_by_the_formula(n, hundredths, ddof):
    mean = f"{3 + hundredths / 100:.2f}"
    window = interval(mean)
    totals = [k for k in range(2 * n, 5 * n) if window.distance(k / n) == 0]
    fractions = [k / n - k // n for k in totals]
    expected = min((sqrt(n / (n - ddof) * f * (1 - f)) for f in fractions), default=inf)
    assert audit.smallest_sd(mean, n, ddof) == pytest.approx(expected, abs=1e-7)
    assert audit.grim(mean, n) == bool(totals)


def test_published_examples_of_grim():
    """Brown and Heathers (2017): a mean of 5.19 of 28 whole numbers is impossible, of 32 it is not."""
    assert not audit.grim("5.19", 28)
    assert audit.grim("5.19", 32)


# --- Tests and effect sizes ------------------------------------------------------------------------------------------


@untimed
@given(seeds, st.integers(2, 30), st.integers(1, 3))
def test_one_sample_t_of_an_honest_report(seed, n, digits):
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.uniform(-3, 3), rng.uniform(0.1, 3), n)
    found = audit.one_sample_t(f"{x.mean():.{digits}f}", f"{pd.Series(x).std():.{digits}f}", n, null=0.5)
    reference = stats.ttest_1samp(x, 0.5)
    assert found.distance(float(reference.statistic)) == 0
    assert audit.p_value(found, n - 1).distance(float(reference.pvalue)) == 0


@untimed
@given(seeds, st.integers(2, 12), st.integers(1, 3), st.sampled_from([0, 1]))
def test_paired_t_of_an_honest_report(seed, n, digits, ddof):
    rng = np.random.default_rng(seed)
    a, b = rng.multivariate_normal([2, 1], [[1, r := rng.uniform(-0.99, 0.99)], [r, 1]], n).T
    reference = stats.ttest_rel(a, b)
    sds = [f"{pd.Series(x).std(ddof=ddof):.{digits}f}" for x in (a, b)]
    assume(all(float(sd) > 0 for sd in sds))
    found = audit.paired_t(f"{np.mean(a - b):.{digits}f}", *sds, n, ddof)
    assert found.distance(float(reference.statistic)) == 0
    assert found.distance(f"{reference.statistic:.2f}") == 0
    greater = float(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert audit.p_value(found, n - 1, one_tailed=True).distance(greater) == 0


def scores(difference, sd, sd_other, r, n):
    """Scores with exactly these statistics."""
    basis = np.linalg.qr(np.vander(np.arange(n), 3, increasing=True))[0]
    u, v = sqrt(n - 1) * basis[:, 1:].T
    return difference + sd * u, sd_other * (r * u + sqrt(max(1 - r * r, 0)) * v)


@untimed
@given(st.floats(0.1, 5), st.floats(0.1, 2), st.floats(0.1, 2), st.floats(-1, 1), st.integers(3, 12))
def test_every_correlation_exists_and_is_recovered(difference, sd, sd_other, r, n):
    assume(r < 0.999 or abs(sd - sd_other) > 1e-3)
    a, b = scores(difference, sd, sd_other, r, n)
    t = float(stats.ttest_rel(a, b).statistic)
    found = audit.paired_t(difference, sd, sd_other, n)
    assert found.low - 1e-6 <= t <= found.high * (1 + 1e-6)
    exact = audit.paired_r(difference, sd, sd_other, t, n)
    assert (exact.low, exact.high) == pytest.approx((r, r), abs=1e-4)
    population = np.std(a), np.std(b)
    assert audit.paired_r(difference, *map(float, population), t, n, ddof=0).low == pytest.approx(r, abs=1e-4)


def test_the_bounds_of_t_are_reached():
    for r, end in ((-1, "low"), (1, "high")):
        t = float(stats.ttest_rel(*scores(0.8, 0.29, 0.38, r, 5)).statistic)
        assert getattr(audit.paired_t(0.8, 0.29, 0.38, 5), end) == pytest.approx(t)


@untimed
@given(st.floats(0.3, 3), st.floats(0.1, 1), st.floats(0.1, 1), st.floats(1.5, 9))
def test_range_of_the_correlation_is_that_of_a_fine_grid(difference, sd, sd_other, t):
    printed = f"{difference:.1f}", f"{sd:.1f}", f"{sd_other:.1f}", f"{t:.1f}"
    found = audit.paired_r(*printed, n=5)
    d, a, b, t = (np.linspace(i.low, i.high, 21) for i in map(interval, printed))
    spread = np.array([d[0] / t[-1], d[-1] / t[0]])[:, None, None] * sqrt(5)
    grid = (a[:, None] ** 2 + b**2 - spread**2) / (2 * a[:, None] * b)
    assert found.low - 1e-9 <= grid.min() and grid.max() <= found.high + 1e-9
    assert (found.low, found.high) == pytest.approx((grid.min(), grid.max()), rel=0.05, abs=0.05)


def test_equal_spreads_leave_t_without_an_upper_bound():
    assert audit.paired_t("0.19", "0.07", "0.08", 5).high == inf
    assert audit.paired_t("-0.19", "0.07", "0.08", 5).low == -inf


@untimed
@given(reals, st.integers(1, 60))
def test_p_value(t, df):
    assert audit.p_value(t, df).low == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9, abs=1e-300)
    assert audit.p_value(t, df, one_tailed=True).high == pytest.approx(stats.t.sf(t, df), rel=1e-9, abs=1e-300)


def test_p_value_of_an_interval_around_zero():
    assert audit.p_value(Interval(-1, 2), 4).high == 1
    assert audit.p_value(Interval(-2, -1), 4) == audit.p_value(Interval(1, 2), 4)


@untimed
@given(seeds, st.integers(3, 12))
def test_effect_sizes_are_those_of_the_package(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(2, 1, n), rng.normal(1, 2, n)
    reference = compare(a, b)
    sds = float(a.std(ddof=1)), float(b.std(ddof=1))
    found = audit.cohens_d(reference.difference, *sds, reference.t, n)
    assert found["pooled s.d."].low == pytest.approx(reference.d_av)
    assert found["t / √n"].high == pytest.approx(reference.d_z)
    assert found["mean s.d."].low == pytest.approx(reference.difference / np.mean(sds))
    assert found["second s.d."].low == pytest.approx(reference.difference / sds[1])
    unpaired = stats.ttest_ind(a, b)
    assert audit.cohens_d(1.0, 1.0, 1.0, float(unpaired.statistic), n)["t √(2/n)"].low == pytest.approx(reference.d_av)


# --- What the drafts print -------------------------------------------------------------------------------------------


def test_values_found_before_by_hand():
    row = PRINTED["P2 tests"].loc
    assert audit.one_sample_t(5.1, 0.22, 30, 5).low == pytest.approx(2.49, abs=0.005)
    assert audit.p_value(2.49, 29).low == pytest.approx(0.019, abs=0.0005)
    assert audit.smallest_sd("5.1", 30, ddof=0) == pytest.approx(0.2494, abs=1e-4)
    assert audit.paired_t(2.1, 0.15, 0.17, 5).low == pytest.approx(14.7, abs=0.05)
    assert audit.paired_t(interval("84.6") - "82.4", "0.29", "0.41", 5).low == pytest.approx(6.61, abs=0.005)
    p = [audit.p_value(float(t), 4, one_tailed=True).low for t in PRINTED["P2 tests"].t[:6]]
    assert p == pytest.approx([0.0168, 0.0330, 0.0083, 0.0080, 0.0100, 0.0012], abs=5e-5)
    exact = [audit.cohens_d(*row[name][["difference", "sd", "sd_other", "t"]].astype(float), 5)["pooled s.d."].low
             for name in PRINTED["P2 tests"].index[:6]]  # fmt: skip
    assert exact == pytest.approx([2.37, 1.58, 2.99, 2.85, 2.53, 13.1], abs=0.01)


def test_tables_hold_printed_texts():
    for place, table in PRINTED.items():
        texts = [text for text in table.to_numpy().ravel() if isinstance(text, str)]
        assert place[:2] in ("P1", "P2") and all(interval(text) for text in texts)
        assert len(texts) >= table.size - 2  # two cells that P2 leaves out, in the row from section 6.3
    assert PRINTED["P2 tests"].loc["MT-Bench", "p"] == "0.010"


# --- Exercises and figures -------------------------------------------------------------------------------------------


def error_range(true, estimate):
    error = (interval(estimate) - true) / true * 100
    return error if error.low > 0 else error * -1


def first_decimals(n):
    return sum(audit.grim(f"5.{digit}", n) for digit in range(10))


def one_run(percent, examples):
    return audit.grim(interval(percent) / 100 * examples, 1)


def witness(difference, sd, sd_other, t, n):
    r = (sd**2 + sd_other**2 - n * (difference / t) ** 2) / (2 * sd * sd_other)
    return scores(difference, sd, sd_other, r, n)


def orders(places, most):
    i = len(places) - 1
    near = [j for j in places if (i - j) ** 2 <= most]
    return sum(orders(places - {j}, most - (i - j) ** 2) for j in near) if places else 1


def exact_p(n, most):
    return 2 * orders(frozenset(range(n)), most) / factorial(n)


def test_right_answers_pass():
    assert checks.audit_error(error_range)
    assert checks.audit_grim(first_decimals)
    assert checks.audit_one_run(one_run, ["75.8"])
    assert checks.audit_witness(witness)
    assert checks.audit_exact(exact_p)


@pytest.mark.parametrize(
    "check, answer, hint",
    [
        ("audit_error", (lambda true, estimate: abs(float(estimate) - true) / true * 100,), "interval"),
        ("audit_error", (lambda true, estimate: (interval(estimate) - true) / true * 100,), "without sign"),
        ("audit_error", (lambda true, estimate: error_range(true, estimate) / 100,), "2.333 to 3"),
        ("audit_grim", (lambda n: min(n, 10),), "4 runs"),
        ("audit_grim", (lambda n: 10,), "decimal 0"),
        ("audit_one_run", (one_run, []), "210 of 277"),
        ("audit_one_run", (lambda percent, examples: True, ["75.8"]), "4 examples"),
        ("audit_witness", (lambda d, s, o, t, n: scores(d, s, o, 0.0, n),), "which correlation"),
        ("audit_witness", (lambda d, s, o, t, n: scores(d, o, s, 0.0, n),), "first s.d."),
        ("audit_witness", (lambda d, s, o, t, n: scores(d, s, o, 0.0, n + 1),), "five scores"),
        ("audit_exact", (lambda n, most: exact_p(n, most) / 2,), "2/24"),
        ("audit_exact", (lambda n, most: exact_p(n, 0),), "swaps of neighbours"),
        ("audit_exact", (lambda n, most: exact_p(n, min(most, 14)),), "1.80e-5"),
    ],
)
def test_wrong_answers_fail_with_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        getattr(checks, check)(*answer)


def test_exact_p_against_a_permutation_test():
    x = np.arange(6)
    y = np.array([1, 0, 2, 3, 5, 4])
    found = stats.permutation_test((x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings",
                                   n_resamples=np.inf, alternative="greater")  # fmt: skip
    assert exact_p(6, int(np.sum((x - y) ** 2))) == pytest.approx(2 * found.pvalue)


def test_figures_draw_where_they_are_told():
    bars = {"a": (Interval(1, 2), Interval(0.5, 2), "1.50"), "b": (Interval(3, inf), Interval(3, inf), "0.50")}
    calls = [
        lambda ax: audit_figures.count_lattice("5.1", "0.22", 30, ax=ax),
        lambda ax: audit_figures.numbers_of_runs("5.1", "0.22", range(5, 25), ax=ax),
        lambda ax: audit_figures.possible_t(bars, ax=ax),
        lambda ax: audit_figures.energy_ranks([0.7, 0.9], ["5.8", "4.7"], {"x": [4, 5]}, ax=ax),
    ]
    for call in calls:
        ax = plt.figure().subplots()
        assert call(ax) is ax and ax.get_xlabel() and call(None) is not ax
    plt.close("all")


def test_figures_mark_what_is_possible():
    ax = audit_figures.numbers_of_runs("5.1", "0.22", range(5, 45))
    assert ax.lines[1].get_xdata().tolist() == [20, 39, 40]
    ax = audit_figures.possible_t({"a": (Interval(3, 5), Interval(2, 5), "2.50")})
    assert "D" in {line.get_marker() for line in ax.lines[:1]}
    plt.close("all")
