"""The measured oracle: its grid, its runs, what they say of the value of rank, and how rules are held against it."""

import json

import numpy as np
import pandas as pd
import pytest

from companion import oracle
from companion.book.glue_tables import oracle_values
from companion.gradients import GradientSpectrum
from companion.oracle import RANKS, SETTING, oracle_runs, oracle_spectra, run, units
from companion.runs import append_record
from companion.study import read_records, run_study
from companion.truth_tables import correlation, largest_setting, marginal_values


@pytest.fixture
def small(lively_folder):
    return SETTING | {"model": lively_folder, "examples": 64, "calibration": 32, "epochs": 1, "precision": "fp32"}


def test_the_grid_has_every_unit_at_every_rank_and_the_most_telling_runs_first(small):
    runs = oracle_runs(small, seeds=[0, 1])
    assert len(runs) == 2 * (4 * 4 + 1) and len({json.dumps(c, sort_keys=True) for c in runs}) == len(runs)
    assert runs[0] == small | {"by": "matrix", "seed": 0, "unit": None, "modules": [], "unit_rank": 4}
    assert [c["unit_rank"] for c in runs[1:9]] == [0] * 4 + [8] * 4 and {c["seed"] for c in runs[:9]} == {0}
    assert {c["unit_rank"] for c in runs[18:]} == {1, 2} and {c["seed"] for c in runs[9:18]} == {1}
    layers = oracle_runs(small, seeds=[0], ranks=(4, 0), by="layer")
    assert [c["unit_rank"] for c in layers] == [4, 0, 0] and all(len(c["modules"]) == 2 for c in layers[1:])


def test_the_full_grid_of_minilm():
    assert len(units()) == 12 and len(units(by="layer")) == 6
    runs = oracle_runs(seeds=[0])
    assert len(runs) == 12 * (len(RANKS) - 1) + 1 and set(SETTING) <= set(runs[0])


def test_a_run_changes_the_rank_of_its_unit_alone(small):
    base, *others = oracle_runs(small, seeds=[5])
    first, second = run(base), run(base)
    assert first["metrics"] == second["metrics"] and first["metrics"]["parameters"] == 4 * 4 * 64
    none = run(others[0])["metrics"]
    assert none["parameters"] == 3 * 4 * 64 and none["loss"] != first["metrics"]["loss"]
    same = run(others[0] | {"unit_rank": 4})["metrics"]
    assert same == first["metrics"]
    assert run(base | {"seed": 6})["metrics"]["loss"] != first["metrics"]["loss"]
    assert first["data"]["task"] == "stsb-mini" and len(first["model"]["sha256"]) == 64
    with pytest.raises(ValueError, match="modules: got .'nosuch'.; accepted: some of bert.encoder"):
        run(base | {"modules": ["nosuch"]})


def test_spectra_are_of_the_start_of_a_seeds_runs(small):
    config = small | {"seed": 0}
    spectra = oracle_spectra(config)
    assert len(spectra) == 4 and {s.n_examples for s in spectra.values()} == {32}
    assert next(iter(spectra.values())).noise_floor > 0


def test_interrupted_and_resumed_from_the_command_line(small, tmp_path, capsys, monkeypatch):
    path, done = tmp_path / "oracle.jsonl", []

    def quick(config):
        done.append(config)
        return {"metrics": {"loss": 1.0 - 0.01 * config["unit_rank"]}}

    monkeypatch.setattr(oracle, "run", quick)
    monkeypatch.setattr(oracle, "SETTING", small)
    assert run_study(quick, oracle_runs(small, seeds=[0])[:7], path, progress=False).done == 7
    command = [str(path), "--seeds", "2", "--model", small["model"], "--precision", "fp32"]
    assert oracle.main(command) == 0 and "done=27" in capsys.readouterr().out
    assert len(done) == len(oracle_runs(small, seeds=[0, 1])) == 34
    values = marginal_values(read_records(path))
    assert values.shape == (4, 2) and np.allclose(values, 0.08)
    assert np.allclose(marginal_values(read_records(path), low=1, high=4), 0.03)  # the run without a unit serves all


def recorded(path, losses):
    """Records from {(unit, rank): losses of the seeds}."""
    for (unit, rank), values in losses.items():
        for seed, loss in enumerate(values):
            config = {**SETTING, "by": "matrix", "unit": unit, "unit_rank": rank, "seed": seed}
            if loss is not None:
                append_record(path, {"config": config, "metrics": {"loss": loss}})
    return read_records(path)


