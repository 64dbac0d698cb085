"""A measured oracle: what rank is worth in each matrix of a real task, and which rules know it.

One unit (a matrix, or the targets of one layer) is trained at rank 0, 1, 2, 4, 8 while all others stay at the setting's
rank. Runs of a seed share examples, their order, the head they start from, dropout and the initial values of every
adapter (`companion.students.seeded_lora`): they differ in the rank of that unit only. Values are differences within a
seed.

``python -m companion.oracle RECORDS.jsonl --minutes 300`` works through the grid and goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from companion import _validate, data
from companion.finetune import adapter_parameters, evaluate, finetune, warm_up_head
from companion.glue_run import split
from companion.gradients import GradientSpectrum, gradient_spectra
from companion.runs import provenance
from companion.students import seeded_lora
from companion.study import run_study
from companion.targets import linear_targets

__all__ = ["RANKS", "SETTING", "oracle_runs", "oracle_spectra", "run", "units"]

SETTING: dict[str, object] = {
    "study": "oracle",
    "model": "minilm",
    "task": "stsb-mini",
    "targets": ["query", "value"],
    "rank": 4,
    "scaling": 2.0,
    "examples": None,
    "calibration": 512,
    "epochs": 3,
    "learning_rate": 4.5e-3,
    "batch_size": 32,
    "max_length": 128,
    "precision": "bf16",
}
"""What all runs share; ``rank`` is that of every matrix but those of the unit, ``examples`` None all but 400 or so."""

RANKS = (0, 1, 2, 4, 8)
"""Ranks that a unit is trained at."""


def units(setting: Mapping[str, object] = SETTING, by: str = "matrix") -> dict[str, list[str]]:
    """What the rank is changed in, one after the other.

    Parameters
    ----------
    setting : mapping
        Its ``model`` and ``targets`` count.
    by : str
        ``"matrix"``, or ``"layer"``: the targets of one layer together, those whose names differ in the last part only.

    Returns
    -------
    dict of str to list of str
        Full names of the matrices, by name of the unit.

    Raises
    ------
    ValueError
        Another `by`.

    Examples
    --------
    >>> list(units(by="layer"))[0], len(units())
    ('bert.encoder.layer.0.attention.self', 12)
    """
    if by not in ("matrix", "layer"):
        raise ValueError(f"by: got {by!r}; accepted: 'matrix', 'layer'")
    found: dict[str, list[str]] = {}
    for name in linear_targets(data.load_model(setting["model"]), setting["targets"]):
        found.setdefault(name if by == "matrix" else name.rpartition(".")[0], []).append(name)
    return found


def oracle_runs(
    setting: Mapping[str, object] = SETTING,
    seeds: Iterable[int] = range(3),
    ranks: Sequence[int] = RANKS,
    by: str = "matrix",
) -> list[dict]:
    """The grid: every unit at every rank and seed, in the order of value.

    First the lowest and the highest rank, seed by seed, then the ranks between. A unit at the rank of the others is the
    same run for all units; it is there once a seed, with no unit (None).

    Parameters
    ----------
    setting : mapping
        `SETTING` or one of your own with the same keys.
    seeds : iterable of int
    ranks : sequence of int
        Two or more ranks >= 0.
    by : str
        As for `units`.

    Returns
    -------
    list of dict
        Configurations for `run`.

    Raises
    ------
    ValueError
        Fewer than two ranks, one twice or below 0, or another `by`.
    TypeError
        A rank that is no integer.
    """
    ranks = sorted(_validate.integer("ranks", rank, 0) for rank in ranks)
    if len(set(ranks)) < max(len(ranks), 2):
        raise ValueError(f"ranks must be two or more different ones, got {ranks}")
    names, seeds, runs = units(setting, by), list(seeds), []
    for chosen in (ranks[:1] + ranks[-1:], ranks[1:-1]):
        for seed in seeds:
            common = {**setting, "by": by, "seed": seed}
            if ranks[0] in chosen:
                runs.append({**common, "unit": None, "modules": [], "unit_rank": setting["rank"]})
            for rank in chosen:
                if rank != setting["rank"]:
                    runs += [{**common, "unit": unit, "modules": m, "unit_rank": rank} for unit, m in names.items()]
    return runs


def run(config: Mapping[str, object]) -> dict:
    """One run of the grid.

    Parameters
    ----------
    config : mapping
        From `oracle_runs`.

    Returns
    -------
    dict
        ``metrics``: ``loss`` on the validation split, the task's metrics, ``train_loss``, ``parameters`` (adapters
        only); and the record's provenance.

    Raises
    ------
    ValueError
        A module that is no target, or a training that diverged.
    KeyError
        A setting that is missing.
    """
    model, train, loader = _start(config)
    source = provenance(train, model)
    ranks = dict.fromkeys(linear_targets(model, config["targets"]), config["rank"])
    if not set(config["modules"]) <= set(ranks):
        raise ValueError(f"modules: got {config['modules']}; accepted: some of {', '.join(ranks)}")
    ranks |= dict.fromkeys(config["modules"], config["unit_rank"])
    adapted = seeded_lora(model, ranks, config["seed"], config["scaling"], task_type="SEQ_CLS")
    batches = loader(train, config["seed"])
    result = finetune(
        adapted, batches, config["epochs"], config["learning_rate"], config["seed"], precision=config["precision"]
    )
    measured = evaluate(adapted, loader(data.load_task(config["task"], "validation")), config["task"])
    metrics = {**measured, "train_loss": result["train_loss"], "parameters": adapter_parameters(adapted)}
    return {"metrics": metrics, **source}


def oracle_spectra(config: Mapping[str, object]) -> dict[str, GradientSpectrum]:
    """Gradient spectra where the runs of a seed start: what a rule sees of the task.

    Parameters
    ----------
    config : mapping
        As for `run`; the unit and its rank do not count.

    Returns
    -------
    dict of str to GradientSpectrum
        By full name, from the ``calibration`` first training examples.

    Raises
    ------
    ValueError
        As for `companion.gradients.gradient_spectra`.
    """
    model, train, loader = _start(config)
    batches = loader(train[: _calibration(config, train)])
    return gradient_spectra(model, batches, config["targets"], rng=config["seed"])


def _calibration(config: Mapping[str, object], train: pd.DataFrame) -> int:
    return min(config["calibration"], len(train) // 2)


def _start(config: Mapping[str, object]) -> tuple:
    """The model, its head warmed up on other examples than the gradient's; training examples; a maker of batches."""
    tokenizer, seed = data.load_tokenizer(config["model"]), config["seed"]

    def loader(rows: pd.DataFrame, order: int | None = None):
        return data.make_dataloader(rows, tokenizer, config["batch_size"], config["max_length"], order)

    train, _ = split(data.load_task(config["task"]), config["examples"], seed)
    model = data.load_model(config["model"], data.task_of(config["task"]).n_labels, seed)
    count = _calibration(config, train)
    warm_up_head(model, loader(train[count : 2 * count]))
    return model, train, loader


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m companion.oracle", description="What rank is worth where.")
    parser.add_argument("records", type=Path)
    parser.add_argument("--by", default="matrix", choices=["matrix", "layer"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--workers", type=int, default=1)
    for name in ("model", "task", "precision"):
        parser.add_argument(f"--{name}", default=SETTING[name])
    arguments = parser.parse_args(argv)
    setting = SETTING | {name: getattr(arguments, name) for name in ("model", "task", "precision")}
    runs = oracle_runs(setting, range(arguments.seeds), by=arguments.by)
    print(run_study(run, runs, arguments.records, arguments.minutes, arguments.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
