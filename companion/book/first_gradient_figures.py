"""The figures of the chapter *Reading the rank off the first gradient*."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, VERMILLION

__all__ = [
    "detection", "mode_order", "modes_by_constant", "ranks_by_examples", "rules_by_spectrum", "worth_keeping",
]  # fmt: skip

RULES = {  # colour, marker and line of a rule, by its place
    0: (VERMILLION, "D", "-"),
    1: (ORANGE, "s", "-"),
    2: (PURPLE, "v", "-"),
    3: (BLUE, "o", "-"),
    4: (GREEN, "^", "-"),
}


def rules_by_spectrum(table: pd.DataFrame, rules: list[str], highest: float) -> Figure:
    """`ranks_by_examples` for each spectrum of a table, in two columns.

    Parameters
    ----------
    table : DataFrame
        A row for each draw, with the columns `spectrum`, `n`, `best`, and one for each rule.
    rules : list of str
        Columns to draw.
    highest : float
        Upper end of the rank axis.

    Returns
    -------
    Figure
    """
    groups = dict(tuple(table.groupby("spectrum", sort=False)))
    fig, axes = plt.subplots(-(-len(groups) // 2), 2, figsize=(8, 3 * -(-len(groups) // 2)), sharex=True, sharey=True)
    for ax, (name, part) in zip(axes.flat, groups.items(), strict=False):
        examples = part["n"].unique()
        ranks = {rule: part[rule].to_numpy().reshape(len(examples), -1) for rule in rules}
        ranks_by_examples(examples, part["best"].to_numpy().reshape(len(examples), -1), ranks, highest, ax)
        ax.set_title(name)
    for row in np.atleast_2d(axes):
        row[0].set_ylabel("rank")
    for ax in np.atleast_2d(axes)[-1]:
        ax.set_xlabel("examples in the gradient")
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def worth_keeping(
    strengths: ArrayLike, curves: Mapping[str, ArrayLike], points: Mapping[str, tuple[ArrayLike, ArrayLike]],
    zeros: Mapping[str, float], ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """What keeping a mode adds to the squared error, against its strength, for matrices of several shapes.

    Parameters
    ----------
    strengths : array_like, shape (k,)
        Squared strength of a mode, in units of noise variance times larger side.
    curves : mapping of str to array_like, shape (k,)
        By shape: the limit of large matrices, in the same units.
    points : mapping of str to (array_like, array_like)
        By shape: measured at some strengths.
    zeros : mapping of str to float
        By shape: the strength from which keeping pays.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axhline(0, color="#444444", lw=1)
    for (name, curve), colour in zip(curves.items(), PALETTE, strict=False):
        ax.plot(strengths, curve, color=colour, label=name)
        ax.plot(*points[name], "o", color=colour, ms=5)
        ax.plot(zeros[name], 0, "o", color="white", markeredgecolor=colour, markeredgewidth=2, ms=10, zorder=3)
        ax.annotate(
            f"{zeros[name]:.2f}", (zeros[name], 0), (-34, -17), textcoords="offset points", color=colour, fontweight="bold"
        )
    ax.set(xlim=(0, float(np.max(strengths))), xlabel=r"strength of the mode, $\lambda^2 n / (\sigma^2 d_{\max})$")
    ax.set_ylabel("change of the squared error\n" r"(units of $\sigma^2 d_{\max}/n$)")
    return ax


