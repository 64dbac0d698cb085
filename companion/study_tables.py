"""Tables of a study: scores of methods on tasks, and every method against a reference with all that bears on the answer.

Methods are compared seed by seed: runs of one seed share the examples, their order and the head they start from.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from companion.runs import method_label
from companion.statistics import compare, equivalence, hierarchical_bootstrap, holm, minimum_detectable_effect

__all__ = [
    "compare_methods", "final_scores", "judges", "mean_and_half", "method_labels", "of_chosen_rate", "of_setting", "overall",
    "score_table", "scores_of_setting",
]  # fmt: skip


def of_setting(records: pd.DataFrame, setting: Mapping[str, object]) -> pd.DataFrame:
    """The runs of one setting: records hold those of several.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`.
    setting : mapping of str to object
        Values of ``config.*`` columns that a run must have; None for an entry that a run must not have.

    Returns
    -------
    pandas.DataFrame
        Their rows. None if records lack a column that the setting names.
    """
    kept = pd.Series(True, records.index)
    for key, value in setting.items():
        column = records.get(f"config.{key}")
        if column is None:
            return records.iloc[:0]
        value = list(value) if isinstance(value, tuple) else value  # as JSON has it
        same = column.isna() if value is None else column.map(lambda cell, value=value: cell == value)
        kept &= same.astype(bool)
    return records[kept.astype(bool)]


def of_chosen_rate(records: pd.DataFrame) -> pd.DataFrame:
    """The final runs at the rate with the best tuning score: a grid that grew later leaves runs at a rate it gave up.

    Parameters
    ----------
    records : pandas.DataFrame
        Tuning and final runs of one setting, from `of_setting`.

    Returns
    -------
    pandas.DataFrame
        Rows of final runs, by task and method (of equal tuning scores, the smaller rate). Runs without a rate, and those of
        a task and method without tuning runs, are all kept.
    """
    if records.empty:
        return records
    label, final = method_labels(records), records["config.split"] != "tuning"
    if "config.learning_rate" not in records:
        return records[final]
    tuning = records.assign(label=label)[records["config.split"] == "tuning"].sort_values("config.learning_rate")
    best = tuning.loc[tuning.groupby(["config.task", "label"])["metrics.score"].idxmax()]
    chosen = dict(zip(zip(best["config.task"], best["label"], strict=True), best["config.learning_rate"], strict=True))
    runs = zip(records["config.task"], label, records["config.learning_rate"], strict=True)
    kept = [pd.isna(rate) or chosen.get((task, name), rate) == rate for task, name, rate in runs]
    return records[final & np.array(kept)]


def method_labels(records: pd.DataFrame) -> pd.Series:
    """Method of every run, its parameter after a colon.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`.

    Returns
    -------
    pandas.Series of str
        On the index of `records`.
    """
    labels = map(method_label, records["config.method"], records["config.parameter"])
    return pd.Series(labels, records.index, dtype=object)


def scores_of_setting(records: pd.DataFrame, setting: Mapping[str, object]) -> pd.Series:
    """Scores of the final runs of one setting, as `final_scores` has them, while a study is under way.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`, of `companion.tuning.run_tuned`.
    setting : mapping of str to object
        As for `of_setting`.

    Returns
    -------
    pandas.Series
        Indexed by task, method and seed; empty where no final run is recorded.

    Raises
    ------
    ValueError
        Two runs of one task, method and seed: the setting leaves open what tells them apart.
    """
    found = of_setting(records, setting)
    if found.empty or (found["config.split"] == "tuning").all():
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], [], []], names=["task", "method", "seed"]))
    return final_scores(found)


def final_scores(records: pd.DataFrame, **setting) -> pd.Series:
    """Scores of the final runs, by task, method and seed.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`, of `companion.tuning.run_tuned`.
    **setting
        Values of ``config.*`` columns that a run must have, where a file holds several settings.

    Returns
    -------
    pandas.Series
        In points, indexed by task, method (its parameter after a colon) and seed; of the runs that `of_chosen_rate` keeps.

    Raises
    ------
    ValueError
        No such run, or two of one task, method and seed.
    """
    records = of_setting(records, setting)
    if records.empty or not (records["config.split"] != "tuning").any():
        raise ValueError(f"records hold no final run with {setting or 'any setting'}")
    found = of_chosen_rate(records)
    index = [found["config.task"], method_labels(found), found["config.seed"]]
    scores = pd.Series(found["metrics.score"].to_numpy(), pd.MultiIndex.from_arrays(index, names=["task", "method", "seed"]))
    if scores.index.has_duplicates:
        task, method, seed = scores.index[scores.index.duplicated()][0]
        raise ValueError(f"records hold two runs of {method} on {task} with seed {seed}: name the setting that tells them apart")
    return scores.sort_index()


def mean_and_half(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean of some scores and half the width of its confidence interval.

    Parameters
    ----------
    values : sequence of float
        Scores of the seeds.
    level : float
        Of the interval (Student's t).

    Returns
    -------
    (float, float)
        The second is NaN for a single score.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size) if x.size > 1 else np.nan
    return float(x.mean()), float(half)


def score_table(scores: pd.Series, level: float = 0.95) -> pd.DataFrame:
    """Mean score and half-width of its confidence interval over the seeds, one row a method, as in P2's table 3.

    Parameters
    ----------
    scores : pandas.Series
        From `final_scores`.
    level : float
        Of the interval (Student's t).

    Returns
    -------
    pandas.DataFrame, shape (methods, 3 * tasks)
        Columns (task, "mean"), (task, "half") and (task, "runs"); NaN where there is no run, or one only.
    """
    def half(values: pd.Series) -> float:
        return mean_and_half(values, level)[1]

    table = scores.groupby(["method", "task"]).agg(mean="mean", half=half, runs="size").unstack("task")
    return table.swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False)


def compare_methods(scores: pd.Series, reference: str = "uniform", margin: float = 0.5) -> pd.DataFrame:
    """Every method against a reference on every task, over the seeds that both have.

    Parameters
    ----------
    scores : pandas.Series
        From `final_scores`.
    reference : str
        The method to beat.
    margin : float
        Differences within it, in points, count as none (equivalence test).

    Returns
    -------
    pandas.DataFrame
        One row a task and method: ``n`` seeds, ``difference`` in points with ``low`` and ``high`` (95 %), ``p`` (paired t
        test, two-sided), ``p_holm`` (adjusted over all rows), ``d_z`` (mean difference over the standard deviation of the
        differences), ``p_equivalent`` (TOST, not adjusted) and ``detectable``: the difference that n seeds of this spread
        find with probability .8 at the level that Holm's first step asks for, .05 over the number of rows.

    Raises
    ------
    ValueError
        The reference has no run, or shares two seeds with no method.
    """
    wide = _by_method(scores, reference)
    rows = []
    for method in wide.columns.drop(reference):
        for task, pair in wide[[method, reference]].dropna().groupby("task"):
            if len(pair) < 2:
                continue
            found = compare(pair[method], pair[reference])
            rows.append({
                "task": task, "method": method, "n": found.n, "difference": found.difference, "low": found.low,
                "high": found.high, "p": found.p, "d_z": found.d_z,
                "p_equivalent": equivalence(pair[method] - pair[reference], margin),
                "spread": float((pair[method] - pair[reference]).std(ddof=1)),
            })  # fmt: skip
    if not rows:
        raise ValueError(f"no method shares two seeds of a task with {reference!r}")
    table = pd.DataFrame(rows).set_index(["task", "method"])
    table.insert(5, "p_holm", holm(table["p"]))
    pairs = zip(table.pop("spread"), table["n"], strict=True)
    return table.assign(detectable=[minimum_detectable_effect(spread, n, alpha=0.05 / len(table)) for spread, n in pairs])


def judges(scores: pd.Series, reference: str = "probe", method: str = "uniform") -> list[str]:
    """Tasks where LoRA is clearly above the probe: elsewhere no way to place ranks can show its worth.

    Parameters
    ----------
    scores : pandas.Series
        From `final_scores`.
    reference, method : str
        Of the probe, and of the LoRA that has to be above it.

    Returns
    -------
    list of str
        Tasks where the 95 % interval of the paired difference is above 0; none that has no two pairs.

    Raises
    ------
    ValueError
        As for `companion.statistics.compare`: a score that is not finite.
    """
    wide = scores.unstack("method") if len(scores) else pd.DataFrame()
    if not {reference, method} <= set(wide):
        return []
    pairs = wide[[method, reference]].dropna().groupby("task")
    return [task for task, pair in pairs if len(pair) > 1 and compare(pair[method], pair[reference]).low > 0]


def overall(scores: pd.Series, rng: np.random.Generator, reference: str = "uniform", level: float = 0.95) -> pd.DataFrame:
    """Mean difference of every method from the reference over tasks and seeds, with a hierarchical bootstrap interval.

    Parameters
    ----------
    scores : pandas.Series
        From `final_scores`.
    rng : numpy Generator
    reference : str
        The method to beat.
    level : float

    Returns
    -------
    pandas.DataFrame
        One row a method that shares two seeds or more with the reference on two tasks or more (one seed has no scatter to
        draw from): ``tasks``, ``difference`` (every task counts the same), ``low``, ``high``.

    Raises
    ------
    ValueError
        The reference has no run.
    """
    wide = _by_method(scores, reference)
    rows = {}
    for method in wide.columns.drop(reference):
        pairs = wide[[method, reference]].dropna()
        differences = {task: pair[method] - pair[reference] for task, pair in pairs.groupby("task") if len(pair) > 1}
        if len(differences) > 1:
            mean = hierarchical_bootstrap(differences, rng, level=level)
            rows[method] = {"tasks": len(differences), "difference": mean.value, "low": mean.low, "high": mean.high}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tasks", "difference", "low", "high"])


def _by_method(scores: pd.Series, reference: str) -> pd.DataFrame:
    wide = scores.unstack("method")
    if reference not in wide:
        raise ValueError(f"reference: got {reference!r}; accepted: {', '.join(wide)}")
    return wide
