"""Ranks under a budget are the best ones: compared with every possible choice, and with an integer programme."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from companion.rank_rules import allocate, permuted_ranks, proportional_ranks

values = st.lists(st.one_of(st.integers(0, 5), st.floats(0, 10)), min_size=1, max_size=4)


@st.composite
def problems(draw):
    names = [f"layer.{i}" for i in range(draw(st.integers(1, 4)))]
    low = draw(st.integers(0, 1))
    return {
        "spectra": {name: draw(values) for name in names},
        "costs": {name: draw(st.integers(1, 9)) * draw(st.sampled_from([1, 1, 4])) for name in names},
        "budget": draw(st.integers(0, 60)),
        "min_rank": low,
        "max_rank": draw(st.one_of(st.none(), st.integers(max(low, 1), 4))),
        "curvature": draw(st.one_of(st.none(), st.fixed_dictionaries({name: st.floats(0.1, 4) for name in names}))),
    }


def gains_of(problem):
    kappa = problem["curvature"] or dict.fromkeys(problem["spectra"], 1.0)
    return {n: np.sort(s)[::-1].astype(float) ** 2 / (2 * kappa[n]) for n, s in problem["spectra"].items()}


def best_by_trying(problem):
    """The largest gain of all choices of ranks that fit, None if none fits."""
    gains, costs = gains_of(problem), problem["costs"]
    limits = {n: g.size if problem["max_rank"] is None else min(g.size, problem["max_rank"]) for n, g in gains.items()}
    choices = itertools.product(*(range(min(problem["min_rank"], limits[n]), limits[n] + 1) for n in gains))
    fitting = [c for c in choices if sum(r * costs[n] for r, n in zip(c, gains, strict=True)) <= problem["budget"]]
    return max((sum(gains[n][:r].sum() for r, n in zip(c, gains, strict=True)) for c in fitting), default=None)


@settings(max_examples=400, deadline=None)
@given(problems())
def test_allocation_is_the_best_of_all_choices(problem):
    best = best_by_trying(problem)
    if best is None:
        with pytest.raises(ValueError, match="does not pay for min_rank"):
            allocate(**problem)
        return
    ranks = allocate(**problem)
    assert ranks.gain == pytest.approx(best, rel=1e-9, abs=1e-12)
    gains = gains_of(problem)
    assert ranks.gain == pytest.approx(sum(gains[n][:r].sum() for n, r in ranks.items()), abs=1e-12)
    assert ranks.spent == sum(r * problem["costs"][n] for n, r in ranks.items()) <= problem["budget"]
    assert ranks.spent + ranks.unspent == problem["budget"] == ranks.budget
    assert list(ranks) == list(problem["spectra"])
    assert all(isinstance(rank, int) for rank in ranks.values())


@given(problems())
def test_the_same_problem_has_the_same_answer(problem):
    if best_by_trying(problem) is not None:
        assert allocate(**problem) == allocate(**problem)


@given(problems(), st.floats(0.1, 10))
def test_units_of_the_spectra_and_of_the_costs_do_not_matter(problem, scale):
    problem["curvature"] = None
    problem["spectra"] = {n: np.arange(1, len(s) + 1) ** 1.5 + k for k, (n, s) in enumerate(problem["spectra"].items())}
    if best_by_trying(problem) is None:
        return
    scaled = {name: scale * np.asarray(s) for name, s in problem["spectra"].items()}
    assert allocate(**problem | {"spectra": scaled}).gain == pytest.approx(scale**2 * allocate(**problem).gain)
    dearer = {name: 1536 * cost for name, cost in problem["costs"].items()}
    again = allocate(**problem | {"costs": dearer, "budget": 1536 * problem["budget"] + 1535})
    assert dict(again) == dict(allocate(**problem))
    assert again.unspent >= 1535


@pytest.mark.parametrize("seed", range(4))
def test_allocation_agrees_with_integer_programming(seed):
    rng = np.random.default_rng(seed)
    costs = {f"m{i}": int(c) for i, c in enumerate(rng.choice([768, 1536, 3840, 5120], 24))}
    spectra = {name: np.sort(rng.exponential(1, 12))[::-1] for name in costs}
    budget = int(3.3 * sum(costs.values()))
    ranks = allocate(spectra, costs, budget)
    gain = np.concatenate([s**2 / 2 for s in spectra.values()])
    price = np.repeat(list(costs.values()), 12)
    solved = milp(
        -gain, integrality=np.ones(gain.size), bounds=Bounds(0, 1), constraints=LinearConstraint(price[None], ub=budget),
        options={"mip_rel_gap": 0},
    )  # fmt: skip
    assert ranks.gain == pytest.approx(-solved.fun, rel=1e-6)


def test_gain_per_parameter_alone_would_lose_here():
    """Budget 10; one direction costs 6 and gains 7, two others cost 5 and gain 5 each."""
    spectra = {"a": [14**0.5], "b": [10**0.5, 10**0.5]}
    ranks = allocate(spectra, {"a": 6, "b": 5}, 10)
    assert (dict(ranks), ranks.unspent, ranks.gain) == ({"a": 0, "b": 2}, 0, pytest.approx(10))


def test_what_cannot_be_spent_is_reported():
    assert allocate({"a": [1.0, 0.0]}, {"a": 4}, 100).unspent == 96
    assert allocate({"a": [3.0, 2.0, 1.0]}, {"a": 4}, 100, max_rank=2).unspent == 92


def test_spectra_may_be_objects_and_curvature_decides():
    class Found:
        singular_values = np.array([1.0, 2.0])

    assert dict(allocate({"x": Found(), "y": [1.5]}, {"x": 1, "y": 1}, 2)) == {"x": 1, "y": 1}
    assert dict(allocate({"x": Found(), "y": [1.5]}, {"x": 1, "y": 1}, 2, curvature={"x": 0.1, "y": 1.0}))["x"] == 2


GOOD = {"spectra": {"a": [2.0, 1.0]}, "costs": {"a": 3}, "budget": 6}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"spectra": {}}, ValueError, "spectra is empty"),
        ({"spectra": {"a": [np.nan]}}, ValueError, r"spectra\['a'\] must hold no NaN"),
        ({"spectra": {"a": [-1.0]}}, ValueError, r"spectra\['a'\] must be >= 0"),
        ({"spectra": {"a": [[1.0]]}}, ValueError, r"in one dimension, got shape \(1, 1\)"),
        ({"spectra": {"a": []}}, ValueError, "in one dimension"),
        ({"costs": {"b": 1}}, ValueError, "costs and spectra must have the same names"),
        ({"costs": {"a": 0}}, ValueError, r"costs\['a'\] must be >= 1, got 0"),
        ({"costs": {"a": 1.5}}, TypeError, r"costs\['a'\] must be an integer, got 1.5"),
        ({"budget": -1}, ValueError, "budget must be >= 0, got -1"),
        ({"budget": 2, "min_rank": 1}, ValueError, "budget 2 does not pay for min_rank=1 everywhere, which costs 3"),
        ({"min_rank": -1}, ValueError, "min_rank must be >= 0"),
        ({"min_rank": 2, "max_rank": 1}, ValueError, "max_rank must be >= 2, got 1"),
        ({"curvature": {"a": 0.0}}, ValueError, r"curvature\['a'\] must be > 0"),
        ({"curvature": {}}, ValueError, "curvature and spectra must have the same names"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        allocate(**GOOD | change)


def test_costs_that_make_the_search_too_long_are_refused():
    rng = np.random.default_rng(0)
    spectra = {str(k): rng.random(2000) for k in range(3)}
    with pytest.raises(ValueError, match="common divisor 1, which makes the exact search too long"):
        allocate(spectra, {"0": 70_001, "1": 110_003, "2": 130_007}, 10**8)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_proportional_ranks_keep_budget_and_bounds_and_favour_weight(data):
    names = [f"layer.{i}" for i in range(data.draw(st.integers(1, 6)))]
    weights = {name: data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0, 3.0])) for name in names}
    costs = {name: data.draw(st.integers(1, 7)) for name in names}
    low = data.draw(st.integers(0, 2))
    high = data.draw(st.one_of(st.none(), st.integers(max(low, 1), 9)))
    budget = data.draw(st.integers(low * sum(costs.values()), 90))
    if not any(weights.values()):
        with pytest.raises(ValueError, match="not all zero"):
            proportional_ranks(weights, costs, budget, low, high)
        return
    ranks = proportional_ranks(weights, costs, budget, low, high)
    left = budget - sum(rank * costs[name] for name, rank in ranks.items())
    assert left >= 0 and all(low <= rank <= (high or 90) for rank in ranks.values())
    for name in names:  # nobody with a claim could still pay for one more
        assert weights[name] == 0 or ranks[name] == high or costs[name] > left
        assert weights[name] > 0 or ranks[name] == low
    for a, b in itertools.permutations(names, 2):  # of equal cost, the heavier one never has less
        if costs[a] == costs[b] and weights[a] > weights[b]:
            assert ranks[a] >= ranks[b]


def test_proportional_ranks_are_the_seats_of_sainte_lague():
    votes = {"a": 53_000, "b": 24_000, "c": 23_000}  # a textbook apportionment: 7 seats go 3, 2, 2
    assert proportional_ranks(votes, dict.fromkeys(votes, 1), 7) == {"a": 3, "b": 2, "c": 2}
    assert proportional_ranks(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 2), 10) == {"a": 2, "b": 2, "c": 1}


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([8, 9])), min_size=1, max_size=8), st.integers(0, 99))
def test_permuted_ranks_keep_what_every_cost_class_has(pairs, seed):
    ranks = {f"m{i}": rank for i, (rank, _) in enumerate(pairs)}
    costs = {f"m{i}": cost for i, (_, cost) in enumerate(pairs)}
    found = permuted_ranks(ranks, costs, np.random.default_rng(seed))
    for cost in (8, 9):
        assert sorted(found[n] for n in found if costs[n] == cost) == sorted(ranks[n] for n in ranks if costs[n] == cost)
    assert list(found) == list(ranks)


def test_bad_arguments_of_the_simple_allocations_are_named():
    with pytest.raises(ValueError, match="costs and weights must have the same names; only one of them has 'b'"):
        proportional_ranks({"a": 1.0}, {"a": 1, "b": 1}, 3)
    with pytest.raises(ValueError, match="ranks is empty"):
        permuted_ranks({}, {}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="does not pay for min_rank=2"):
        proportional_ranks({"a": 1.0, "b": 2.0}, {"a": 3, "b": 3}, 11, min_rank=2)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weights"):
            proportional_ranks({"a": weight, "b": 1.0}, {"a": 3, "b": 3}, 11)


@pytest.mark.parametrize("budget", [40, 10**9, 10**15])
def test_a_budget_for_everything_costs_no_search(budget):
    ranks = allocate({"a": np.ones(30), "b": [2.0, 0.0]}, {"a": 1, "b": 7}, budget)
    assert dict(ranks) == {"a": 30, "b": 1} and ranks.unspent == budget - 37
