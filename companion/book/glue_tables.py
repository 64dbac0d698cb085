"""Numbers, tables and sentences of the chapter *SpectralLoRA on GLUE*, from whatever runs its records hold.

A run that is missing is a gap, said in words, never an exception: the same chapter becomes complete as records arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from companion.book.record_tables import in_words, short_name
from companion.glue_run import SETTING
from companion.gradients import GradientSpectrum
from companion.planted_benchmark import SETTING as PLANTED
from companion.rank_rules import make_rule
from companion.study_tables import method_labels, of_chosen_rate, of_setting, scores_of_setting, score_table
from companion.truth_tables import alone_table, largest_setting, marginal_values, planted_table

__all__ = [
    "METHODS", "PRINTED_NAMES", "SEEDS", "TASKS", "average", "by_budget", "compared_methods", "comparison_text", "cost_ratio", "final",
    "greedy", "leaderboard", "least_correlation", "missing", "moved_ranks", "one_percent", "one_answer", "oracle_values", "printed_difference",
    "same_ranks", "scores_as", "seed_correlations", "study_tasks", "table_3", "task_name", "unit_name", "unit_ranks",
]  # fmt: skip

TASKS = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI",
    "rte": "RTE",
}  # fmt: skip
"""GLUE tasks as P2 prints them, in its order."""

METHODS = ("uniform", "gap", "floor", "permuted", "adalora", "probe")
PRINTED_NAMES = {"gap": "SpectralLoRA", "adalora": "AdaLoRA", "uniform": "Uniform r = 8", "full": "Full FT"}
"""Rows of P2's table 3 that our methods stand beside."""

PLANNED = ("stsb", "sst2", "mrpc", "rte")  # tasks of the study, in the order of its tables
SEEDS = 5
LEAST_SEEDS = 3  # of a task, to enter a claim
LEAST_TASKS = 2  # of an average over tasks


def task_name(task: str) -> str:
    """As P2 prints it; of a bundled subset with a note that it is one."""
    base = task.removesuffix("-mini")
    return TASKS.get(base, base) + " (mini)" * (base != task)


# --- Records ----------------------------------------------------------------------------------------------------------


def final(records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> pd.Series:
    """`companion.study_tables.scores_of_setting`, of the study's own setting if none is named."""
    return scores_of_setting(records, setting)


def study_tasks(scores: pd.Series) -> list[str]:
    """The planned tasks, then all others that have a final run."""
    found = scores.index.unique("task") if len(scores) else []
    return list(dict.fromkeys([*PLANNED, *(task for task in TASKS if task in found)]))


def missing(scores: pd.Series, tasks: Iterable[str], methods: Sequence[str] = METHODS, seeds: int = SEEDS) -> str:
    """What there is of the planned final runs, one line a task."""
    counts = scores.groupby(["task", "method"]).size() if len(scores) else pd.Series(dtype=int)
    lines = []
    for task in tasks:
        have = {method: int(counts.get((task, method), 0)) for method in methods}
        found = ", ".join(f"{method} {count}" for method, count in have.items() if count)
        gaps = [f"{method} {seeds - count}" for method, count in have.items() if count < seeds]
        text = f"runs: {found}" if found else "no final run yet"
        lines.append(f"{TASKS.get(task, task):6s} {text}" + (f"; missing: {', '.join(gaps)}" if found and gaps else ""))
    return "\n".join(lines)


# --- The study --------------------------------------------------------------------------------------------------------


def table_3(
    scores: pd.Series, printed: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str] = METHODS
) -> pd.DataFrame:
    """Means with half their 95 % interval and the number of runs, as texts, beside P2's table 3; a dash is a gap."""
    known = score_table(scores) if len(scores) else pd.DataFrame()
    columns: list[list[str]] = []
    for task in tasks:
        name, ours, theirs = TASKS.get(task, task), [], []
        for method in methods:
            cell = known.loc[method, task] if method in known.index and task in known else {}
            mean, half, runs = (cell.get(key, np.nan) for key in ("mean", "half", "runs"))
            text = f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")
            ours.append("-" if np.isnan(mean) else f"{text} ({runs:.0f})")
            row = PRINTED_NAMES.get(method)
            theirs.append(printed.loc[row, name] if row in printed.index and name in printed else "-")
        columns += [ours, theirs]
    names = [name for task in tasks for name in (TASKS.get(task, task), "(P2)")]
    return pd.DataFrame(dict(enumerate(columns)), index=list(methods)).set_axis(names, axis=1)


