"""Comparisons of methods against scipy, against simulation, and against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from companion.statistics import compare, equivalence, hierarchical_bootstrap, holm, minimum_detectable_effect, paired_power

scores = st.lists(st.floats(-100, 100), min_size=2, max_size=12)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(st.integers(2, 20), st.integers(0, 10**6))
def test_comparison_is_scipys_paired_test(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(80, 2, n), rng.normal(79, 3, n)
    found, reference = compare(a, b), stats.ttest_rel(a, b)
    assert (found.t, found.p) == pytest.approx((reference.statistic, reference.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert found.d_z == pytest.approx(found.t / np.sqrt(n))
    assert found.difference == pytest.approx(np.mean(a - b))


@given(scores)
def test_comparison_of_a_method_with_itself_finds_nothing(values):
    found = compare(values, values)
    assert (found.difference, found.t, found.p, found.d_z) == (0, 0, 1, 0)


def test_a_constant_difference_is_certain():
    found = compare([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (found.difference, found.p, found.t) == (1, 0, np.inf)


def test_d_av_is_the_d_of_the_printed_table():
    """P2 table 4, GLUE: means 0.8 apart, standard deviations 0.29 and 0.38."""
    z = np.array([-1.0, 0.0, 1.0])
    assert compare(84.6 + 0.29 * z, 83.8 + 0.38 * z).d_av == pytest.approx(2.37, abs=0.005)


def test_holm_by_hand():
    """Holm 1979: sorted p times (m, m - 1, ...), never decreasing, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.2]) == pytest.approx([0.2])


@given(p_values, st.randoms())
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(p, random):
    adjusted = holm(p)
    assert np.all(adjusted >= np.array(p) - 1e-15) and np.all(adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)
    shuffled = list(range(len(p)))
    random.shuffle(shuffled)
    assert holm(np.array(p)[shuffled]) == pytest.approx(adjusted[shuffled])


def test_holm_keeps_the_family_level():
    rng = np.random.default_rng(0)
    rejected = np.mean([holm(rng.random(5)).min() < 0.1 for _ in range(4000)])
    assert 0.08 < rejected < 0.11


@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_equivalence_is_two_one_sided_tests(seed, margin):
    x = np.random.default_rng(seed).normal(0.1, 0.4, 6)
    one = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    other = stats.ttest_1samp(x, margin, alternative="less").pvalue
    assert equivalence(x, margin) == pytest.approx(max(one, other))


def test_equivalence_at_its_edge_has_its_level():
    rng = np.random.default_rng(1)
    found = np.mean([equivalence(rng.normal(0.5, 0.2, 8), 0.5) < 0.05 for _ in range(4000)])
    assert 0.04 < found < 0.06


@pytest.mark.parametrize(("n", "alpha", "power"), [(5, 0.05, 0.8), (15, 0.05, 0.9), (5, 0.01, 0.5), (2, 0.05, 0.8)])
def test_minimum_detectable_effect_has_its_power(n, alpha, power):
    effect = minimum_detectable_effect(2.0, n, alpha, power)
    x = np.random.default_rng(2).normal(effect, 2.0, (20000, n))
    assert np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < alpha) == pytest.approx(power, abs=0.015)


def test_paired_power_is_the_share_of_drawn_studies_that_find_the_effect():
    rng, effect, spread, n = np.random.default_rng(0), 1.1, 1.0, 5
    drawn = rng.normal(effect, spread, (20_000, n))
    p = stats.ttest_1samp(drawn, 0, axis=1).pvalue
    one_tailed = stats.ttest_1samp(drawn, 0, axis=1, alternative="greater").pvalue
    assert paired_power(effect, spread, n) == pytest.approx(np.mean(p < 0.05), abs=0.015)
    assert paired_power(effect, spread, n, one_tailed=True) == pytest.approx(np.mean(one_tailed < 0.05), abs=0.015)
    assert paired_power(0, spread, n, alpha=0.1) == pytest.approx(0.1) and paired_power(1e3, spread, n) == pytest.approx(1)


def test_minimum_detectable_effect_falls_with_runs_and_grows_with_spread():
    effects = [minimum_detectable_effect(1.0, n) for n in (2, 3, 5, 10, 100)]
    assert effects == sorted(effects, reverse=True)
    assert minimum_detectable_effect(3.0, 5) == pytest.approx(3 * effects[2])
    assert minimum_detectable_effect(0.0, 5) == 0


def test_bootstrap_covers_the_mean_over_tasks_and_seeds():
    """Twelve tasks with effects of their own, four seeds each: the interval covers the common mean about as it says."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(200):
        effects = rng.normal(0.5, 1.0, 12)
        found = hierarchical_bootstrap({str(i): rng.normal(e, 0.5, 4) for i, e in enumerate(effects)}, rng, draws=500)
        hits += found.low <= 0.5 <= found.high
    assert 0.86 <= hits / 200 <= 0.98


def test_bootstrap_counts_every_task_the_same():
    found = hierarchical_bootstrap({"many": [1.0] * 50, "few": [0.0]}, np.random.default_rng(0))
    assert found.value == 0.5
    assert (found.low, found.high) == (0, 1)


def test_bootstrap_of_one_number_everywhere_is_that_number():
    found = hierarchical_bootstrap({"a": [0.3, 0.3], "b": [0.3]}, np.random.default_rng(0), draws=100)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_bootstrap_is_repeatable():
    differences = {"a": [0.1, 0.9], "b": [0.4, -0.2]}
    runs = [hierarchical_bootstrap(differences, np.random.default_rng(5)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([1.0], [2.0]), "first must hold 2 numbers or more"),
        (lambda: compare([1.0, 2.0], [2.0, 3.0, 4.0]), "same length, got 2 and 3"),
        (lambda: compare([1.0, np.nan], [2.0, 3.0]), "first must hold no NaN"),
        (lambda: compare([1.0, 2.0], [2.0, 3.0], level=1), "level must lie between 0 and 1"),
        (lambda: holm([]), r"p_values must be one or more numbers in \[0, 1\]"),
        (lambda: holm([0.5, 1.5]), "p_values"),
        (lambda: equivalence([0.1, 0.2], margin=0), "margin must be > 0"),
        (lambda: paired_power(1.0, 0.0, 5), "spread must be a standard deviation > 0"),
        (lambda: paired_power(1.0, 1.0, 1), "n must be >= 2, got 1"),
        (lambda: minimum_detectable_effect(1.0, 1), "n must be >= 2, got 1"),
        (lambda: minimum_detectable_effect(-1.0, 5), "spread must be a standard deviation >= 0"),
        (lambda: minimum_detectable_effect(1.0, 5, alpha=0.9), "power must be larger than alpha"),
        (lambda: hierarchical_bootstrap({"a": [1.0]}, np.random.default_rng(0)), "two tasks or more, got 1"),
        (lambda: hierarchical_bootstrap({"a": [1.0], "b": []}, np.random.default_rng(0)), r"differences\['b'\]"),
        (lambda: hierarchical_bootstrap({"a": [1.0], "b": [2.0]}, np.random.default_rng(0), draws=5), "draws"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
