"""The study on bundled text: a run from its configuration, the choice of rates, and the queue from start to end."""

import json

import numpy as np
import pandas as pd
import pytest

from companion import data, glue_study, tuning
from companion.cli import main
from companion.glue_run import PAPER, SETTING, threshold_constant, run, split
from companion.glue_study import GLUE, run_glue
from companion.metrics import METRICS
from companion.runs import key_of
from companion.study import append_record, read_records
from companion.study_tables import compare_methods, final_scores, of_chosen_rate, overall, score_table
from companion.tuning import chosen_rates, final_runs, further_runs, tuning_runs
from tiny_models import save_bert


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture
def small(tiny_folder):
    return SETTING | {"model": tiny_folder, "examples": 96, "calibration": 32, "epochs": 1, "rank": 2}


def config(setting, **changes):
    chosen = {"task": "stsb-mini", "method": "uniform", "parameter": None, "learning_rate": 1e-3, "seed": 0, "split": "tuning"}
    return {**setting, **chosen, **changes}


def test_a_run_is_repeatable_and_says_what_it_measured(small):
    first, second = run(config(small, method="floor")), run(config(small, method="floor"))
    times = ("choosing", "training", "evaluating")
    for record in (first, second):
        assert all(record["metrics"].pop(name) >= 0 for name in times)
    assert first["metrics"] == second["metrics"]
    metrics = first["metrics"]
    assert metrics["score"] == pytest.approx(50 * (metrics["pearson"] + metrics["spearman"]))
    assert metrics["parameters"] == sum(64 * rank for rank in metrics["ranks"].values()) == 4 * 2 * 64
    assert first["data"]["task"] == "stsb-mini" and first["data"]["split"] == "train"
    assert len(first["model"]["sha256"]) == 64
    json.dumps(first, allow_nan=False)


def test_a_rule_that_chooses_recorded_ranks_takes_the_result_over_and_it_is_the_same(small, tmp_path):
    path = tmp_path / "r.jsonl"
    times = ("choosing", "training", "evaluating")

    def result(record):
        return {name: value for name, value in record["metrics"].items() if name not in times}

    first = run(config(small))
    append_record(path, {**first, "config": config(small)})
    given = config(small, method="energy", parameter=1.0)  # all of the energy everywhere: the same ranks in all matrices
    taken, computed = run(given, path), run(given)
    assert taken["same_as"] == key_of(config(small)) and "same_as" not in computed
    assert result(taken) == result(computed) == result(first)
    assert taken["metrics"]["training"] == first["metrics"]["training"]
    assert "same_as" not in run(given | {"seed": 1}, path) and "same_as" not in run(config(small, method="rslora"), path)


def test_a_method_that_trains_otherwise_lends_no_result_to_plain_lora(small, tmp_path):
    """RsLoRA's runs have ranks too, and another training."""
    path = tmp_path / "r.jsonl"
    other = run(config(small, method="rslora"))
    assert other["metrics"]["ranks"] == run(config(small))["metrics"]["ranks"]
    append_record(path, {**other, "config": config(small, method="rslora")})
    assert "same_as" not in run(config(small), path)


def test_seed_head_precision_and_rate_matter(small):
    base = run(config(small))["metrics"]["loss"]
    for change in ({"seed": 1}, {"head": "fresh"}, {"precision": "fp32"}, {"learning_rate": 1e-1}, {"scaling": 20.0}):
        assert run(config(small) | change)["metrics"]["loss"] != base, change


def test_a_folder_of_a_bundled_name_has_the_metric_of_a_folder(small, tmp_path, monkeypatch):
    folder = tmp_path / "mrpc-mini"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"text": rng.choice(["sun", "rain", "snow over town"], 200), "label": rng.integers(0, 3, 200)})
    frame.to_parquet(folder / "train.parquet")
    monkeypatch.chdir(tmp_path)
    metrics = run(config(small, task="mrpc-mini", method="probe", learning_rate=None))["metrics"]
    assert "f1" not in metrics and metrics["score"] == pytest.approx(100 * metrics["accuracy"])