def comparison_text(table: pd.DataFrame, reference: str = "uniform") -> str:
    """Rows of a comparison in figures, and in words that follow from them."""
    if table.empty:
        return f"No method shares two seeds of a task with {reference} yet."
    wide = max(len(short_name(method)) for method in table.index.unique("method"))
    lines = [f"{'':{wide + 8}s}n  difference    95 % interval   Holm p   d_z  TOST p"]
    for (task, method), row in table.iterrows():
        lines.append(
            f"{TASKS.get(task, task):6s} {short_name(method):{wide}s}{row['n']:2.0f}  {row['difference']:+10.2f}"
            f"  [{row['low']:+6.2f}, {row['high']:+6.2f}]  {row['p_holm']:7.3f} {row['d_z']:+5.1f}  {row['p_equivalent']:6.3f}"
        )
        lines.append(f"{'':{wide + 9}s}{in_words(row, reference)}")
    return "\n".join(lines)


def compared_methods(table: pd.DataFrame) -> list[str]:
    """Methods of a comparison with uniform ranks: those of the first queue, then all others that have rows; no anchor."""
    found = table.index.unique("method") if len(table) else []
    return list(dict.fromkeys([m for m in [*METHODS, *sorted(found)] if m not in ("uniform", "probe", "full")]))


def one_answer(records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> pd.DataFrame:
    """Runs whose model gets no *no* right, on tasks with F1; rows by task and method.

    F1 is 2a / (1 + a) for accuracy a exactly where no true negative is among the answers (or nothing is wrong), as for a
    model that says only *yes*. A run with that F1, to 1e-4, and an accuracy below 1 is counted.

    Returns
    -------
    pandas.DataFrame
        ``final``: final runs at the chosen rate. ``yes``: those of them that count. ``chosen``: whether the tuning run that
        chose the rate counts. ``score``: mean of the final runs that count, NaN without one.
    """
    found = of_setting(records, setting)
    found = found[found["metrics.f1"].notna()] if "metrics.f1" in found else found.iloc[:0]
    columns = ["final", "yes", "chosen", "score"]
    if found.empty:
        return pd.DataFrame(columns=columns, index=pd.MultiIndex.from_arrays([[], []], names=["task", "method"]))
    share = found["metrics.accuracy"].astype(float)
    alike = (found["metrics.f1"].astype(float) - 2 * share / (1 + share)).abs() < 1e-4
    found = found.assign(yes=alike & (share < 1), label=method_labels(found))
    rows = {}
    for pair, runs in of_chosen_rate(found).groupby(["config.task", "label"]):
        alike = (found["config.task"] == pair[0]) & (found["label"] == pair[1]) & (found["config.split"] == "tuning")
        tuned = found[alike & found["config.learning_rate"].isin(runs["config.learning_rate"])]
        rows[pair] = (len(runs), int(runs["yes"].sum()), bool(tuned["yes"].any()), runs["metrics.score"][runs["yes"]].mean())
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).set_index(
        pd.MultiIndex.from_tuples(rows, names=["task", "method"])
    )


def same_ranks(
    records: pd.DataFrame, task: str, first: str, second: str, setting: Mapping[str, object] = SETTING
) -> tuple[int, int]:
    """In how many seeds two methods chose the same ranks, and how many have both."""
    pairs = _rank_pairs(records, task, first, second, setting)
    return sum(a == b for a, b in pairs), len(pairs)


def moved_ranks(
    records: pd.DataFrame, task: str, method: str, reference: str = "uniform", setting: Mapping[str, object] = SETTING
) -> float:
    """Share of the ranks that a method has in other matrices than the reference, mean over seeds; NaN without a pair."""
    shares = [
        sum(abs(a.get(name, 0) - b.get(name, 0)) for name in {*a, *b}) / (sum(a.values()) + sum(b.values()))
        for a, b in _rank_pairs(records, task, method, reference, setting)
    ]
    return float(np.mean(shares)) if shares else np.nan


