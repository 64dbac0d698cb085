"""Task vectors: their spectra, the directions they share, and the records of their trainings."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from companion.book import layer_figures, layer_laws, task_vectors
from companion.glue_run import SETTING
from companion.runs import append_record
from companion.study_tables import final_scores

SHORT = {"rates": [1e-4, 2e-3], "rank": 4, "subspaces": [1, 4], "examples": 16, "epochs": 1, "batch_size": 8, "max_length": 16}


def test_decay_of_geometric_and_of_power_spectra():
    k = np.arange(1, 17)
    early, late = task_vectors.log_decay([2.0**-k, 1.0 / k])
    np.testing.assert_allclose(early[0] / late[0], 1)
    assert 3 < early[1] / late[1] < 4  # the ledger notes 3.6


def test_subspaces_share_what_they_should():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0]
    assert task_vectors.subspace_overlap(basis[:, :5], basis[:, :5]) == pytest.approx(1)
    assert task_vectors.subspace_overlap(basis[:, :4], basis[:, 2:6]) == pytest.approx(0.5)
    others = [np.linalg.qr(np.random.default_rng(i).standard_normal((200, 5)))[0] for i in range(1, 200)]
    assert np.mean([task_vectors.subspace_overlap(basis[:, :5], other) for other in others]) == pytest.approx(5 / 200, rel=0.1)


def test_leading_triples_are_those_of_a_full_decomposition():
    matrix = np.random.default_rng(0).standard_normal((20, 30))
    u, s, vt = task_vectors.leading(matrix, 5)
    full = np.linalg.svd(matrix)
    np.testing.assert_allclose(s, full[1][:5])
    np.testing.assert_allclose(np.abs(np.sum(u * full[0][:, :5], axis=0)), 1)
    np.testing.assert_allclose(np.abs(np.sum(vt * full[2][:5], axis=1)), 1)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20)])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_beyond_its_rank_a_matrix_leads_nowhere(shape, rank):
    rng = np.random.default_rng(rank)
    matrix = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    u, s, vt = task_vectors.leading(matrix, 8)
    assert np.all(s[rank:] == 0) and np.all(u[:, rank:] == 0) and np.all(vt[rank:] == 0)
    np.testing.assert_allclose(u[:, :rank].T @ u[:, :rank], np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(u * s @ vt, matrix, atol=1e-9)
    assert task_vectors.subspace_overlap(u, u) == pytest.approx(rank / 8)
    with pytest.raises(ValueError, match="count: got 21; accepted: 1 to 20"):
        task_vectors.leading(matrix, 21)


def test_pairs_are_sorted_into_kinds():
    runs = [["a", 0, None], ["a", 1, None], ["b", 2, None], ["a", 0, 0], ["b", 2, 0], ["a", 1, 1]]
    pairs = [
        {"first": i, "second": j, "side": "left", "dimension": 4, "overlap": [0.5]}
        for i, j in [(0, 1), (0, 2), (3, 4), (3, 5)]
    ]
    found = task_vectors.kinds_of_pairs({"config": {"runs": runs}, "metrics": {"overlaps": pairs, "width": 16}})
    assert found["kind"].tolist() == ["same task", "two tasks", "same A", "other A"] and set(found["ratio"]) == {2.0}


def uniform_runs(rows):
    """Runs of uniform rank in the study's setting: (task, seed, rank, learning rate, split, score)."""
    names = ("task", "seed", "rank", "learning_rate", "split")
    given = {**SETTING, "method": "uniform", "parameter": None}
    columns = [given | dict(zip(names, row[:-1], strict=True)) | {"score": row[-1]} for row in rows]
    frame = pd.DataFrame(columns)
    return frame.rename(columns={name: f"config.{name}" for name in frame if name != "score"} | {"score": "metrics.score"})


PAIRED = [
    ("rte", 0, 8, 0.01, "validation", 60.0), ("rte", 0, 64, 0.01, "validation", 61.0),
    ("rte", 1, 8, 0.01, "validation", 62.0), ("mrpc", 0, 64, 0.01, "validation", 80.0),
]  # fmt: skip


def test_surplus_pairs_runs_of_one_task_and_seed():
    runs = uniform_runs(PAIRED)
    assert task_vectors.surplus(runs).tolist() == [1.0]
    assert len(task_vectors.surplus(runs[:1])) == len(task_vectors.surplus(layer_laws.read("no such study"))) == 0
    assert len(task_vectors.surplus(runs.assign(**{"config.model": "bert-base-uncased"}))) == 0  # of another setting


def test_surplus_takes_the_runs_that_the_tables_of_the_study_take():
    tuning = [("rte", 100, rank, rate, "tuning", 70 + 100 * rate) for rank in (8, 64) for rate in (0.01, 0.03)]
    tuning.append(("rte", 100, 64, 0.09, "tuning", 50.0))
    at_best = [("rte", 0, 8, 0.03, "validation", 63.0), ("rte", 0, 64, 0.03, "validation", 68.0)]
    given_up = ("rte", 0, 64, 0.09, "validation", 40.0)  # later than the run at the best rate
    runs = uniform_runs([*PAIRED, *tuning, *at_best, given_up])
    few, many = (final_scores(runs, **SETTING | {"rank": rank}) for rank in (8, 64))
    assert task_vectors.surplus(runs).tolist() == (many - few).dropna().tolist() == [5.0]


def test_task_vectors_are_of_full_rank_and_those_of_adapters_are_not():
    sizes = {**SHORT, "task": "stsb-mini", "seed": 0}
    full = task_vectors.task_vector(sizes | {"rank": 0, "learning_rate": 1e-3})
    thin = task_vectors.task_vector(sizes | {"rank": 4, "learning_rate": 2e-3, "adapter_seed": 0})
    assert set(full) == set(thin) and len(full) == 12
    for name, update in full.items():
        assert np.linalg.matrix_rank(update) > 16 >= 4 == np.linalg.matrix_rank(thin[name], tol=1e-6)


def test_a_record_of_task_vectors_is_whole(tmp_path):
    runs = [["stsb-mini", 0, None], ["stsb-mini", 1, None], ["stsb-mini", 0, 0], ["qnli-mini", 2, 0]]
    record = task_vectors.run_tasks({**SHORT, "runs": runs})
    json.dumps(record, allow_nan=False)
    assert {task: found["task"] for task, found in record["data"].items()} == {"stsb-mini": "stsb-mini", "qnli-mini": "qnli-mini"}
    assert all(len(found["sha256"]) == 64 and found["rows"] > 0 for found in record["data"].values())
    metrics = record["metrics"]
    assert np.shape(metrics["spectra"]) == (4, 12, 16) and metrics["width"] == 384
    assert {(p["first"], p["second"]) for p in metrics["overlaps"]} == {(0, 1), (2, 3)}
    append_record(tmp_path / "tasks.jsonl", {"config": {"runs": runs, "seed": 0}, **record})
    study = task_vectors.latest_study(layer_laws.read(tmp_path / "tasks.jsonl"))
    assert study["config"]["runs"] == runs and study["metrics"] == metrics
    rows = task_vectors.kinds_of_pairs(study)
    layer_figures.overlaps(rows, "right").figure.canvas.draw()
    layer_figures.decay_of_spectra({"updates": metrics["spectra"][0]}).figure.canvas.draw()
    plt.close("all")
    same = rows[(rows["kind"] == "same A") & (rows["side"] == "right") & (rows["dimension"] == 4)]["ratio"]
    assert same.median() > 30  # of 96: rank 4 fills the row space of the shared A
