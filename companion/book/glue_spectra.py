"""What recorded first gradients show on GLUE: modes above the noise floor, as examples grow, by layer, draw and head.

For the chapter *SpectralLoRA on GLUE*; the records are those of `companion.book.estimates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from companion.glue_run import SETTING
from companion.study_tables import of_chosen_rate, of_setting

__all__ = [
    "adalora_and_gaps", "clearances", "depth_correlation", "disattenuated", "draw_agreement", "draws", "examples_for_mode",
    "extrapolated", "largest_gaps", "spread_over_draws", "tested_extrapolations",
]  # fmt: skip


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


def spread_over_draws(
    estimates: pd.DataFrame,
    tasks: Iterable[str],
    number: Callable[[pd.Series], float],
    heads: Sequence[str] = ("fresh",),
    least: int = 2,
) -> pd.DataFrame:
    """A number of every draw of 512 examples, by task: mean, smallest and largest; tasks with too few draws are left out.

    Through the fresh head, which is the one that Algorithm 1 reads.
    """
    rows = {}
    for task in tasks:
        if len(found := draws(estimates, task, heads=heads)) >= least:
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
    """Examples from which on a mode (1, 2, …) would stand clear in the median matrix, by the line through all sizes.

    A matrix where the line says "at any size" counts with the smallest one, and one where it says "never" with infinity.
    """
    a, b = _lines(np.asarray(n, dtype=float), np.asarray(clearance, dtype=float)[..., mode - 1 : mode])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(np.where(a >= 1, n[0], (1 - a) / b)))


def adalora_and_gaps(records: pd.DataFrame, estimates: pd.DataFrame) -> dict[str, dict]:
    """P2's figure 3(b) for every task with AdaLoRA's final runs and a recorded gradient of 512 examples (warm head).

    Of the final runs, those at the chosen learning rate count.

    Returns
    -------
    dict of str to dict
        ``gaps`` and ``ranks`` (mean over seeds) of the matrices; ``correlation`` (Spearman's) with ``low`` and ``high``
        (Fisher's 95 % interval); ``seeds``; ``reliability``: mean correlation of the ranks of two seeds; ``most``: how far
        anything can correlate with the mean ranks, the root of their reliability (Spearman and Brown), NaN where no order
        repeats.
    """
    found, result = of_chosen_rate(of_setting(records, {**SETTING, "method": "adalora"})), {}
    for task, runs in found.groupby("config.task") if len(found) else ():
        drawn = draws(estimates, task, heads=["warm"])
        if drawn.empty:
            continue
        names = drawn.iloc[0]["metrics.names"]
        ranks = np.array([[row.get(name, 0) for name in names] for row in runs["metrics.ranks"]], dtype=float)
        gaps, mean, k, r = largest_gaps(drawn.iloc[0]["metrics.values"]), ranks.mean(0), len(ranks), _between(ranks)
        most = float(np.sqrt(k * r / (1 + (k - 1) * r))) if r > 0 else np.nan
        result[task] = {"gaps": gaps, "ranks": mean, "seeds": k, **_fisher(gaps, mean), "reliability": r, "most": most}
    return result


def disattenuated(found: Mapping[str, dict], seeds: int = 3) -> pd.DataFrame:
    """Correlations of `adalora_and_gaps` over the most that AdaLoRA's own scatter allows, cut off at ±1, by task.

    Parameters
    ----------
    found : mapping of str to dict
        From `adalora_and_gaps`.
    seeds : int
        Fewest seeds of a task. Tasks with fewer are left out, and those where AdaLoRA's ranks do not repeat at all: there
        nothing can be said.

    Returns
    -------
    DataFrame
        Columns ``correlation``, ``low``, ``high``.
    """
    kept = {task: pair for task, pair in found.items() if pair["seeds"] >= seeds and pair["most"] > 0}
    columns = ["correlation", "low", "high"]
    rows = {task: [np.clip(pair[name] / pair["most"], -1, 1) for name in columns] for task, pair in kept.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)


def _fisher(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    rho = float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0
    # the variance of Fisher's transform of Spearman's correlation: Fieller, Hartley and Pearson (Biometrika 44, 1957)
    half = stats.norm.ppf(0.975) * np.sqrt(1.06 / (len(a) - 3))
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    low, high = (float(np.tanh(centre + sign * half)) for sign in (-1, 1))
    return {"correlation": rho, "low": min(low, rho), "high": max(high, rho)}


def _between(ranks: np.ndarray) -> float:
    pairs = [(a, b) for a, b in combinations(ranks, 2) if np.ptp(a) and np.ptp(b)]
    return float(np.mean([stats.spearmanr(a, b).statistic for a, b in pairs])) if pairs else np.nan
