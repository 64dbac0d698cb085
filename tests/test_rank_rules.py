"""Rank rules: definitions checked by brute force and by the properties that P2's tables would need."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from companion import rank_rules
from companion.rank_rules import RULES, energy_rank, floor_rank, gap_rank, make_rule, ratio_rank, threshold_rank

spectra = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(lambda values: sorted(values, reverse=True))


@given(spectra)
def test_gap_is_the_first_largest_difference(values):
    assume(len(values) > 1 and values[0] > 0)
    gaps = [values[i - 1] - values[i] for i in range(1, len(values))]
    assert gap_rank(values) == 1 + gaps.index(max(gaps))


@given(spectra, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_energy_never_needs_fewer_modes(values, a, b):
    """B17: a mean rank that falls as tau grows (P2 table 1) cannot come from an energy rule."""
    low, high = sorted((a, b))
    assert energy_rank(values, low) <= energy_rank(values, high)


@given(spectra, st.floats(0.01, 1))
def test_energy_rank_is_the_smallest_that_suffices(values, fraction):
    assume(values[0] > 0)
    energy = np.cumsum((np.array(values) / values[0]) ** 2)
    rank = energy_rank(values, fraction)
    assert energy[rank - 1] >= fraction * energy[-1]
    assert rank == 1 or energy[rank - 2] < fraction * energy[-1]


@given(spectra, st.floats(0.1, 100), st.integers(1, 10**6))
def test_threshold_is_p2_equation_7(values, constant, n):
    shape = (len(values), 3 * len(values))
    expected = max([r for r in range(1, len(values) + 1) if values[r - 1] ** 2 >= constant * shape[1] / n], default=0)
    assert threshold_rank(values, constant, shape, n) == expected


@given(spectra, st.floats(0, 1e6))
def test_floor_counts_strictly_above(values, floor):
    assert floor_rank(values, floor) == sum(value > floor for value in values)


@given(spectra, st.floats(1e-3, 1e3), st.randoms())
def test_scale_and_order_do_not_matter(values, scale, random):
    assume(values[0] > 1e-3)
    shuffled = random.sample(values, len(values))
    assert gap_rank(shuffled) == gap_rank(values)
    assert ratio_rank(shuffled) == ratio_rank(values)
    assert energy_rank(shuffled, 0.9) == energy_rank(values, 0.9)
    assert floor_rank(np.array(shuffled) * 2.0, 2.0) == floor_rank(values, 1.0)  # powers of two: exact


@pytest.mark.parametrize("decay", [1.05, 1.5, 3.0])
def test_gap_is_one_for_every_exponential_and_power_law(decay):
    """B14: for such spectra the largest absolute gap is the first, whatever the size."""
    k = np.arange(1, 65)
    assert gap_rank(decay**-k) == 1
    assert gap_rank(k**-decay) == 1


def test_ratio_finds_the_cliff_and_the_exact_rank():
    assert ratio_rank([5, 4, 3, 0.1, 0.09]) == 3
    assert ratio_rank([4, 2, 0, 0]) == 2
    rng = np.random.default_rng(0)
    low_rank = rng.standard_normal((40, 7)) @ rng.standard_normal((7, 30))
    assert ratio_rank(np.linalg.svd(low_rank, compute_uv=False)) == 7


@pytest.mark.parametrize("rule", [gap_rank, ratio_rank])
def test_edge_cases_as_documented(rule):
    assert rule([0.0, 0.0, 0.0]) == 0
    assert rule([3.0]) == 1
    assert rule([0.0]) == 0
    assert rule([2.0, 2.0, 2.0]) == 1  # all tied: the first index
    assert rule([9, 8, 1, 0.5], max_rank=1) == 1
    assert energy_rank([0.0, 0.0]) == 0
    assert floor_rank([1.0, 0.0], 0.0) == 1
    assert threshold_rank([2.0, 1.0], 4.0, (1, 1), 1) == 1  # equality counts


BAD = [[], [[1.0]], [1.0, np.nan], [1.0, np.inf], [1.0, -0.1]]


@pytest.mark.parametrize("values", BAD)
@pytest.mark.parametrize("rule", [gap_rank, ratio_rank, energy_rank, lambda s: floor_rank(s, 1), lambda s: threshold_rank(s, 1, (2, 2), 1)])
def test_bad_spectra_are_named(rule, values):
    with pytest.raises(ValueError, match="singular_values"):
        rule(values)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: energy_rank([1.0], 0.0), "fraction"),
        (lambda: energy_rank([1.0], 1.1), "fraction"),
        (lambda: energy_rank([1.0], float("nan")), "fraction"),
        (lambda: floor_rank([1.0], -1), "floor"),
        (lambda: floor_rank([1.0], float("nan")), "floor"),
        (lambda: threshold_rank([1.0], 0.0, (2, 2), 5), "constant"),
        (lambda: threshold_rank([1.0], 1.0, (2, 0), 5), "shape"),
        (lambda: threshold_rank([1.0], 1.0, (2, 2), 0), "n_examples"),
        (lambda: gap_rank([1.0], max_rank=-1), "max_rank"),
        (lambda: gap_rank([1.0], max_rank=1.5), "max_rank"),
    ],
)
def test_bad_parameters_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


SPECTRUM = SimpleNamespace(singular_values=np.array([6.0, 5.0, 1.0]), shape=(3, 4), n_examples=8, noise_floor=2.0)


def test_registry_and_specifications():
    assert set(RULES) == {"gap", "ratio", "threshold", "energy", "floor"}
    assert all(getattr(rank_rules, f"{name}_rank") is rule for name, rule in RULES.items())
    assert [make_rule(name)(SPECTRUM) for name in ("gap", "gap:1", "ratio", "energy:0.5", "energy", "floor", "floor:2.6")] == [
        2, 1, 2, 1, 2, 2, 1,
    ]  # fmt: skip
    assert make_rule("threshold:2")(SPECTRUM) == threshold_rank([6, 5, 1], 2.0, (3, 4), 8) == 3
    assert make_rule(lambda spectrum: spectrum.n_examples - 6)(SPECTRUM) == 2


@pytest.mark.parametrize("rule", ["nosuch", "threshold", "energy:x", 7])
def test_bad_rules_are_named(rule):
    with pytest.raises(ValueError, match="rule"):
        make_rule(rule)


@pytest.mark.parametrize("answer", [-1, 4, 1.0, True, None])
def test_what_a_callable_answers_is_checked(answer):
    with pytest.raises(ValueError, match="returned"):
        make_rule(lambda spectrum: answer)(SPECTRUM)


@pytest.mark.parametrize("values", [["3", "2"], [True, False], [1 + 1j], [[1], [1, 2]], "abc", None])
def test_what_is_no_spectrum_is_named(values):
    with pytest.raises(ValueError, match="singular_values"):
        gap_rank(values)


@pytest.mark.parametrize("rule", ["gap:inf", "gap:2.7", "ratio:-1", "energy:7", "energy:nan", "floor:-1", "threshold:0"])
def test_parameters_are_checked_before_any_spectrum(rule):
    with pytest.raises(ValueError):
        make_rule(rule)


@pytest.mark.parametrize("shape", [5, (2.5, 3), (True, 2), (2,)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match="shape"):
        threshold_rank([1.0], 1.0, shape, 4)


def test_huge_values_overflow_in_silence():
    assert threshold_rank([1e200, 1.0], 1e-3, (2, 2), 4) == 2
