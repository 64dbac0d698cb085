"""Tables of records: rules on planted problems (`companion.leaderboard`), value of rank (`companion.oracle`)."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from companion import _validate
from companion.planted_benchmark import rank_recovery
from companion.rank_rules import Spectrum, make_rule
from companion.statistics import Interval

__all__ = ["alone_table", "correlation", "marginal_values", "planted_table"]


def alone_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How rules do on the one matrix that has an update, and what they say of the others.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `companion.leaderboard.alone_runs`, as for `planted_table`.

    Returns
    -------
    pandas.DataFrame
        By rule: ``problems``; ``error``, ``exact``, ``within_one`` and ``correlation`` over the planted matrices of all
        problems; ``elsewhere``, the mean rank given to matrices without an update.

    Raises
    ------
    ValueError
        No row.
    """
    table, rows = {}, _plain(rows)
    for rule, runs in rows.groupby("rule"):
        found, planted, elsewhere = {}, {}, []
        for number, (ranks, truth) in enumerate(zip(runs["ranks"], runs["planted_ranks"], strict=True)):
            found |= {(number, name): ranks[name] for name, rank in truth.items() if rank}
            planted |= {(number, name): rank for name, rank in truth.items() if rank}
            elsewhere += [ranks[name] for name, rank in truth.items() if not rank]
        recovery = rank_recovery(found, planted)
        table[rule] = {"problems": len(runs), **recovery, "elsewhere": float(np.mean(elsewhere))}
    return pd.DataFrame.from_dict(table, orient="index").sort_values("error", kind="stable")


def planted_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard: means over the seeds, the nearest ranks first.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `companion.study.read_records`, of one setting; or ``rule`` and the entries of
        `companion.leaderboard.score_rule`.

    Returns
    -------
    pandas.DataFrame
        By rule: ``seeds``, ``error``, ``exact``, ``within_one``, ``correlation`` (mean where defined), ``size``
        (parameters over planted ones), ``excess`` and ``gain`` in percent of the loss before training, and
        ``gain_half``, the half-width of its 95 % interval over the seeds (NaN for one).

    Raises
    ------
    ValueError
        No row.
    """
    if rows.empty:
        raise ValueError("rows: got none; accepted: one or more scores")

    def half(values: pd.Series) -> float:
        n = values.size
        return stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan

    rows = _plain(rows)
    rows = rows.assign(
        size=rows["parameters"] / rows["planted_parameters"],
        correlation=rows["correlation"].astype(float),
        excess=100 * rows["excess"],
        gain=100 * rows["gain"],
    )
    groups = rows.groupby("rule")
    columns = ["error", "exact", "within_one", "correlation", "size", "excess", "gain"]
    table = groups[columns].mean().assign(gain_half=groups["gain"].agg(half))
    table.insert(0, "seeds", groups.size())
    return table.sort_values("error", kind="stable")


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Metrics and the rule under their own names."""
    if "rule" in rows:
        return rows
    kept = [column for column in rows if column.startswith("metrics.") or column == "config.rule"]
    return rows[kept].rename(columns=lambda column: column.partition(".")[2])


_VARIED = ("unit", "modules", "unit_rank", "seed")  # the rest is the setting


def marginal_values(records: pd.DataFrame, low: int = 0, high: int = 8) -> pd.DataFrame:
    """How much lower the validation loss is with rank `high` than with rank `low` in one unit, the others fixed.

    Parameters
    ----------
    records : pandas.DataFrame
        From `companion.study.read_records`, of one setting.
    low, high : int
        Ranks of the grid.

    Returns
    -------
    pandas.DataFrame, shape (units, seeds)
        Values of the seeds that have both runs for every unit; positive where rank helps.

    Raises
    ------
    ValueError
        Several settings in one file, or no seed that is complete.
    """
    fixed = _fixed(records)
    differ = [column.removeprefix("config.") for column in fixed if fixed[column].nunique() > 1]
    if differ:
        raise ValueError(f"records: got runs that differ in {differ}; accepted: one setting")
    losses = records.pivot_table("metrics.loss", ["config.unit"], ["config.unit_rank", "config.seed"])
    base = records[records["config.unit"].isna()]
    for rank, seed, loss in zip(base["config.unit_rank"], base["config.seed"], base["metrics.loss"], strict=True):
        losses[rank, seed] = loss
    known = {rank: losses[rank].dropna(axis=1) for rank in (low, high) if rank in losses.columns.get_level_values(0)}
    seeds = sorted(set(known.get(low, losses[[]])) & set(known.get(high, losses[[]])))
    if not seeds:
        raise ValueError(f"records: no seed has every unit at ranks {low} and {high}")
    values = known[low][seeds] - known[high][seeds]
    return values.rename_axis(index="unit", columns="seed")


def largest_setting(records: pd.DataFrame) -> pd.DataFrame:
    """The runs of the setting that has most of them; a stray run of another one does not stop a table."""
    settings = _fixed(records).apply(tuple, axis=1)
    return records[settings == settings.groupby(settings, sort=False).size().idxmax()] if len(records) else records


def _fixed(records: pd.DataFrame) -> pd.DataFrame:
    """The columns of the setting, as texts."""
    columns = [c for c in records if c.startswith("config.") and c.removeprefix("config.") not in _VARIED]
    return records[columns].astype(str)


def correlation(
    rule: str | Callable[[Spectrum], int],
    spectra: Mapping[str, Spectrum],
    values: pd.DataFrame,
    rng: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Spearman correlation over the units of a rule's ranks with the measured value of rank, with a bootstrap interval.

    Parameters
    ----------
    rule : str or callable
        As for `companion.rank_rules.make_rule`.
    spectra : mapping of str to Spectrum
        From `companion.oracle.oracle_spectra`; a unit of several matrices counts the sum of their ranks.
    values : pandas.DataFrame, shape (units, seeds)
        From `marginal_values`; the mean over the seeds is correlated.
    rng : numpy.random.Generator
        Draws units with replacement, and seeds with replacement, the same seeds for all units.
    draws : int
        Number of resamples, >= 100; those where one side is constant are left out.
    level : float
        Coverage of the percentile interval.

    Returns
    -------
    Interval
        NaN throughout where the ranks, or the values, are the same for all units.

    Raises
    ------
    ValueError
        What the rule raises, fewer than three units, a unit without spectra, or an argument out of range.
    """
    draws, tail = _validate.integer("draws", draws, 100), (1 - _validate.probability("level", level)) / 2
    rank_of, measured = make_rule(rule), values.to_numpy()
    parts = {unit: [s for name, s in spectra.items() if f"{name}.".startswith(f"{unit}.")] for unit in values.index}
    empty = [unit for unit, found in parts.items() if not found]
    if empty or len(parts) < 3:
        raise ValueError(f"values: got {len(parts)} units, without spectra {empty}; accepted: >= 3 with spectra")
    ranks = np.array([sum(rank_of(spectrum) for spectrum in found) for found in parts.values()])
    if np.ptp(ranks) == 0 or np.ptp(measured.mean(1)) == 0:
        return Interval(np.nan, np.nan, np.nan)
    drawn = rng.integers(len(ranks), size=(draws, len(ranks)))
    seeds = rng.integers(measured.shape[1], size=(draws, 1, measured.shape[1]))
    found = _spearman(ranks[drawn], measured[drawn[..., None], seeds].mean(-1))
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return Interval(float(_spearman(ranks[None], measured.mean(1)[None])[0]), float(low), float(high))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of the ranks along the last axis, (draws, units) -> (draws,); NaN where one side is constant."""
    a, b = (stats.rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0)
