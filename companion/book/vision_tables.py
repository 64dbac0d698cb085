"""Tables and words of the chapter *Tucker-LoRA on CIFAR-100* that follow from the study's records."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from companion.book.record_tables import in_words, open_grids, tuning, tuning_text
from companion.book.vision_budgets import vit_parameters
from companion.statistics import Comparison, compare
from companion.study_tables import of_chosen_rate, of_setting, scores_of_setting
from companion.vision_run import VISION_SETTING
from companion.vision_study import ABLATION, BUDGETS, VISION

__all__ = [
    "ANCHORS", "BUDGETS", "KINDS", "P2_RANKS", "PRINTED", "ablation_scores", "ablation_text", "best_means", "budget_scores",
    "comparison_text", "differences_of_ranks", "differences_together", "frontier", "level", "levels", "loss_difference_text",
    "open_rates", "parameters_of", "pretraining", "printed_text", "rank_counts", "rates", "rates_text", "rows_of", "runs",
    "runs_text", "who_wins",
]  # fmt: skip

KINDS = {
    "lora": "LoRA", "tucker": "Tucker-LoRA", "tucker-qkv": "Tucker, shared over Q, K, V", "tucker-layers": "Tucker, shared over layers",
    "lokr": "LoKr", "loha": "LoHa", "probe": "probe", "full": "full fine-tuning",
}  # fmt: skip
"""Methods of the study as the chapter names them, in the order of its tables."""

ANCHORS = ("probe", "full")
PRINTED = {"tucker-printed": "Tucker-LoRA", "lora-printed": "LoRA"}
"""With the ranks of P2's gap criterion, and with as many parameters as that."""

P2_RANKS = (4, 2, 2)
LEAST_SEEDS = 3  # to enter a claim


# --- Records ----------------------------------------------------------------------------------------------------------


def pretraining() -> dict:
    """The record that comes with the small vision transformer's weights."""
    return json.loads((files("companion") / "assets" / "vit-cifar50" / "record.json").read_text("utf-8"))


def level(budget: float) -> str:
    """A budget in words."""
    return f"r = {budget:g}"


def levels(table: pd.DataFrame | pd.Series) -> list[str]:
    """Budgets of a table as `level` writes them, smallest first."""
    return sorted(table.index.unique("task"), key=lambda text: float(text.removeprefix("r = "))) if len(table) else []


def _at(budget: float | None) -> dict[str, object]:
    return {**VISION_SETTING, "rank": None if budget is None else float(budget), "ranks": None}


def budget_scores(records: pd.DataFrame, task: str = "cifar100", budgets: Iterable[float] = BUDGETS) -> pd.Series:
    """Scores of the final runs, a "task" for each budget; the anchors, which have none, stand under every one.

    Returns
    -------
    pandas.Series
        In points, indexed as by `companion.study_tables.final_scores`.
    """
    found = []
    free = scores_of_setting(records, {**_at(None), "task": task})
    anchors = free[free.index.isin(ANCHORS, "method")]
    for budget in sorted(budgets):
        scores = scores_of_setting(records, {**_at(budget), "task": task})
        both = pd.concat([part for part in (scores, anchors) if len(part)]) if len(scores) or len(anchors) else scores
        found.append(both.rename(index={task: level(budget)}, level="task"))
    return pd.concat(found)


def ablation_scores(records: pd.DataFrame, task: str = "cifar100", triples: Iterable[Sequence[int]] = ABLATION) -> pd.Series:
    """Scores of Tucker-LoRA with given ranks, a "method" for each triple."""
    found = []
    for ranks in triples:
        setting = {**VISION_SETTING, "rank": None, "ranks": list(ranks), "task": task}
        scores = scores_of_setting(records, setting)
        found.append(scores.rename(index={"tucker": str(tuple(ranks))}, level="method"))
    return pd.concat(found)


def runs(records: pd.DataFrame, task: str = "cifar100", budgets: Iterable[float] = BUDGETS) -> pd.DataFrame:
    """Every final run: ``method``, ``budget`` (NaN: none), ``seed``, ``parameters`` and ``score``."""
    found = [of_chosen_rate(of_setting(records, {**_at(budget), "task": task})) for budget in [*sorted(budgets), None]]
    rows = pd.concat([part for part in found if len(part)]) if any(map(len, found)) else pd.DataFrame()
    names = {"config.method": "method", "config.rank": "budget", "config.seed": "seed", "metrics.parameters": "parameters",
             "metrics.score": "score"}  # fmt: skip
    table = rows.reindex(columns=list(names)).rename(columns=names).reset_index(drop=True)
    return table[table["method"].isin(KINDS)]


