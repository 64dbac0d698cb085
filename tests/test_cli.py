"""The command line, run as a user runs it."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model

from companion import __version__, cli, data

SMALL = ["--task", "qnli-mini", "--examples", "24", "--warm-up", "40", "--max-length", "48", "--batch-size", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local model folder: a tiny random BERT with MiniLM's vocabulary."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("model")
    tokenizer = data.load_tokenizer("minilm")
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_ranks_prints_a_table_advice_and_patterns_that_peft_takes(folder, tmp_path, capsys):
    out = tmp_path / "ranks.json"
    assert cli.main(["ranks", str(folder), *SMALL, "--rule", "energy:0.8", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 + 4 + 3 and lines[0].split()[:1] == ["matrix"]
    assert all("32 x 32" in line for line in lines[1:5])
    assert "24 examples" in lines[5] and lines[5].endswith(".")
    assert lines[6].startswith("Recommendation: use uniform r=")
    assert eval(lines[7], {"LoraConfig": LoraConfig}).target_modules == {"query", "value"}
    patterns = json.loads(out.read_text())
    config = LoraConfig(**{key: patterns[key] for key in ("target_modules", "rank_pattern", "alpha_pattern")})
    adapted = get_peft_model(data.load_model(str(folder)), config)
    ranks = {n: m.r["default"] for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert sorted(ranks.values()) == sorted(int(line.split()[-1]) for line in lines[1:5] if line.split()[-1] != "0")
    assert {m.scaling["default"] for m in adapted.modules() if hasattr(m, "lora_A")} == {2.0}
    assert [p.name for p in tmp_path.iterdir()] == ["ranks.json"]  # no temporary file is left


def test_same_seed_same_table(folder, capsys):
    tables = []
    for seed in ("1", "1", "2"):
        assert cli.main(["ranks", str(folder), *SMALL, "--seed", seed, "--target-modules", "all-linear"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["ranks", "minilm", "--task", "nosuch"], "unknown task 'nosuch'"),
        (["ranks", "no/such/folder", "--task", "qnli-mini"], "no/such/folder"),
        (["ranks", "minilm", "--task", "qnli-mini", "--rule", "best"], "rule: got 'best'"),
        (["ranks", "minilm", "--task", "qnli-mini", "--examples", "4", "--warm-up", "0"], "at least 8"),
        (["ranks", "minilm", "--task", "qnli-mini", "--examples", "99999"], "99,?999|8,?192"),
        (["ranks", "minilm", "--task", "qnli-mini", "--out", "/no/such/folder/x.json"], "--out"),
        (["ranks", "minilm", "--task", "qnli-mini", "--examples", "8", "--warm-up", "0", "--target-modules", "foo"], "foo"),
    ],
)
def test_errors_are_one_clear_line_and_exit_2(arguments, match, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("companion ranks: ") and "Traceback" not in captured.err
    assert re.search(match, captured.err), captured.err


def test_a_text_longer_than_the_model_reads_is_named(folder, tmp_path, capsys):
    texts = [" ".join(["rain"] * 600), "sun"] * 30
    pd.DataFrame({"text": texts, "label": [0, 1] * 30}).to_parquet(tmp_path / "train.parquet")
    command = ["ranks", str(folder), "--task", str(tmp_path), "--examples", "20", "--warm-up", "20", "--max-length"]
    assert cli.main([*command, "1000"]) == 2
    assert "--max-length 1000: a text has 602 tokens" in capsys.readouterr().err
    assert cli.main([*command, "512"]) == 0


def test_an_interrupted_write_leaves_the_old_file(folder, tmp_path, monkeypatch):
    out = tmp_path / "ranks.json"
    out.write_text("old")
    monkeypatch.setattr(json, "dump", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    assert cli.main(["ranks", str(folder), *SMALL, "--rule", "gap", "--out", str(out)]) == 2
    assert out.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["ranks.json"]


def test_help_and_version_need_no_torch():
    code = "import sys; from companion import cli\ntry: cli.main(['--version'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and __version__ in done.stdout


def test_halves_are_compared_and_suspicious_ranks_are_named(folder, capsys, monkeypatch):
    command = ["ranks", str(folder), *SMALL]
    assert cli.main([*command, "--rule", "energy:0.5", "--halves"]) == 0
    halves = capsys.readouterr().out
    assert re.search(r"Stability: halves of the examples agree on \d+% of the ranks", halves)
    assert cli.main([*command, "--rule", "energy:0.5"]) == 0
    plain = capsys.readouterr().out
    assert plain.splitlines()[:5] == halves.splitlines()[:5] and "Stability" not in plain
    monkeypatch.setattr(cli, "make_rule", lambda rule: lambda spectrum: spectrum.n_examples)
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("rank 24 is the number of examples") == 4


def test_a_sketch_prints_the_leading_values(folder, capsys):
    whole, sketched = [], []
    for lines, options in ((whole, []), (sketched, ["--sketch", "4"])):
        assert cli.main(["ranks", str(folder), *SMALL, *options]) == 0
        lines += [line.split()[4:7] for line in capsys.readouterr().out.splitlines()[1:5]]
    for exact, close in zip(whole, sketched, strict=True):
        assert [float(x) for x in close] == pytest.approx([float(x) for x in exact], rel=0.02)
    assert cli.main(["ranks", str(folder), *SMALL, "--sketch", "4", "--halves"]) == 2
    assert "--halves needs whole gradients" in capsys.readouterr().err
