"""The GLUE study: grids of runs in the order of their value, the learning rate of every method chosen alike.

`companion.glue_run` makes one run; the rates to choose from are the same for every method.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from companion.glue_run import SETTING, run
from companion.methods import METHODS
from companion.metrics import METRICS
from companion.runs import failed_records, key_of, read_records
from companion.study import Outcome, grid, run_study

__all__ = ["LEARNING_RATES", "chosen_rates", "final_runs", "further_runs", "run_glue", "tuning_runs"]

LEARNING_RATES: dict[str, tuple[float | None, ...]] = {
    "lora": (1.5e-3, 4.5e-3, 1.35e-2),
    "full": (2e-5, 5e-5, 1e-4),
    "probe": (None,),
}
"""Learning rates to begin with, by method; ``"lora"`` stands for all methods not named here. Where the best one lies at
an end, `further_runs` goes on beyond it, so that no method is judged by a grid that was too short for it."""

FURTHER_RATES = 2  # at most so many beyond either end
TUNING_SEED = 100  # apart from the seeds of the final runs


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
        `companion.glue_run.SETTING`, `companion.glue_run.PAPER` or one of your own with the same keys.
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