def _rank_pairs(
    records: pd.DataFrame, task: str, first: str, second: str, setting: Mapping[str, object]
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Ranks of two methods in the seeds that have final runs of both."""
    found = of_chosen_rate(of_setting(records, {**setting, "task": task}))
    if found.empty:
        return []
    ranks = {m: dict(zip(r["config.seed"], r["metrics.ranks"], strict=True)) for m, r in found.groupby(method_labels(found))}
    ours, theirs = ranks.get(first, {}), ranks.get(second, {})
    return [(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))]


def printed_difference(table: pd.DataFrame, task: str, method: str, reference: str = "uniform") -> float | None:
    """Difference of two methods in P2's table 3 (`companion.book.audit.PRINTED`), in points; None if it has no such row."""
    names = [PRINTED_NAMES.get(name) for name in (method, reference)]
    if None in names:
        return None
    first, second = (float(table.loc[name, TASKS.get(task, task)]) for name in names)
    return first - second


def average(
    scores: pd.Series,
    method: str,
    reference: str,
    tasks: Sequence[str] | None = None,
    least_tasks: int = LEAST_TASKS,
    skip: Iterable[tuple[str, str]] = (),
) -> tuple[float, float]:
    """Mean over tasks of the mean differences over seeds, and half its 95 % interval for these tasks.

    A task counts that has three seeds or more of both methods, and no open grid among `skip`. A seed of one task has nothing
    to do with the same seed of another, so the interval is Welch's: the variances of the tasks' means add.

    Returns
    -------
    (float, float)
        NaN where too few tasks or seeds are recorded.
    """
    nothing, skip = (np.nan, np.nan), set(skip)
    if scores.empty or not {method, reference} <= set(scores.index.unique("method")):
        return nothing
    wide = scores.unstack("method")[[method, reference]].dropna()
    difference = (wide[method] - wide[reference]).unstack("task")
    wanted = difference.columns if tasks is None else [task for task in tasks if task in difference]
    usable = [t for t in wanted if difference[t].notna().sum() >= LEAST_SEEDS and not skip & {(t, method), (t, reference)}]
    if len(usable) < least_tasks:
        return nothing
    counts = difference[usable].count()
    parts = difference[usable].var(ddof=1) / counts / len(usable) ** 2  # what each task adds to the variance of the mean
    freedom = parts.sum() ** 2 / (parts**2 / (counts - 1)).sum() if parts.sum() else np.inf
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    return float(difference[usable].mean().mean()), float(half)


def scores_as(methods: Mapping[str, tuple[pd.Series, str]]) -> pd.Series:
    """Scores under other names: of each series the runs of one method, so that two settings can be compared."""
    parts = []
    for name, (scores, method) in methods.items():
        rows = scores[scores.index.get_level_values("method") == method]
        parts.append(rows.rename(index={method: name}, level="method"))
    return pd.concat(parts)


def by_budget(
    records: pd.DataFrame,
    tasks: Sequence[str] | None = None,
    ranks: Iterable[int] = (2, 4, 8, 16),
    least_tasks: int = LEAST_TASKS,
) -> pd.DataFrame:
    """Difference of the gap rule from uniform ranks at every budget that is recorded (P2 figure 6b); rows by rank.

    Not at rank 1, where the rule, which gives every matrix one rank at least, is uniform.
    """
    rows = {rank: average(final(records, SETTING | {"rank": rank}), "gap", "uniform", tasks, least_tasks) for rank in ranks}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "error"]).dropna()


def one_percent(records: pd.DataFrame) -> pd.DataFrame:
    """By task: best mean score of uniform r = 4, 8, 16 over that of full fine-tuning; rows where all four are recorded."""
    full = final(records)
    means = {"full": full[full.index.get_level_values("method") == "full"].groupby("task").mean()}
    for rank in (4, 8, 16):
        scores = final(records, SETTING | {"rank": rank})
        means[rank] = scores[scores.index.get_level_values("method") == "uniform"].groupby("task").mean()
    table = pd.DataFrame(means, dtype=float).dropna()
    return table.assign(share=table[[4, 8, 16]].max(axis=1) / table["full"] if len(table) else [])