def best_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Means of every kind of adapter at every budget that lie on their frontier, in the order of parameters."""
    adapters = runs[~runs["method"].isin(ANCHORS)]
    means = adapters.groupby(["method", "budget"], as_index=False)[["parameters", "score"]].mean()
    return means[frontier(means)].sort_values("parameters")


def rows_of(table: pd.DataFrame, method: str) -> list[tuple[str, pd.Series]]:
    """Rows of one method in a comparison, with their budgets, smallest first."""
    return [(budget, table.loc[(budget, method)]) for budget in levels(table) if (budget, method) in table.index]


def frontier(points: pd.DataFrame) -> pd.Series:
    """Whether no other point has more of `score` for no more `parameters`, by row of a table of means."""
    better = [
        ((points["parameters"] <= row["parameters"]) & (points["score"] > row["score"])).any()
        | ((points["parameters"] < row["parameters"]) & (points["score"] >= row["score"])).any()
        for _, row in points.iterrows()
    ]
    return ~pd.Series(better, points.index, dtype=bool)


def rates(
    records: pd.DataFrame, task: str = "cifar100", budgets: Iterable[float] = BUDGETS, source: str | Path = "vision"
) -> pd.DataFrame:
    """`companion.book.record_tables.tuning` of every budget, and of what has none; rows by budget and method.

    `source` is where `records` come from: it knows the rates that diverged.
    """
    parts = {}
    for budget in [*sorted(budgets), None]:
        table = tuning(records, VISION, {**_at(budget), "task": task}, source)
        if len(table):
            parts["none" if budget is None else level(budget)] = table.droplevel(0)
    if not parts:
        return pd.DataFrame(columns=["chosen", "grid"])
    joined = pd.concat(parts, names=["budget", "method"])
    tried = sorted(column for column in joined if isinstance(column, float))
    return joined[[*tried, "chosen", "grid"]]


def open_rates(
    records: pd.DataFrame,
    task: str = "cifar100",
    triples: Iterable[Sequence[int]] = ABLATION,
    source: str | Path = "vision",
) -> set[str]:
    """Ranks of the ablation whose grid of learning rates is open; `source` as for `rates`."""
    found = set()
    for ranks in triples:
        setting = {**VISION_SETTING, "rank": None, "ranks": list(ranks), "task": task}
        if open_grids(tuning(records, VISION, setting, source)):
            found.add(str(tuple(ranks)))
    return found


def rank_counts(records: pd.DataFrame, budget: float, method: str = "tucker", task: str = "cifar100") -> dict[str, int]:
    """How often which ranks were chosen at a budget, over all seeds, that of the tuning too."""
    found = of_setting(records, {**_at(budget), "task": task, "method": method})
    if found.empty:
        return {}
    once = found.drop_duplicates("config.seed")  # the rate has no part in the choice
    return once["metrics.ranks"].map(lambda chosen: str(tuple(chosen["r"]))).value_counts().to_dict()


def parameters_of(names: Iterable[str]) -> dict[str, int]:
    """Parameters of Tucker-LoRA on the small transformer, by ranks as `ablation_scores` names them."""
    return {name: vit_parameters([int(r) for r in name.strip("()").split(",")], (6, 32, 192), 24) for name in names}


def loss_difference_text(records: pd.DataFrame, budget: float, first: str, second: str, task: str = "cifar100") -> str:
    """Paired difference of two methods' mean training losses over the seeds at a budget, with its 95 % interval."""
    found = of_chosen_rate(of_setting(records, {**_at(budget), "task": task}))
    result = _paired(found, "metrics.train_loss", first, second)
    if result is None:
        return "no two pairs of runs yet"
    return f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}] ({result.n} seeds)"


def _paired(found: pd.DataFrame, column: str, first: str, second: str) -> Comparison | None:
    """Two methods' numbers in a column compared seed by seed; None without two pairs."""
    if found.empty:
        return None
    wide = found.pivot_table(column, "config.seed", "config.method", aggfunc="last")
    pairs = wide.reindex(columns=[first, second]).dropna()
    return compare(pairs[first], pairs[second]) if len(pairs) > 1 else None