def test_training_never_sees_tuning_examples_and_all_seeds_share_them():
    frame = data.load_task("stsb-mini")
    first, held = split(frame, 300, 0)
    second, again = split(frame, 300, 1)
    assert len(first) == len(second) == 300 and set(first.index) != set(second.index)
    assert held.index.equals(again.index) and len(held) == 400
    assert not set(held.index) & (set(first.index) | set(second.index))
    everything, held = split(frame, None, 3)
    assert len(everything) + len(held) == len(frame)


def test_the_probe_trains_nothing_but_the_head(small):
    metrics = run(config(small, method="probe", learning_rate=None))["metrics"]
    assert metrics["parameters"] == 0 and metrics["ranks"] == {} and metrics["train_loss"] is None


def test_rates_are_chosen_by_tuning_score_and_the_smaller_of_equals():
    runs = tuning_runs(GLUE, ["rte"], ["uniform", "probe", "energy:0.9"], SETTING)
    assert len(runs) == 6 and {c["split"] for c in runs} == {"tuning"}
    scores = {1.5e-3: 60.0, 4.5e-3: 61.0, 1.35e-2: 61.0}
    records = pd.DataFrame([{"key": key_of(c), "metrics.score": scores[c["learning_rate"]]} for c in runs])
    assert chosen_rates(records, runs) == {("rte", "uniform"): 4.5e-3, ("rte", "energy:0.9"): 4.5e-3}
    assert chosen_rates(records[1:], runs) == {("rte", "energy:0.9"): 4.5e-3}  # one rate is still to be tried
    diverged = [{"config": runs[0]}]
    assert chosen_rates(records[1:], runs, diverged)["rte", "uniform"] == 4.5e-3
    assert chosen_rates(pd.DataFrame(), runs, [{"config": c} for c in runs]) == {}
    other = tuning_runs(GLUE, ["rte"], ["uniform"], SETTING | {"rank": 8})
    assert chosen_rates(records, other) == {}  # records of another setting do not count


@pytest.mark.parametrize("best, tried", [(0.1, [4.05e-2, 0.121]), (1e-6, [5e-4, 1.67e-4]), (4.5e-3, []), (2e-2, [4.05e-2])])
def test_the_grid_grows_where_the_best_rate_is_at_its_end(best, tried):
    runs, grown = tuning_runs(GLUE, ["rte"], ["uniform"], SETTING), []
    for _ in range(5):  # the score falls with the distance from the best rate
        records = pd.DataFrame([{"key": key_of(c), "metrics.score": -abs(np.log(c["learning_rate"] / best))} for c in runs])
        assert further_runs(GLUE, records[1:], runs) == []  # one rate is still to be tried
        more = further_runs(GLUE, records, runs)
        grown += [c["learning_rate"] for c in more]
        runs += more
    assert grown == pytest.approx(tried, rel=1e-2) and {c["split"] for c in runs} == {"tuning"}


def test_a_final_run_at_a_rate_that_was_not_chosen_does_not_count():
    def record(split, rate, score, method="uniform"):
        return {"config.task": "rte", "config.method": method, "config.parameter": None, "config.seed": 0,
                "config.split": split, "config.learning_rate": rate, "metrics.score": score}  # fmt: skip

    tuning = [record("tuning", 1e-3, 60.0), record("tuning", 3e-3, 61.0), record("tuning", 9e-3, 61.0)]
    finals = [record("validation", 1e-3, 50.0), record("validation", 3e-3, 55.0), record("validation", None, 40.0, "probe")]
    found = final_scores(pd.DataFrame(tuning + finals))
    assert found.to_dict() == {("rte", "uniform", 0): 55.0, ("rte", "probe", 0): 40.0}
    records = pd.DataFrame(tuning + finals)
    assert of_chosen_rate(records).index.tolist() == [4, 5]
    assert of_chosen_rate(records[3:]).index.tolist() == [3, 4, 5]  # without tuning runs all count
    assert of_chosen_rate(records[:3]).empty and of_chosen_rate(records[:0]).empty
    assert of_chosen_rate(records.drop(columns="config.learning_rate")).index.tolist() == [3, 4, 5]