def modes_by_constant(
    constants: ArrayLike, found: Mapping[int, ArrayLike], edge: float, true: int, ax: Axes | None = None
) -> Axes:
    """Modes that a threshold finds against its constant, for several numbers of examples.

    Parameters
    ----------
    constants : array_like, shape (k,)
        C' in units of the noise variance.
    found : mapping of int to array_like, shape (k,)
        Mean number of modes by number of examples.
    edge : float
        The constant at the edge of the noise.
    true : int
        True rank.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axvspan(0, edge, color="#fbe3d3", lw=0)
    ax.axhline(true, color=GREY, ls="--", lw=1.2, label=f"true rank {true}")
    for (n, values), colour, width in zip(found.items(), ("#9fd0ee", BLUE, "black"), (7, 3.4, 1.2), strict=False):
        ax.plot(constants, values, color=colour, lw=width, label=f"n = {n:,}")
    ax.axvline(edge, color=VERMILLION, lw=1.4, label="edge of the noise")
    ax.set(xlabel="constant C′ of equation 7 (units of the noise variance)", ylabel="modes found (mean)")
    ax.set(xlim=(0, float(np.max(constants))), ylim=(0, None))
    return ax


def ranks_by_examples(
    examples: ArrayLike, best: ArrayLike, rules: Mapping[str, ArrayLike], highest: float, ax: Axes | None = None
) -> Axes:
    """Ranks that rules choose as the examples grow, on the ranks of least risk.

    Parameters
    ----------
    examples : array_like, shape (k,)
        Numbers of examples.
    best : array_like, shape (k, draws)
        Ranks of least risk; a band from the second lowest to the second highest, and the median.
    rules : mapping of str to array_like, shape (k, draws)
        Chosen ranks by rule; medians are drawn.
    highest : float
        Upper end of the rank axis; what leaves it is cut.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ordered = np.sort(best, axis=1)
    ax.fill_between(examples, ordered[:, 1], ordered[:, -2], color="#dddddd", lw=0)
    ax.plot(examples, np.median(best, axis=1), color="black", lw=3, label="least risk")
    for place, (name, values) in enumerate(rules.items()):
        colour, marker, line = RULES[place]
        ax.plot(examples, np.median(values, axis=1), line, marker=marker, color=colour, ms=4, lw=1.3, label=name)
    ax.set(xscale="log", ylim=(-0.5, highest))
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def detection(
    strengths: ArrayLike, curves: Mapping[str, ArrayLike], visible: float, level: float, ax: Axes | None = None
) -> Axes:
    """How often a mode is found against its strength, by way of finding it.

    Parameters
    ----------
    strengths : array_like, shape (k,)
        Of the planted mode, in units of the strength at which it leaves the noise.
    curves : mapping of str to array_like, shape (k,)
        Shares of draws by name.
    visible : float
        That strength: a line.
    level : float
        False-alarm rate: a line.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axvline(visible, color=GREY, lw=1)
    ax.axhline(level, color=GREY, lw=1, ls=":")
    styles = (("black", "-", 3.2), (BLUE, "-", 1.8), (GREEN, "-", 1.8), (VERMILLION, "--", 1.8))
    for (name, values), (colour, line, width) in zip(curves.items(), styles, strict=False):
        ax.plot(strengths, values, line, color=colour, lw=width, label=name)
    ax.set(ylim=(0, 1.03), xlabel="strength of the mode (1: leaves the noise in large matrices)", ylabel="share found")
    return ax


def mode_order(columns: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """The sizes of the same modes in several matrices, a line for each mode.

    Parameters
    ----------
    columns : mapping of str to array_like, shape (modes,)
        Size of mode 1, 2, … by name of the matrix.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis of sizes.
    """
    ax = ax or plt.subplots(figsize=(6.4, 4.4))[1]
    sizes = np.array(list(columns.values()), float)
    places = np.arange(len(sizes))
    for mode, (values, colour) in enumerate(zip(sizes.T, PALETTE, strict=False), start=1):
        ax.plot(places, values, "o-", color=colour, lw=2.4, ms=13)
        for place, value in zip(places, values, strict=True):
            ax.text(place, value, str(mode), color="white", ha="center", va="center_baseline", fontsize=8.5, fontweight="bold")
    ax.set(yscale="log", xlim=(-0.3, len(sizes) - 0.7), ylabel="singular value")
    ax.set_xticks(places, list(columns))
    ticks = [t for t in (0.25, 0.5, 1, 2, 4) if sizes.min() / 1.3 <= t <= sizes.max() * 1.3]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", visible=False)
    return ax
