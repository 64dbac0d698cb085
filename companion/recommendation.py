"""Whether the ranks of a rule are worth their trouble: what the recorded study found for it, in one paragraph."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from companion.advice import Assessment
from companion.glue_run import SETTING
from companion.runs import method_label
from companion.statistics import Interval, compare, hierarchical_bootstrap
from companion.study_tables import judges, scores_of_setting

__all__ = ["Evidence", "Recommendation", "evidence", "recommend", "sufficient_rank"]

LEAST_SEEDS = 3  # a difference of two pairs has an interval of a hundred points


@dataclass(frozen=True)
class Evidence:
    """A rule against uniform ranks at equal adapter parameters, in the recorded study.

    Attributes
    ----------
    rule : str
        Name of the method in the study.
    tasks : tuple of str
        Tasks with three seeds or more of both, where uniform LoRA is clearly above the probe
        (`companion.study_tables.judges`): a gain over a LoRA that has learnt nothing is none.
    pairs : int
        Pairs of runs, over all tasks.
    gain : Interval
        Score of the rule minus that of uniform ranks, in points, with its 95 % interval: Student's over the seeds of one
        task, a hierarchical bootstrap over several.
    """

    rule: str
    tasks: tuple[str, ...]
    pairs: int
    gain: Interval

    def __str__(self) -> str:
        found = f"{self.gain.value:+.2f} points, 95 % interval {self.gain.low:+.2f} to {self.gain.high:+.2f}"
        return f"{self.rule} against uniform ranks at equal parameters, {self.pairs} pairs of runs on {', '.join(self.tasks)}: {found}"


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why; ``str()`` says it in words.

    Attributes
    ----------
    use_ranks : bool
        Take the rule's ranks; else one rank for every matrix.
    uniform : int
        That one rank.
    reason : str
        What decided.
    evidence : Evidence or None
        None where the study has no comparison of the rule.
    """

    use_ranks: bool
    uniform: int
    reason: str
    evidence: Evidence | None

    def __str__(self) -> str:
        what = "use these ranks" if self.use_ranks else f"use uniform r={self.uniform}"
        study = "" if self.evidence is None else f" Recorded study ({_SCOPE}): {self.evidence}."
        return f"Recommendation: {what}: {self.reason}.{study}"


_SCOPE = f"{SETTING['model']}, {' and '.join(SETTING['targets'])}, the parameters of r={SETTING['rank']}"


def evidence(rule: str, records: pd.DataFrame, setting: Mapping[str, object] = SETTING) -> Evidence | None:
    """The comparison of a rule with uniform ranks, as far as it is recorded.

    Parameters
    ----------
    rule : str
        Name of a rule, its parameter after a colon (``"energy:0.9"``).
    records : pandas.DataFrame
        From `companion.runs.read_records`, of `companion.glue_study`.
    setting : mapping
        Values of ``config`` that a run must have.

    Returns
    -------
    Evidence or None
        None without three pairs of runs on any task that can judge.

    Raises
    ------
    ValueError
        Two runs of one task, method and seed: the setting leaves open what tells them apart.
    """
    rule = _label(rule)
    scores = scores_of_setting(records, setting)
    wide = scores[scores.index.isin(judges(scores), "task")].unstack("method")
    if rule not in wide or "uniform" not in wide:
        return None
    pairs = {task: pair for task, pair in wide[[rule, "uniform"]].dropna().groupby("task") if len(pair) >= LEAST_SEEDS}
    if not pairs:
        return None
    differences = {task: (pair[rule] - pair["uniform"]).to_numpy() for task, pair in pairs.items()}
    if len(pairs) > 1:
        gain = hierarchical_bootstrap(differences, np.random.default_rng(0))
    else:
        (pair,) = pairs.values()
        found = compare(pair[rule], pair["uniform"])
        gain = Interval(found.difference, found.low, found.high)
    return Evidence(rule, tuple(pairs), sum(map(len, pairs.values())), gain)


def _label(rule: str) -> str:
    """A rule as the study's tables name it, with 0.9 for 0.90."""
    name, _, parameter = rule.partition(":")
    try:
        return method_label(name, float(parameter))
    except ValueError:
        return rule


def sufficient_rank(records: pd.DataFrame, setting: Mapping[str, object] = SETTING, margin: float = 0.5) -> int:
    """The smallest uniform rank of the study that is as good as any other, up to a margin.

    Parameters
    ----------
    records, setting
        As for `evidence`; the setting's rank is left open.
    margin : float
        In points of the mean score.

    Returns
    -------
    int
        The setting's own rank where no other is recorded. Ranks are compared over the tasks that all of them have and where
        uniform LoRA of the setting's own rank is clearly above the probe.

    Raises
    ------
    ValueError
        Two runs of one task, method and seed: the setting leaves open what tells them apart.
    """
    free = {key: value for key, value in setting.items() if key != "rank"}
    uniform = records[records.get("config.method", pd.Series(dtype=object)) == "uniform"]
    means: dict[int, pd.Series] = {}
    for rank in sorted(set(uniform.get("config.rank", ()))):
        scores = scores_of_setting(uniform, {**free, "rank": rank})
        if len(scores):
            means[int(rank)] = scores.groupby("task").mean()
    table = pd.DataFrame(means).dropna()
    table = table[table.index.isin(judges(scores_of_setting(records, setting)))]
    if table.empty:
        return int(setting["rank"])
    overall = table.mean()
    return int(min(rank for rank, mean in overall.items() if mean >= overall.max() - margin))


def recommend(
    rule: str, assessment: Assessment | None, records: pd.DataFrame, setting: Mapping[str, object] = SETTING
) -> Recommendation:
    """Ranks of a rule, or one rank for all: what spectra and study together support.

    The ranks are recommended only if they can be read off the task (`companion.advice.Assessment.resolved`) and the study
    shows a gain, that is an interval above 0.

    Parameters
    ----------
    rule : str
        As for `evidence`.
    assessment : Assessment or None
        Of the spectra that the ranks come from; None if no floor was measured.
    records, setting
        As for `evidence`.

    Returns
    -------
    Recommendation

    Raises
    ------
    ValueError
        Two runs of one task, method and seed: the setting leaves open what tells them apart.

    Examples
    --------
    >>> from companion.runs import read_records
    >>> recommend("ratio:16", None, read_records("glue")).use_ranks
    False
    """
    found = evidence(rule, records, setting)
    if assessment is None:
        reason = "without a noise floor nothing says that these ranks are more than noise"
    elif not assessment.resolved:
        reason = "these ranks are mostly read off noise"
    elif found is None:
        reason = f"the study has no comparison of {rule} yet"
    elif found.gain.low > 0:
        return Recommendation(True, sufficient_rank(records, setting), "the study shows a gain", found)
    elif found.gain.high < 0:
        reason = "the study shows a loss"
    else:
        reason = "the study shows no gain"
    return Recommendation(False, sufficient_rank(records, setting), reason, found)
