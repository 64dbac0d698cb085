"""`companion score`: a user's file from the command line to its row, and every way it can be wrong."""

from types import SimpleNamespace

import pytest

from companion import cli, leaderboard, oracle, scoring
from companion.leaderboard import leaderboard_runs
from companion.oracle import oracle_runs
from companion.planted_benchmark import LIGHT, SETTING
from companion.scoring import LIGHT_RULES, load_rule, score
from companion.study import read_records, run_study

HALF = "def rule(spectrum):\n    s = spectrum.singular_values\n    return int((s > s[0] / 2).sum())\n"


@pytest.fixture
def small(lively_folder, monkeypatch):
    setting = LIGHT | {"model": lively_folder, "outputs": 4, "examples": 32, "test_examples": 16, "steps": 3}
    monkeypatch.setattr(scoring, "LIGHT", setting)
    return setting


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(HALF)
    return path


def test_from_a_file_to_its_row(file, small, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["score", str(file), "--light", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    rows = {words[0]: words[1:] for words in reversed(lines) if words and words[0] in ("half", *LIGHT_RULES)}  # the first table
    assert set(rows) == {"half", *LIGHT_RULES} and all(row[0] == "2" for row in rows.values())
    assert "Built-in rules: 0 results recorded, 10 computed now." in shown
    assert "Measured oracle: stsb-mini" in shown and "6 units, 3 seeds" in shown  # the record of the package
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["half.py"]  # nothing is left behind


def test_recorded_rows_stand_for_runs(file, small, tmp_path, monkeypatch):
    path = tmp_path / "leaderboard.jsonl"
    assert run_study(leaderboard.run, leaderboard_runs(small, LIGHT_RULES, [0]), path, progress=False).done == 5
    live = score(load_rule(file), "half", light=True, planted_records=tmp_path / "nosuch.jsonl")
    calls = []
    original = leaderboard.score_rule
    monkeypatch.setattr(leaderboard, "score_rule", lambda rule, planted: calls.append(rule) or original(rule, planted))
    recorded = score(load_rule(file), "half", light=True, planted_records=path)
    assert len(calls) == 1 and "5 results recorded, 0 computed now" in str(recorded)
    assert recorded.planted.round(6).equals(live.planted.round(6))
    missing = score(load_rule(file), "half", light=True, planted_records=path, oracle_records=tmp_path / "none.jsonl")
    assert missing.oracle is None and "none.jsonl'; python -m companion.oracle makes them" in str(missing)


def test_the_recorded_problems_are_the_default(file, small, tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    runs = leaderboard_runs(small, LIGHT_RULES, [1, 4]) + leaderboard_runs(small, LIGHT_RULES[:2], [0])
    run_study(lambda config: {"metrics": {"error": float(config["seed"])}}, runs, path, progress=False)
    known = scoring._recorded(path)
    assert scoring._recorded_seeds(small, LIGHT_RULES, known) == [1, 4]
    assert scoring._recorded_seeds(small, LIGHT_RULES, {}) == []


def test_against_a_recorded_oracle(file, small, tmp_path):
    setting = oracle.SETTING | {"model": small["model"], "examples": 64, "calibration": 32}

    def quick(config):
        return {"metrics": {"loss": 1.0 - 0.01 * config["unit_rank"] * ((config["unit"] or "").count("query") + 1)}}

    path = tmp_path / "oracle.jsonl"
    run_study(quick, oracle_runs(setting, seeds=[0, 1]), path, progress=False)
    found = score(load_rule(file), "half", light=True, oracle_records=path)
    assert set(found.oracle.index) == {"half", *LIGHT_RULES} - {"uniform:3", "planted"}
    assert "4 units, 2 seeds" in str(found) and "Measured value of rank" in str(found)
    assert len(read_records(path)) == 34


def test_an_oracle_that_is_not_there_yet_does_not_stop_the_rest(file, small, tmp_path):
    setting = oracle.SETTING | {"model": small["model"], "examples": 64, "calibration": 32}
    path, runs = tmp_path / "oracle.jsonl", oracle_runs(setting, seeds=[0])
    run_study(lambda config: {"metrics": {"loss": 1.0}}, runs[:3], path, progress=False)
    found = score(load_rule(file), "half", light=True, oracle_records=path)
    assert found.oracle is None and "left out (records: no seed has every unit at ranks 0 and 8)" in str(found)

    def quick(config):
        return {"metrics": {"loss": 1.0 - 0.01 * config["unit_rank"] * ((config["unit"] or "").count("query") + 1)}}

    layers = tmp_path / "layers.jsonl"
    run_study(quick, oracle_runs(setting, seeds=[0], by="layer"), layers, progress=False)
    found = score(load_rule(file), "half", light=True, oracle_records=layers)
    assert found.oracle is None and "left out (records: got 2 units; accepted: three or more)" in str(found)
    run_study(quick, runs + oracle_runs(setting, seeds=[0], by="layer")[:2], path, progress=False)
    found = score(load_rule(file), "half", light=True, oracle_records=path)
    assert "4 units, 1 seeds" in str(found) and "left aside: 2." in str(found)


def test_a_file_may_hold_a_dataclass(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Limit:\n"
        "    rank: int = 2\n\ndef rule(spectrum):\n    return Limit().rank\n"
    )
    assert load_rule(path)(SimpleNamespace(shape=(4, 6))) == 2


@pytest.mark.parametrize(
    "text, match",
    [
        ("x = 1\n", "defines no function 'rule'"),
        ("rule = 3\n", "defines no function 'rule'"),
        ("def rule(:\n", "cannot be run: SyntaxError"),
        ("import nosuchmodule\n", "cannot be run: ModuleNotFoundError"),
        ("def rule(spectrum):\n    return 2.5\n", "returned 2.5; accepted: an integer from 0 to 32"),
        ("def rule(spectrum):\n    return -1\n", "returned -1; accepted: an integer from 0 to 32"),
        ("def rule(spectrum):\n    return 1 / 0\n", "failed: ZeroDivisionError"),
        ("def rule():\n    return 1\n", "failed: TypeError"),
        ("raise SystemExit(0)\n", "cannot be run: SystemExit"),
        ("def rule(spectrum):\n    raise SystemExit(0)\n", "failed: SystemExit"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(text, match, small, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert cli.main(["score", str(path), "--light"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("companion score: ") and match in error and "Traceback" not in error


def test_other_files_and_names_are_refused(tmp_path, file, small, capsys):
    (tmp_path / "rule.txt").write_text(HALF)
    (tmp_path / "gap.py").write_text(HALF)
    wrong = {"nosuch.py": "no such file", "rule.txt": "ending in .py", "gap.py": "'gap' is a built-in rule"}
    for name, match in wrong.items():
        assert cli.main(["score", str(tmp_path / name), "--light"]) == 2
        assert match in capsys.readouterr().err
    with pytest.raises(ValueError, match="seeds: got none"):
        score(load_rule(file), "half", light=True, seeds=[])


def test_help_says_whose_code_runs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", "--help"])
    assert "your own code" in " ".join(capsys.readouterr().out.split())


def test_light_and_full_differ_in_values_only():
    assert set(LIGHT) == set(SETTING) and LIGHT["study"] == SETTING["study"]
