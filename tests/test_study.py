"""Records: whole lines or nothing, and a message for what is not a record."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from companion import data, runs
from companion.study import append_record, provenance, read_records


def test_round_trip_with_nested_columns(tmp_path):
    path = tmp_path / "new" / "study.jsonl"
    append_record(path, {"config": {"seed": 1}, "metrics": {"accuracy": 0.5, "ranks": [1, 2]}})
    append_record(path, {"config": {"seed": 2}, "metrics": {"accuracy": 0.75, "ranks": [3]}})
    frame = read_records(path)
    assert frame["config.seed"].tolist() == [1, 2] and frame["metrics.ranks"].tolist() == [[1, 2], [3]]


def test_a_torn_line_damages_no_other(tmp_path):
    path = tmp_path / "study.jsonl"
    append_record(path, {"config": {"seed": 1}})
    with path.open("a") as file:
        file.write('{"config": {"se')  # a killed process
    append_record(path, {"config": {"seed": 2}})
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) and json.loads(lines[2]) and len(lines) == 3
    with pytest.raises(ValueError, match="line 2"):
        read_records(path)


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError):
        append_record(tmp_path / "x.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "x.jsonl").exists()


def test_two_writers_do_not_mix_lines(tmp_path):
    path = tmp_path / "study.jsonl"
    code = (
        "import sys; from pathlib import Path; from companion.study import append_record\n"
        "for i in range(50): append_record(Path(sys.argv[1]), {'config': {'i': i, 'writer': sys.argv[2], 'fill': 'x' * 3000}})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(read_records(path)) == 100


def test_unknown_study_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="gradient-growth"):
        read_records("nosuch")


@pytest.mark.parametrize("study", ["gradient-growth", "rank-compare"])
def test_shipped_records_can_be_repeated(study):
    frame = read_records(study)
    needed = ["config.seed", "data.sha256", "data.rows", "versions.torch", "versions.peft", "hardware", "date"]
    assert len(frame) > 0 and frame[needed].notna().all().all()
    keys = [column for column in frame.columns if column.startswith("config.")]
    assert not frame.astype({key: str for key in keys}).duplicated(keys).any()


def test_provenance_names_the_data():
    record = provenance(data.load_task("stsb-mini"))
    assert record["data"]["task"] == "stsb-mini" and len(record["data"]["sha256"]) == 64
    assert {"torch", "peft", "companion"} <= set(record["versions"])
    json.dumps(record)


def test_peak_memory_is_in_mebibytes_on_every_system(monkeypatch):
    counted = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=512 * 1024**2))
    frame = data.load_task("stsb-mini", "validation")
    for module, system, peak in ((counted, "linux", 512 * 1024), (counted, "darwin", 512), (None, "win32", None)):
        monkeypatch.setattr(runs, "resource", module)
        monkeypatch.setattr(runs.sys, "platform", system)
        assert runs.provenance(frame)["peak_memory_mib"] == peak


def test_records_can_be_read_where_there_is_no_count_of_resources():
    code = "import sys; sys.modules['resource'] = None; from companion.study import read_records; print(len(read_records('glue')) > 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"
