"""The figures of the chapter *K\\* done right*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

__all__ = [
    "RULES", "cost_key", "cost_map", "gains", "phase_key", "phase_map", "r2_by_rank", "resolve",
    "risk_by_samples", "risk_lines", "risk_rows",
]  # fmt: skip

RULES = {  # colour and marker of a rule, the same in every figure
    "none": (GREY, "s"),
    "P1, count": (VERMILLION, "D"),
    "4, 8, 16, 32": (ORANGE, "v"),
    "edge": (SKY, "^"),
    "optimal, 2014": (PURPLE, "P"),
    "optimal, new inputs": (BLUE, "o"),
    "cross-validation": (GREEN, "X"),
    "SURE": ("#8c6d1f", "h"),
    "shrinkage": ("black", "*"),
}
NAMES = {
    "none": "no truncation",
    "P1, count": "P1: modes of Ŵ above τ",
    "4, 8, 16, 32": "validation among 4, 8, 16, 32",
    "edge": "noise edge of Z",
    "optimal, 2014": "optimal threshold of Z (2014)",
    "optimal, new inputs": "optimal threshold, new inputs",
    "cross-validation": "cross-validation",
    "SURE": "SURE",
    "shrinkage": "shrinkage of Z",
}
CUT, CV, P1, NONE = "optimal, new inputs", "cross-validation", "P1, count", "none"
PHASES = {  # rules within noise of the best: colour and meaning
    (CUT,): (BLUE, "the cut of Z alone"),
    (CV,): (GREEN, "cross-validation alone"),
    (P1,): (VERMILLION, "P1's threshold alone"),
    (NONE,): (GREY, "no truncation alone"),
    (CUT, CV): ("#8cc5ea", "within noise: cut, cross-validation"),
    (NONE, CUT, CV): ("#c4c4c4", "within noise: cut, cross-validation, no truncation"),
    (P1, CUT, CV): ("#f3bd94", "within noise: cut, cross-validation, P1's threshold"),
    (P1, NONE, CUT, CV): ("#5a5a5a", "within noise: all four"),
}
OTHER = ("#e3d38f", "within noise: other sets")
COSTS = {1.0: "#f4eff7", 1.05: "#d7c2e0", 1.2: "#b288c4", 1.5: "#8750a3", 2.5: "#541c70"}  # from which a colour is used


def risk_rows(ratios: Mapping[str, pd.DataFrame], rules: Sequence[str], ax: Axes | None = None) -> Axes:
    """Excess risk over that of the best rank: a row for each task, a mark with its interval for each rule.

    Parameters
    ----------
    ratios : mapping of str to DataFrame
        By task, a row for each replicate and a column for each rule.
    rules : sequence of str
        Columns to draw.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis; intervals are two standard errors.
    """
    ax = ax or plt.subplots()[1]
    rows = np.arange(len(ratios))
    ax.axvline(1, color="black", lw=1)
    for row in rows[1::2]:
        ax.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", lw=0, zorder=0)
    for rule, shift in zip(rules, np.linspace(-0.3, 0.3, len(rules)), strict=True):
        colour, marker = RULES[rule]
        mean = np.array([table[rule].mean() for table in ratios.values()])
        half = 2 * np.array([table[rule].sem() for table in ratios.values()])
        ax.hlines(rows + shift, mean - half, mean + half, color=colour, lw=2)
        ax.plot(mean, rows + shift, marker, color=colour, ms=6, label=NAMES[rule], markeredgecolor="white", mew=0.4)
    ax.set_yticks(rows, list(ratios))
    ax.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="excess risk / that of the best rank")
    ax.set_xticks([0.5, 0.7, 1, 1.5, 2, 3, 5, 10], ["0.5", "0.7", "1", "1.5", "2", "3", "5", "10"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", left=False)
    return ax


def gains(
    observed: ArrayLike, measured: Mapping[str, tuple[ArrayLike, ArrayLike]],
    formulas: Mapping[str, tuple[ArrayLike, ArrayLike]], thresholds: Mapping[str, float], ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """What keeping one mode gains, by its observed singular value: measured with intervals, derived, and where it is zero.

    Parameters
    ----------
    observed : array_like, shape (k,)
        Mean observed singular values, in units of the noise.
    measured : mapping of str to pair of array_like, shape (k,)
        Means and intervals by name; two names.
    formulas : mapping of str to pair of array_like
        Observed values and gains, by the same names.
    thresholds : mapping of str to float
        Zeros, by the same names.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axhline(0, color="black", lw=1)
    for (name, (mean, half)), colour, marker in zip(measured.items(), (PURPLE, BLUE), "Po", strict=True):
        ax.plot(*formulas[name], color=colour, label=f"{name}: derived")
        ax.errorbar(observed, mean, half, fmt=marker, color=colour, ms=5, lw=1.4, label=f"{name}: measured")
        ax.axvline(thresholds[name], color=colour, lw=1, ls=":")
    ax.set(xlabel="observed singular value (units of σ)", ylabel="gain of keeping the mode (units of σ²)")
    return ax