def test_final_runs_wait_for_their_rate_and_go_seed_by_seed():
    runs = final_runs(GLUE, ["rte", "mrpc"], ["uniform", "probe"], [0, 1], {("rte", "uniform"): 1e-3}, SETTING)
    assert [(c["seed"], c["task"], c["method"], c["learning_rate"]) for c in runs[:3]] == [
        (0, "rte", "uniform", 1e-3), (0, "rte", "probe", None), (0, "mrpc", "probe", None),
    ]  # fmt: skip
    assert len(runs) == 6 and {c["split"] for c in runs} == {"validation"}


def test_a_misspelt_method_is_found_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="methods: got 'gaps'; accepted: probe, uniform"):
        run_glue(tmp_path / "x.jsonl", ["rte"], ["gaps"])
    assert not list(tmp_path.iterdir())


def test_a_parameter_counts_as_a_number_however_it_is_written():
    methods = ["energy:0.90", "threshold:0.000012345678"]
    rates = {("rte", "energy:0.9"): 1e-3, ("rte", "threshold:1.2345678e-05"): 2e-3}
    runs = final_runs(GLUE, ["rte"], methods, [0], rates, SETTING)
    assert [(c["parameter"], c["learning_rate"]) for c in runs] == [(0.9, 1e-3), (1.2345678e-5, 2e-3)]
    with pytest.raises(ValueError, match="methods: got 'energy:most'; accepted: a number after the colon"):
        tuning_runs(GLUE, ["rte"], ["energy:most"], SETTING)


