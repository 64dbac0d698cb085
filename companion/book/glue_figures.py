"""Figures of the chapter *SpectralLoRA on GLUE*; where nothing is recorded yet, they say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.book.glue_tables import SEEDS, TASKS, printed_difference, task_name, unit_name
from companion.book.glue_spectra import draws, extrapolated, largest_gaps
from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, say_missing
from companion.book.record_tables import short_name
from companion.rank_rules import Spectrum
from companion.statistics import minimum_detectable_effect

__all__ = [
    "depth_figure", "detectable_figure", "differences_figure", "gap_figure", "growth_figure", "matrix_labels",
    "planted_figure", "rank_grid", "spectra_grid",
]  # fmt: skip


TASK_LOOKS = {
    "stsb": (BLUE, "o"), "rte": (VERMILLION, "s"), "mrpc": (GREEN, "^"), "sst2": (ORANGE, "v"),
    "qnli": (PURPLE, "D"), "qqp": (SKY, "P"), "mnli": ("#8c6d1f", "X"), "cola": ("black", "*"),
}  # fmt: skip
"""Colour and marker of a task, the same in every figure."""


def _look(task: str) -> tuple[str, str]:
    return TASK_LOOKS.get(task.removesuffix("-mini"), (GREY, "h"))


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
    for task, (n, clearance) in found.items():
        colour, marker = _look(task)
        share = (clearance[..., 0] > 1).mean(axis=1)
        left.plot(n, share, marker=marker, ms=4.5, color=colour, label=task_name(task))
        larger = [size for size in n if size > upto]
        if (n <= upto).sum() >= 2 and larger:
            guesses = np.concatenate([extrapolated(n, clearance, upto, size)[:, 0] for size in larger])
            right.plot(guesses, clearance[n > upto][..., 0].ravel(), marker, ms=4, color=colour)
    left.axvline(upto, color=GREY, lw=0.8)
    left.set(xscale="log", ylim=(-0.04, 1.04), xlabel="examples in the gradient", ylabel="share of matrices with a mode")
    reach = [clearance[n > upto][..., 0] for n, clearance in found.values() if (n > upto).any()]
    seen = np.concatenate([r.ravel() for r in reach]) if reach else np.ones(1)
    ends = np.array([min(0.3, 0.9 * seen.min()), max(4, 1.1 * seen.max())])
    right.fill_between(ends, ends / 2, ends * 2, color="#e7eef2", lw=0)
    right.plot(ends, ends, color=GREY, lw=1)
    right.axhline(1, color=GREY, lw=1, ls="--")
    right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    right.set(xlabel=f"σ₁ / floor, predicted from {upto}", ylabel="σ₁ / floor, observed")
    for axis in (right.xaxis, right.yaxis):
        ticks = [tick for tick in (0.5, 1, 2, 5, 10) if ends[0] <= tick <= ends[1]]
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    for ax in (left, right):
        ax.minorticks_off()
        ax.grid(visible=False)
    if found:
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    else:
        for ax in (left, right):
            say_missing(ax)
    return fig


def depth_figure(estimates: pd.DataFrame, tasks: Iterable[str]) -> Figure:
    """Largest gaps by layer, as they are and in units of the noise floor; 512 examples, mean over draws and heads."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.5))
    drawn = {task: found for task in tasks if len(found := draws(estimates, task))}
    for task, rows in drawn.items():
        colour = _look(task)[0]
        gaps, floors = largest_gaps(rows["metrics.values"].tolist()), np.array(rows["metrics.floor"].tolist())
        for ax, values in zip(axes, (gaps, gaps / floors), strict=True):
            middle = np.exp(np.log(np.maximum(values, 1e-12)).mean(axis=0))
            for kind, style in ((0, "o-"), (1, "s--")):
                ax.plot(middle[kind::2], style, ms=4, lw=1.2, color=colour)
        axes[0].plot([], [], color=colour, label=task_name(task))
    axes[0].plot([], [], "o-", color=GREY, ms=4, label="query")
    axes[0].plot([], [], "s--", color=GREY, ms=4, label="value")
    axes[0].set(yscale="log", xlabel="layer", ylabel="largest gap")
    axes[1].set(xlabel="layer", ylabel="largest gap / noise floor", ylim=(0, None))
    axes[1].axhline(1, color=GREY, lw=1, ls="--")
    axes[0].minorticks_off()
    if drawn:
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    else:
        for ax in axes:
            say_missing(ax)
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
        say_missing(axes[0, 0])
    return fig


