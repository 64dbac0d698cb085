"""What a study does before any work, and what it makes of arguments and records of every kind."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from companion import vision_study
from companion.cli import main
from companion.glue_run import SETTING
from companion.glue_study import GLUE, run_glue
from companion.methods import Problem, adapt
from companion.runs import append_record, read_records
from companion.study import Outcome
from companion.study_tables import final_scores, of_setting
from companion.tuning import Design, run_tuned
from companion.vision_study import VISION, run_vision
from tiny_models import text_batches, tiny_bert

RATES = {"others": (1e-3, 1e-2, 1e-1), "probe": (None,)}


def best_in_the_middle(config, records=None):
    return {"metrics": {"score": -abs(np.log10(config["learning_rate"] or 1e-2) + 2)}}


def always_fail(config, records=None):
    raise RuntimeError("no such machine")


DESIGN = Design(best_in_the_middle, ("even", "energy", "probe"), RATES, parameters=("energy",))


def finals(path):
    found = read_records(path)
    return found[found["config.split"] != "tuning"]


def test_seeds_may_be_numpy_integers_and_tasks_paths(tmp_path):
    path = tmp_path / "r.jsonl"
    run_tuned(DESIGN, path, [tmp_path / "mine", Path("rte")], ["even"], np.arange(2), {})
    assert sorted(finals(path)["config.task"].unique()) == ["./rte", str(tmp_path / "mine")]  # not GLUE's rte
    assert sorted(finals(path)["config.seed"]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": "rte"}, ValueError, "tasks: got 'rte'"),
        ({"tasks": ["a", "a"]}, ValueError, "tasks must differ from each other, got a, a"),
        ({"methods": ["energy:0.9", "energy:0.90"]}, ValueError, "methods must differ from each other, got energy:0.9, energy:0.9"),
        ({"methods": ["even:8"]}, ValueError, "methods: got 'even:8'; accepted: 'even', methods with a parameter are energy"),
        ({"methods": ["energy:nan"]}, ValueError, "methods: got 'energy:nan'; accepted: a number after the colon"),
        ({"methods": ["energy:"]}, ValueError, "methods: got 'energy:'; accepted: a number after the colon"),
        ({"seeds": [0, 0]}, ValueError, "seeds must differ from each other, got 0, 0"),
        ({"seeds": [0.5]}, TypeError, "seeds must be an integer, got 0.5"),
        ({"minutes": 0}, ValueError, "minutes must be > 0, got 0"),
        ({"minutes": -5}, ValueError, "minutes must be > 0, got -5"),
        ({"minutes": float("nan")}, ValueError, "minutes must be > 0, got nan"),
    ],
)
def test_bad_input_is_named_before_any_work(tmp_path, changes, error, message):
    given = {"tasks": ["a"], "methods": ["even"], "seeds": [0], "setting": {}} | changes
    with pytest.raises(error, match=message):
        run_tuned(DESIGN, tmp_path / "r.jsonl", **given)
    assert not list(tmp_path.iterdir())


def test_a_parameter_is_refused_where_a_method_would_not_read_it():
    for design, method in ((GLUE, "uniform:8"), (GLUE, "gap:16"), (VISION, "lora:4")):
        with pytest.raises(ValueError, match=f"methods: got '{method}'"):
            design.config({}, "rte", method, None, 0, "tuning")
    assert GLUE.config({}, "rte", "energy:0.5", None, 0, "tuning")["parameter"] == 0.5


def test_an_energy_of_nothing_is_refused_and_not_replaced():
    problem = Problem(tiny_bert(), text_batches(20, 10), rank=2, steps=1, targets=["query"], parameter=0.0)
    with pytest.raises(ValueError, match="fraction"):
        adapt("energy", problem)


def test_records_from_elsewhere_have_other_metrics(tmp_path):
    path = tmp_path / "r.jsonl"
    append_record(path, {"config": {"elsewhere": 1}, "seconds": 1.0})
    outcomes = run_tuned(Design(always_fail, ("even",), RATES), path, ["a"], ["even"], [0], {})
    assert [outcome.failed for outcome in outcomes] == [3, 0]


def test_the_command_shows_failures_of_its_own_setting_only(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    append_record(path, {"config": {"elsewhere": 1}, "error": "ValueError: of another study"})
    for rank in (4, 8):
        config = {**SETTING, "rank": rank, "task": "rte", "method": "gap", "parameter": None, "learning_rate": 1e-3}
        append_record(path, {"config": {**config, "seed": 0, "split": "tuning"}, "error": f"ValueError: rank {rank}"})
    command = ["study", "glue", "--records", str(path), "--tasks", "rte", "--methods", "probe", "--seeds", "0"]
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert main([*command[:-1], "-1"]) == 2
    assert "--seeds -1: accepted" in capsys.readouterr().err
    assert "failed: gap on rte: ValueError: rank 4" in shown and "rank 8" not in shown and "another study" not in shown


def test_seeds_that_can_be_read_once_reach_every_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(vision_study, "VISION", Design(best_in_the_middle, VISION.methods, RATES, "test"))
    path = tmp_path / "v.jsonl"
    run_vision(path, ["lora", "probe"], [1, 4], iter([0, 1]))
    assert len(finals(path)) == 6 and finals(path)["config.rank"].value_counts().to_dict() == {1.0: 2, 4.0: 2}


@pytest.mark.parametrize("study", ["glue", "vision"])
def test_a_folder_without_the_final_split_is_found_before_any_work(tmp_path, study):
    folder = tmp_path / "mine"
    folder.mkdir()
    pd.DataFrame({"text": ["a b", "c d"] * 30, "label": [0, 1] * 30}).to_parquet(folder / "train.parquet")
    path = tmp_path / "r.jsonl"
    with pytest.raises(ValueError, match="has the splits train; accepted: one with '(validation|test)'"):
        run_glue(path, [folder], ["uniform"]) if study == "glue" else run_vision(path, ["lora"], task=str(folder))
    with pytest.raises(ValueError, match="unknown task 'rtte'"):
        run_glue(path, ["rtte"], ["uniform"])
    assert not path.exists()


def test_the_threshold_is_not_calibrated_on_a_judged_task_under_another_name(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "validation"):
        pd.DataFrame({"text": ["a b", "c d"] * 30, "label": [0, 1] * 30}).to_parquet(folder / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)
    for tasks, source in (([folder], "mine"), (["./mine"], f"{folder}/"), (["qnli"], "qnli-mini")):
        with pytest.raises(ValueError, match="a task to calibrate on that is not judged"):
            run_glue(tmp_path / "r.jsonl", tasks, [f"threshold:{source}"])
    with pytest.raises(ValueError, match="tasks: got './mine'"):
        run_glue(tmp_path / "r.jsonl", "./mine", ["probe"])
    with pytest.raises(ValueError, match="one folder twice: mine, ./mine"):
        run_glue(tmp_path / "r.jsonl", ["mine", "./mine"], ["probe"])


def test_settings_are_found_as_tuples_and_no_record_is_said_to_be_none():
    records = pd.json_normalize([{"config": {"targets": ["query", "value"]}}], max_level=1)
    assert len(of_setting(records, {"targets": ("query", "value")})) == 1
    with pytest.raises(ValueError, match="records hold no final run"):
        final_scores(pd.DataFrame())


def test_parameters_that_differ_in_the_seventh_digit_are_two_methods():
    rows = [{"config": {"task": "rte", "method": "threshold", "parameter": p, "seed": 0, "split": "validation", "learning_rate": 1e-3},
             "metrics": {"score": p}} for p in (1.234567, 1.2345671)]  # fmt: skip
    found = final_scores(pd.json_normalize(rows, max_level=1))
    assert found.index.get_level_values("method").tolist() == ["threshold:1.234567", "threshold:1.2345671"]


def test_failed_runs_are_repeated_on_demand(tmp_path, capsys, monkeypatch):
    path, given = tmp_path / "r.jsonl", (["a"], ["even"], [0], {})
    assert [o.failed for o in run_tuned(Design(always_fail, ("even",), RATES), path, *given)] == [3, 0]
    working = Design(best_in_the_middle, ("even",), RATES)
    assert [(o.done, o.left) for o in run_tuned(working, path, *given)] == [(0, 3), (0, 1)]  # the final run waits for a rate
    assert [o.done for o in run_tuned(working, path, *given, retry_failures=True)] == [3, 1]

    asked = []
    monkeypatch.setattr("companion.glue_study.run_tuned", lambda *a: asked.append(a[-1]) or [Outcome(0, 0, 0, 0.0)] * 2)
    append_record(path, {"config": {**SETTING, "task": "rte", "method": "gap", "split": "tuning"}, "error": "OSError: offline"})
    command = ["study", "glue", "--records", str(path), "--tasks", "rte", "--methods", "gap"]
    main(command), main([*command, "--retry-failures"])
    assert asked == [False, True] and capsys.readouterr().err.count("--retry-failures runs them again") == 1
