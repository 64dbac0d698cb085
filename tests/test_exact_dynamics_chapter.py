"""The chapter *tanh² or logistic?*: the checks of its exercises, its figures, and what its proofs say of small starts."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from companion.book import checks, claims, dynamics_figures
from companion.gradient_flow import ExactFlow
from companion.projected_flow import projections, reduced_system
from companion.scalar_flow import seed_strengths
from flow_problems import STRENGTHS, lora_problem

mpl.use("Agg")


# --- Exercises. ------------------------------------------------------------------------------------------------------


def gram_seeds(target, a0):
    u, strengths, _ = np.linalg.svd(target)
    rows = u[:, : np.sum(strengths > 1e-12 * strengths[0])].T @ a0
    volumes = [np.linalg.det(rows[:i] @ rows[:i].T) for i in range(len(rows) + 1)]
    return np.divide(volumes[1:], volumes[:-1])


def without_projection(target, a0):
    u, strengths, _ = np.linalg.svd(target)
    return np.sum((u[:, : np.sum(strengths > 1e-12 * strengths[0])].T @ a0) ** 2, axis=1)


def largest_eps(strong, weak, r_1, r_2):
    needed = np.log(4 * strong / r_1**2) / (2 * strong) - np.log(4 * weak / r_2**2) / (2 * weak)
    return np.exp(-needed / (1 / weak - 1 / strong))


UNLEARNED = np.array([[1, 1], [1, 1], [1, -1], [1, -1]]) / 200


def test_right_answers_pass():
    assert checks.dynamics_rise(lambda strength: np.log(81) / (2 * strength))
    assert checks.dynamics_seeds(gram_seeds) and checks.dynamics_seeds(seed_strengths, seed=1)
    assert checks.dynamics_unlearned(UNLEARNED)
    assert checks.dynamics_order(largest_eps)


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.dynamics_rise, lambda strength: np.log(81) / strength, "the rate of the logistic curve is 2 lambda"),
        (checks.dynamics_rise, lambda strength: 1 / strength, "expected"),
        (checks.dynamics_seeds, without_projection, "project out what the stronger modes share"),
        (checks.dynamics_seeds, lambda target, a0: gram_seeds(target, a0)[:2], "one seed for each"),
        (checks.dynamics_seeds, lambda target, a0: 2 * gram_seeds(target, a0), "expected"),
        (checks.dynamics_unlearned, UNLEARNED.T, r"has shape \(4, 2\)"),
        (checks.dynamics_unlearned, UNLEARNED + np.eye(4, 2), "not orthogonal and of one length"),
        (checks.dynamics_unlearned, np.eye(4)[:, [0, 2]], "may be orthogonal to u_1 or u_2"),
        (checks.dynamics_unlearned, np.array([[1, 1], [1, -1], [1, 1], [1, -1]]) / 2, "what is R_22"),
        (checks.dynamics_order, lambda *case: 1.5 * largest_eps(*case), "the weaker mode still comes first"),
        (checks.dynamics_order, lambda *case: 0.5 * largest_eps(*case), "the stronger mode still comes first"),
    ],
)
def test_wrong_answers_fail_with_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)


# --- What the chapter proves. ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 9), st.floats(0.5, 6))
def test_the_flow_from_a_small_start(seed, r, time):
    """The lemma: cosh sinh a_i' N^-1 a_j for M, cosh cosh for AA', sinh sinh for B'B."""
    target, a0 = lora_problem(seed, 12, 10, r, 1e-5)
    flow = ExactFlow(target, a0)
    a, grown = a0.T @ flow.left, np.exp(STRENGTHS * time)
    inverse = np.linalg.inv(np.eye(r) + a * np.sinh(2 * STRENGTHS * time) / (2 * STRENGTHS) @ a.T)
    inner = a.T @ inverse @ a
    cosh, sinh = (grown + 1 / grown) / 2, (grown - 1 / grown) / 2
    seen = projections(target, *flow.factors(time))
    size = np.max(np.abs(seen.phi))
    assert_allclose(cosh[:, None] * sinh * inner, flow.left.T @ flow.update(time) @ flow.right, atol=1e-5 * size + 1e-12)
    assert_allclose(np.abs(np.outer(cosh, cosh) * inner), np.abs(seen.alpha), atol=1e-5 * size + 1e-12)
    assert_allclose(np.abs(np.outer(sinh, sinh) * inner), np.abs(seen.beta), atol=1e-5 * size + 1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.floats(-2, 3))
def test_activation(seed, r, tau):
    """The theorem: logistic in tau around the half-time by QR seeds, for modes that differ by a third or more."""
    strengths = np.array([2.0, 1.2, 0.7])
    target, a0 = lora_problem(seed, 10, 8, r, 1e-12, strengths)
    flow, seeds = ExactFlow(target, a0), seed_strengths(target, a0)
    for i in range(min(r, 3)):
        if seeds[i] < 1e-3 * 1e-24:
            continue
        time = np.log(4 * strengths[i] / seeds[i]) / (2 * strengths[i]) + tau / strengths[i]
        expected = strengths[i] / (1 + np.exp(-2 * tau))
        assert flow.mode_amplitudes(time)[i] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("strengths", [STRENGTHS, np.array([2.0, 1.0, 0.6])])
