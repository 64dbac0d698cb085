"""Tables and words that follow from the records of a study, whichever it is: tuning, comparisons, judges.

A run that is missing is a gap, never an exception: a chapter becomes complete as records arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from companion.runs import failed_records, key_of, method_label, read_records
from companion.study_tables import compare_methods, judges, method_labels, of_setting
from companion.tuning import Design, chosen_rates, further_runs, tuning_runs

__all__ = ["comparison", "in_words", "judges", "load", "open_grids", "path_of", "short_name", "tuning", "tuning_text", "within"]


def path_of(source: str | Path) -> Path:
    """Of bundled records by their name, or the path that is given."""
    return source if isinstance(source, Path) else Path(str(files("companion") / "records" / f"{source}.jsonl"))


def load(source: str | Path) -> pd.DataFrame:
    """Records of a study, as `companion.runs.read_records` has them; no row if there is no such file."""
    path = path_of(source)
    return read_records(path) if path.is_file() else pd.DataFrame()


def tuning(
    records: pd.DataFrame, design: Design, setting: Mapping[str, object], source: str | Path | None = None
) -> pd.DataFrame:
    """Tuning scores by task and method, a column for each learning rate, then ``chosen`` and ``grid``.

    ``grid`` is ``"incomplete"`` if runs of the first grid are missing, ``"open"`` if the best rate so far is the smallest
    or the largest tried (one beyond might be better still, and `companion.tuning.further_runs` goes on), else
    ``"closed"``. A rate that diverged, known from the file `source`, has the score -inf.
    """
    found = of_setting(records, {**setting, "split": "tuning"})
    if found.empty:
        return pd.DataFrame(columns=["chosen", "grid"])
    rows = found.assign(task=found["config.task"], method=method_labels(found), rate=found["config.learning_rate"].astype(float))
    table = rows.pivot_table("metrics.score", ["task", "method"], "rate", aggfunc="last")
    failures = failed_records(path_of(source)) if source is not None and path_of(source).is_file() else []
    for config in (record["config"] for record in failures if record["config"].get("split") == "tuning"):
        pair = config.get("task"), method_label(config.get("method"), config.get("parameter"))
        rate = config.get("learning_rate")
        if pair in table.index and all(config.get(key) == value for key, value in setting.items()):
            table.loc[pair, rate] = -np.inf
    table = table[sorted(table)]
    tasks, methods = (list(table.index.unique(level)) for level in ("task", "method"))
    runs, known = tuning_runs(design, tasks, methods, setting), {*found["key"], *(key_of(r["config"]) for r in failures)}
    while more := [run for run in further_runs(design, found, runs, failures) if key_of(run) in known]:
        runs += more
    chosen = chosen_rates(found, runs, failures)
    grid = {pair: _state(scores.dropna(), chosen.get(pair)) for pair, scores in table.iterrows()}
    return table.assign(chosen=pd.Series(chosen, dtype=float), grid=pd.Series(grid, dtype=object))


def _state(scores: pd.Series, chosen: float | None) -> str:
    if chosen is None:
        return "incomplete"
    return "open" if len(scores) > 1 and chosen in (scores.index[0], scores.index[-1]) else "closed"


def open_grids(table: pd.DataFrame) -> set[tuple[str, str]]:
    """Task and method wherever the grid of learning rates is open."""
    return set(table.index[table["grid"] == "open"]) if len(table) else set()


def short_name(method: str) -> str:
    """A method without the constant of P2 eq. 7, of which a study has one and which takes many digits."""
    return "threshold" if method.startswith("threshold:") else method


def tuning_text(table: pd.DataFrame) -> str:
    """The tuning scores as they are printed: one decimal, rates in full."""
    if table.empty:
        return "No tuning run is recorded yet."
    shown = table.rename(columns=lambda c: f"{c:g}" if isinstance(c, float) else c).rename(index=short_name, level="method")
    chosen = {"chosen": lambda rate: "-" if np.isnan(rate) else f"{rate:g}"}
    return shown.to_string(na_rep="-", float_format=lambda x: f"{x:.1f}", formatters=chosen)


def comparison(scores: pd.Series, reference: str = "uniform", margin: float = 0.5) -> pd.DataFrame:
    """`companion.study_tables.compare_methods`; no row where nothing can be compared yet."""
    try:
        return compare_methods(scores, reference, margin)
    except ValueError:
        index = pd.MultiIndex.from_arrays([[], []], names=["task", "method"])
        columns = ["n", "difference", "low", "high", "p", "p_holm", "d_z", "p_equivalent", "detectable"]
        return pd.DataFrame(index=index, columns=columns)


def in_words(row: pd.Series, reference: str = "uniform", level: float = 0.05) -> str:
    """What one row of a comparison says: a sentence whose words follow from the numbers."""
    if row["p_holm"] < level:
        little = ", by less than half a point" if row["p_equivalent"] < level else ""
        return f"{'above' if row['difference'] > 0 else 'below'} {reference}{little}"
    if row["p_equivalent"] < level:
        return f"the same as {reference} up to half a point"
    return f"not told apart from {reference}; {row['n']:.0f} seeds would show {row['detectable']:.1f}"


def within(value: float, low: float, high: float, words: tuple[str, str, str]) -> str:
    """The first of three texts if an interval lies above `value`, the second if below, the third if it holds it."""
    return words[0] if low > value else words[1] if high < value else words[2]
