"""The chapter *Do real layers follow the law?*: its predictions, its runs and the checks of its exercises."""

import gc
import json
import weakref

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from companion.book import checks, layer_figures, layer_laws, real_layers, task_vectors
from companion.flow_numerics import integrate
from companion.runs import append_record
from companion.scalar_flow import scalar_flow

S = real_layers.SCALING
BATCH = {"task": "stsb-mini", "examples": 8, "warm_up": 64, "max_length": 16, "rank": 4, "seed": 0}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def flow(gradient, a, scaling, time):
    """sBA at a time, by integration of dA/dt = -s B'G, dB/dt = -s G A' with a constant gradient."""
    (m, n), r = gradient.shape, len(a)

    def slopes(_, x):
        b, a = x[: m * r].reshape(m, r), x[m * r :].reshape(r, n)
        return np.concatenate([(-scaling * gradient @ a.T).ravel(), (-scaling * b.T @ gradient).ravel()])

    end = solve_ivp(slopes, (0, time), np.concatenate([np.zeros(m * r), a.ravel()]), rtol=1e-10, atol=1e-14).y[:, -1]
    return scaling * end[: m * r].reshape(m, r) @ end[m * r :].reshape(r, n)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.floats(0.5, 3), st.floats(0.01, 1.5), st.integers(0, 10**6)
)  # fmt: skip
def test_growth_under_a_constant_gradient_is_the_integrated_flow(m, n, r, scaling, time, seed):
    rng = np.random.default_rng(seed)
    gradient, a = rng.standard_normal((m, n)) / 2, rng.standard_normal((r, n)) / 2
    found = layer_laws.growing_update(gradient, a, scaling, time)
    np.testing.assert_allclose(found, flow(gradient, a, scaling, time), rtol=1e-6, atol=1e-8)
    u, strengths, vt = np.linalg.svd(gradient)
    lengths = scaling * np.sum((vt[: len(strengths)] @ a.T) ** 2, axis=1)
    amplitudes = -np.einsum("ik,ij,kj->k", u[:, : len(strengths)], found, vt[: len(strengths)])
    np.testing.assert_allclose(amplitudes, lengths / 2 * np.sinh(2 * scaling * strengths * time), rtol=1e-8, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_the_first_move_is_that_of_every_flow(width, r, seed):
    rng = np.random.default_rng(seed)
    gradient, a, time = rng.standard_normal((width, width)), rng.standard_normal((r, width)), 1e-5
    early = layer_laws.early_update(gradient, a, S, time)
    scale = np.linalg.norm(early)
    assert np.linalg.norm(early - layer_laws.growing_update(gradient, a, S, time)) < 1e-3 * scale
    # with curvature: the package's own flow, whose time is that of the factors times s, and whose A B is the transpose
    curved = integrate(-gradient.T, np.sqrt(S) * a.T, None, [S * time]).updates()[0].T
    assert np.linalg.norm(early - curved) < 1e-3 * scale


def layer(seen, times=None, amplitudes=None, **start):
    """A matrix with such a path."""
    times = np.linspace(0, 10, len(seen)) if times is None else times
    ones = np.ones(len(seen))
    given = dict.fromkeys(("strengths", "lengths", "seeds", "slopes"), ones) | start
    return layer_laws.Layer(
        "0 query", times, seen, seen if amplitudes is None else amplitudes, drift=ones, a_norm=ones, b_norm=ones, **given
    )  # fmt: skip


def scalar_layer(kappa=1.0):
    times, strengths, seeds = np.linspace(0, 20, 41), np.array([1.0, 0.7, 0.4]), np.array([1e-3, 2e-3, 1e-3])
    seen = scalar_flow(kappa * times, strengths / kappa, seeds)
    return layer(seen, times, strengths=strengths, lengths=seeds, seeds=seeds, slopes=S * strengths * seeds)


def test_a_path_of_the_scalar_law_is_predicted_by_it_and_not_by_equation_4():
    path = scalar_layer()
    assert layer_laws.predict(path, "scalar law, λ from the gradient")[1] > 1 - 1e-9
    assert layer_laws.predict(path, "scalar law, ends given")[1] > 0.999
    assert layer_laws.predict(path, "eq. 4, λ from the gradient")[1] < 0.9
    np.testing.assert_allclose(layer_laws.activation(path, "scalar law"), layer_laws.half_times(path), rtol=0.02)


def test_equation_4_takes_the_length_of_a_mode_at_the_start_and_theorem_4_2_its_root_mean_square():
    """A start with ``eps rho_i = s^(1/2) |A v_i|`` of 0.01 and 0.03; `lengths` are their squares."""
    eps_rho, strengths, times = np.array([0.01, 0.03]), np.array([1.5, 0.8]), np.linspace(0, 9, 19)
    start = {"strengths": strengths, "lengths": eps_rho**2, "seeds": eps_rho**2, "slopes": strengths}
    printed = strengths * np.tanh((strengths**2 * times[:, None] + np.log(eps_rho)) / np.sqrt(2)) ** 2
    path = layer(printed, times, **start)
    assert layer_laws.predict(path, "eq. 4, λ from the gradient")[1] == pytest.approx(1)
    measured = real_layers.starting_point(np.diag(strengths), np.diag(eps_rho) / np.sqrt(S), S)
    np.testing.assert_allclose(measured["lengths"], start["lengths"], rtol=1e-3)
    eps = np.sqrt(0.0005)  # of 0.01^2 and 0.03^2 the mean
    assert layer_laws.activation(path, "printed") == pytest.approx(np.sqrt(2) / strengths**2 * np.log(1 / eps))


def test_predictions_are_computed_once_belong_to_the_caller_and_keep_no_layer(monkeypatch):
    path, name, calls = scalar_layer(), "scalar law, ends given", []
    known, function = layer_laws.PREDICTIONS[name]
    monkeypatch.setitem(layer_laws.PREDICTIONS, name, (known, lambda x: calls.append(1) or function(x)))
    first, worth = layer_laws.predict(path, name)
    kept = first.copy()
    first[:] = 0
    again, same = layer_laws.predict(path, name)
    assert np.array_equal(again, kept) and same == worth and len(calls) == 1
    for other in layer_laws.PREDICTIONS:
        layer_laws.predict(path, other)[0][:] = 0  # none is a view of what was recorded
    assert np.any(path.seen)
    gone = weakref.ref(path)
    del path
    gc.collect()
    assert gone() is None


def test_gradient_flow_keeps_the_balance_that_is_recorded():
    """A A' - B'B; one of its terms alone moves, and a step that breaks it shows by how much."""
    rng = np.random.default_rng(0)
    path = integrate(np.diag([2.0, 1.0, 0.5, 0.2]), 0.5 * rng.standard_normal((4, 3)), None, np.linspace(0, 4, 5))
    pairs = list(zip(path.a, path.b, strict=True))  # the product A B of the package is B A here
    found = real_layers.trajectory(pairs, 1.0)
    assert found["balance_drift"][0] == 0 and max(found["balance_drift"]) < 1e-6 and found["a_norm"][-1] > 1
    b, a = pairs[-1]
    broken = real_layers.trajectory([pairs[-1], (b, 2 * a)], 1.0)["balance_drift"]
    assert broken[1] == pytest.approx(0.75, rel=1e-3)  # from A A' to 4 A A'


@pytest.mark.parametrize("kappa", [0.3, 1.0, 4.0])
def test_one_curvature_is_found_from_the_first_half(kappa):
    assert layer_laws.predict(scalar_layer(kappa), "scalar law, curvature fitted")[1] > 0.9999


@pytest.mark.parametrize(
    ("shape", "curve"),
    [
        ("tanh2", lambda t: 0.7 * np.tanh(np.maximum(0.5 * t - 1, 0)) ** 2),
        ("logistic", lambda t: 0.7 / (1 + np.exp(4 - t))),
        ("saturation", lambda t: 0.7 * (1 - np.exp(-0.4 * t))),
    ],
)
def test_a_fitted_curve_goes_on(shape, curve):
    t = np.linspace(0, 8, 30)
    found = layer_laws.fit_curve(t, curve(t), shape)
    np.testing.assert_allclose(found(np.linspace(0, 16, 9)), curve(np.linspace(0, 16, 9)), atol=2e-3)


def test_a_curve_of_zeros_stays_zero_and_a_level_is_bounded():
    t = np.linspace(0, 1, 8)
    assert np.all(layer_laws.fit_curve(t, 0 * t, "tanh2")(t) == 0)
    assert layer_laws.fit_curve(t, t, "saturation")(1e9) <= 2 + 1e-9


def test_predictions_from_the_first_half_do_not_see_the_second():
    path = scalar_layer()
    other = path.seen.copy()
    other[path.half :] += 5
    changed = layer(other, path.times, strengths=path.strengths, lengths=path.lengths, seeds=path.seeds, slopes=path.slopes)
    for name, (known, function) in layer_laws.PREDICTIONS.items():
        if known != "end":
            np.testing.assert_allclose(function(path), function(changed), err_msg=name)


def test_r_squared_is_sklearns_on_all_values_together():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    y, z = rng.standard_normal((2, 9, 4))
    assert layer_laws.r_squared(y, z) == pytest.approx(r2_score(y.ravel(), z.ravel()))


def test_skill_is_one_for_the_truth_and_zero_for_nothing_changes():
    path = scalar_layer()
    assert layer_laws.skill(path, "nothing changes") == 0
    assert layer_laws.skill(path, "scalar law, λ from the gradient") == pytest.approx(1)


def test_mean_and_error():
    assert layer_laws.mean_and_error([1.0, 3.0]) == pytest.approx((2.0, 12.706), rel=1e-3)  # one degree of freedom
    assert layer_laws.mean_and_error(np.tile([1.0, 3.0], 500))[1] == pytest.approx(1.96 / np.sqrt(1000), rel=1e-2)
    assert np.all(np.isnan(layer_laws.mean_and_error([1.0])))


def test_order_of_modes():
    t = np.linspace(0, 1, 101)[:, None]
    steps = 1 / (1 + np.exp(-60 * (t - np.array([0.2, 0.5, 0.8]))))
    sizes = np.array([3.0, 2.0, 1.0])
    assert layer_laws.in_order(layer(sizes * steps)) == layer_laws.in_order(layer(sizes * steps), "common") == 1
    assert layer_laws.in_order(layer(sizes * steps[:, ::-1])) == 0
    bent = sizes * t ** np.array([2.0, 1.5, 1.0])  # the strongest last, and still first over a common level
    assert layer_laws.in_order(layer(bent)) == 0 and layer_laws.in_order(layer(sizes * t), "common") == 1
    with pytest.raises(ValueError, match="level: got 'half'; accepted: 'own', 'common'"):
        layer_laws.in_order(layer(bent), "half")


def recorded(tmp_path, runs=True, starts=True):
    """Records as the chapter reads them, of two small made-up matrices."""
    rng = np.random.default_rng(0)
    for init in ("peft", "frame:0.01") if runs else ():
        pairs = [(0.1 * t * rng.standard_normal((12, 8)), 0.3 * rng.standard_normal((8, 12))) for t in range(9)]
        path = real_layers.trajectory(pairs, S)
        config = {"study": "real-layers", "optimizer": "adamw" if init == "peft" else "sgd", "init": init, "seed": 0}
        layers = {f"bert.encoder.layer.{i}.attention.self.query": path for i in range(2)}
        times = list(np.linspace(0, 1, 9))
        append_record(tmp_path / "runs.jsonl", {"config": config, "metrics": {"times": times, "layers": layers}})
    if starts:
        start = real_layers.starting_point(rng.standard_normal((12, 12)), rng.standard_normal((8, 12)), S)
        names = [f"bert.encoder.layer.{i}.attention.self.query" for i in range(2)]
        metrics = {init: dict.fromkeys(names, start) for init in ("peft", "frame:0.01")}
        append_record(tmp_path / "starts.jsonl", {"config": {"seed": 0}, "metrics": metrics})
    paths = tmp_path / "runs.jsonl", tmp_path / "starts.jsonl"
    return layer_laws.layers(*[layer_laws.read(path) for path in paths])


def test_records_become_layers_in_the_order_of_the_runs(tmp_path):
    found = recorded(tmp_path)
    assert list(found) == ["AdamW, PEFT's start", "SGD, small frame"]
    first = found["AdamW, PEFT's start"][1]
    assert first.name == "1 query" and first.seen.shape == (9, layer_laws.MODES) and first.times[-1] == S
    rows = layer_laws.table(found)
    assert len(rows) == 2 * 2 * len(layer_laws.PREDICTIONS) and np.all(np.isfinite(rows["R2"]))


@pytest.mark.parametrize(("runs", "starts"), [(True, True), (True, False), (False, False)])
def test_figures_are_drawn_whatever_is_recorded(tmp_path, runs, starts):
    found = recorded(tmp_path, runs, starts)
    rows = layer_laws.table(found)
    assert len(rows) == (2 * 2 * len(layer_laws.PREDICTIONS) if runs and starts else 0)
    layer_figures.first_checkpoint(found)
    layer_figures.half_times_scatter(found, "printed")
    layer_figures.paths(found.get("SGD, small frame", []), ["nothing changes", "tanh² fitted"])
    if len(rows):
        layer_figures.worth(rows)
        layer_figures.worth(rows, ["tanh² fitted", "nothing changes"])
    plt.gcf().canvas.draw()


def test_one_step_of_descent_is_the_first_move():
    path = real_layers.descend(BATCH | {"init": "peft", "learning_rate": 0.02, "steps": 1})
    assert path.times.tolist() == [0.0, 0.02] and len(path.losses) == 2
    for name, gradient in path.gradients.items():
        a0, seen = path.factors[name][0][1], path.updates(name)
        assert np.all(seen[0] == 0)
        said = layer_laws.early_update(gradient, a0, S, 0.02)
        assert np.linalg.norm(seen[1] - said) < 1e-4 * np.linalg.norm(said)


def test_start_of_a_matrix_is_what_the_propositions_need():
    rng = np.random.default_rng(0)
    gradient, a = rng.standard_normal((20, 30)), rng.standard_normal((15, 30))
    found = real_layers.starting_point(gradient, a, S)
    json.dumps(found)
    assert all(len(values) == real_layers.KEPT for values in found.values())
    u, strengths, vt = np.linalg.svd(gradient)
    np.testing.assert_allclose(found["strengths"], strengths[:12], rtol=1e-3)
    np.testing.assert_allclose(found["lengths"], S * np.linalg.norm(vt[:12] @ a.T, axis=1) ** 2, rtol=1e-3)
    moved = np.linalg.svd(layer_laws.early_update(gradient, a, S, 1.0), compute_uv=False)
    np.testing.assert_allclose(found["slopes"], moved[:12], rtol=1e-3)
    assert found["seeds"][0] == found["lengths"][0] and np.all(np.array(found["seeds"]) <= np.array(found["lengths"]))


def test_studies_are_lists_of_plain_configurations():
    for configurations in (real_layers.configurations, real_layers.start_configurations, task_vectors.task_configurations):
        assert len({json.dumps(config, sort_keys=True) for config in configurations()}) == len(configurations())


ANSWERS = {
    "layers_linear_time": (lambda strength, s: 0.7637 / (2 * s * strength), lambda strength, s: 0.7637 / (s * strength)),
    "layers_onset": (lambda ends, seeds: ends >= 10 * seeds, lambda ends, seeds: ends > 10 * seeds),
    "layers_r_squared": (
        lambda y, z: 1 - np.sum((y - z) ** 2) / np.sum((y - y.mean(axis=0)) ** 2),
        lambda y, z: 1 - np.sum((y - z) ** 2) / np.sum((y - y.mean()) ** 2),
    ),
    "layers_sorted": (
        lambda n, rng: np.median([np.corrcoef(*np.sort(rng.uniform(size=(2, n)), axis=1))[0, 1] for _ in range(4000)]),
        lambda n, rng: np.median([np.corrcoef(*rng.uniform(size=(2, n)))[0, 1] for _ in range(400)]),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_checks_accept_right_answers_and_refuse_wrong_ones(name):
    right, wrong = ANSWERS[name]
    assert getattr(checks, name)(right)
    with pytest.raises(AssertionError):
        getattr(checks, name)(wrong)
