"""The chapter *Is too much rank benign?*: its propositions, the checks of its exercises, its figures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from flow_problems import frame, with_spectrum
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.book import overparameterisation_figures as figures
from companion.book.checks import too_much_rank as checks
from companion.flow_numerics import descend, integrate
from companion.gradient_flow import ExactFlow
from companion.scalar_flow import late_rate, seed_strengths

few = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 10**6)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def curvature(rng, size):
    vectors = frame(rng, size, size)
    return vectors * rng.uniform(0.3, 3, size) @ vectors.T


# --- Propositions ----------------------------------------------------------------------------------------------------


@few
@given(seeds, st.integers(1, 4), st.sampled_from(["gd", "momentum"]), st.floats(0, 0.3), st.booleans())
def test_surplus_is_zero_for_curvature_from_the_left_and_any_start(seed, s, optimizer, decay, curved):
    rng = np.random.default_rng(seed)
    target, start = with_spectrum(rng, 9, 7, rng.uniform(0.5, 2, s)), 0.3 * rng.standard_normal((9, 6))
    left = (curvature(rng, 9), None) if curved else None
    path = descend(target, start, steps=60, step_size=0.02, optimizer=optimizer, weight_decay=decay, curvature=left)
    assert path.singular_values()[:, s:].max() < 1e-12


@few
@given(seeds, st.integers(1, 4))
def test_surplus_is_zero_for_curvature_from_the_right_and_an_orthonormal_start(seed, s):
    rng = np.random.default_rng(seed)
    target, right = with_spectrum(rng, 9, 7, rng.uniform(0.5, 2, s)), (None, curvature(rng, 7))
    path = integrate(target, 0.1 * frame(rng, 9, 6), None, np.linspace(0, 8, 9), curvature=right)
    assert path.singular_values()[:, s:].max() < 1e-9


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"noise": 1.0, "rng": 1}, {"curvature": "both"}])
def test_surplus_is_not_zero_otherwise(options):
    rng = np.random.default_rng(0)
    target, start = with_spectrum(rng, 9, 7, [2.0, 1.0]), 0.1 * frame(rng, 9, 6)
    if "curvature" in options:
        options = {"curvature": (curvature(rng, 9), curvature(rng, 7))}
    path = descend(target, start, steps=300, step_size=0.02, **options)
    assert path.singular_values()[:, 2].max() > 1e-6


def test_surplus_is_not_zero_for_curvature_from_the_right_and_another_start():
    rng = np.random.default_rng(0)
    target, start = with_spectrum(rng, 9, 7, [2.0, 1.0]), 0.2 * rng.standard_normal((9, 6))
    path = descend(target, start, steps=300, step_size=0.02, curvature=(None, curvature(rng, 7)))
    assert path.singular_values()[:, 2].max() > 1e-6


@pytest.mark.parametrize("strengths", [[1.0], [2.0, 1.0], [2.0, 1.6, 1.2, 0.8]])
@pytest.mark.parametrize("r", [4, 9])
def test_late_error_has_the_predicted_constant(strengths, r):
    rng, eps = np.random.default_rng(r), 1e-4
    target, start = with_spectrum(rng, 40, 20, strengths), eps * frame(rng, 40, r)
    seed = seed_strengths(target, start)[-1] / eps**2
    time = (np.log(4 * strengths[-1] / (eps**2 * seed)) / 2 + 11) / strengths[-1]
    predicted = 2 * strengths[-1] * np.sqrt(1 / seed - 1) * np.exp(-strengths[-1] * time)
    assert ExactFlow(target, start).error(time) == pytest.approx(predicted, rel=0.02)


@few
@given(seeds, st.integers(3, 10), st.floats(0.01, 0.6))
def test_late_rate_does_not_depend_on_the_rank(seed, r, eps):
    rng = np.random.default_rng(seed)
    flow = ExactFlow(with_spectrum(rng, 12, 8, [1.5, 1.0, 0.6]), eps * frame(rng, 12, r))
    late = flow.error([26.0, 30.0])
    assert np.log(late[0] / late[1]) / 4 == pytest.approx(late_rate(0.6, eps**2), rel=0.05)


# --- Checks of the exercises -----------------------------------------------------------------------------------------


def rate(strengths, r, eps):
    values = np.append(np.hypot(strengths, eps**2 / 2), eps**2 / 2)
    last = min(r, len(strengths)) - 1
    return values[last] - values[last + 1]


def polar(g):
    p, values, qt = np.linalg.svd(g, full_matrices=False)
    k = np.sum(values > 1e-10 * values[0])
    return p[:, :k] @ qt[:k]


def soft(target, decay):
    u, values, vt = np.linalg.svd(target, full_matrices=False)
    return u * np.maximum(values - decay, 0) @ vt


def test_checks_accept_what_is_right():
    assert checks.surplus_rate(rate)
    assert checks.surplus_muon(polar)
    assert checks.surplus_seeded(2.0)
    assert checks.surplus_decay(soft)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.surplus_rate, lambda strengths, r, eps: strengths[-1]),
        (checks.surplus_rate, lambda strengths, r, eps: late_rate(strengths[min(r, 4) - 1], eps**2)),
        (checks.surplus_muon, np.sign),
        (checks.surplus_muon, lambda g: (lambda p, _, qt: p @ qt)(*np.linalg.svd(g, full_matrices=False))),
        (checks.surplus_muon, lambda g: g.T),
        (checks.surplus_seeded, 1.0),
        (checks.surplus_seeded, 1.5),
        (checks.surplus_decay, lambda target, decay: target / (1 + decay)),
        (checks.surplus_decay, lambda target, decay: soft(target, 2 * decay)),
    ],
)
def test_checks_refuse_what_is_wrong(check, answer):
    with pytest.raises(AssertionError, match=r".+"):
        check(answer)


# --- Figures ---------------------------------------------------------------------------------------------------------

TIMES = np.linspace(0, 4, 5)


def test_convergence_draws_the_median_and_the_range_of_each_rank():
    runs = np.exp(-TIMES) * np.array([[1.0], [2.0], [5.0]])
    ax = figures.convergence(TIMES, {5: runs, 10: runs / 2})
    assert [line.get_label() for line in ax.lines] == ["r = 5", "r = 10"] and ax.get_yscale() == "linear"
    assert ax.lines[0].get_ydata() == pytest.approx(2 * np.exp(-TIMES))
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(5) and heights.min() == pytest.approx(np.exp(-4))


def test_convergence_with_predictions_is_logarithmic():
    ax = figures.convergence(TIMES, {5: np.exp(-TIMES)[None]}, {5: 3 * np.exp(-TIMES)}, plt.subplots()[1])
    assert ax.get_yscale() == "log" and ax.lines[1].get_ydata() == pytest.approx(3 * np.exp(-TIMES))


def test_surplus_figures_show_zero_as_rounding_and_share_their_colours():
    left = figures.surplus_paths(TIMES, {"a": np.zeros(5), "b": np.full(5, 0.1)})
    right = figures.surplus_by_scale([1e-3, 1e-1], {"a": [0.0, 0.0], "b": [0.1, 0.2]})
    assert left.lines[0].get_ydata() == pytest.approx(figures.ZERO, rel=1e-9)
    assert right.lines[0].get_ydata() == pytest.approx([1e-6, 1e-2])
    assert [line.get_color() for line in left.lines] == [line.get_color() for line in right.lines[1:]]


def test_risk_figures_show_means_and_errors():
    runs = np.array([[4.0, 2.0, 3.0], [6.0, 4.0, 3.0]])
    ax = figures.risk_paths([0.0, 1.0, 2.0], {5: runs})
    assert ax.lines[0].get_ydata() == pytest.approx([3.0, 3.0]) and ax.get_xscale() == "log"
    assert np.ptp(ax.collections[0].get_paths()[0].vertices[:2, 1]) >= 0
    ax = figures.risk_by_rank([1, 2, 3], runs, {"stopped": {2: [1.0, 3.0]}}, true_rank=2)
    assert ax.lines[1].get_ydata() == pytest.approx([5.0, 3.0, 3.0])
    (marks, _, (bars,)) = ax.containers[0]
    assert marks.get_ydata() == pytest.approx([2.0])
    assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(4.0)  # 2 - 2 to 2 + 2


def test_losses_are_drawn_by_name():
    ax = figures.losses([0.0, 1.0], {"true": [2.0, 1.0], "first order": [2.0, 0.5]})
    assert [line.get_label() for line in ax.lines] == ["true", "first order"]
    assert "loss" in ax.get_ylabel() and "%" in ax.get_xlabel()


def test_negative_curvatures_are_hollow():
    ax = figures.curvatures({"path": [1e-2, -1e-3], "random": np.array([1e-6])})
    filled, hollow = ax.lines[:2]
    assert filled.get_xdata() == pytest.approx([1e-2]) and hollow.get_xdata() == pytest.approx([1e-3])
    assert hollow.get_markerfacecolor() == "none" and filled.get_markerfacecolor() != "none"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["path", "random"]