def differences_figure(
    table: pd.DataFrame,
    printed: pd.DataFrame,
    methods: Sequence[str],
    reference: str = "uniform",
    judges: Sequence[str] | None = None,
) -> Figure:
    """Differences from the reference with 95 % intervals, a panel a task, and where P2 prints the same difference.

    Where `judges` are given, the title of every other task says that it is none.
    """
    tasks = [task for task in TASKS if len(table) and task in table.index.unique("task")]
    fig, axes = plt.subplots(1, max(len(tasks), 1), figsize=(8.4, 0.45 * len(methods) + 1.5), squeeze=False, sharex=True, sharey=True)
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
                ax.text(0.95, row, "–", color=GREY, **place)  # no runs; words, as outlines, would make the notebook large
            effect = printed_difference(printed, task, method, reference)
            if effect is not None:
                ax.plot(effect, row, "D", color=VERMILLION, ms=6, markeredgecolor="black", zorder=4)
        title = TASKS[task] + ("" if judges is None or task in judges else " (no judge)")
        ax.set(title=title, xlabel=f"points above {reference}", ylim=(len(methods) - 0.5, -0.5))
        ax.set_yticks(range(len(methods)), [short_name(method) for method in methods])
    handles = [plt.Line2D([], [], marker="o", color=BLUE, label="measured, 95 % interval"),
               plt.Line2D([], [], marker="D", color=VERMILLION, markeredgecolor="black", lw=0, label="P2, table 3"),
               plt.Rectangle((0, 0), 1, 1, color="#e7eef2", label="half a point")]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    if not tasks:
        say_missing(axes[0, 0])
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


def worth_figure(worth: pd.DataFrame | None, found: Mapping[str, Mapping[str, int]]) -> Figure:
    """What rank is worth in every unit of the measured oracle (points: seeds), and below it what rules answer there."""
    fig, (above, below) = plt.subplots(2, 1, figsize=(8.4, 4.8), sharex=True, height_ratios=[3, 2])
    if worth is None:
        say_missing(above), say_missing(below)
        return fig
    place = np.arange(len(worth))
    above.axhline(0, color=GREY, lw=1)
    above.bar(place, worth.mean(axis=1), 0.7, color="#cfe0ea", label="mean")
    for shift, seed in zip(np.linspace(-0.15, 0.15, worth.shape[1]), worth, strict=True):
        above.plot(place + shift, worth[seed], "o", color=BLUE, ms=5, label="a seed" if seed == worth.columns[0] else None)
    above.set(ylabel="loss at rank 0\nminus at rank 8")
    above.legend()
    for (rule, ranks), colour, marker in zip(found.items(), (VERMILLION, GREEN, ORANGE), "sD^", strict=False):
        total = sum(ranks.values()) or 1
        below.plot(place, [100 * ranks[unit] / total for unit in worth.index], marker, ls="-", lw=1, color=colour, ms=5.5, label=rule)
    by_layer = unit_name(worth) == "layers"
    names = [unit.split(".")[-3] for unit in worth.index] if by_layer else matrix_labels(worth.index)
    below.set(xlabel="layer" if by_layer else "matrix (layer, query or value)", ylabel="share of the\nrule's ranks (%)")
    below.set_xticks(place, names)
    below.set_ylim(bottom=0)
    below.legend(ncols=3)
    for ax in (above, below):
        ax.grid(axis="x", visible=False)
    return fig