def test_exponents_of_coupling_and_misalignment(strengths):
    """The corollary, t long enough for all modes, 20 x 15, r = s, 4 starts, eps from 1e-5 to 1e-8."""
    scales, largest = 10.0 ** -np.arange(5, 9), []
    for eps in scales:
        times = np.linspace(0, (6 + 1.3 * np.log(1 / eps)) / strengths[-1], 301)
        problems = [lora_problem(seed, 20, 15, len(strengths), eps, strengths) for seed in range(4)]
        seen = [projections(p[0], *ExactFlow(*p).factors(times)) for p in problems]
        off = 1 - np.eye(len(strengths))
        largest.append([[np.log(np.max(np.abs(x))) for x in (s.coupling, s.phi * off)] for s in seen])
    found = np.polyfit(np.log(scales), np.mean(largest, axis=1), 1)[0]
    derived = 1 + strengths[-1] / strengths[0], 1 - np.max(strengths[1:] / strengths[:-1])
    assert found == pytest.approx(derived, rel=0.05)


def test_residual_of_tanh_squared_in_closed_form():
    """1 / 1.0887 = 0.9186 of the largest right side, at t = 0, whatever lambda: the number in the ledger."""
    theta = np.linspace(0, 12, 24_001)
    for strength in (0.5, 3.0):
        rate = strength / np.sqrt(2)
        phi, gamma = strength * np.tanh(theta) ** 2, 2 * rate * np.tanh(theta)
        right = reduced_system(phi, gamma, strength)[1]
        left = 2 * rate**2 / np.cosh(theta) ** 2
        assert np.max(np.abs(left - right)) / np.max(right) == pytest.approx(3 * np.sqrt(3) / (4 * np.sqrt(2)), rel=1e-6)


def test_start_of_peft_is_what_the_chapter_says():
    """Uniform on +-1/sqrt(width), so that A'A is near I/3; from PEFT itself."""
    import peft
    import torch

    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(768, 768)), peft.LoraConfig(r=8, target_modules=["0"]))
    factor = model.state_dict()["base_model.model.0.lora_A.default.weight"].numpy()
    assert factor.shape == (8, 768)
    assert np.max(np.abs(factor)) == pytest.approx(768**-0.5, rel=0.01)
    assert np.mean(factor.astype(float) ** 2) == pytest.approx(1 / (3 * 768), rel=0.05)
    assert np.all(np.abs(np.linalg.svd(factor, compute_uv=False) - 3**-0.5) < 0.1)


def test_claims_of_the_chapter():
    mine = [claim for claim in claims.load().values() if claim.chapter == "exact-dynamics"]
    assert len(mine) == 11
    assert all(claim.draft == "P2" for claim in mine)


# --- Figures. --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=60), st.floats(0.1, 10))
def test_thinned_curves_are_the_curves(values, height):
    times = np.arange(len(values)) ** 1.5
    x, y = dynamics_figures.thinned(times, values, height)
    assert (x[0], x[-1], y[0], y[-1]) == (times[0], times[-1], values[0], values[-1])
    assert np.all(np.isin(x, times)) and len(set(x)) == len(x)
    assert np.max(np.abs(np.interp(times, x, y) - values)) <= dynamics_figures.TOLERANCE * height + 1e-12


def test_straight_lines_need_two_points():
    assert len(dynamics_figures.thinned(np.arange(50), 3 * np.arange(50) + 1, 1.0)[0]) == 2


T, CURVES = np.linspace(0, 5, 30), np.linspace(0, 1, 30)[:, None] * STRENGTHS
SCALES = np.array([1e-4, 1e-2, 1.0])
POSITIVE = np.ones((3, 5)) * STRENGTHS
FIGURES = {
    "one_mode": lambda ax: dynamics_figures.one_mode(T, {"a": CURVES[:, 0], "b": CURVES[:, 1]}, 3.0, ax),
    "overlay": lambda ax: dynamics_figures.overlay(T, CURVES, CURVES / 2, ax),
    "fitted_curve": lambda ax: dynamics_figures.fitted_curve(T, {"a": CURVES[:, 0], "b": CURVES[:, 1]}, "log", ax),
    "fitted_rates": lambda ax: dynamics_figures.fitted_rates(STRENGTHS, POSITIVE, ax),
    "half_times": lambda ax: dynamics_figures.half_times(POSITIVE, {"ours": POSITIVE, "printed": 2 * POSITIVE}, ax),
    "half_time_ratios": lambda ax: dynamics_figures.half_time_ratios(SCALES, POSITIVE, STRENGTHS, STRENGTHS, ax),
    "amplitudes": lambda ax: dynamics_figures.amplitudes(T, CURVES, 0.25, [1, 3, 2, 4, 5], STRENGTHS, ax),
    "order_shares": lambda ax: dynamics_figures.order_shares(SCALES, {0.9: [0, 0.1, 0.4]}, {0.9: [0, 0.2, 0.4]}, 20, ax),
    "powers": lambda ax: dynamics_figures.powers(SCALES, {"a": SCALES**0.5}, {"a": 0.5}, ax),
    "start_sizes": lambda ax: dynamics_figures.start_sizes(SCALES, POSITIVE, POSITIVE, -POSITIVE, STRENGTHS, ax),
    "start_errors": lambda ax: dynamics_figures.start_errors(SCALES, {"a": SCALES, "b": 2 * SCALES}, ax),
}


def test_every_figure_is_tried():
    assert {*FIGURES, "thinned"} == set(dynamics_figures.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_into_the_given_axes_and_name_their_axes(name):
    figure, ax = plt.subplots()
    try:
        assert FIGURES[name](ax) is ax
        assert ax.lines
        assert name == "overlay" or ax.get_xlabel()  # whose panels share one label
        figure.canvas.draw()
    finally:
        plt.close(figure)
    if name != "overlay":
        assert FIGURES[name](None) is not ax
        plt.close("all")


def test_powers_go_through_the_smallest_scale():
    figure, ax = plt.subplots()
    dynamics_figures.powers(SCALES, {"a": np.array([2.0, 5.0, 9.0])}, {"a": 0.5}, ax)
    assert_allclose(ax.lines[0].get_ydata(), [2.0, 20.0, 200.0])
    plt.close(figure)
