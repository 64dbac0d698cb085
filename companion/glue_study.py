"""The GLUE study: one run from its configuration, and grids of runs in the order of their value.

The protocol is the same for every method: equal adapter parameters and steps, the same learning rates to choose from, the
choice made on examples cut from the *training* split, and the official validation split read once, by the final run.
"""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from companion import data
from companion.finetune import evaluate, finetune, warm_up_head
from companion.methods import METHODS, RANKS, Problem, adapt
from companion.metrics import METRICS, score
from companion.runs import failed_records, key_of, latest, parse, provenance, read_records
from companion.study import Outcome, grid, run_study

__all__ = [
    "LEARNING_RATES", "PAPER", "SETTING", "chosen_rates", "final_runs", "further_runs", "run", "run_glue", "tuning_runs",
]  # fmt: skip

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

SETTING: dict[str, object] = {
    "study": "glue",
    "model": "minilm",
    "targets": ["query", "value"],
    "rank": 4,
    "scaling": 2.0,
    "head": "warm",
    "examples": 2000,
    "calibration": 512,
    "epochs": 3,
    "batch_size": 32,
    "max_length": 128,
    "precision": "bf16",
}
"""What runs of the CPU study share. ``examples`` None means the whole training split but the tuning examples; gradients and
evaluation are in single precision, training as `precision` says."""

PAPER: dict[str, object] = SETTING | {
    "model": "bert-base-uncased", "rank": 8, "examples": None, "head": "fresh", "epochs": 10, "precision": "fp32",
}  # fmt: skip
"""The setting of P2, appendix G.2, with the budget of its larger uniform rank."""

LEARNING_RATES: dict[str, tuple[float | None, ...]] = {
    "lora": (1.5e-3, 4.5e-3, 1.35e-2),
    "full": (2e-5, 5e-5, 1e-4),
    "probe": (None,),
}
"""Learning rates to begin with, by method; ``"lora"`` stands for all methods not named here. Where the best one lies at
an end, `further_runs` goes on beyond it, so that no method is judged by a grid that was too short for it."""

FURTHER_RATES = 2  # at most so many beyond either end
TUNING_EXAMPLES = 500
TUNING_SEED = 100  # apart from the seeds of the final runs


