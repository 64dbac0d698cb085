"""The figures of the chapter *K\\*: the printed rule*."""

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
    "bias_variance",
    "decay_map",
    "decay_map_key",
    "match_rates",
    "price_of_a_mode",
    "printed_and_found",
    "ranks_by_samples",
    "spectrum",
]

PALE = "#fbe3d3"  # a background of vermillion
NOTHING = "#cfcfcf"
SHOWN = 20  # modes of a spectrum
ERRORS = {0: "#e3f1fa", 2: "#9fd0ee", 5: BLUE, 12: ORANGE, 40: VERMILLION}  # per cent from which a colour is used


def spectrum(
    true: ArrayLike, observed: ArrayLike, printed: float, edge: float, k_star: int, best: float, ax: Axes | None = None
) -> Axes:
    """Singular values of estimated weights with the printed threshold, the edge of their noise, and two ranks.

    Parameters
    ----------
    true : array_like, shape (k,)
        Singular values of W*.
    observed : array_like, shape (replicates, k)
        Singular values of the estimates; medians are drawn.
    printed, edge : float
        Printed threshold, and where the noise ends.
    k_star, best : int, float
        Ranks: the modes before `k_star` are shaded, `best` is a line.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis; modes are numbered from 0.
    """
    ax = ax or plt.subplots()[1]
    modes = np.arange(min(len(true), SHOWN))
    middle = np.median(np.asarray(observed)[:, : len(modes)], axis=0)
    ax.axvspan(-0.6, k_star - 0.5, color=PALE, lw=0, label="modes before K*")
    ax.axvline(best - 0.5, color=GREEN, lw=1.6, label="best rank")
    ax.axhline(printed, color=VERMILLION, ls="--", lw=1.4, label="P1's threshold")
    ax.axhline(edge, color=BLUE, lw=1.4, label="end of the noise")
    ax.plot(modes, np.asarray(true)[: len(modes)], color=GREY, lw=1.2, label="true singular value")
    ax.plot(modes, middle, "o", color="black", ms=3.5, label="estimated")
    ax.set(yscale="log", xlim=(-0.6, SHOWN - 0.4), ylim=(0.002, 1.6))
    ax.set_xticks([0, 5, 10, 15])
    ax.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    ax.yaxis.set_minor_locator(NullLocator())
    return ax


def bias_variance(curves: Mapping[str, ArrayLike], printed: int, ax: Axes | None = None) -> Axes:
    """Squared error against rank under several formulas, each with its minimum, and the printed rank.

    Parameters
    ----------
    curves : mapping of str to array_like, shape (ranks,)
        Squared error of rank 0, 1, … by name; the first is drawn as points.
    printed : int
        The rank that P1 calls optimal.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for (name, values), colour, style in zip(
        curves.items(), ("black", VERMILLION, GREEN), ("o", "--", "-"), strict=True
    ):
        values = np.asarray(values)
        ax.plot(values, style, color=colour, ms=4, label=name)
        lowest = int(np.argmin(values))
        ax.plot(lowest, values[lowest], "o", color=colour, ms=13, markerfacecolor="none", markeredgewidth=1.6, zorder=3)
    ax.axvline(printed, color=ORANGE, lw=1.6, label="K*")
    ax.set(yscale="log", xlabel="rank", ylabel="squared error of the weights")
    ax.yaxis.set_minor_locator(NullLocator())
    return ax


def price_of_a_mode(
    ranks: ArrayLike, cut: ArrayLike, known: ArrayLike, formula: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Variance per kept mode in units of sigma²/n against rank: printed (one), measured, derived.

    Parameters
    ----------
    ranks : array_like, shape (k,)
        Ranks of W*.
    cut, known : array_like, shape (k,)
        Measured with the singular vectors of the estimate, and with those of W*.
    formula : array_like, shape (k,)
        Derived for the first.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.plot(ranks, formula, color=GREEN, label="free parameters per mode")
    ax.plot(ranks, cut, "o", color="black", ms=5, label="measured, vectors estimated")
    ax.axhline(1, color=VERMILLION, ls="--", label="P1 eq. 7")
    ax.plot(ranks, known, "s", color=PURPLE, ms=5, label="measured, vectors known")
    ax.set(xscale="log", yscale="log", ylim=(0.5, 250), xlabel="rank of W*", ylabel="variance per mode (σ²/n)")
    ax.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def printed_and_found(
    printed: pd.Series, found: Mapping[str, pd.DataFrame], formula: pd.Series | None = None, ax: Axes | None = None
) -> Axes:
    """A printed column of ranks on what replicates give: a row for each task, a bar to the printed entry.

    Parameters
    ----------
    printed : Series
        Ranks by task.
    found : mapping of str to DataFrame
        By name, with a row for each task and the columns `low`, `middle`, `high`; NaN where there is none.
    formula : Series, optional
        Ranks by task that no data enter.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With ranks on a logarithmic axis.
    """
    ax = ax or plt.subplots()[1]
    rows = np.arange(len(printed))
    shifts = np.linspace(0, 0.3, len(found)) if len(found) > 1 else [0.0]
    first = next(iter(found.values())).loc[printed.index, "middle"].fillna(printed)
    ax.hlines(rows, np.minimum(printed, first), np.maximum(printed, first), color=PALE, lw=9)
    for (name, table), shift, colour in zip(found.items(), shifts, (BLUE, GREEN), strict=False):
        table = table.loc[printed.index]
        ax.hlines(rows + shift, table["low"], table["high"], color=colour, lw=2)
        ax.plot(table["middle"], rows + shift, "o", color=colour, ms=7.5, label=name)
    if formula is not None:
        style = {"markerfacecolor": "none", "markeredgewidth": 1.4}
        ax.plot(formula.loc[printed.index], rows, "o", color="black", ms=12, label="eq. 6, true ρ", **style)
    ax.plot(printed, rows, "D", color=VERMILLION, ms=6, markeredgecolor="white", label="printed", zorder=3)
    ax.set_yticks(rows, printed.index)
    ax.set(xscale="log", xlim=(0.8, 24), ylim=(len(rows) - 0.4, -0.6), xlabel="rank")
    ax.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", left=False)
    return ax


def match_rates(rates: Mapping[str, pd.DataFrame], printed: float, ax: Axes | None = None) -> Axes:
    """Match rates with intervals at several tolerances, a row for each way to get a rank.

    Parameters
    ----------
    rates : mapping of str to DataFrame
        By name, with the tolerance as index and the columns `rate`, `low`, `high`.
    printed : float
        The printed rate: a line.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    tolerances = next(iter(rates.values())).index
    for tolerance, shift, colour, mark in zip(tolerances, (-0.2, 0, 0.2), (BLUE, SKY, ORANGE), "os^", strict=True):
        table = pd.DataFrame([table.loc[tolerance] for table in rates.values()])
        heights = np.arange(len(rates)) + shift
        ax.hlines(heights, table["low"], table["high"], color=colour, lw=2)
        ax.plot(table["rate"], heights, mark, color=colour, label="exact" if tolerance == 0 else f"within {tolerance}")
    ax.axvline(printed, color=VERMILLION, ls="--", lw=1.4, label="printed rate")
    ax.set_yticks(range(len(rates)), list(rates))
    ax.set(xlim=(0, 1), ylim=(len(rates) - 0.5, -0.5), xlabel="share that matches")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", left=False)
    return ax


