"""P1's tables 3.2, 3.3 and 3.4 over many replicates, beside the printed ones.

P1 prints one run without a seed. Here every task is drawn again and again, so that a printed number can be compared with
the median and with what a single run scatters.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from companion import _validate
from companion.kstar import LinearTask, fit_decay, k_star, paper_tasks, paper_threshold
from companion.marchenko_pastur import gavish_donoho_threshold, noise_edge
from companion.reduced_rank import rank_sweep

__all__ = ["PaperTables", "reproduce_tables"]

PRINTED = pd.DataFrame(  # table 3.2; table 3.3 repeats the decays of the first six tasks, with their errors in per cent
    {
        "decay_printed": [1.19, 1.46, 1.87, 2.96, 5.01, 8.84, 1.21, 1.93, 1.88, 1.97],
        "error_printed": [0.8, 2.7, 6.5, 1.3, 0.2, 11.6, np.nan, np.nan, np.nan, np.nan],
        "k_star_printed": [12, 6, 3, 2, 2, 1, 3, 3, 1, 7],
        "r_opt_printed": [12, 4, 3, 2, 1, 1, 1, 3, 1, 4],
        "r2_printed": [0.87, 0.72, 0.67, 0.64, 0.44, 0.50, 0.38, 0.64, 0.09, 0.97],
    },
    index=pd.Index([name for name, _ in paper_tasks()], name="task"),
)
PRINTED_SWEEP = pd.DataFrame(  # table 3.4
    {"r2_printed": [0.542, 0.635, 0.648, 0.645, 0.630, 0.608], "percent_printed": [89, 104, 107, 106, 104, 100]},
    index=pd.Index([1, 2, 3, 4, 8, 32], name="rank"),
)
RANKS = ["k_star_d_out", "k_star_d_in", "k_star_estimated", "modes_above"]
BATCH = 10  # replicates solved together: their arrays stay in the cache


@dataclass(frozen=True)
class PaperTables:
    """What P1's section 3 prints beside what many replicates give; made by `reproduce_tables`.

    Four ranks follow P1: `k_star_d_out` and `k_star_d_in` (eq. 6 with the true rho and C, and eq. 5 with that d),
    `k_star_estimated` (rho from eq. 4, d = d_in; NaN where eq. 4 cannot be evaluated) and `modes_above` (singular values
    of the weights above eq. 5, d = d_in). They are judged against `r_95`, the smallest rank with 95 % of the full-rank R²
    (P1's r_opt), and `r_best`, the rank of truncated weights with the least excess risk.

    Attributes
    ----------
    table_3_2 : pandas.DataFrame
        A row for each task: medians, NaN where most replicates have none; printed columns. P1 does not say at which rank
        its R² is: `r2_k_star` and `r2_r_opt` are R² at the printed K* and at the printed r_opt (which is the one that
        fits), with the central 95 % of replicates between `low` and `high`.
    table_3_3 : pandas.DataFrame
        A row for each task: true decay, median `estimate`, its `error` and the `median_error` of a replicate in per
        cent, share of replicates where eq. 4 is `evaluable`, and the median estimate from `two_modes` or more, whatever
        the threshold, by which P1 can print one for every task; printed columns.
    table_3_4 : pandas.DataFrame
        rho = 3, a row for each printed rank: mean R², the same in per cent of full rank, mean excess risk;
        printed columns.
    matches : pandas.DataFrame
        How often a rank is within a tolerance of `r_95` or `r_best`, over the tasks and replicates that have it, with
        Wilson's 95 % interval (if anything too wide: the tasks are fixed, not drawn), and the mean absolute difference.
        The rank "printed" compares P1's columns.
    risks, risk_errors : pandas.DataFrame
        A row for each task, a column for each rank: excess risk over that at `r_best`, mean over replicates and its
        standard error. Besides P1's ranks: `full` (no truncation), and reduced-rank regression with the noise estimated
        and the threshold `edge` or `gavish_donoho`.
    curves : pandas.DataFrame
        By task and rank: mean R² and mean excess risk of truncated weights, mean excess risk of reduced-rank regression.
    replicates : pandas.DataFrame
        By task and replicate: everything measured.
    """

    table_3_2: pd.DataFrame
    table_3_3: pd.DataFrame
    table_3_4: pd.DataFrame
    matches: pd.DataFrame
    risks: pd.DataFrame
    risk_errors: pd.DataFrame
    curves: pd.DataFrame
    replicates: pd.DataFrame


def reproduce_tables(replicates: int = 200, seed: int = 0, n_test: int = 1000) -> PaperTables:
    """Draw the ten tasks many times and make P1's tables 3.2, 3.3 and 3.4 of them.

    Parameters
    ----------
    replicates : int
        Draws of each task, ``>= 2``; 200 take about ten seconds.
    seed : int
        ``>= 0``. Tasks have independent streams.
    n_test : int
        Fresh samples for each R², ``>= 2``. P1 does not say how many it took.

    Returns
    -------
    PaperTables

    Raises
    ------
    TypeError, ValueError
        An argument is not an integer in its range.

    Examples
    --------
    >>> tables = reproduce_tables(replicates=3)
    >>> tables.table_3_2.loc[["Strong", "Large data"], ["k_star_d_out", "k_star_printed"]].values.tolist()
    [[3.0, 3.0], [4.0, 3.0]]
    """
    replicates, n_test = _validate.integer("replicates", replicates, 2), _validate.integer("n_test", n_test, 2)
    streams = np.random.SeedSequence(_validate.integer("seed", seed, 0)).spawn(len(PRINTED))
    rows, curves = {}, {}
    for (name, task), stream in zip(paper_tasks(), streams, strict=True):
        rng = np.random.default_rng(stream)
        sizes = [min(BATCH, replicates - done) for done in range(0, replicates, BATCH)]
        printed = PRINTED.loc[name, ["k_star_printed", "r_opt_printed"]].astype(int)
        drawn, sums = zip(*(_draw(task, printed, rng, size, n_test) for size in sizes), strict=True)
        rows[name], curves[name] = pd.concat(drawn, ignore_index=True), sum(sums) / replicates
    rows, curves = pd.concat(rows, names=["task", "replicate"]), pd.concat(curves, names=["task", "rank"])
    risks = rows.filter(like="risk_").rename(columns=lambda name: name.removeprefix("risk_"))
    ratios = risks.drop(columns="r_best").div(risks["r_best"], axis=0).groupby("task", sort=False)
    return PaperTables(
        _table_3_2(rows), _table_3_3(rows), _table_3_4(curves), _matches(rows), ratios.mean(), ratios.sem(), curves, rows
    )


def _draw(
    task: LinearTask, printed: pd.Series, rng: np.random.Generator, size: int, n_test: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is measured on a batch of replicates, and sums over it of the curves."""
    train = task.sample(rng, size=size)
    test = task.sample(rng, size=size, weights=train.weights, n_samples=n_test)
    cut = rank_sweep(train.x, train.y, test=(test.x, test.y), weights=train.weights)
    projected = rank_sweep(train.x, train.y, weights=train.weights, method="reduced-rank")
    shape, n = (task.d_in, task.d_out), task.n_samples
    tau = paper_threshold(task.noise, task.d_in, n)
    fits = [fit_decay(values, tau) for values in cut.singular_values]
    ranks = {
        "k_star_d_out": np.full(size, k_star(task.decay, paper_threshold(task.noise, task.d_out, n), task.scale)),
        "k_star_d_in": np.full(size, k_star(task.decay, tau, task.scale)),
        "k_star_estimated": np.array([k_star(f.decays[0], tau, task.scale) if f.modes > 1 else np.nan for f in fits]),
        "modes_above": np.sum(cut.singular_values > tau, axis=1),
        "r_best": np.argmin(cut.excess_risk, axis=1),
        "full": np.full(size, min(shape)),
    }
    left_over = np.sum(train.y**2, axis=(1, 2)) - np.sum(projected.singular_values**2, axis=1)
    relative = projected.singular_values / np.sqrt(left_over / ((n - task.d_in) * task.d_out))[:, None]
    kept = {
        "edge": np.sum(relative > noise_edge(shape, 1.0), axis=1),
        "gavish_donoho": np.sum(relative > gavish_donoho_threshold(shape, 1.0), axis=1),
    }
    enough = cut.r2[:, 1:] >= 0.95 * cut.r2[:, -1:]
    enough[:, -1] = True  # where the full-rank R² is negative it would not be
    measured = {
        "decay": [fit.decays[0] for fit in fits],
        "scale": [fit.scale for fit in fits],
        "two_modes": [fit_decay(values, tau, min_modes=2).decays[0] for values in cut.singular_values],
        "r_95": np.argmax(enough, axis=1) + 1,
        "r2_k_star": cut.r2[:, printed["k_star_printed"]],
        "r2_r_opt": cut.r2[:, printed["r_opt_printed"]],
    }
    risks = {f"risk_{name}": _at(cut.excess_risk, rank) for name, rank in ranks.items()}
    risks |= {f"risk_{name}": _at(projected.excess_risk, rank) for name, rank in kept.items()}
    curves = {"r2": cut.r2, "excess_risk": cut.excess_risk, "projected_risk": projected.excess_risk}
    return pd.DataFrame(measured | ranks | kept | risks), pd.DataFrame({k: v.sum(axis=0) for k, v in curves.items()})


def _at(curves: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The value of each curve at its rank, at most the full one; NaN without a rank."""
    places = np.minimum(np.nan_to_num(ranks), curves.shape[1] - 1).astype(int)
    return np.where(np.isnan(ranks), np.nan, np.take_along_axis(curves, places[:, None], axis=1)[:, 0])


def _medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians by task; NaN where fewer than half of the replicates have a value."""
    groups = rows.groupby("task", sort=False)
    return groups.median().where(groups.count() >= len(rows) / len(PRINTED) / 2)


def _true_decays() -> pd.Series:
    return pd.Series([task.decay for _, task in paper_tasks()], index=PRINTED.index, name="decay")


def _table_3_2(rows: pd.DataFrame) -> pd.DataFrame:
    medians, groups = _medians(rows), rows.groupby("task", sort=False)
    table = pd.DataFrame({"decay": _true_decays(), "estimate": medians["decay"]}).join(medians[[*RANKS, "r_95", "r_best"]])
    for name in ("r2_k_star", "r2_r_opt"):
        table[name] = medians[name]
        table[f"{name}_low"], table[f"{name}_high"] = groups[name].quantile(0.025), groups[name].quantile(0.975)
    return table.join(PRINTED.drop(columns="error_printed"))


def _table_3_3(rows: pd.DataFrame) -> pd.DataFrame:
    true, medians = _true_decays(), _medians(rows)
    errors = 100 * rows["decay"].div(true, level="task").sub(1).abs()
    found = {
        "decay": true,
        "estimate": medians["decay"],
        "error": 100 * (medians["decay"] / true - 1).abs(),
        "median_error": _medians(errors.to_frame())["decay"],
        "evaluable": rows["decay"].notna().groupby("task", sort=False).mean(),
        "two_modes": medians["two_modes"],
    }
    return pd.DataFrame(found).join(PRINTED[["decay_printed", "error_printed"]])


def _table_3_4(curves: pd.DataFrame) -> pd.DataFrame:
    curve = curves.loc["Very strong"]
    found = {"r2": curve["r2"], "percent": 100 * curve["r2"] / curve["r2"].iloc[-1], "excess_risk": curve["excess_risk"]}
    return PRINTED_SWEEP.join(pd.DataFrame(found))[[*found, *PRINTED_SWEEP]]


def _matches(rows: pd.DataFrame) -> pd.DataFrame:
    pairs = {(rank, target): (rows[rank] - rows[target]).abs().dropna() for rank in RANKS for target in ("r_95", "r_best")}
    pairs["printed", "r_opt_printed"] = (PRINTED["k_star_printed"] - PRINTED["r_opt_printed"]).abs()
    table = []
    for (rank, target), distance in pairs.items():
        for tolerance in (0, 1, 2):
            hits = int(np.count_nonzero(distance <= tolerance))
            low, high = binomtest(hits, len(distance)).proportion_ci(method="wilson")
            table.append((rank, target, tolerance, len(distance), hits / len(distance), low, high, distance.mean()))
    columns = ["rank", "against", "tolerance", "n", "rate", "low", "high", "mean_error"]
    return pd.DataFrame(table, columns=columns).set_index(columns[:3]).sort_index()