def run(config: Mapping[str, object], records: Path | None = None) -> dict:
    """One run of the study.

    Parameters
    ----------
    config : mapping
        `SETTING` or `PAPER` with ``task`` (a name or a folder, as for `companion.data.load_task`), ``method`` (of
        `companion.methods.METHODS`, or ``"probe"``), ``parameter``, ``learning_rate``, ``seed`` and ``split``:
        ``"tuning"`` evaluates on examples cut from the training split, ``"validation"`` on the official one.
    records : Path, optional
        Records of the study so far. Two rules that choose the same ranks are the same training to the last bit: if a run
        with these adapters is there, its result is taken over and not computed again.

    Returns
    -------
    dict
        ``same_as``: the key of the run that was taken over, if one was. ``metrics``: the task's own, ``score`` (their mean, in points), ``loss``, ``train_loss``, ``parameters`` (adapters
        only), ``ranks`` by module, seconds spent on choosing (``choosing``), ``training`` and ``evaluating``; and the
        record's provenance.

    Raises
    ------
    ValueError
        A training that diverged, or what the method raises.
    KeyError
        A setting that is missing.
    """
    task, tokenizer = data.task_of(config["task"]), data.load_tokenizer(config["model"])
    frame = data.load_task(config["task"])
    train, tuning = split(frame, config["examples"], config["seed"])
    test = tuning if config["split"] == "tuning" else data.load_task(config["task"], "validation")
    model = data.load_model(config["model"], task.n_labels, config["seed"])
    source = provenance(frame, model)

    def loader(rows: pd.DataFrame, seed: int | None = None):
        return data.make_dataloader(rows, tokenizer, config["batch_size"], config["max_length"], seed)

    start = time.perf_counter()
    ranks: dict[str, int] = {}
    result: dict = {"train_loss": None}
    if config["method"] == "probe":
        warm_up_head(model, loader(train))
        chosen = time.perf_counter()
    else:
        count = min(config["calibration"], len(train) // 2)
        if config["head"] == "warm":  # on other examples than the gradient's, see `warm_up_head`
            warm_up_head(model, loader(train[count : 2 * count]))
        batches = loader(train, config["seed"])
        adapted = adapt(config["method"], _problem(config, model, loader(train[:count]), len(batches)))
        chosen = time.perf_counter()
        if twin := _twin(config, adapted.ranks, records):
            return {"same_as": twin["key"], "metrics": twin["metrics"] | {"choosing": round(chosen - start, 2)}, **source}
        options = {"callbacks": adapted.callbacks, "precision": config["precision"]}
        result = finetune(adapted.model, batches, config["epochs"], config["learning_rate"], config["seed"], **options)
        model, ranks = adapted.finish(adapted.model)
    trained = time.perf_counter()
    measured = evaluate(model, loader(test), config["task"])
    official = {name: value for name, value in measured.items() if name != "loss"}
    times = {"choosing": chosen - start, "training": trained - chosen, "evaluating": time.perf_counter() - trained}
    metrics = {
        **measured,
        "score": score(official),
        "train_loss": result["train_loss"],
        "parameters": sum(rank * cost for rank, cost in zip(ranks.values(), _costs(model, ranks), strict=True)),
        "ranks": ranks,
        **{name: round(seconds, 2) for name, seconds in times.items()},
    }
    return {"metrics": metrics, **source}


def _twin(config: Mapping[str, object], ranks: Mapping[str, int] | None, records: Path | None) -> dict | None:
    """A recorded run of plain LoRA with these ranks and settings, under whatever name."""
    if ranks is None or records is None or not records.exists():
        return None
    free = {"method": None, "parameter": None}
    for key, record in latest(parse(records)[0]).items():
        alike = {**record["config"], **free} == {**config, **free}
        if alike and record["config"]["method"] in RANKS and record.get("metrics", {}).get("ranks") == ranks:
            return {"key": key, **record}
    return None


def _problem(config: Mapping[str, object], model, calibration, steps_per_epoch: int) -> Problem:
    return Problem(
        model,
        calibration,
        rank=config["rank"],
        steps=steps_per_epoch * config["epochs"],
        targets=config["targets"],
        scaling=config["scaling"],
        seed=config["seed"],
        parameter=config.get("parameter"),
    )


def _costs(model, ranks: Mapping[str, int]) -> list[int]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [sum(base.get_submodule(name).weight.shape) for name in ranks]


def split(frame: pd.DataFrame, examples: int | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training examples, drawn by the seed, and tuning examples, the same for every seed and never trained on."""
    shuffled = data.sample(frame, len(frame), 0)
    held = min(TUNING_EXAMPLES, len(frame) // 5)
    tuning, rest = shuffled[:held], shuffled[held:]
    return data.sample(rest, len(rest) if examples is None else min(examples, len(rest)), seed), tuning


def tuning_runs(tasks: Sequence[str], methods: Sequence[str], setting: Mapping[str, object] = SETTING) -> list[dict]:
    """A run for every learning rate, task and method, on a seed of its own.

    Parameters
    ----------
    tasks, methods, setting
        As for `run_glue`.

    Returns
    -------
    list of dict
        Configurations; none for a method that has no rate to choose.

    Raises
    ------
    ValueError
        An unknown method.
    """
    return [
        _config(setting, task, method, rate, TUNING_SEED, "tuning")
        for task in tasks
        for method in methods
        for rate in _rates(method)
        if len(_rates(method)) > 1
    ]


def chosen_rates(
    records: pd.DataFrame, runs: Sequence[Mapping], failed: Sequence[Mapping] = ()
) -> dict[tuple[str, str], float]:
    """The learning rate with the best tuning score for every task and method, the smaller one of equals.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`.
    runs : sequence of mappings
        From `tuning_runs`; other records do not count. A pair whose runs are not all recorded is left out.
    failed : sequence of mappings
        From `companion.study.failed_records`: rates that were tried in vain, such as one at which training diverged.

    Returns
    -------
    dict of (str, str) to float
        By task and method, its parameter after a colon.
    """
    scores = {key_of(record["config"]): -np.inf for record in failed}
    scores |= dict(zip(records.get("key", ()), records.get("metrics.score", ()), strict=True))
    tried: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for config in runs:
        result = (scores.get(key_of(config), np.nan), -config["learning_rate"])
        tried.setdefault((config["task"], _label(config)), []).append(result)
    best = {pair: max(results) for pair, results in tried.items() if not np.isnan([s for s, _ in results]).any()}
    return {pair: -rate for pair, (result, rate) in best.items() if result > -np.inf}


def further_runs(records: pd.DataFrame, runs: Sequence[Mapping], failed: Sequence[Mapping] = ()) -> list[dict]:
    """Runs with the next learning rate for every task and method whose best rate so far is the smallest or the largest.

    Parameters
    ----------
    records, runs, failed
        As for `chosen_rates`.

    Returns
    -------
    list of dict
        Configurations, the rate continuing the grid geometrically, at most two beyond either end of `LEARNING_RATES`.
        None for a pair whose runs are not all recorded.
    """
    tried: dict[tuple[str, str], list[Mapping]] = {}
    for config in runs:
        tried.setdefault((config["task"], _label(config)), []).append(config)
    found = []
    for pair, best in chosen_rates(records, runs, failed).items():
        rates = sorted(config["learning_rate"] for config in tried[pair])
        begun = _rates(tried[pair][0]["method"])
        below, above = sum(rate < min(begun) for rate in rates), sum(rate > max(begun) for rate in rates)
        if best == rates[-1] and above < FURTHER_RATES:
            found.append({**tried[pair][0], "learning_rate": float(f"{rates[-1] ** 2 / rates[-2]:.3g}")})
        elif best == rates[0] and below < FURTHER_RATES:
            found.append({**tried[pair][0], "learning_rate": float(f"{rates[0] ** 2 / rates[1]:.3g}")})
    return found


def _label(config: Mapping[str, object]) -> str:
    """Name of the method with its parameter, as `run_glue` takes it."""
    return config["method"] if config["parameter"] is None else f"{config['method']}:{config['parameter']:g}"


def final_runs(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Iterable[int],
    rates: Mapping[tuple[str, str], float],
    setting: Mapping[str, object] = SETTING,
) -> list[dict]:
    """Runs on the official validation split with the chosen rates; all methods of a seed before the next seed.

    Parameters
    ----------
    tasks, methods, seeds, setting
        As for `run_glue`.
    rates : mapping of (str, str) to float
        From `chosen_rates`; a task and method without one is left out.

    Returns
    -------
    list of dict
        Configurations.

    Raises
    ------
    ValueError
        An unknown method.
    """
    fixed = {(task, method): _rates(method)[0] for task in tasks for method in methods if len(_rates(method)) == 1}
    known = fixed | dict(rates)
    return [
        _config(setting, c["task"], c["method"], known[c["task"], c["method"]], c["seed"], "validation")
        for c in grid(seed=list(seeds), task=tasks, method=methods)
        if (c["task"], c["method"]) in known
    ]


def _rates(method: str) -> tuple[float | None, ...]:
    return LEARNING_RATES.get(method, LEARNING_RATES["lora"])


def _config(setting: Mapping[str, object], task: str, method: str, rate: float | None, seed: int, part: str) -> dict:
    name, _, parameter = method.partition(":")
    if name not in METHODS and name != "probe":
        raise ValueError(f"methods: got {method!r}; accepted: probe, {', '.join(METHODS)}")
    return {
        **setting, "task": task, "method": name, "parameter": float(parameter) if parameter else None,
        "learning_rate": rate, "seed": seed, "split": part,
    }  # fmt: skip


def run_glue(
    path: Path,
    tasks: Sequence[str] = tuple(METRICS),
    methods: Sequence[str] = ("uniform", "floor", "gap", "permuted", "adalora", "probe"),
    seeds: Iterable[int] = range(5),
    setting: Mapping[str, object] = SETTING,
    minutes: float | None = None,
    workers: int | None = 1,
) -> list[Outcome]:
    """Tune every method on every task, then make the final runs; whatever has a record is not repeated.

    Parameters
    ----------
    path : Path
        Records, appended to.
    tasks, methods
        In the order of their value; a method's parameter follows a colon (``"energy:0.9"``).
    seeds : iterable of int
        Of the final runs.
    setting : mapping
        `SETTING`, `PAPER` or one of your own with the same keys.
    minutes, workers
        As for `companion.study.run_study`.

    Returns
    -------
    list of Outcome
        Of the tuning (the first grid, then further rates where needed) and, last, of the final runs.

    Raises
    ------
    ValueError
        An unknown method, before anything is run.
    """
    start = time.monotonic()
    run_one, outcomes = partial(run, records=path), []

    def done(runs: list[dict]) -> None:
        left = None if minutes is None else max(minutes - (time.monotonic() - start) / 60, 1e-3)
        outcomes.append(run_study(run_one, runs, path, left, workers))

    done(tuning := tuning_runs(tasks, methods, setting))
    while more := further_runs(read_records(path), tuning, failed_records(path)) if path.exists() else []:
        tuning += more
        done(more)
    rates = chosen_rates(read_records(path), tuning, failed_records(path)) if path.exists() else {}
    done(final_runs(tasks, methods, seeds, rates, setting))
    return outcomes