def decay_map(
    decays: ArrayLike, noises: ArrayLike, errors: ArrayLike, ends: ArrayLike, tasks: Sequence[tuple[float, float]],
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Median error of an estimated decay rate, by the rate and by the noise; grey where there is none.

    Parameters
    ----------
    decays, noises : array_like, shapes (k,) and (m,)
        Geometric grids.
    errors : array_like, shape (m, k)
        In per cent; NaN where there is no estimate.
    ends : array_like, shape (k,)
        The noise above which the second true mode is below the threshold: a line.
    tasks : sequence of (float, float)
        Decay and noise of tasks to be marked.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    classes = np.digitize(errors, list(ERRORS)[1:]) + 0.0 * np.asarray(errors)  # NaN stays
    colours = ListedColormap(list(ERRORS.values()))
    ax.set_facecolor(NOTHING)
    ax.pcolormesh(decays, noises, classes, cmap=colours, vmin=-0.5, vmax=len(ERRORS) - 0.5, shading="nearest", rasterized=True)
    ax.plot(decays, ends, color="black", lw=1.6)
    ax.plot(*zip(*tasks, strict=True), "o", color="white", markeredgecolor="black", ms=7, clip_on=False, zorder=3)
    ax.set(xscale="log", yscale="log", xlabel="decay rate ρ", xlim=(decays[0], decays[-1]), ylim=(noises[0], noises[-1]))
    for axis, ticks in ((ax.xaxis, (1.2, 2, 5, 10)), (ax.yaxis, (0.01, 0.1, 1))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    ax.grid(visible=False)
    return ax


def decay_map_key() -> list[Patch]:
    """The colours of `decay_map` with their meaning, for a legend."""
    ends = [*ERRORS, np.inf]
    names = [f"{low} to {high} %" if high < np.inf else f"above {low} %" for low, high in pairwise(ends)]
    patches = [Patch(color=colour, label=name) for name, colour in zip(names, ERRORS.values(), strict=True)]
    return [*patches, Patch(color=NOTHING, label="no estimate")]


def ranks_by_samples(
    samples: ArrayLike, best: pd.DataFrame, above: ArrayLike, lines: Mapping[str, ArrayLike], ax: Axes | None = None
) -> Axes:
    """Ranks against the number of samples: best and counted from data, and formulas.

    Parameters
    ----------
    samples : array_like, shape (k,)
        Numbers of samples.
    best : DataFrame
        Columns `low`, `middle`, `high`: rank of least risk.
    above : array_like, shape (k,)
        Singular values of the estimate above the printed threshold.
    lines : mapping of str to array_like, shape (k,)
        Formulas by name; the first is P1's.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    styles = ((VERMILLION, "--"), (GREEN, "-"), (GREY, ":"))
    for (name, values), (colour, style) in zip(lines.items(), styles, strict=False):
        ax.plot(samples, values, style, color=colour, label=name)
    ax.plot(samples, above, "x", color=VERMILLION, ms=6, label="estimated modes above P1's threshold")
    ax.vlines(samples, best["low"], best["high"], color="black", lw=1.6)
    ax.plot(samples, best["middle"], "o", color="black", ms=5, label="best rank, measured")
    ax.set(xscale="log", xlabel="number of examples n", ylabel="rank", ylim=(-0.5, 17))
    ax.xaxis.set_minor_locator(NullLocator())
    return ax