def differences_together(
    scores: pd.Series, pairs: Sequence[tuple[str, str]], reference: str, skip: Iterable[tuple[str, str]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Paired differences from the reference and half their intervals, which hold together at 95 % (Bonferroni).

    Parameters
    ----------
    scores : pandas.Series
        From `budget_scores` or `ablation_scores`.
    pairs : sequence of (str, str)
        Task and method of each difference.
    reference : str
        The method to subtract.
    skip : iterable of (str, str)
        Pairs that do not count, as when a grid of learning rates is open.

    Returns
    -------
    differences, halves : ndarray, shape (pairs,)
        NaN where fewer than three seeds are shared, or the pair is to be skipped.
    """
    wide, skip = scores.unstack("method") if len(scores) else pd.DataFrame(), set(skip)
    found = []
    for task, method in pairs:
        known = {method, reference} <= set(wide.columns) and task in wide.index.unique("task")
        both = wide.loc[task, [method, reference]].dropna() if known else []
        if len(both) < LEAST_SEEDS or (task, method) in skip:
            found.append((np.nan, np.nan))
        else:
            result = compare(both[method], both[reference], 1 - 0.05 / len(pairs))
            found.append((result.difference, result.high - result.difference))
    return tuple(np.array(found).T)


def differences_of_ranks(
    scores: pd.Series, own: Sequence[int], skip: Iterable[str] = (), triples: Iterable[Sequence[int]] = ABLATION
) -> tuple[np.ndarray, np.ndarray]:
    """`differences_together` of one triple of ranks minus each of the others, NaN where one is open or missing."""
    names, skip = [str(tuple(ranks)) for ranks in triples if tuple(ranks) != tuple(own)], set(skip)
    task = scores.index.unique("task")[0] if len(scores) else ""
    own_name = str(tuple(own))
    skipped = [(task, name) for name in names if name in skip or own_name in skip]
    minus, half = differences_together(scores, [(task, name) for name in names], own_name, skipped)
    return -minus, half


# --- Words ------------------------------------------------------------------------------------------------------------


def printed_text(records: pd.DataFrame, task: str = "cifar100") -> str:
    """Tucker-LoRA with the ranks of P2's gap criterion beside LoRA with as many parameters, and their difference."""
    found = of_chosen_rate(of_setting(records, {**_at(None), "task": task}))
    found = found[found["config.method"].isin(PRINTED)] if len(found) else found
    if found.empty:
        return "No run with the ranks of the gap criterion is recorded yet."
    lines = []
    for method, part in found.groupby("config.method", sort=False):
        size, score = part["metrics.parameters"].mean(), part["metrics.score"].mean()
        lines.append(f"{PRINTED[method]:12s}{size:8,.0f} parameters {score:6.2f} % ({len(part)} seeds)")
    if result := _paired(found, "metrics.score", *PRINTED):
        lines.append(f"difference {result.difference:+.2f} [{result.low:+.2f}, {result.high:+.2f}] ({result.n} seeds)")
    return "\n".join(lines)


def runs_text(runs: pd.DataFrame) -> str:
    """How many final runs there are of each kind at each budget."""
    if runs.empty:
        return "No final run is recorded yet."
    budget = runs["budget"].map(lambda b: "no budget" if pd.isna(b) else level(b))
    order = [*map(level, sorted(runs["budget"].dropna().unique())), "no budget"]
    table = pd.crosstab(runs["method"].map(KINDS), budget).reindex(columns=order, fill_value=0)
    return table.rename_axis(index=None, columns=None).to_string()


def comparison_text(table: pd.DataFrame, reference: str = "lora") -> str:
    """Rows of a comparison at each budget in figures, and in words that follow from them."""
    lines = []
    for budget in levels(table):
        for method in [name for name in KINDS if (budget, name) in table.index]:
            row = table.loc[(budget, method)]
            lines.append(
                f"{budget:7s} {KINDS[method]:28s}{row['n']:.0f} seeds {row['difference']:+6.2f} [{row['low']:+6.2f}, {row['high']:+6.2f}]"
                f"  {in_words(row, KINDS[reference])}"
            )
    return "\n".join(lines) or f"Nothing shares two seeds with {KINDS[reference]} yet."


def rates_text(table: pd.DataFrame) -> str:
    """Tuning scores as they are printed, those without a budget below the others."""
    if table.empty:
        return tuning_text(table)
    free = table.index.get_level_values("budget") == "none"
    parts = (table[~free], table[free])
    return "\n\n".join(tuning_text(part.dropna(axis="columns", how="all")) for part in parts if len(part))


def who_wins(table: pd.DataFrame, reference: str = "lora") -> str:
    """A comparison in four lines: who is above, below, the same as the reference, and who cannot be told apart from it."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "the same as": [], "not told apart from": []}
    for budget in levels(table):
        for method in [name for name in KINDS if (budget, name) in table.index]:
            words = in_words(table.loc[(budget, method)], "")
            group = next(group for group in groups if words.startswith(group))
            groups[group].append(f"{KINDS[method]} at {budget}")
    lines = (f"{group} {KINDS[reference]}: {'; '.join(found) or 'none'}" for group, found in groups.items())
    return "\n".join(textwrap.fill(line, 78, subsequent_indent="    ") for line in lines)


def ablation_text(scores: pd.Series, table: pd.DataFrame) -> str:
    """Means of the ablation with parameters of the small transformer, and each against P2's ranks."""
    lines, sizes = [], parameters_of(scores.index.unique("method"))
    for name in sorted(sizes, key=sizes.get):
        part = scores.xs(name, level="method")
        text = f"{name:12s}{sizes[name]:8,d} {part.mean():9.2f} ({len(part)})      "
        rows = table.xs(name, level="method") if name in table.index.unique("method") else table.iloc[:0]
        for _, row in rows.iterrows():
            text += f"  {row['difference']:+5.2f} [{row['low']:+5.2f}, {row['high']:+5.2f}]"
        lines.append(text)
    return "\n".join(lines) or "No run of the ablation is recorded yet."