def test_the_threshold_is_calibrated_on_another_task_and_frozen(small, tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    for method in ("threshold", "threshold:stsb-mini"):
        with pytest.raises(ValueError, match="methods: got 'threshold"):
            run_glue(path, ["stsb-mini"], [method], setting=small)
    assert not path.exists()
    monkeypatch.setitem(glue_study.LEARNING_RATES, "others", (1e-3,))
    constant = threshold_constant("qnli-mini", small)
    assert constant > 0 and constant == threshold_constant("qnli-mini", small) != threshold_constant("stsb-mini", small)
    run_glue(path, ["stsb-mini"], ["threshold:qnli-mini"], [0], small)
    (record,) = read_records(path).to_dict("records")
    assert record["config.parameter"] == float(f"{constant:.6g}") and record["config.task"] == "stsb-mini"


def test_the_paper_setting_is_that_of_its_appendix():
    assert PAPER["model"] == "bert-base-uncased" and PAPER["targets"] == ["query", "value"]
    assert (PAPER["batch_size"], PAPER["epochs"], PAPER["calibration"], PAPER["head"]) == (32, 10, 512, "fresh")
    assert set(PAPER) == set(SETTING) and set(METRICS) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"}


def own_task(folder, n, seed):
    """Texts of one's own: whether a sentence speaks of rain."""
    rng = np.random.default_rng(seed)
    words = np.array(["sun", "rain", "snow", "wind", "fog", "the", "a", "over", "town", "hill"])
    texts = [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(n)]
    labels = ["wet" if "rain" in text else "dry" for text in texts]
    name = "train" if seed == 0 else "validation"
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(folder / f"{name}.parquet")


def test_from_the_command_line_on_a_folder_of_ones_own_and_again(tmp_path, small, tiny_folder, capsys, monkeypatch):
    folder = tmp_path / "weather"
    folder.mkdir()
    own_task(folder, 200, 0)
    own_task(folder, 80, 1)
    records = tmp_path / "study.jsonl"
    monkeypatch.setitem(glue_study.LEARNING_RATES, "others", (1e-3, 1e-2))
    monkeypatch.setattr(tuning, "FURTHER_RATES", 1)
    command = ["study", "glue", "--records", str(records), "--model", tiny_folder, "--tasks", str(folder), "--seeds", "2",
               "--methods", "uniform", "gap-printed", "probe", "--examples", "96", "--calibration", "32", "--epochs", "1"]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    found = read_records(records)
    assert found["config.split"].value_counts()["validation"] == 6
    tried = found[found["config.split"] == "tuning"].groupby("config.method")["config.learning_rate"]
    assert set(tried.size()) <= {2, 3} and "further rates" in shown or set(tried.size()) == {2}
    assert set(found["data.task"]) == {"weather"} and found["metrics.accuracy"].between(0.2, 1).all()
    scores = final_scores(found)
    assert set(scores.index.get_level_values("method")) == {"uniform", "gap-printed", "probe"} and "gap-printed" in shown
    before = records.read_text()
    assert main(command) == 0 and records.read_text() == before  # nothing is left to do
    own_task(folder, 200, 2)  # the validation split, anew
    assert main(command) == 0
    own_task(folder, 201, 0)
    assert main([*command, "--tasks", str(folder / ".." / "weather")]) == 2
    assert "holds runs on other examples than" in capsys.readouterr().err and records.read_text() == before
    own_task(folder, 200, 0)
    assert main([*command, "--methods", "nothing"]) == 2
    assert "accepted" in capsys.readouterr().err


def test_the_papers_command_runs_end_to_end_on_a_tiny_bert(tmp_path, tiny_folder, capsys, monkeypatch):
    monkeypatch.setitem(glue_study.LEARNING_RATES, "others", (2e-4,))
    command = ["study", "glue", "--paper", "--model", tiny_folder, "--tasks", "stsb-mini", "--methods", "uniform", "gap-printed",
               "--seeds", "1", "--records", str(tmp_path / "r.jsonl"), "--examples", "64", "--epochs", "2"]  # fmt: skip
    assert main(command) == 0
    found = read_records(tmp_path / "r.jsonl")
    assert set(found["config.head"]) == {"fresh"} and set(found["config.rank"]) == {8}
    assert set(found["config.calibration"]) == {512} and len(found) == 2
    assert "uniform" in capsys.readouterr().out


def scores_of(rng, tasks=("rte", "mrpc", "stsb"), seeds=5, gain=2.0):
    rows = {}
    for task in tasks:
        for seed in range(seeds):
            level = 60 + rng.standard_normal()
            rows[task, "uniform", seed] = level
            rows[task, "floor", seed] = level + gain + 0.1 * rng.standard_normal()
            rows[task, "same", seed] = level + 0.05 * rng.standard_normal()
    return pd.Series(rows).rename_axis(["task", "method", "seed"]).sort_index()


def test_tables_find_what_is_there_and_call_equal_what_is_equal():
    rng = np.random.default_rng(0)
    scores = scores_of(rng)
    table = compare_methods(scores)
    assert (table.loc[(slice(None), "floor"), "p_holm"] < 0.01).all()
    assert table.loc[(slice(None), "floor"), "difference"].between(1.8, 2.2).all()
    assert (table.loc[(slice(None), "same"), "p_equivalent"] < 0.01).all()
    assert (table["p_holm"] >= table["p"]).all() and (table["n"] == 5).all()
    means = overall(scores, rng)
    assert means.loc["floor", "low"] > 1.8 and means.loc["same", "low"] < 0 < means.loc["same", "high"]
    wide = score_table(scores)
    assert wide.loc["uniform", ("rte", "mean")] == pytest.approx(scores["rte", "uniform"].mean())
    assert wide.loc["uniform", ("rte", "runs")] == 5


def test_tables_show_gaps_as_gaps_and_refuse_what_cannot_be_told_apart():
    scores = scores_of(np.random.default_rng(1)).drop([("rte", "floor", seed) for seed in range(4)])
    assert np.isnan(score_table(scores).loc["floor", ("rte", "half")])
    assert ("rte", "floor") not in compare_methods(scores).index and ("mrpc", "floor") in compare_methods(scores).index
    counts = overall(scores, np.random.default_rng(0))["tasks"]
    assert counts.get("floor", 1) == counts["same"] - 1  # one seed of a task has no scatter
    with pytest.raises(ValueError, match="reference: got 'even'"):
        compare_methods(scores, "even")
    record = {"key": "a", "config.task": "rte", "config.method": "gap", "config.parameter": None, "config.seed": 0,
              "config.split": "validation", "metrics.score": 60.0, "config.rank": 4}  # fmt: skip
    twice = pd.DataFrame([record, record | {"key": "b", "config.rank": 8}])
    with pytest.raises(ValueError, match="two runs of gap on rte with seed 0"):
        final_scores(twice)
    assert final_scores(twice, rank=8).size == 1
    with pytest.raises(ValueError, match="no final run"):
        final_scores(twice, rank=2)
