"""Tables, sentences and figures of the chapter *SpectralLoRA on GLUE*, from whatever runs its records hold.

A run that is missing is a gap, said in words, never an exception: the same chapter becomes complete as records arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import optimize, stats

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from companion.glue_study import SETTING, chosen_rates, further_runs, tuning_runs
from companion.planted_benchmark import SETTING as PLANTED
from companion.rank_rules import Spectrum
from companion.runs import failed_records, key_of, read_records
from companion.statistics import compare, minimum_detectable_effect
from companion.study_tables import compare_methods, final_scores, score_table
from companion.truth_tables import alone_table, marginal_values, planted_table

__all__ = [
    "METHODS", "PRINTED_NAMES", "TASKS", "adalora_and_gaps", "average", "by_budget", "clearances", "comparison",
    "comparison_text", "cost_ratio", "depth_correlation", "depth_figure", "detectable_figure", "differences_figure",
    "draw_agreement", "draws", "examples_for_mode", "extrapolated", "final", "gap_figure", "greedy", "growth_figure",
    "in_words", "largest_gaps", "leaderboard", "load", "matrix_labels", "missing", "of_setting", "one_percent",
    "open_grids", "oracle_values", "planted_figure", "power", "printed_difference", "rank_grid", "same_ranks", "scores_as", "spectra_grid",
    "spread_over_draws", "study_tasks", "table_3", "tested_extrapolations", "tuning", "tuning_text", "within",
]  # fmt: skip

TASKS = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI",
    "rte": "RTE",
}  # fmt: skip
"""GLUE tasks as P2 prints them, in its order."""

METHODS = ("uniform", "gap", "floor", "permuted", "adalora", "probe")
PRINTED_NAMES = {"gap": "SpectralLoRA", "adalora": "AdaLoRA", "uniform": "Uniform r = 8", "full": "Full FT"}
"""Rows of P2's table 3 that our methods stand beside."""

PLANNED = ("stsb", "rte", "mrpc")  # tasks of the study, in the order of its queue
SEEDS = 5
LEAST_SEEDS = 3  # of a task, to enter a claim
LEAST_TASKS = 2  # of an average over tasks
NO_SCORES = pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], [], []], names=["task", "method", "seed"]))


# --- Records ----------------------------------------------------------------------------------------------------------


def _path(source: str | Path) -> Path:
    return source if isinstance(source, Path) else Path(str(files("companion") / "records" / f"{source}.jsonl"))


def load(source: str | Path) -> pd.DataFrame:
    """Records of a study, as `companion.runs.read_records` has them; no row if there is no such file."""
    path = _path(source)
    return read_records(path) if path.is_file() else pd.DataFrame()


