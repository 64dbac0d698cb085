"""The figures of the chapter *Do real layers follow the law?*"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from companion.book.layer_laws import PREDICTIONS, Layer, activation, half_times, predict
from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from companion.book.real_layers import SCALING
from companion.book.task_vectors import KINDS

__all__ = [
    "decay_of_spectra", "early_growth", "first_checkpoint", "half_times_scatter", "overlaps", "paths", "worth",
]  # fmt: skip

RUN_COLOURS = {
    "AdamW, PEFT's start": VERMILLION,
    "SGD, small frame": BLUE,
    "SGD, PEFT's start": GREEN,
    "AdamW, small frame": ORANGE,
}
KNOWN = {"start": "before training", "end": "last values given", "half": "first half given"}


def _dots(ax: Axes, x: ArrayLike, y: ArrayLike, colour: str, size: float, label: str | None = None) -> None:
    """Round dots as one path, once the scales are set: in an SVG a marker of its own takes five times the room."""
    points = np.column_stack([np.ravel(x), np.ravel(y)])
    points = points[np.all(np.isfinite(points), axis=1)]
    if len(points):
        shift = 2e-3 * (points[:, 0] if ax.get_xscale() == "log" else np.full(len(points), np.ptp(points[:, 0]) or 1.0))
        ends = points + np.column_stack([shift, np.zeros(len(points))])  # not of length zero, which some renderers leave out
        corners = np.vstack([np.stack([points, ends], axis=1).reshape(-1, 2), points[-1:], points[-1:]])
        # with a closed piece nothing is simplified: one of its own, or the last dot would lose its round ends
        codes = [*[Outline.MOVETO, Outline.LINETO] * len(points), Outline.MOVETO, Outline.CLOSEPOLY]
        outline = Outline(corners, codes)
        ax.add_patch(PathPatch(outline, edgecolor=colour, facecolor="none", lw=size, capstyle="round", snap=False, zorder=2.5))
        ax.plot(*points.T, ls="none")  # for the limits of the axes
    if label:
        ax.plot([], [], "o", color=colour, ms=size, markeredgewidth=0, label=label)


def early_growth(times: ArrayLike, seen: ArrayLike, linear: ArrayLike, growing: ArrayLike, ax: Axes | None = None) -> Axes:
    """Singular values along a path with two predictions from the first gradient.

    Parameters
    ----------
    times : array_like, shape (T,)
    seen, linear, growing : array_like, shape (T, modes)
        As seen; in proportion to time; with a constant gradient.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    for mode, colour in enumerate((BLUE, GREEN, ORANGE)[: np.shape(seen)[1]]):
        ax.plot(times, np.asarray(linear)[:, mode], color=colour, lw=1, ls=":")
        ax.plot(times, np.asarray(growing)[:, mode], color=colour, lw=1.4)
        _dots(ax, times, np.asarray(seen)[:, mode], colour, 4.5, f"mode {mode + 1}")
    ax.set(xlabel="time t (sum of step sizes)")
    ax.yaxis.set_minor_locator(NullLocator())
    return ax


