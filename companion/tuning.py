"""A study whose methods have their learning rate chosen alike: tuning runs, further rates where needed, final runs.

A run's configuration holds what `setting` holds and besides ``task``, ``method``, ``parameter``, ``learning_rate``, ``seed``
and ``split``: ``"tuning"`` is evaluated on examples cut from the training split, the final split once per final run.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from companion import _validate
from companion.runs import failed_records, key_of, method_label, read_records
from companion.study import Outcome, grid, run_study

__all__ = ["Design", "chosen_rates", "final_runs", "further_runs", "run_tuned", "tuning_runs"]

FURTHER_RATES = 2  # at most so many beyond either end
TUNING_SEED = 100  # apart from the seeds of the final runs


@dataclass(frozen=True)
class Design:
    """What a study compares, and how.

    Attributes
    ----------
    run : callable
        ``run(config, records=path)`` makes one run and returns what is recorded of it; processes import it by name.
    methods : collection of str
        Names that are accepted.
    rates : mapping of str to tuple of float
        Learning rates to begin with, in rising order, by method; ``"others"`` stands for all methods not named. Where the
        best one lies at an end, `further_runs` goes on beyond it, so that no method is judged by a grid too short for it.
        A single one, or ``(None,)`` for a method that trains nothing, is not tuned.
    final_split : str
        What the final runs are evaluated on.
    parameters : collection of str, optional
        Methods that have a parameter; of any other, one is refused. All have one by default.
    """

    run: Callable[..., dict]
    methods: Collection[str]
    rates: Mapping[str, tuple[float | None, ...]]
    final_split: str = "validation"
    parameters: Collection[str] | None = None

    def rates_of(self, method: str) -> tuple[float | None, ...]:
        """Learning rates to begin with.

        Parameters
        ----------
        method : str

        Returns
        -------
        tuple of float, or of None
        """
        return self.rates.get(method, self.rates["others"])

    def config(
        self, setting: Mapping[str, object], task: str, method: str, rate: float | None, seed: int, split: str
    ) -> dict:
        """Configuration of one run.

        Parameters
        ----------
        setting : mapping
            What all runs share.
        task, method : str
            The parameter of a method follows a colon, as in ``"energy:0.9"``.
        rate : float or None
        seed : int
        split : str

        Returns
        -------
        dict

        Raises
        ------
        ValueError
            An unknown method, a parameter that is not a finite number, or one of a method that has none.
        """
        name, colon, parameter = method.partition(":")
        if name not in self.methods:
            raise ValueError(f"methods: got {method!r}; accepted: {', '.join(self.methods)}")
        if colon and self.parameters is not None and name not in self.parameters:
            with_one = ", ".join(self.parameters) or "none"
            raise ValueError(f"methods: got {method!r}; accepted: {name!r}, methods with a parameter are {with_one}")
        try:
            value = _validate.number("parameter", float(parameter)) if colon else None
        except ValueError:
            raise ValueError(f"methods: got {method!r}; accepted: a number after the colon") from None
        return {
            **setting, "task": task, "method": name, "parameter": value,
            "learning_rate": rate, "seed": seed, "split": split,
        }  # fmt: skip


def tuning_runs(
    design: Design, tasks: Sequence[str], methods: Sequence[str], setting: Mapping[str, object]
) -> list[dict]:
    """A run for every learning rate, task and method, on a seed of its own.

    Parameters
    ----------
    design, tasks, methods, setting
        As for `run_tuned`.

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
        design.config(setting, task, method, rate, TUNING_SEED, "tuning")
        for task in tasks
        for method in methods
        for rate in design.rates_of(method)
        if len(design.rates_of(method)) > 1
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
    if "metrics.score" in records:  # records from elsewhere may have other metrics
        scores |= dict(zip(records["key"], records["metrics.score"], strict=True))
    tried: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for config in runs:
        result = (scores.get(key_of(config), np.nan), -config["learning_rate"])
        tried.setdefault((config["task"], _label(config)), []).append(result)
    best = {pair: max(results) for pair, results in tried.items() if not np.isnan([s for s, _ in results]).any()}
    return {pair: -rate for pair, (result, rate) in best.items() if result > -np.inf}


def further_runs(
    design: Design, records: pd.DataFrame, runs: Sequence[Mapping], failed: Sequence[Mapping] = ()
) -> list[dict]:
    """Runs with the next learning rate for every task and method whose best rate so far is the smallest or the largest.

    Parameters
    ----------
    design : Design
    records, runs, failed
        As for `chosen_rates`.

    Returns
    -------
    list of dict
        Configurations, the rate continuing the grid geometrically, at most two beyond either end of the design's.
        None for a pair whose runs are not all recorded.
    """
    tried: dict[tuple[str, str], list[Mapping]] = {}
    for config in runs:
        tried.setdefault((config["task"], _label(config)), []).append(config)
    found = []
    for pair, best in chosen_rates(records, runs, failed).items():
        rates = sorted(config["learning_rate"] for config in tried[pair])
        begun = design.rates_of(tried[pair][0]["method"])
        below, above = sum(rate < min(begun) for rate in rates), sum(rate > max(begun) for rate in rates)
        if best == rates[-1] and above < FURTHER_RATES:
            found.append({**tried[pair][0], "learning_rate": float(f"{rates[-1] ** 2 / rates[-2]:.3g}")})
        elif best == rates[0] and below < FURTHER_RATES:
            found.append({**tried[pair][0], "learning_rate": float(f"{rates[0] ** 2 / rates[1]:.3g}")})
    return found


def _label(config: Mapping[str, object]) -> str:
    return method_label(config["method"], config["parameter"])


def final_runs(
    design: Design,
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Iterable[int],
    rates: Mapping[tuple[str, str], float],
    setting: Mapping[str, object],
) -> list[dict]:
    """Runs on the final split with the chosen rates; all methods of a seed before the next seed.

    Parameters
    ----------
    design, tasks, methods, seeds, setting
        As for `run_tuned`.
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
    runs = []
    for c in grid(seed=list(seeds), task=tasks, method=methods):
        config = design.config(setting, c["task"], c["method"], None, c["seed"], design.final_split)
        begun, pair = design.rates_of(config["method"]), (c["task"], _label(config))
        if pair in rates or len(begun) == 1:
            runs.append(config | {"learning_rate": rates.get(pair, begun[0])})
    return runs


def run_tuned(
    design: Design,
    path: Path,
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Iterable[int],
    setting: Mapping[str, object],
    minutes: float | None = None,
    workers: int | None = 1,
    retry_failures: bool = False,
) -> list[Outcome]:
    """Tune every method on every task, then make the final runs; whatever has a record is not repeated.

    Parameters
    ----------
    design : Design
    path : Path
        Records, appended to.
    tasks, methods : sequence of str
        In the order of their value; a method's parameter follows a colon (``"energy:0.9"``). A folder of one's own may be a
        path object.
    seeds : iterable of int
        Of the final runs.
    setting : mapping
        What all runs share.
    minutes, workers, retry_failures
        As for `companion.study.run_study`.

    Returns
    -------
    list of Outcome
        Of the tuning (the first grid, then further rates where needed) and, last, of the final runs, where ``left`` counts
        those that wait for a learning rate too.

    Raises
    ------
    ValueError
        An unknown method, a task, method or seed twice, or minutes that are not positive, before anything is run.
    TypeError
        Seeds that are not integers.
    """
    start = time.monotonic()
    run_one, outcomes = partial(design.run, records=path), []
    if isinstance(tasks, str):
        raise ValueError(f"tasks: got {tasks!r}; accepted: a sequence of names or folders")
    tasks, methods = [_as_text(task) for task in tasks], list(methods)
    seeds = [_validate.integer("seeds", seed, 0) for seed in seeds]
    labels = [_label(design.config(setting, "", method, None, 0, design.final_split)) for method in methods]
    for name, values in (("tasks", tasks), ("methods", labels), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} must differ from each other, got {', '.join(map(str, values))}")
    minutes_left(minutes, start)

    def done(runs: list[dict]) -> None:
        outcomes.append(run_study(run_one, runs, path, minutes_left(minutes, start), workers, retry_failures=retry_failures))

    done(tuning := tuning_runs(design, tasks, methods, setting))
    while more := further_runs(design, read_records(path), tuning, failed_records(path)) if path.exists() else []:
        tuning += more
        done(more)
    rates = chosen_rates(read_records(path), tuning, failed_records(path)) if path.exists() else {}
    done(runs := final_runs(design, tasks, methods, seeds, rates, setting))
    waiting = len(tasks) * len(methods) * len(seeds) - len(runs)
    return [*outcomes[:-1], replace(outcomes[-1], left=outcomes[-1].left + waiting)]


def minutes_left(minutes: float | None, start: float) -> float | None:
    """What is left of the minutes since `start` on the monotonic clock, a moment at least; ValueError if they were not > 0."""
    if minutes is None:
        return None
    if not minutes > 0:
        raise ValueError(f"minutes must be > 0, got {minutes!r}")
    return max(minutes - (time.monotonic() - start) / 60, 1e-3)


def _as_text(task: str | os.PathLike) -> str:
    """A path object as a string that means a folder too, whatever known task has its name."""
    if isinstance(task, str):
        return task
    path = os.path.expanduser(os.fspath(task))
    return path if os.path.dirname(path) else os.path.join(os.curdir, path)