def risk_by_samples(
    samples: ArrayLike, risks: Mapping[str, np.ndarray], d_in: int, zero: float, ax: Axes | None = None
) -> Axes:
    """Excess risk against the number of samples: medians and the central half of the data sets.

    Parameters
    ----------
    samples : array_like, shape (k,)
        Numbers of samples.
    risks : mapping of str to ndarray, shape (k, replicates)
        Excess risk by rule.
    d_in : int
        Number of inputs: a line.
    zero : float
        Risk of rank 0: a line.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axvline(d_in, color="black", lw=1, ls=":")
    ax.axhline(zero, color="black", lw=1)
    ax.text(samples[0], zero, "rank 0", va="bottom", ha="left", fontsize=9)
    ax.text(d_in, 0.985, r" $n = d_{\mathrm{in}}$", va="top", ha="left", fontsize=9, transform=ax.get_xaxis_transform())
    for rule, table in risks.items():
        colour, marker = RULES[rule]
        low, middle, high = np.nanquantile(table, [0.25, 0.5, 0.75], axis=1)
        ax.fill_between(samples, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(samples, middle, marker=marker, color=colour, ms=4.5, label=NAMES[rule])
    ax.set(xscale="log", yscale="log", xlabel="number of samples n", ylabel="excess risk (signal energy = rank 0)")
    ax.set_xticks([32, 64, 128, 256, 512], ["32", "64", "128", "256", "512"])
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def risk_lines(values: ArrayLike, ratios: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Excess risk over that of the best rank against a parameter of the task, a line for each rule.

    Parameters
    ----------
    values : array_like, shape (k,)
        The parameter, on a logarithmic axis.
    ratios : mapping of str to DataFrame
        By rule, with k rows and the columns `mean` and `half` (of the interval).
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axhline(1, color="black", lw=1)
    for rule, table in ratios.items():
        colour, marker = RULES[rule]
        ax.errorbar(values, table["mean"], table["half"], fmt=f"-{marker}", color=colour, ms=5, lw=1.5, label=NAMES[rule])
    ax.set(xscale="log", ylabel="excess risk / that of the best rank")
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def resolve(risks: pd.DataFrame) -> tuple[str, ...]:
    """The rules that are within noise of the best: that with the least mean risk, and all not clearly worse.

    Parameters
    ----------
    risks : DataFrame
        A row for each data set, a column for each rule. Differences are paired; clear are three standard errors.

    Returns
    -------
    tuple of str
        In the order of the columns; one name if the best rule beats each other.
    """
    over = risks.sub(risks[risks.mean().idxmin()], axis=0)
    return tuple(risks.columns[over.mean() <= 3 * over.sem()])


def phase_map(x: ArrayLike, noises: ArrayLike, sets: Sequence[Sequence[tuple[str, ...]]], ax: Axes | None = None) -> Axes:
    """The rules within noise of the best, by a parameter of the spectrum and by the noise.

    Parameters
    ----------
    x, noises : array_like, shapes (k,) and (m,)
        Grids, both geometric.
    sets : nested sequence of tuple of str, shape (m, k)
        From `resolve`.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    places = {rules: place for place, rules in enumerate(PHASES)}
    classes = np.array([[places.get(rules, len(places)) for rules in row] for row in sets])
    colours = ListedColormap([colour for colour, _ in (*PHASES.values(), OTHER)])
    ax.pcolormesh(np.arange(len(x)), np.arange(len(noises)), classes, cmap=colours, vmin=-0.5, vmax=len(places) + 0.5,
                  shading="nearest", edgecolors="white", linewidth=1.5, rasterized=True)  # fmt: skip
    _name_cells(x, noises, ax)
    return ax


