"""The queue of a study: killed, resumed, with two drivers, with failures, with a deadline, on a Dask cluster."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest

from companion.study import append_record, failed_records, grid, read_records, run_study, typical_seconds

HERE = Path(__file__).parent
CONFIGS = grid(task=["a", "b", "c"], seed=list(range(10)))


def run(config):
    """A run that takes a moment and whose result depends on its configuration only."""
    time.sleep(config.get("sleep", 0.01))
    return {"metrics": {"score": random.Random(json.dumps(config)).random(), "fill": "x" * 500}}


def sometimes(config):
    if config["seed"] == 3 and not os.environ.get("COMPANION_TEST_MENDED"):
        raise ArithmeticError("seed three")
    return run(config)


def results(path):
    frame = read_records(path)
    return {(row["config.task"], row["config.seed"]): row["metrics.score"] for row in frame.to_dict("records")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "runs.jsonl"
    outcome = run_study(run, CONFIGS, path, progress=False)
    assert (outcome.done, outcome.failed, outcome.left) == (30, 0, 0)
    return results(path)


def driver(path, workers=1):
    code = (
        "import sys; from pathlib import Path; from test_study_queue import CONFIGS, run; "
        "from companion.study import run_study; "
        "run_study(run, CONFIGS, Path(sys.argv[1]), workers=int(sys.argv[2]), progress=False)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    return subprocess.Popen([sys.executable, "-c", code, str(path), str(workers)], env=environment)


def test_a_second_call_runs_nothing(tmp_path, undisturbed):
    path = tmp_path / "runs.jsonl"
    run_study(run, CONFIGS[:20], path, progress=False)
    assert run_study(run, CONFIGS, path, progress=False).done == 10
    before = path.read_bytes()
    assert run_study(run, CONFIGS, path, progress=False).done == 0
    assert path.read_bytes() == before
    assert results(path) == undisturbed


def test_killed_at_twenty_moments_and_resumed(tmp_path, undisturbed):
    path, moments = tmp_path / "runs.jsonl", random.Random(0)
    for _ in range(20):
        process = driver(path)
        while process.poll() is None and not path.exists():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.04))
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(path.read_text("utf-8").splitlines())
    run_study(run, CONFIGS, path, progress=False)
    assert results(path) == undisturbed
    assert len(path.read_text("utf-8").splitlines()) == 30 >= kept > 0


def test_torn_lines_and_lines_from_elsewhere_are_set_aside(tmp_path, undisturbed):
    path = tmp_path / "runs.jsonl"
    run_study(run, CONFIGS[:4], path, progress=False)
    whole = path.read_text("utf-8").splitlines()
    torn = [*whole[:2], "[1, 2]", '{"status": "foreign"}', whole[2], whole[3][:-20]]
    path.write_text("\n".join(torn), "utf-8")
    with pytest.warns(UserWarning, match=r"3 lines are no records \(the first is line 3: it has no configuration\)"):
        outcome = run_study(run, CONFIGS, path, progress=False)
    assert outcome.done == 27
    assert results(path) == undisturbed
    assert (tmp_path / "runs.jsonl.rejected").read_text("utf-8").splitlines() == [torn[2], torn[3], torn[5]]
    assert not list(tmp_path.glob("*.tmp"))


def test_two_drivers_share_the_work(tmp_path, undisturbed):
    path = tmp_path / "runs.jsonl"
    drivers = [driver(path), driver(path)]
    assert [process.wait() for process in drivers] == [0, 0]
    assert results(path) == undisturbed
    assert len(path.read_text("utf-8").splitlines()) == 30


def test_two_workers(tmp_path, undisturbed):
    path = tmp_path / "runs.jsonl"
    assert run_study(run, CONFIGS, path, workers=2, progress=False).done == 30
    assert results(path) == undisturbed


def test_failures_are_recorded_and_repeated_on_demand(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    outcome = run_study(sometimes, CONFIGS, path, progress=False)
    assert (outcome.done, outcome.failed, outcome.left) == (27, 3, 3)
    assert {record["error"] for record in failed_records(path)} == {"ArithmeticError: seed three"}
    assert "sometimes" in failed_records(path)[0]["traceback"]
    assert len(read_records(path)) == 27
    monkeypatch.setenv("COMPANION_TEST_MENDED", "1")
    assert run_study(sometimes, CONFIGS, path, progress=False).done == 0
    assert run_study(sometimes, CONFIGS, path, retry_failures=True, progress=False).done == 3
    assert failed_records(path) == []
    assert len(read_records(path)) == 30


def test_most_valuable_first_and_none_that_does_not_fit(tmp_path):
    path = tmp_path / "runs.jsonl"
    slow, quick = grid(kind=["slow"], seed=[0, 1]), grid(kind=["quick"], seed=[0, 1, 2])
    append_record(path, {"config": {"kind": "slow", "seed": 9}, "seconds": 3600.0})
    append_record(path, {"config": {"kind": "quick", "seed": 9}, "seconds": 0.01})
    outcome = run_study(run, [*slow, *quick], path, minutes=1, progress=False)
    assert (outcome.done, outcome.left) == (3, 2)
    assert read_records(path)["config.seed"].tolist() == [9, 9, 0, 1, 2]


def test_no_run_starts_after_the_time_is_over(tmp_path):
    configs = grid(sleep=[0.05], seed=list(range(100)))
    outcome = run_study(run, configs, tmp_path / "runs.jsonl", minutes=0.5 / 60, progress=False)
    assert 0 < outcome.done < 12
    assert outcome.left == 100 - outcome.done


def test_time_is_guessed_from_the_runs_most_alike():
    done = [
        {"config": {"task": "a", "method": "x"}, "seconds": 10.0},
        {"config": {"task": "a", "method": "y"}, "seconds": 20.0},
        {"config": {"task": "b", "method": "x"}, "seconds": 1.0},
    ]
    assert typical_seconds({"task": "a", "method": "x"}, done) == 10
    assert typical_seconds({"task": "a", "method": "z"}, done) == 15
    assert typical_seconds({"task": "b", "method": "z"}, done) == 1
    assert typical_seconds({"task": "a"}, []) is None


def test_the_same_study_runs_on_a_dask_cluster(tmp_path, undisturbed):
    import distributed

    path = tmp_path / "runs.jsonl"
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        assert run_study(run, CONFIGS, path, workers=None, progress=False).done == 30
    assert results(path) == undisturbed


@pytest.mark.parametrize(
    ("configs", "options", "message"),
    [
        ([{"a": 1}, {"a": 1}], {}, "configs must differ from each other, got {'a': 1} twice"),
        (["a"], {}, "configs must hold dicts, got 'a'"),
        ([{"a": object}], {}, "configs must hold plain values only"),
        ([{"a": float("nan")}], {}, "configs must hold plain values only"),  # no record could hold it
        ([{"a": 1}], {"minutes": 0}, "minutes must be > 0, got 0"),
        ([{"a": 1}], {"workers": 0}, "workers must be 1 or more, or None, got 0"),
    ],
)
def test_bad_input_is_named(tmp_path, configs, options, message):
    with pytest.raises(ValueError, match=message):
        run_study(run, configs, tmp_path / "runs.jsonl", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_configurations_may_come_one_by_one_and_foreign_times_say_nothing(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_record(path, {"config": {"elsewhere": 1}, "seconds": None})
    append_record(path, {"config": {"elsewhere": 2}, "seconds": "long"})
    outcome = run_study(run, (config for config in CONFIGS[:2]), path, minutes=1, progress=False)
    assert (outcome.done, outcome.left) == (2, 0)


def test_a_failure_that_another_driver_recorded_is_not_repeated(tmp_path):
    path, configs = tmp_path / "runs.jsonl", grid(seed=[0, 1])

    def first_meets_another_driver(config):
        if config["seed"] == 0:
            append_record(path, {"config": configs[1], "error": "elsewhere", "traceback": ""})
        return {"metrics": {}}

    outcome = run_study(first_meets_another_driver, configs, path, progress=False)
    assert (outcome.done, outcome.left) == (1, 1)
    assert [record["error"] for record in failed_records(path)] == ["elsewhere"]


def diverge(config):
    return {"metrics": {"loss": float("nan") if config["rate"] > 1 else 0.5}}


def test_a_result_that_is_not_finite_is_a_failure_and_the_queue_goes_on(tmp_path):
    outcome = run_study(diverge, grid(rate=[2, 1]), tmp_path / "x.jsonl", progress=False)
    assert (outcome.done, outcome.failed) == (1, 1)
    assert "JSON" in failed_records(tmp_path / "x.jsonl")[0]["error"]