def test_values_are_differences_within_complete_seeds(tmp_path):
    losses = {("a", 0): (0.9, 0.8, 0.7), ("b", 0): (0.6, 0.6, None)}
    losses |= {("a", 8): (0.5, 0.5, 0.5), ("b", 8): (0.5, 0.6, 0.5)}
    values = marginal_values(recorded(tmp_path / "r.jsonl", losses))
    expected = pd.DataFrame({0: [0.4, 0.1], 1: [0.3, 0.0]}, ["a", "b"])
    np.testing.assert_allclose(values.to_numpy(), expected.to_numpy(), atol=1e-12)
    assert list(values.columns) == [0, 1] and list(values.index) == ["a", "b"]
    with pytest.raises(ValueError, match="no seed has every unit at ranks 0 and 4"):
        marginal_values(read_records(tmp_path / "r.jsonl"), high=4)
    other = {**SETTING, "epochs": 9, "by": "matrix", "unit": "a", "unit_rank": 0, "seed": 9}
    append_record(tmp_path / "r.jsonl", {"config": other})
    with pytest.raises(ValueError, match="differ in .'epochs'."):
        marginal_values(read_records(tmp_path / "r.jsonl"))


def test_stray_runs_of_another_setting_are_left_aside(tmp_path):
    stray = {**SETTING, "by": "matrix", "unit": "a.query", "unit_rank": 0, "seed": 0}
    append_record(tmp_path / "r.jsonl", {"config": stray, "metrics": {"loss": 9.0}})
    for unit, rank in [("a", 0), ("a", 8), ("b", 0), ("b", 8)]:
        config = {**SETTING, "by": "layer", "unit": unit, "unit_rank": rank, "seed": 0}
        append_record(tmp_path / "r.jsonl", {"config": config, "metrics": {"loss": 1 - rank / 100}})
    records = read_records(tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="differ in .'by'."):
        marginal_values(records)
    values = marginal_values(largest_setting(records))
    assert list(values.index) == ["a", "b"] and np.allclose(values, 0.08)
    assert oracle_values(records).equals(values)
    assert largest_setting(records[:0]).empty


def spectrum(rank):
    return GradientSpectrum(np.linspace(1, 0.1, 20) + (np.arange(20) < rank), np.ones(3) * 1.05, (20, 30), 64)


def table(values, noise=0.0, seeds=5):
    rng = np.random.default_rng(0)
    return pd.DataFrame(np.array(values)[:, None] + noise * rng.standard_normal((8, seeds)), list("abcdefgh"))


def test_a_rule_that_knows_the_order_has_correlation_one():
    spectra = {name: spectrum(rank) for rank, name in enumerate("abcdefgh")}
    rising, rng = np.arange(8.0), np.random.default_rng(1)
    found = correlation("floor", spectra, table(rising), rng)
    assert (found.value, found.low, found.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    falling = correlation(lambda s: 19 - int((s.singular_values > 1.05).sum()), spectra, table(rising), rng)
    assert falling.value == pytest.approx(-1)
    noisy = correlation("floor", spectra, table(rising, noise=6.0, seeds=2), rng)
    assert noisy.low < noisy.value < noisy.high and noisy.high - noisy.low > 0.3
    again = [correlation("floor", spectra, table(rising, noise=6.0), np.random.default_rng(2)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_rule_with_one_answer_has_no_correlation():
    spectra = {name: spectrum(3) for name in "abcdefgh"}
    found = correlation(lambda s: 4, spectra, table(np.arange(8)), np.random.default_rng(0))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_ranks_of_a_layer_are_added():
    queries = {f"{name}.query": spectrum(rank) for rank, name in enumerate("abcdefgh")}
    spectra = queries | {f"{name}.value": spectrum(8 - rank // 2) for rank, name in enumerate("abcdefgh")}
    assert correlation("floor", spectra, table(np.arange(8)), np.random.default_rng(0)).value > 0.95
    with pytest.raises(ValueError, match=r"without spectra \['h'\]"):
        fewer = {name: s for name, s in spectra.items() if name[0] != "h"}
        correlation("floor", fewer, table(np.arange(8)), np.random.default_rng(0))


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda s: oracle_runs(s, ranks=[3]), ValueError, "ranks must be two or more"),
        (lambda s: oracle_runs(s, ranks=[0, 0, 4]), ValueError, "ranks must be two or more"),
        (lambda s: oracle_runs(s, ranks=[-1, 4]), ValueError, "ranks must be >= 0"),
        (lambda s: oracle_runs(s, by="head"), ValueError, "by: got 'head'; accepted: 'matrix', 'layer'"),
        (lambda s: run(s | {"seed": 0, "modules": [], "unit_rank": 0, "task": "nosuch"}), ValueError, "nosuch"),
    ],
)
def test_bad_arguments_are_named(small, call, error, match):
    with pytest.raises(error, match=match):
        call(small)


def test_help(capsys):
    with pytest.raises(SystemExit):
        oracle.main(["--help"])
    assert "records" in capsys.readouterr().out
