"""The chapter *Tucker: three ranks instead of one*: its propositions, helpers, figures and the checks of its exercises."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from companion.book import circuits, tucker_figures, tucker_runs
from companion.book.checks import tucker as checks
from companion.scalar_flow import crossing_times
from companion.tucker import Tucker, lora_equivalent, parameter_counts, unfolding_ranks
from companion.tucker_flow import descend, start_point, tucker_balance
from companion.tucker_law import coupling, tucker_half_time

few = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 10**6)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# --- Propositions ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(2, 3000), st.data())
def test_ratio_to_the_printed_count_is_at_most_4_over_m(d1, d2, d3, data):
    s1, s2 = data.draw(st.integers(1, d1)), data.draw(st.integers(1, d2))
    s3 = data.draw(st.integers(1, min(d3, s1 * s2)))
    counts = parameter_counts((d1, d2, d3), (s1, s2, s3))
    assert counts.tucker / counts.lora_printed <= 4 / min(d1, d2, d1 * d2 / d3)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_tucker_saves_less_than_half_for_attention_weights(d1, d2, data):
    s1, s2 = data.draw(st.integers(1, d1)), data.draw(st.integers(1, d2))
    counts = parameter_counts((d1, d2, d1 * d2), (s1, s2, data.draw(st.integers(1, s1 * s2))))
    assert counts.tucker > counts.lora_fair / 2


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2000), st.data())
def test_saving_is_less_than_1_plus_the_ratio_of_the_sides(d1, d2, d3, data):
    s1, s2 = data.draw(st.integers(1, d1)), data.draw(st.integers(1, d2))
    counts = parameter_counts((d1, d2, d3), (s1, s2, data.draw(st.integers(1, min(d3, s1 * s2)))))
    assert counts.lora_fair < (1 + d1 * d2 / d3) * counts.tucker


@few
@given(seeds, st.sampled_from([("core-zero", 0.4), ("orthonormal", None)]))
def test_surplus_is_zero_in_descent_from_a_zero_core(seed, kind):
    rng = np.random.default_rng(seed)
    target = start_point("small", (6, 5, 7), (2, 3, 2), 1.5, rng).to_tensor()
    path = descend(target, start_point(kind[0], (6, 5, 7), (4, 4, 5), kind[1], rng), steps=80, step_size=0.1)
    assert max(path.mode_singular_values(k)[:, s:].max() for k, s in enumerate((2, 3, 2))) < 1e-12


def test_surplus_is_not_zero_for_factors_of_unequal_columns():
    rng = np.random.default_rng(0)
    target = start_point("small", (6, 5, 7), (2, 2, 2), 1.5, rng).to_tensor()
    factors = tuple(0.5 * rng.standard_normal((d, 4)) for d in (6, 5, 7))
    path = descend(target, Tucker(np.zeros((4, 4, 4)), factors), steps=200, step_size=0.05)
    assert path.mode_singular_values(0)[:, 2:].max() > 1e-6


@few
@given(seeds, st.integers(5, 40))
def test_flow_and_coupling_do_not_see_appended_zeros(seed, d):
    rng = np.random.default_rng(seed)
    target, start = rng.standard_normal((4, 4, 4)), start_point("small", (4, 4, 4), (2, 2, 2), 1.0, rng)
    wide = np.pad(target, (0, d - 4))
    padded = Tucker(start.core, tuple(np.pad(a, ((0, d - 4), (0, 0))) for a in start.factors))
    ends = [descend(t, s, steps=30, step_size=0.02).point() for t, s in ((target, start), (wide, padded))]
    small, large = coupling(target, ends[0], 1), coupling(wide, ends[1], 1)
    assert large.measured == pytest.approx(small.measured, rel=1e-9)
    assert large.constant == pytest.approx(d / 4 * small.constant, rel=1e-9)


@pytest.mark.parametrize("eps", [0.2, 0.3])
def test_half_times_of_tilted_columns(eps):
    """The weaker mode first; orthonormal columns times eps."""
    overlap = np.array([0.3, 1.0])
    columns = eps * np.vstack([np.diag(overlap), np.diag(np.sqrt(1 - overlap**2))])
    target = tucker_runs.diagonal([2.0, 1.0], (4, 4, 4))
    start = Tucker(np.zeros((2, 2, 2)), (columns,) * 3)
    runs = tucker_runs.follow(target, [start], steps=int(150 / eps**2), step_size=0.05, every=20)
    found = crossing_times(runs.times, runs.diagonals(2)[:, 0], [1.0, 0.5])
    law = [tucker_half_time(2.0, 0.3 * eps), tucker_half_time(1.0, eps)]
    assert found == pytest.approx(law, rel=0.05)
    assert found[1] < found[0]


@pytest.mark.parametrize("overlaps", [(0.2, 0.3, 0.4), (0.5, 0.15, 0.1), (0.3, 0.3, 0.3)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_wait_from_factors_of_length_one(strength, overlaps):
    factors = tuple(np.array([[y], [np.sqrt(1 - y**2)]]) for y in overlaps)
    target = tucker_runs.diagonal([strength], (2, 2, 2))
    law = tucker_runs.overlap_half_time(strength, overlaps)
    start = [Tucker(np.zeros((1, 1, 1)), factors)]
    runs = tucker_runs.follow(target, start, steps=int(1.3 * law / 0.1) + 100, step_size=0.1, every=1)
    found = crossing_times(runs.times, runs.diagonals(1)[:, 0, 0], strength / 2)
    assert law < found < law + 8 / strength  # what the core takes to catch up, at both ends

    def slope(_, y):
        return 2 * strength**2 * (1 - y) * np.prod(y)

    path = solve_ivp(slope, (0, 1.2 * law), np.square(overlaps), rtol=1e-10, atol=1e-12, dense_output=True)
    assert np.prod(path.sol(law)) == pytest.approx(0.5, rel=1e-4)


def test_one_small_overlap_is_not_enough_for_the_law_of_the_wait():
    factors = tuple(np.array([[y], [np.sqrt(1 - y**2)]]) for y in (0.01, 1, 1))
    start = [Tucker(np.zeros((1, 1, 1)), factors)]
    runs = tucker_runs.follow(tucker_runs.diagonal([1.0], (2, 2, 2)), start, steps=400, step_size=0.05, every=1)
    law = tucker_runs.overlap_half_time(1.0, (0.01, 1, 1))
    assert crossing_times(runs.times, runs.diagonals(1)[:, 0, 0], 0.5) > 1.5 * law


def test_small_core_from_the_first_power_law_to_the_exponential():
    """One surplus component: a power of time for c = 0, exponential at the rate c^3 below."""
    for c, law in ((0.0, lambda t: (0.3**-6 + 6 * t) ** (-2 / 3)), (0.08, None)):
        path = solve_ivp(lambda _, g, c=c: -g * (c + g**2) ** 3, (0, 5e4), [0.3], rtol=1e-10, atol=1e-14, dense_output=True)
        if law:
            assert path.sol(1e4)[0] ** 4 == pytest.approx(law(1e4), rel=1e-4)
        else:
            g = path.sol([1e4, 1.1e4])[0]
            assert np.log(g[0] / g[1]) / 1e3 == pytest.approx(c**3, rel=0.01)


def test_wait_of_small_equal_overlaps_and_of_none():
    assert tucker_runs.overlap_half_time(2.0, [0.01] * 3) == pytest.approx(0.01**-4 / 16, rel=0.01)
    assert tucker_runs.overlap_half_time(1.0, [1.0] * 3) == 0


def test_a_plateau_is_no_minimum():
    """Two modes learned, the third orthogonal to the unused columns: gradient 0, and a way down."""
    target = tucker_runs.diagonal([2.0, 1.0, 0.5], (4, 4, 4))
    factors = tuple(np.eye(4)[:, [0, 1, 3]] for _ in range(3))
    core = tucker_runs.diagonal([2.0, 1.0], (3, 3, 3))
    still = descend(target, Tucker(core, factors), steps=5, step_size=0.1)
    assert still.errors(target) == pytest.approx(0.5)
    moved = tuple(a + 0.1 * np.outer(np.eye(4)[2], np.eye(3)[2]) for a in factors)
    lower = Tucker(core + tucker_runs.diagonal([0, 0, 1e-4], (3, 3, 3)), moved)
    assert np.linalg.norm(lower.to_tensor() - target) < 0.5


# --- Many runs -------------------------------------------------------------------------------------------------------


def test_follow_is_descend_for_each_start():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((3, 4, 5))
    starts = [start_point("small", (3, 4, 5), (2, 2, 2), 0.5, rng) for _ in range(3)]
    runs = tucker_runs.follow(target, starts, steps=20, step_size=0.02, every=5)
    for k, start in enumerate(starts):
        path = descend(target, start, steps=20, step_size=0.02, every=5)
        assert runs.times == pytest.approx(path.times)
        assert runs.errors(target)[:, k] == pytest.approx(path.errors(target) / np.linalg.norm(target))
        assert runs.tensors()[:, k] == pytest.approx(path.tensors())
        assert runs.diagonals(3)[-1, k] == pytest.approx([path.tensors()[-1, i, i, i] for i in range(3)])
        assert runs.point(-1, k).core == pytest.approx(path.point().core)


@pytest.mark.parametrize("eps", [0.3, None])
def test_start_in_basis_is_the_same_flow(eps):
    dims, ranks, strengths = (9, 8, 10), (3, 2, 3), [1.5, 0.7]
    rng = np.random.default_rng(1)
    small = tucker_runs.start_in_basis(dims, ranks, (2, 2, 2), rng, eps)
    large = start_point("orthonormal" if eps is None else "core-zero", dims, ranks, eps, np.random.default_rng(1))
    errors = []
    for start in (small, large):
        target = tucker_runs.diagonal(strengths, tuple(len(a) for a in start.factors))
        errors.append(descend(target, start, steps=200, step_size=0.1, every=20).errors(target))
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)
    assert [a.shape for a in small.factors] == [(5, 3), (4, 2), (5, 3)]
    for a, b in zip(tucker_balance(*small), tucker_balance(*large), strict=True):
        assert a == pytest.approx(b)


# --- Circuits --------------------------------------------------------------------------------------------------------


@few
@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_mode_ranks_of_decomposable_circuits(seed, components, shared):
    rng = np.random.default_rng(seed)
    for circuit in (
        circuits.mixture((4, 5, 6), components, rng),
        circuits.two_level((4, 5, 6), components, shared, rng),
    ):
        tensor = circuits.tensor_of(circuit, (4, 5, 6))
        assert tensor.shape == (4, 5, 6)
        assert tensor.sum() == pytest.approx(1)
        assert tensor.min() >= 0
        for k, rank in enumerate(unfolding_ranks(tensor)):
            assert rank <= sum(kind == "input" and content[0] == k for kind, content in circuit)


def test_mixture_is_the_sum_of_its_products():
    rng = np.random.default_rng(0)
    circuit = circuits.mixture((2, 3), 2, rng)
    tables = [content[1] for kind, content in circuit if kind == "input"]
    weights = circuit[-1][1][1]
    expected = sum(w * np.outer(tables[2 * j], tables[2 * j + 1]) for j, w in enumerate(weights))
    assert circuits.tensor_of(circuit, (2, 3)) == pytest.approx(expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_equality_has_few_units_and_full_rank(bits):
    circuit, n = circuits.equality(bits), 2**bits
    tensor = circuits.tensor_of(circuit, (n, n, n))
    assert len(circuit) == 9 * bits + 1
    assert tensor == pytest.approx(tucker_runs.diagonal(np.full(n, 1 / n), (n, n, n)))


# --- Checks of the exercises -----------------------------------------------------------------------------------------


def saving(dims, ranks):
    counts = parameter_counts(dims, ranks)
    return counts.lora_fair / counts.tucker


def export(core, factors):
    return lora_equivalent(Tucker(core, tuple(factors)), rows=1)


def rank_bound(circuit, variable):
    return sum(kind == "input" and content[0] == variable for kind, content in circuit)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (checks.tucker_saving, saving, lambda d, s: parameter_counts(d, s).lora_by_mode[2] / parameter_counts(d, s).tucker),
        (checks.tucker_export, export, lambda g, a: lora_equivalent(Tucker(g, tuple(a)))),
        (
            checks.tucker_power,
            lambda x, eps, n: 1 / ((n - 1) * x * eps ** (n - 1)),
            lambda x, eps, n: 1 / (x * eps ** (n - 1)),
        ),
        (checks.tucker_circuit, rank_bound, lambda circuit, variable: len(circuit)),
    ],
)
def test_checks_tell_right_from_wrong(check, right, wrong):
    assert check(right)
    with pytest.raises(AssertionError):
        check(wrong)


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_figures_draw_into_given_axes():
    times, rng = np.linspace(0, 10, 6), np.random.default_rng(0)
    falling = np.exp(-np.outer(times, [1.0, 3.0]))
    draws = {
        "shapes": lambda ax: tucker_figures.shapes((2, 2, 2), places={"here": (20, 20), "there": (200, 9)}, ax=ax),
        "learning": lambda ax: tucker_figures.learning({"a": (times, times / 10)}, ax, looks=(3,)),
        "half_times": lambda ax: tucker_figures.half_times([0.1, 0.2], {"a": [2.0, 1.0]}, ([0.1], [2.0]), ax),
        "order": lambda ax: tucker_figures.order(rng.uniform(1, 9, (4, 3)), ("a", "b"), 10, ax),
        "errors": lambda ax: tucker_figures.errors(times, falling, np.array([True, False]), ax),
        "unrecovered": lambda ax: tucker_figures.unrecovered(times, {"a": falling}, 1e-3, ax),
        "surplus": lambda ax: tucker_figures.surplus(times, falling[:, 0], 1.0, ax),
        "coupling": lambda ax: tucker_figures.coupling([8, 16], {"a": [0.1, 0.05], "b": [0.1]}, [0.1, 0.05], ax),
        "predicted": lambda ax: tucker_figures.predicted({"a": (np.array([1.0, 20]), np.array([1.0, np.nan]))}, [10], ax),
    }
    assert sorted(draws) == tucker_figures.__all__
    for draw in draws.values():
        ax = plt.subplots()[1]
        assert draw(ax) is ax
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        ax.figure.canvas.draw()


def test_order_marks_what_is_not_learned_beyond_the_end():
    half = np.array([[1.0, 2.0, np.nan]])
    ax = tucker_figures.order(half, ("a", "b"), 100)
    points = [line.get_xydata() for line in ax.lines[:2]]
    assert points[1][0].tolist() == [2.0, 125.0]
