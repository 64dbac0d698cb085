"""The chapter *Do real layers follow the law?*: its predictions, its runs and the checks of its exercises."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from companion.book import checks, layer_laws, real_layers
from companion.flow_numerics import integrate
from companion.runs import append_record
from companion.scalar_flow import scalar_flow

S = real_layers.SCALING
BATCH = {"task": "stsb-mini", "examples": 8, "warm_up": 64, "max_length": 16, "rank": 4, "seed": 0}
SHORT = {"rates": [1e-4, 2e-3], "rank": 4, "subspaces": [1, 4], "examples": 16, "epochs": 1, "batch_size": 8, "max_length": 16}


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
    assert layer_laws.mean_and_error([1.0, 3.0]) == pytest.approx((2.0, 2.0))
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


def test_decay_of_geometric_and_of_power_spectra():
    k = np.arange(1, 17)
    early, late = layer_laws.log_decay([2.0**-k, 1.0 / k])
    np.testing.assert_allclose(early[0] / late[0], 1)
    assert 3 < early[1] / late[1] < 4  # the ledger notes 3.6


def test_subspaces_share_what_they_should():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0]
    assert real_layers.subspace_overlap(basis[:, :5], basis[:, :5]) == pytest.approx(1)
    assert real_layers.subspace_overlap(basis[:, :4], basis[:, 2:6]) == pytest.approx(0.5)
    others = [np.linalg.qr(np.random.default_rng(i).standard_normal((200, 5)))[0] for i in range(1, 200)]
    assert np.mean([real_layers.subspace_overlap(basis[:, :5], other) for other in others]) == pytest.approx(5 / 200, rel=0.1)


def test_leading_triples_are_those_of_a_full_decomposition():
    matrix = np.random.default_rng(0).standard_normal((20, 30))
    u, s, vt = real_layers.leading(matrix, 5)
    full = np.linalg.svd(matrix)
    np.testing.assert_allclose(s, full[1][:5])
    np.testing.assert_allclose(np.abs(np.sum(u * full[0][:, :5], axis=0)), 1)
    np.testing.assert_allclose(np.abs(np.sum(vt * full[2][:5], axis=1)), 1)


def test_pairs_are_sorted_into_kinds():
    runs = [["a", 0, None], ["a", 1, None], ["b", 2, None], ["a", 0, 0], ["b", 2, 0], ["a", 1, 1]]
    pairs = [
        {"first": i, "second": j, "side": "left", "dimension": 4, "overlap": [0.5]}
        for i, j in [(0, 1), (0, 2), (3, 4), (3, 5)]
    ]
    found = layer_laws.kinds_of_pairs({"config": {"runs": runs}, "metrics": {"overlaps": pairs, "width": 16}})
    assert found["kind"].tolist() == ["same task", "two tasks", "same A", "other A"] and set(found["ratio"]) == {2.0}


def test_surplus_pairs_runs_of_one_task_and_seed():
    rows = [("rte", 0, 8, 60.0), ("rte", 0, 64, 61.0), ("rte", 1, 8, 62.0), ("mrpc", 0, 64, 80.0)]
    names = ["config.task", "config.seed", "config.rank", "metrics.score"]
    runs = pd.DataFrame(rows, columns=names).assign(**{"config.method": "uniform", "config.split": "validation"})
    assert layer_laws.surplus(runs).tolist() == [1.0]
    assert len(layer_laws.surplus(runs[:1])) == len(layer_laws.surplus(layer_laws.read("no such study"))) == 0


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
    layer_laws.first_checkpoint(found)
    layer_laws.half_times_scatter(found, "printed")
    layer_laws.paths(found.get("SGD, small frame", []), ["nothing changes", "tanh² fitted"])
    if len(rows):
        layer_laws.worth(rows)
        layer_laws.worth(rows, ["tanh² fitted", "nothing changes"])
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


def test_task_vectors_are_of_full_rank_and_those_of_adapters_are_not():
    sizes = {**SHORT, "task": "stsb-mini", "seed": 0}
    full = real_layers.task_vector(sizes | {"rank": 0, "learning_rate": 1e-3})
    thin = real_layers.task_vector(sizes | {"rank": 4, "learning_rate": 2e-3, "adapter_seed": 0})
    assert set(full) == set(thin) and len(full) == 12
    for name, update in full.items():
        assert np.linalg.matrix_rank(update) > 16 >= 4 == np.linalg.matrix_rank(thin[name], tol=1e-6)


def test_a_record_of_task_vectors_is_whole(tmp_path):
    runs = [["stsb-mini", 0, None], ["stsb-mini", 1, None], ["stsb-mini", 0, 0], ["qnli-mini", 2, 0]]
    record = real_layers.run_tasks({**SHORT, "runs": runs})
    json.dumps(record, allow_nan=False)
    metrics = record["metrics"]
    assert np.shape(metrics["spectra"]) == (4, 12, 16) and metrics["width"] == 384
    assert {(p["first"], p["second"]) for p in metrics["overlaps"]} == {(0, 1), (2, 3)}
    append_record(tmp_path / "tasks.jsonl", {"config": {"runs": runs, "seed": 0}, **record})
    study = layer_laws.latest_study(layer_laws.read(tmp_path / "tasks.jsonl"))
    assert study["config"]["runs"] == runs and study["metrics"] == metrics
    rows = layer_laws.kinds_of_pairs(study)
    layer_laws.overlaps(rows, "right").figure.canvas.draw()
    layer_laws.decay_of_spectra({"updates": metrics["spectra"][0]}).figure.canvas.draw()
    same = rows[(rows["kind"] == "same A") & (rows["side"] == "right") & (rows["dimension"] == 4)]["ratio"]
    assert same.median() > 30  # of 96: rank 4 fills the row space of the shared A


def test_studies_are_lists_of_plain_configurations():
    for configurations in (real_layers.configurations, real_layers.start_configurations, real_layers.task_configurations):
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