def cost_map(x: ArrayLike, noises: ArrayLike, costs: ArrayLike, ax: Axes | None = None) -> Axes:
    """What a rule costs over the best one, by a parameter of the spectrum and by the noise.

    Parameters
    ----------
    x, noises : array_like, shapes (k,) and (m,)
        Grids, both geometric.
    costs : array_like, shape (m, k) or (m k,)
        Ratios of mean risks, 1 or more.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    classes = np.digitize(np.reshape(costs, (len(noises), len(x))), list(COSTS)[1:])
    ax.pcolormesh(np.arange(len(x)), np.arange(len(noises)), classes, cmap=ListedColormap(list(COSTS.values())), vmin=-0.5,
                  vmax=len(COSTS) - 0.5, shading="nearest", edgecolors="white", linewidth=1.5, rasterized=True)  # fmt: skip
    _name_cells(x, noises, ax)
    return ax


def cost_key() -> list[Patch]:
    """The colours of `cost_map` with their meaning, for a legend."""
    ends = [*COSTS, np.inf]
    names = [f"{low:g} to {high:g} times" if high < np.inf else f"above {low:g} times" for low, high in pairwise(ends)]
    return [Patch(color=colour, label=name) for name, colour in zip(names, COSTS.values(), strict=True)]


def _name_cells(x: ArrayLike, noises: ArrayLike, ax: Axes) -> None:
    """Every other cell has a tick."""
    ax.set_xticks(range(0, len(x), 2), [f"{value:.3g}" for value in x[::2]])
    ax.set_yticks(range(0, len(noises), 2), [f"{value:.2g}" for value in noises[::2]])
    ax.tick_params(length=0)
    ax.grid(visible=False)


def phase_key(sets: Sequence[tuple[str, ...]]) -> list[Patch]:
    """The colours of `phase_map` for the sets that occur, for a legend."""
    shown = [value for rules, value in PHASES.items() if rules in sets]
    shown += [OTHER] * any(rules not in PHASES for rules in sets)
    return [Patch(color=colour, label=name) for colour, name in shown]


def r2_by_rank(
    ranks: ArrayLike, projected: ArrayLike, cut: ArrayLike, marks: Mapping[str, tuple[int | None, float]],
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Held-out R² against rank when Z or the weights are cut, and where each rule stands.

    Parameters
    ----------
    ranks : array_like, shape (k,)
        From 1.
    projected, cut : array_like, shape (k,)
        R² at each rank, Z cut or the weights cut.
    marks : mapping of str to (int, float)
        Rank and R² of each rule; without a rank it is not drawn.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axhline(0, color="black", lw=1)
    ax.plot(ranks, projected, color=BLUE, lw=1.6, label="Z cut")
    ax.plot(ranks, cut, color=VERMILLION, lw=1.6, ls="--", label="weights cut")
    styles = {"K*": (VERMILLION, "D"), "count": (ORANGE, "v"), "cut of Z": (BLUE, "o"), "cross-validation": (GREEN, "X")}
    names = {"K*": "K* as printed", "count": "P1: count", "cut of Z": "cut of Z, new inputs",
             "cross-validation": "cross-validation by texts"}  # fmt: skip
    for name, (rank, r2) in marks.items():
        if rank is not None:
            colour, marker = styles[name]
            place = max(rank, 0.7)
            ax.plot(place, r2, marker, color=colour, ms=9, mec="white", label=names[name], zorder=4, clip_on=False)
    nothing = any(rank == 0 for rank, _ in marks.values())
    ax.set(xscale="log", xlim=(0.7 if nothing else 0.9, 1.04 * max(ranks)))
    ticks = [1, 4, 16, 64, 256]
    ax.set_xticks([0.7] * nothing + ticks, ["0"] * nothing + [*map(str, ticks)])
    ax.xaxis.set_minor_locator(NullLocator())
    return ax