def of_setting(records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> pd.DataFrame:
    """The runs whose configuration has every entry of a setting."""
    kept = pd.Series(True, records.index)
    for key, value in setting.items():
        column = records.get(f"config.{key}")
        if column is None:
            return records.iloc[:0]
        same = column.isna() if value is None else column.map(lambda cell, value=value: cell == value)
        kept &= same.astype(bool)
    return records[kept.astype(bool)]


def final(records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> pd.Series:
    """Scores of the final runs of a setting by task, method and seed; empty if there is none.

    `companion.study_tables.final_scores` says which learning rate counts where a method was run with several.
    """
    found = of_setting(records, setting)
    try:
        return final_scores(found) if len(found) else NO_SCORES.copy()
    except ValueError as error:
        if "hold no final run" in str(error):
            return NO_SCORES.copy()
        raise


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


def tuning(
    records: pd.DataFrame, setting: Mapping[str, object] = SETTING, source: str | Path | None = None
) -> pd.DataFrame:
    """Tuning scores by task and method, a column for each learning rate, then ``chosen`` and ``grid``.

    ``grid`` is ``"incomplete"`` if runs of the first grid are missing, ``"open"`` if the best rate so far is the smallest
    or the largest tried (one beyond might be better still, and `companion.glue_study.further_runs` goes on), else
    ``"closed"``. A rate that diverged, known from the file `source`, has the score -inf.
    """
    found = of_setting(records, {**setting, "split": "tuning"})
    if found.empty:
        return pd.DataFrame(columns=["chosen", "grid"])
    method = found["config.method"] + found["config.parameter"].map(lambda p: "" if pd.isna(p) else f":{p:g}")
    rows = found.assign(task=found["config.task"], method=method, rate=found["config.learning_rate"].astype(float))
    table = rows.pivot_table("metrics.score", ["task", "method"], "rate", aggfunc="last")
    failures = failed_records(_path(source)) if source is not None and _path(source).is_file() else []
    for config in (record["config"] for record in failures if record["config"].get("split") == "tuning"):
        pair, rate = (config["task"], config["method"]), config["learning_rate"]
        if pair in table.index and all(config.get(key) == value for key, value in setting.items()):
            table.loc[pair, rate] = -np.inf
    table = table[sorted(table)]
    tasks, methods = (list(table.index.unique(level)) for level in ("task", "method"))
    runs, known = tuning_runs(tasks, methods, setting), {*found["key"], *(key_of(r["config"]) for r in failures)}
    while more := [run for run in further_runs(found, runs, failures) if key_of(run) in known]:
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


def comparison(scores: pd.Series, reference: str = "uniform", margin: float = 0.5) -> pd.DataFrame:
    """`companion.study_tables.compare_methods`; no row where nothing can be compared yet."""
    try:
        return compare_methods(scores, reference, margin)
    except ValueError:
        index = pd.MultiIndex.from_arrays([[], []], names=["task", "method"])
        columns = ["n", "difference", "low", "high", "p", "p_holm", "d_z", "p_equivalent", "detectable"]
        return pd.DataFrame(index=index, columns=columns)


def table_3(
    scores: pd.Series, printed: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str] = METHODS
) -> pd.DataFrame:
    """Means with half their 95 % interval and the number of runs, as texts, beside P2's table 3; a dash is a gap."""
    known = score_table(scores) if len(scores) else pd.DataFrame()
    columns: dict[str, list[str]] = {}
    for task in tasks:
        name, ours, theirs = TASKS.get(task, task), [], []
        for method in methods:
            cell = known.loc[method, task] if method in known.index and task in known else {}
            mean, half, runs = (cell.get(key, np.nan) for key in ("mean", "half", "runs"))
            text = f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")
            ours.append("-" if np.isnan(mean) else f"{text} ({runs:.0f})")
            row = PRINTED_NAMES.get(method)
            theirs.append(printed.loc[row, name] if row in printed.index and name in printed else "-")
        columns |= {name: ours, f"P2 {name}": theirs}
    return pd.DataFrame(columns, index=list(methods))


def comparison_text(table: pd.DataFrame, reference: str = "uniform") -> str:
    """Rows of a comparison in figures, and in words that follow from them."""
    if table.empty:
        return f"No method shares two seeds of a task with {reference} yet."
    lines = [f"{'':17s}n  difference    95 % interval   Holm p   d_z  TOST p"]
    for (task, method), row in table.iterrows():
        lines.append(
            f"{TASKS.get(task, task):6s} {method:9s}{row['n']:2.0f}  {row['difference']:+10.2f}"
            f"  [{row['low']:+6.2f}, {row['high']:+6.2f}]  {row['p_holm']:7.3f} {row['d_z']:+5.1f}  {row['p_equivalent']:6.3f}"
        )
        lines.append(f"{'':18s}{in_words(row, reference)}")
    return "\n".join(lines)


def same_ranks(
    records: pd.DataFrame, task: str, first: str, second: str, setting: Mapping[str, object] = SETTING
) -> tuple[int, int]:
    """In how many seeds two methods chose the same ranks, and how many have both."""
    found = of_setting(records, {**setting, "task": task, "split": "validation"})
    if found.empty:
        return 0, 0
    ranks = {m: dict(zip(r["config.seed"], r["metrics.ranks"], strict=True)) for m, r in found.groupby("config.method")}
    seeds = set(ranks.get(first, {})) & set(ranks.get(second, {}))
    return sum(ranks[first][seed] == ranks[second][seed] for seed in seeds), len(seeds)


def power(effect: float, spread: float, n: int, one_tailed: bool = False, level: float = 0.05) -> float:
    """Probability that a paired t test of n differences with this standard deviation finds a mean of `effect`."""
    critical, shift = stats.t.ppf(1 - level / (1 if one_tailed else 2), n - 1), effect / spread * np.sqrt(n)
    other = 0.0 if one_tailed else np.nan_to_num(stats.nct.cdf(-critical, n - 1, shift))
    return float(stats.nct.sf(critical, n - 1, shift) + other)


def tuning_text(table: pd.DataFrame) -> str:
    """The tuning scores as they are printed: one decimal, rates in full."""
    if table.empty:
        return "No tuning run is recorded yet."
    shown = table.rename(columns=lambda c: f"{c:g}" if isinstance(c, float) else c)
    chosen = {"chosen": lambda rate: "-" if np.isnan(rate) else f"{rate:g}"}
    return shown.to_string(na_rep="-", float_format=lambda x: f"{x:.1f}", formatters=chosen)


def in_words(row: pd.Series, reference: str = "uniform", level: float = 0.05) -> str:
    """What one row of a comparison says: a sentence whose words follow from the numbers."""
    if row["p_holm"] < level:
        little = ", by less than half a point" if row["p_equivalent"] < level else ""
        return f"{'above' if row['difference'] > 0 else 'below'} {reference}{little}"
    if row["p_equivalent"] < level:
        return f"the same as {reference} up to half a point"
    return f"not told apart from {reference}; {row['n']:.0f} seeds would show {row['detectable']:.1f}"


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
    """Mean difference over tasks and half its 95 % interval over the seeds, as in P2's own tests.

    A task counts that has three seeds or more of both methods, and no open grid among `skip`; of the tasks that count,
    each seed's differences are averaged, and Student's interval is that of these averages over the seeds they share.

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
    by_seed = difference[usable].dropna().mean(axis=1)
    if len(by_seed) < LEAST_SEEDS:
        return nothing
    found = compare(by_seed, np.zeros(len(by_seed)))
    return found.difference, found.high - found.difference


def scores_as(methods: Mapping[str, tuple[pd.Series, str]]) -> pd.Series:
    """Scores under other names: of each series the runs of one method, so that two settings can be compared."""
    parts = []
    for name, (scores, method) in methods.items():
        rows = scores[scores.index.get_level_values("method") == method]
        parts.append(rows.rename(index={method: name}, level="method"))
    return pd.concat(parts)


def by_budget(records: pd.DataFrame, ranks: Iterable[int] = (1, 2, 4, 8, 16), least_tasks: int = LEAST_TASKS) -> pd.DataFrame:
    """Difference of the gap rule from uniform ranks at every budget that is recorded (P2 figure 6b); rows by rank."""
    rows = {rank: average(final(records, SETTING | {"rank": rank}), "gap", "uniform", least_tasks=least_tasks) for rank in ranks}
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
    """`companion.truth_tables.marginal_values`; None until one seed is complete."""
    try:
        return marginal_values(records) if len(records) else None
    except ValueError:
        return None


def greedy(gains: Mapping[str, Sequence[float]], costs: Mapping[str, int], budget: int) -> tuple[dict[str, int], float]:
    """Ranks by gain per parameter until one does not fit, and the gain of that first rejected direction (0: none)."""
    offers = sorted(((-gain / costs[name], place, gain, name) for name, row in gains.items() for place, gain in enumerate(row)))
    ranks, left = dict.fromkeys(gains, 0), budget
    for _, _, gain, name in offers:
        if costs[name] > left:
            return ranks, float(gain)
        ranks[name], left = ranks[name] + 1, left - costs[name]
    return ranks, 0.0


# --- Spectra: what a first gradient can show --------------------------------------------------------------------------


def draws(estimates: pd.DataFrame, task: str, examples: int = 512, heads: Sequence[str] = ("fresh", "warm")) -> pd.DataFrame:
    """Recorded draws of one size, of a task, with these heads."""
    if estimates.empty:
        return estimates
    kept = (estimates["config.task"] == task) & (estimates["config.examples"] == examples)
    return estimates[kept & estimates["config.head"].isin(heads)].sort_values(["config.head", "config.draw"])


def largest_gaps(values: ArrayLike) -> np.ndarray:
    """Largest gap of every spectrum, (…, modes) to (…,); of the leading modes where a record keeps no more."""
    values = np.asarray(values, dtype=float)
    return np.max(values[..., :-1] - values[..., 1:], axis=-1)


def depth_correlation(values: ArrayLike) -> float:
    """Spearman correlation with the layer, mean of query and value; a kind with one value everywhere counts 0.

    Parameters
    ----------
    values : array_like, shape (2 * layers,)
        Query and value in turn, as the records have them.
    """
    kinds = np.asarray(values, dtype=float).reshape(-1, 2).T
    return float(np.mean([stats.spearmanr(range(kind.size), kind).statistic if np.ptp(kind) else 0.0 for kind in kinds]))


def spread_over_draws(estimates: pd.DataFrame, tasks: Iterable[str], number: Callable[[pd.Series], float]) -> pd.DataFrame:
    """A number of every draw of 512 examples, by task: mean, smallest and largest; tasks without a draw are left out."""
    rows = {}
    for task in tasks:
        if len(found := draws(estimates, task)):
            values = [number(row) for _, row in found.iterrows()]
            rows[task] = {"mean": np.mean(values), "low": np.min(values), "high": np.max(values), "draws": len(values)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "draws"])


def draw_agreement(rows: pd.DataFrame, rule: str) -> tuple[float, float]:
    """Of all pairs of disjoint draws with one head: share of matrices with the same rank, and mean Spearman correlation.

    The correlation is NaN if no pair has two rankings (a rule with one answer for all matrices).
    """
    same, order = [], []
    for _, group in rows.groupby("config.head"):
        ranks = [np.array(found[rule]) for found in group["metrics.ranks"]]
        for a, b in combinations(ranks, 2):
            same.append(np.mean(a == b))
            if np.ptp(a) and np.ptp(b):
                order.append(stats.spearmanr(a, b).statistic)
    return (float(np.mean(same)) if same else np.nan), (float(np.mean(order)) if order else np.nan)


def clearances(estimates: pd.DataFrame, growth: pd.DataFrame | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Singular values over the noise floor as the examples grow, warm head, nested sets, by task.

    Parameters
    ----------
    estimates : DataFrame
        Records of `companion.book.estimates`.
    growth : DataFrame, optional
        Records ``gradient-growth``, which have the first mode only, for tasks that the others lack.

    Returns
    -------
    dict of str to (ndarray, ndarray)
        Numbers of examples, (sizes,), and clearances, (sizes, matrices, modes).
    """
    found = {}
    if len(estimates):
        grown = estimates[(estimates["config.head"] == "warm") & (estimates["config.draw"] == 0)]
        for task, rows in grown.sort_values("config.examples").groupby("config.task"):
            floors = np.array(rows["metrics.floor"].tolist())[..., None]
            found[task] = rows["config.examples"].to_numpy(), np.array(rows["metrics.values"].tolist()) / floors
    if growth is not None and len(growth):
        for task, rows in growth.sort_values("config.examples").groupby("config.task"):
            if task.removesuffix("-mini") not in found:
                first = np.array(rows["metrics.clearance"].tolist())[..., None]
                found.setdefault(task, (rows["config.examples"].to_numpy(), first))
    return found


def _lines(n: np.ndarray, clearance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a, b >= 0 of ``clearance² = a + b n`` for every matrix and mode, least squares of the relative error."""
    squares = (clearance**2).reshape(len(n), -1).T
    solved = [optimize.nnls(np.column_stack([1 / y, n / n[-1] / y]), np.ones(len(n)))[0] for y in squares]
    a, b = np.array(solved).T.reshape(2, *clearance.shape[1:])
    return a, b / n[-1]


def extrapolated(n: ArrayLike, clearance: ArrayLike, upto: int, to: float) -> np.ndarray:
    """Clearances at `to` examples as those at `upto` or fewer predict them, (matrices, modes).

    A mode of strength s stands in noise whose floor falls like 1/√n, so clearance² = a + b n.
    """
    n, clearance = np.asarray(n, dtype=float), np.asarray(clearance, dtype=float)
    if (n <= upto).sum() < 2:
        raise ValueError(f"upto: {upto} leaves {(n <= upto).sum()} of {n.size} sizes; a line takes two")
    a, b = _lines(n[n <= upto], clearance[n <= upto])
    return np.sqrt(a + b * to)


def tested_extrapolations(found: Mapping[str, tuple[np.ndarray, np.ndarray]], upto: int = 512) -> pd.DataFrame:
    """Predictions from at most `upto` examples against what larger sets showed, a row for every task and larger size.

    Columns: ``predicted`` and ``observed`` matrices with a first mode above the floor, ``matrices``, and ``factor``: the
    median factor, 1 or more, by which the first clearance is missed; ``unchanged``: the same for a prediction that nothing
    changes from the largest sample used.
    """
    rows = []
    for task, (n, clearance) in found.items():
        for size, seen in zip(n, clearance, strict=True):
            if size > upto and (n <= upto).sum() >= 2:
                guess = extrapolated(n, clearance, upto, size)[:, 0]
                last = clearance[n <= upto][-1][:, 0]
                factor, unchanged = (np.exp(np.median(np.abs(np.log(x / seen[:, 0])))) for x in (guess, last))
                counts = {"predicted": int((guess > 1).sum()), "observed": int((seen[:, 0] > 1).sum())}
                rows.append({"task": task, "examples": int(size), **counts, "matrices": len(seen), "factor": factor, "unchanged": unchanged})
    return pd.DataFrame(rows, columns=["task", "examples", "predicted", "observed", "matrices", "factor", "unchanged"])


def examples_for_mode(n: ArrayLike, clearance: ArrayLike, mode: int) -> float:
    """Examples from which on a mode (1, 2, …) would stand clear in the median matrix, by the line through all sizes."""
    a, b = _lines(np.asarray(n, dtype=float), np.asarray(clearance, dtype=float)[..., mode - 1 : mode])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(np.where(a >= 1, n[0], (1 - a) / b)))


def adalora_and_gaps(records: pd.DataFrame, estimates: pd.DataFrame) -> dict[str, dict]:
    """P2's figure 3(b) for every task with AdaLoRA's final runs and a recorded gradient of 512 examples (warm head).

    Returns
    -------
    dict of str to dict
        ``gaps`` and ``ranks`` (mean over seeds) of the matrices; ``correlation`` (Spearman's) with ``low`` and ``high``
        (Fisher's 95 % interval); ``seeds``; ``reliability``: mean correlation of the ranks of two seeds.
    """
    found, result = of_setting(records, {**SETTING, "split": "validation", "method": "adalora"}), {}
    for task, runs in found.groupby("config.task") if len(found) else ():
        drawn = draws(estimates, task, heads=["warm"])
        if drawn.empty:
            continue
        names = drawn.iloc[0]["metrics.names"]
        ranks = np.array([[row.get(name, 0) for name in names] for row in runs["metrics.ranks"]], dtype=float)
        gaps, mean = largest_gaps(drawn.iloc[0]["metrics.values"]), ranks.mean(0)
        result[task] = {"gaps": gaps, "ranks": mean, "seeds": len(ranks), **_fisher(gaps, mean), "reliability": _between(ranks)}
    return result


def _fisher(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    rho = float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0
    half = stats.norm.ppf(0.975) * np.sqrt(1.06 / (len(a) - 3))
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    low, high = (float(np.tanh(centre + sign * half)) for sign in (-1, 1))
    return {"correlation": rho, "low": min(low, rho), "high": max(high, rho)}


def _between(ranks: np.ndarray) -> float:
    pairs = [(a, b) for a, b in combinations(ranks, 2) if np.ptp(a) and np.ptp(b)]
    return float(np.mean([stats.spearmanr(a, b).statistic for a, b in pairs])) if pairs else np.nan


def within(value: float, low: float, high: float, words: tuple[str, str, str]) -> str:
    """The first of three texts if an interval lies above `value`, the second if below, the third if it holds it."""
    return words[0] if low > value else words[1] if high < value else words[2]


# --- Figures ----------------------------------------------------------------------------------------------------------


def matrix_labels(names: Iterable[str]) -> list[str]:
    """Short names of query and value matrices: ``0.Q``, ``0.V``, …."""
    parts = [name.split(".") for name in names]
    return [f"{next(p for p in part if p.isdecimal())}.{part[-1][0].upper()}" for part in parts]


def detectable_figure(
    spreads: Mapping[str, float], effects: Mapping[str, float], seeds: Sequence[int], ax: Axes | None = None
) -> Axes:
    """The smallest difference a paired study finds with probability .8 against its seeds, for several spreads.

    Parameters
    ----------
    spreads : mapping of str to float
        Standard deviations of paired differences, points.
    effects : mapping of str to float
        Differences to be found: horizontal lines.
    seeds : sequence of int
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    unit = np.array([minimum_detectable_effect(1.0, n) for n in seeds])
    for (name, spread), colour, style in zip(spreads.items(), (BLUE, PURPLE, GREEN, SKY), ("-", "--", "-.", ":"), strict=False):
        ax.plot(seeds, spread * unit, style, color=colour, label=name)
    for name, effect in effects.items():
        ax.axhline(effect, color=VERMILLION, lw=1)
        shift = 3 if effect == max(effects.values()) else -11
        ax.annotate(name, (seeds[0], effect), (0, shift), textcoords="offset points", fontsize=9, color=VERMILLION)
    ax.axvline(SEEDS, color=GREY, lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="seeds", ylabel="smallest difference found (points)")
    ax.set_xticks([3, 5, 10, 20, 50, 100], ["3", "5", "10", "20", "50", "100"])
    ax.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
    ax.minorticks_off()
    return ax


def spectra_grid(spectra: Mapping[str, Spectrum], modes: int = 10) -> Figure:
    """Small multiples: leading singular values of every matrix in units of its noise floor, largest gap marked."""
    names, labels = list(spectra), matrix_labels(spectra)
    kinds = list(dict.fromkeys(label[-1] for label in labels))
    columns = len(names) // len(kinds)
    fig, axes = plt.subplots(len(kinds), columns, figsize=(8.4, 3.6), sharex=True, sharey=True, squeeze=False)
    highest = max(np.max(s.singular_values) / s.noise_floor for s in spectra.values())
    for name, label in zip(names, labels, strict=True):
        ax = axes[kinds.index(label[-1]), int(label.split(".")[0])]
        values = np.asarray(spectra[name].singular_values)[:modes] / spectra[name].noise_floor
        gap = int(np.argmax(values[:-1] - values[1:]))
        ax.fill_between([0.3, modes + 0.7], 0, 1, color="#e7eef2", lw=0)
        ax.axhline(1, color=GREEN, lw=1.2)
        ax.plot([gap + 1, gap + 2], values[gap : gap + 2], color=VERMILLION, lw=2.2)
        ax.plot(np.arange(1, len(values) + 1), values, "o", color=BLUE, ms=3.2)
        if ax in axes[0]:
            ax.set_title(f"layer {label.split('.')[0]}", fontsize=9.5)
        ax.set(xlim=(0.3, modes + 0.7), ylim=(0, 1.08 * max(highest, 1)))
        ax.grid(visible=False)
        ax.set_xticks([1, modes])
    for ax in axes[:, 1:].ravel():
        ax.tick_params(left=False)
    for row, kind in zip(axes, kinds, strict=True):
        row[0].set_ylabel({"Q": "query", "V": "value"}.get(kind, kind) + "\nσ / floor")
    for ax in axes[-1]:
        ax.set_xlabel("index", fontsize=9.5)
    return fig


def rank_grid(rows: Mapping[str, Sequence[float]], columns: Sequence[str], ax: Axes | None = None) -> Axes:
    """Ranks as a table of shaded cells, a row for each name, a column for each matrix; rank 4 is the uniform share."""
    ax = ax or plt.subplots(figsize=(8.4, 0.45 * len(rows) + 0.7))[1]
    table = np.array([list(values) for values in rows.values()], dtype=float)
    ax.imshow(table, cmap="Blues", vmin=0, vmax=max(10, table.max()), aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        text = f"{value:.0f}" if value == round(value) else f"{value:.1f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if value > 6 else "black")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_xticks(range(len(columns)), columns)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def growth_figure(found: Mapping[str, tuple[np.ndarray, np.ndarray]], upto: int = 512) -> Figure:
    """Left: matrices with a mode above the floor as examples grow. Right: first clearances, predicted against observed."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.7))
    looks = list(zip((BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, "black"), "os^vDPX*", strict=True))
    for (task, (n, clearance)), (colour, marker) in zip(found.items(), looks * 2, strict=False):
        share = (clearance[..., 0] > 1).mean(axis=1)
        left.plot(n, share, marker=marker, ms=4.5, color=colour, label=TASKS.get(task, task))
        larger = [size for size in n if size > upto]
        if (n <= upto).sum() >= 2 and larger:
            guesses = np.concatenate([extrapolated(n, clearance, upto, size)[:, 0] for size in larger])
            right.plot(guesses, clearance[n > upto][..., 0].ravel(), marker, ms=4, color=colour, alpha=0.65)
    left.axvline(upto, color=GREY, lw=0.8)
    left.set(xscale="log", ylim=(-0.04, 1.04), xlabel="examples in the gradient", ylabel="share of matrices with a mode")
    reach = [clearance[n > upto][..., 0] for n, clearance in found.values() if (n > upto).any()]
    seen = np.concatenate([r.ravel() for r in reach]) if reach else np.ones(1)
    ends = np.array([min(0.3, 0.9 * seen.min()), max(12, 1.1 * seen.max())])
    right.fill_between(ends, ends / 2, ends * 2, color="#e7eef2", lw=0)
    right.plot(ends, ends, color=GREY, lw=1)
    right.axhline(1, color=GREEN, lw=1)
    right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    right.set(xlabel=f"σ₁ / floor, predicted from {upto}", ylabel="σ₁ / floor, observed")
    for axis in (right.xaxis, right.yaxis):
        axis.set_ticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    for ax in (left, right):
        ax.minorticks_off()
        ax.grid(visible=False)
    if found:
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    else:
        for ax in (left, right):
            _say_missing(ax)
    return fig


def depth_figure(estimates: pd.DataFrame, tasks: Iterable[str]) -> Figure:
    """Largest gaps by layer, as they are and in units of the noise floor; 512 examples, mean over draws and heads."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.5))
    drawn = {task: found for task in tasks if len(found := draws(estimates, task))}
    for (task, rows), colour in zip(drawn.items(), (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, "black"), strict=False):
        gaps, floors = largest_gaps(rows["metrics.values"].tolist()), np.array(rows["metrics.floor"].tolist())
        for ax, values in zip(axes, (gaps, gaps / floors), strict=True):
            middle = np.exp(np.log(np.maximum(values, 1e-12)).mean(axis=0))
            for kind, style in ((0, "o-"), (1, "s--")):
                ax.plot(middle[kind::2], style, ms=4, lw=1.2, color=colour)
        axes[0].plot([], [], color=colour, label=TASKS.get(task, task))
    axes[0].plot([], [], "o-", color=GREY, ms=4, label="query")
    axes[0].plot([], [], "s--", color=GREY, ms=4, label="value")
    axes[0].set(yscale="log", xlabel="layer", ylabel="largest gap")
    axes[1].set(xlabel="layer", ylabel="largest gap / noise floor", ylim=(0, None))
    axes[1].axhline(1, color=GREEN, lw=1)
    axes[0].minorticks_off()
    if drawn:
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    else:
        for ax in axes:
            _say_missing(ax)
    return fig


def gap_figure(found: Mapping[str, dict]) -> Figure:
    """P2's figure 3(b): AdaLoRA's final ranks against the largest gaps of the first gradient, a panel a task."""
    fig, axes = plt.subplots(1, max(len(found), 1), figsize=(min(8.4, 4.2 * max(len(found), 1)), 3.4), squeeze=False, sharey=True)
    for ax, (task, pair) in zip(axes[0], found.items(), strict=False):
        for kind, marker, colour, name in ((0, "o", BLUE, "query"), (1, "s", VERMILLION, "value")):
            ax.plot(pair["gaps"][kind::2], pair["ranks"][kind::2], marker, color=colour, ms=6, label=name)
        ax.set(xscale="log", xlabel="largest gap", title=TASKS.get(task, task))
        ax.set_ylim(0, max(9, 1.1 * pair["ranks"].max()))
        ax.minorticks_off()
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("AdaLoRA's final rank")
    if found:
        axes[0, 0].legend()
    else:
        _say_missing(axes[0, 0])
    return fig


def differences_figure(
    table: pd.DataFrame, printed: pd.DataFrame, methods: Sequence[str], reference: str = "uniform"
) -> Figure:
    """Differences from the reference with 95 % intervals, a panel a task, and where P2 prints the same difference."""
    tasks = [task for task in TASKS if len(table) and task in table.index.unique("task")]
    fig, axes = plt.subplots(1, max(len(tasks), 1), figsize=(8.4, 0.45 * len(methods) + 1.5), squeeze=False, sharey=True)
    for ax, task in zip(axes[0], tasks, strict=False):
        ax.axvspan(-0.5, 0.5, color="#e7eef2", lw=0)
        ax.axvline(0, color=GREY, lw=1)
        for row, method in enumerate(methods):
            if (task, method) in table.index:
                found = table.loc[(task, method)]
                ax.plot([found["low"], found["high"]], [row, row], color=BLUE, lw=2)
                ax.plot(found["difference"], row, "o", color=BLUE, ms=7)
            else:
                place = dict(transform=ax.get_yaxis_transform(), ha="center", va="center")
                ax.text(0.5, row, "no runs yet", fontsize=9, color=GREY, **place)
            effect = printed_difference(printed, task, method, reference)
            if effect is not None:
                ax.plot(effect, row, "D", color=VERMILLION, ms=6, markeredgecolor="black", zorder=4)
        ax.set(title=TASKS[task], xlabel=f"points above {reference}", ylim=(len(methods) - 0.5, -0.5))
        ax.set_yticks(range(len(methods)), methods)
    handles = [plt.Line2D([], [], marker="o", color=BLUE, label="measured, 95 % interval"),
               plt.Line2D([], [], marker="D", color=VERMILLION, markeredgecolor="black", lw=0, label="P2, table 3"),
               plt.Rectangle((0, 0), 1, 1, color="#e7eef2", label="half a point")]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    if not tasks:
        _say_missing(axes[0, 0])
    return fig


def planted_figure(planted: Mapping[str, int], found: Mapping[str, Mapping[str, int]], ax: Axes | None = None) -> Axes:
    """Planted ranks as bars, and what rules answer for the same matrices."""
    ax = ax or plt.subplots(figsize=(8.4, 3.4))[1]
    place = np.arange(len(planted))
    ax.bar(place, list(planted.values()), 0.8, color="#cfe0ea", label="planted")
    offsets = np.linspace(-0.25, 0.25, len(found))
    for (rule, ranks), shift, colour, marker in zip(found.items(), offsets, (BLUE, VERMILLION, GREEN, ORANGE), "osD^", strict=False):
        ax.plot(place + shift, [ranks[name] for name in planted], marker, color=colour, ms=5.5, label=rule)
    ax.set(xlabel="matrix (layer, query or value)", ylabel="rank")
    ax.set_xticks(place, matrix_labels(planted))
    ax.grid(axis="x", visible=False)
    return ax


def _say_missing(ax: Axes) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no runs recorded yet", transform=ax.transAxes, ha="center", va="center", color=GREY)