def cost_ratio(records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> tuple[float, float, float] | None:
    """What an example costs in the choice of ranks over what it costs in training: middle, low and high.

    Choosing takes what spectral methods need beyond uniform ranks (both warm up the head). Low and high come from the
    fastest runs, which a busy machine disturbed least, and from the medians, and 1 (a pass is a pass) is inside. None
    without runs of both kinds.
    """
    found = of_setting(records, setting)
    if found.empty:
        return None
    own = found[found["same_as"].isna()] if "same_as" in found else found
    trained = own[own["metrics.training"].astype(float) > 0]
    chosen, plain = (found[found["config.method"].isin(m)] for m in (("gap", "floor", "permuted"), ("uniform",)))
    if chosen.empty or plain.empty or trained.empty:
        return None
    ratios = []
    for middle in ("min", "median"):
        extra = chosen["metrics.choosing"].agg(middle) - plain["metrics.choosing"].agg(middle)
        training = trained[trained["config.method"] == "uniform"]["metrics.training"].agg(middle)
        ratios.append(extra / setting["calibration"] / (training / (setting["examples"] * setting["epochs"])))
    return float(np.mean(ratios)), float(min(*ratios, 1)), float(max(*ratios, 1))


# --- Where the truth is known -----------------------------------------------------------------------------------------


def leaderboard(records: pd.DataFrame) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Rules on planted ranks in all matrices, and in one at a time; None where nothing is recorded."""
    together, alone = of_setting(records, PLANTED), of_setting(records, {**_but(PLANTED, "planted"), "steps": 0})
    if len(alone):
        alone = alone[alone["config.planted"].notna()]
    return planted_table(together) if len(together) else None, alone_table(alone) if len(alone) else None


def _but(setting: Mapping[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in setting.items() if name != key}


def oracle_values(records: pd.DataFrame) -> pd.DataFrame | None:
    """`companion.truth_tables.marginal_values` of the setting with the most runs; None until one seed is complete."""
    try:
        return marginal_values(largest_setting(records)) if len(records) else None
    except ValueError:
        return None


def unit_name(worth: pd.DataFrame) -> str:
    """Whether the units of the oracle are layers or matrices."""
    return "layers" if all(unit.endswith("attention.self") for unit in worth.index) else "matrices"


def least_correlation(units: int) -> float:
    """The rank correlation over so many units that chance reaches with a probability below .05, either sign; NaN below 5.

    Exact for up to eight units, by all permutations; for more, from Student's t.
    """
    if units > 8:
        t = stats.t.ppf(0.975, units - 2)
        return float(t / np.sqrt(units - 2 + t**2))
    order = np.arange(units)
    found = np.array([1 - 6 * np.sum((order - p) ** 2) / (units * (units**2 - 1)) for p in map(np.array, permutations(order))])
    reached = [value for value in np.unique(found.round(9)) if value > 0 and np.mean(np.abs(found) >= value - 1e-9) < 0.05]
    return float(min(reached, default=np.nan))


def seed_correlations(worth: pd.DataFrame) -> list[float]:
    """Rank correlation over the units of every two seeds: what another seed repeats of the order."""
    return worth.corr(method="spearman").to_numpy()[np.triu_indices(worth.shape[1], 1)].tolist()


def unit_ranks(rule: str, spectra: Mapping[str, GradientSpectrum], units: Iterable[str]) -> dict[str, int]:
    """What a rule answers for units of the oracle: for several matrices, the sum of their ranks."""
    rank_of = make_rule(rule)
    return {unit: sum(rank_of(s) for name, s in spectra.items() if f"{name}.".startswith(f"{unit}.")) for unit in units}


def greedy(gains: Mapping[str, Sequence[float]], costs: Mapping[str, int], budget: int) -> tuple[dict[str, int], float]:
    """Ranks by gain per parameter until one does not fit, and the gain of that first rejected direction (0: none)."""
    offers = sorted(((-gain / costs[name], place, gain, name) for name, row in gains.items() for place, gain in enumerate(row)))
    ranks, left = dict.fromkeys(gains, 0), budget
    for _, _, gain, name in offers:
        if costs[name] > left:
            return ranks, float(gain)
        ranks[name], left = ranks[name] + 1, left - costs[name]
    return ranks, 0.0