def first_checkpoint(found: Mapping[str, Sequence[Layer]], ax: Axes | None = None) -> Axes:
    """Singular values at the first checkpoint against what the first gradient says of them.

    Parameters
    ----------
    found : mapping of str to sequence of Layer
        From `companion.book.layer_laws.layers`.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    ax.set(xscale="log", yscale="log", xlabel="predicted singular value", ylabel="seen after 50 steps")
    ends = []
    for label, colour in RUN_COLOURS.items():
        if parts := found.get(label):
            predicted = np.concatenate([layer.times[1] / SCALING * layer.slopes for layer in parts])
            _dots(ax, predicted, np.concatenate([layer.seen[1] for layer in parts]), colour, 4, label)
            ends += [predicted.min(), predicted.max()]
    if ends:
        ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", lw=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def paths(parts: Sequence[Layer], names: Sequence[str], modes: Sequence[int] = (0, 2), columns: int = 2) -> Figure:
    """A panel for each matrix: singular values of its update by time, and predictions.

    Parameters
    ----------
    parts : sequence of Layer
        Of one run.
    names : sequence of str
        Two of `companion.book.layer_laws.PREDICTIONS`: dashed, and thin.
    modes : sequence of int
        Which to draw, counted from 0.
    columns : int
        Panels in a row.
    """
    rows = -(-max(len(parts), 1) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(8, 2.6 * rows + 0.6), sharex=True, squeeze=False)
    if not parts:
        axes[0, 0].text(0.1, 0.5, "not recorded yet", transform=axes[0, 0].transAxes)
    styles = ({"ls": "--", "lw": 1.4}, {"ls": "-", "lw": 0.9})
    for ax, layer in zip(axes.flat, parts, strict=False):
        curves = [predict(layer, name)[0] for name in names]
        known = layer.times[layer.half - 1]
        ax.axvspan(0, known, color="#f2f2f2", lw=0)
        for mode, colour in zip(modes, (BLUE, VERMILLION), strict=False):
            _dots(ax, layer.times[::2], layer.seen[::2, mode], colour, 3, f"mode {mode + 1}, seen")
            for curve, style in zip(curves, styles, strict=True):
                ax.plot(layer.times[::2], curve[::2, mode], color=colour, **style)
        ax.set_title(layer.name, fontsize=10)
        ax.set_ylim(0, 1.25 * layer.seen.max())
        ax.locator_params(nbins=4)
    fig.supxlabel("time τ (scaling times the sum of the learning rates)", fontsize=11)
    fig.supylabel("singular value of the update", fontsize=11)
    return fig


def worth(rows: pd.DataFrame, names: Sequence[str] = tuple(PREDICTIONS), ax: Axes | None = None, low: float = -1.0) -> Axes:
    """R² of every prediction: a line over the middle half of the matrices of each run, a dot at their median.

    Parameters
    ----------
    rows : DataFrame
        From `companion.book.layer_laws.table`.
    names : sequence of str
        Of `companion.book.layer_laws.PREDICTIONS`, in its order.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    low : float
        Smaller values are drawn there, a median as a triangle.
    """
    ax = ax or plt.subplots(figsize=(8, 5.4))[1]
    labels = [label for label in RUN_COLOURS if label in set(rows["run"])]
    shifts = np.linspace(-0.27, 0.27, len(labels)) if len(labels) > 1 else [0.0]
    kinds = [PREDICTIONS[name][0] for name in names]
    groups = list(dict.fromkeys(kinds))
    places = np.arange(len(names)) + [0.9 * groups.index(kind) for kind in kinds]
    for label, shift in zip(labels, shifts, strict=True):
        colour = RUN_COLOURS[label]
        quartiles = rows[rows["run"] == label].groupby("prediction")["R2"].quantile([0.25, 0.5, 0.75]).unstack().loc[list(names)]
        heights, q = places + shift, np.maximum(quartiles.to_numpy(), low)
        gaps = np.full(len(names), np.nan)
        ax.plot(np.c_[q[:, 0], q[:, 2], gaps].ravel(), np.c_[heights, heights, gaps].ravel(), color=colour, lw=2)
        inside = quartiles[0.5].to_numpy() > low
        _dots(ax, q[inside, 1], heights[inside], colour, 6, label)
        if not inside.all():
            ax.plot(q[~inside, 1], heights[~inside], "<", color=colour, ms=6, clip_on=False)
    ax.set_yticks(places, [name.partition(", λ")[0] for name in names], fontsize=9)
    for kind in groups:
        ax.text(low, places[kinds.index(kind)] - 0.75, KNOWN[kind], fontsize=9, style="italic", va="center")
    ax.axvline(0.937, color="black", lw=1, ls="--", label="printed")
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set(xlim=(low - 0.06, 1.03), ylim=(places[-1] + 0.5, -1.1), xlabel="R² (median and middle half of twelve matrices)")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", left=False)
    return ax


def half_times_scatter(found: Mapping[str, Sequence[Layer]], law: str, ax: Axes | None = None) -> Axes:
    """When modes reach half of their last value against the time that a law predicts, as shares of the training time.

    Parameters
    ----------
    found : mapping of str to sequence of Layer
        From `companion.book.layer_laws.layers`.
    law : str
        As for `companion.book.layer_laws.activation`.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    ax.set(xscale="log", yscale="log", ylim=(0.04, 1.2), xlabel="predicted half-time, share of the training", ylabel="seen half-time")
    for label, colour in RUN_COLOURS.items():
        if parts := found.get(label):
            predicted = [activation(layer, law) / layer.times[-1] for layer in parts]
            _dots(ax, predicted, [half_times(layer) / layer.times[-1] for layer in parts], colour, 3.5)
    ax.plot([0.04, 1.2], [0.04, 1.2], color="black", lw=1)
    ax.set_ylim(0.04, 1.2)
    ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def decay_of_spectra(spectra: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """Median spectra over the largest value, with lines through modes 1 to 8 that go on to mode 16.

    Parameters
    ----------
    spectra : mapping of str to array_like, shape (matrices, 16)
        By name.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    modes = np.arange(1, 17)
    for (name, values), colour, mark in zip(spectra.items(), (BLUE, VERMILLION, GREEN, PURPLE), "os^D", strict=False):
        values = np.asarray(values, float)
        middle = np.median(values / values[:, :1], axis=0)
        line = np.polyfit(modes[:8], np.log(middle[:8]), 1)
        ax.plot(modes, np.exp(np.polyval(line, modes)), color=colour, lw=1, ls="--")
        ax.plot(modes, middle, mark, color=colour, ms=4.5, label=name)
    ax.plot(modes, 1 / modes, color=GREY, lw=1, label="1 / k")
    ax.set(yscale="log", xlabel="mode k", ylabel="singular value over the first")
    ax.set_xticks([1, 4, 8, 12, 16])
    ax.yaxis.set_minor_locator(NullLocator())
    return ax


def overlaps(rows: pd.DataFrame, side: str, ax: Axes | None = None) -> Axes:
    """Overlap of leading subspaces over that of random ones, against their dimension, by kind of pair.

    Parameters
    ----------
    rows : DataFrame
        From `companion.book.task_vectors.kinds_of_pairs`.
    side : str
        ``"left"`` or ``"right"``.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    styles = {"same task": (BLUE, "o"), "two tasks": (VERMILLION, "s"), "same A": (GREEN, "^"), "other A": (SKY, "v")}
    for kind, (colour, mark) in styles.items():
        of_kind = rows[(rows["kind"] == kind) & (rows["side"] == side)].groupby("dimension")["ratio"]
        middle, error = of_kind.mean(), 2 * of_kind.sem()
        ax.errorbar(middle.index, middle, error, color=colour, fmt=f"{mark}-", ms=5, lw=1.4, label=KINDS[kind])
    ax.axhline(1, color="black", lw=1)
    ax.text(1, 1.08, "random subspaces", fontsize=8.5)
    ticks = sorted(set(rows["dimension"]))
    ax.set(xscale="log", yscale="log", xlabel="dimension of the subspaces", ylim=(0.4, 400))
    ax.set_xticks(ticks, [str(k) for k in ticks])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax
