"""Figures of the chapter *Tucker-LoRA on CIFAR-100*; where nothing is recorded yet, they say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, say_missing
from companion.book.vision_tables import KINDS, level, levels
from companion.gradients import GradientSpectrum
from companion.study_tables import mean_and_half

__all__ = ["ablation_figure", "difference_panel", "kept_figure", "modes_figure", "pareto_figure", "pareto_panel"]

LOOK = {
    "lora": (BLUE, "o"), "tucker": (VERMILLION, "s"), "tucker-qkv": (ORANGE, "D"), "tucker-layers": (PURPLE, "^"),
    "lokr": (GREEN, "v"), "loha": (SKY, "P"),
}  # fmt: skip
BAND = "#e7eef2"


def modes_figure(spectra: Mapping[str, Sequence[GradientSpectrum]]) -> Figure:
    """Singular values along the three modes in units of their noise floors: every matrix, and the median."""
    fig, axes = plt.subplots(1, 3, figsize=(8.8, 3.3), sharey=True)
    names = "heads", "place in the head", "model dimension"
    for mode, (ax, name) in enumerate(zip(axes, names, strict=True)):
        rows = [three[mode].singular_values[:16] / three[mode].noise_floor for three in spectra.values()]
        numbers = np.arange(1, len(rows[0]) + 1)
        for values in rows:
            ax.plot(numbers, values, color=SKY, lw=0.8, alpha=0.6)
        ax.plot(numbers, np.median(rows, axis=0), "o-", color=BLUE, ms=4, label="median of the matrices")
        ax.axhline(1, color=VERMILLION, ls="--", lw=1.3, label="noise floor")
        ax.set(xlabel="mode", title=f"along {name} ({spectra_size(spectra, mode)})", yscale="log", ylim=(0.02, 3))
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True, nbins=6))
    axes[0].set_ylabel("singular value / floor")
    axes[0].legend(loc="lower left")
    return fig


def spectra_size(spectra: Mapping[str, Sequence[GradientSpectrum]], mode: int) -> int:
    """The dimension along a mode."""
    return next(iter(spectra.values()))[mode].shape[0]


def kept_figure(parameters: Sequence[float], kept: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Share of the gradient's energy that is lost, against parameters, both logarithmic."""
    ax = ax or plt.subplots(figsize=(5.4, 3.6))[1]
    looks = (BLUE, "o", "-"), (VERMILLION, "s", "-"), (GREY, "x", "--")
    for (name, shares), (colour, mark, line) in zip(kept.items(), looks, strict=False):
        ax.plot(parameters, 1 - np.asarray(shares), marker=mark, ls=line, color=colour, ms=6, label=name)
    ax.set(xscale="log", yscale="log", xlabel="parameters of the adapter", ylabel="share of the energy lost")
    ax.legend()
    return ax


def pareto_figure(runs: pd.DataFrame, table: pd.DataFrame, printed: float) -> Figure:
    """`pareto_panel` and `difference_panel` side by side, with one legend below."""
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.6))
    pareto_panel(runs, axes[0])
    difference_panel(table, printed, axes[1])
    found = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    if found:
        fig.legend(found.values(), found, loc="outside lower center", ncols=4)
    return fig


def pareto_panel(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy against parameters: every run a small point, means with 95 % intervals, the anchors as lines."""
    ax = ax or plt.subplots()[1]
    if runs.empty:
        return say_missing(ax)
    for method, colour in (("probe", GREY), ("full", "black")):
        part = runs[runs["method"] == method]
        if len(part) > 1:
            mean, half = mean_and_half(part["score"])
            ax.axhspan(mean - half, mean + half, color=BAND, lw=0)
            ax.axhline(mean, color=colour, ls="--", lw=1.2, label=KINDS[method])
    for method, (colour, mark) in LOOK.items():
        part = runs[runs["method"] == method]
        if part.empty:
            continue
        ax.plot(part["parameters"], part["score"], ".", color=colour, ms=4, alpha=0.45)
        groups = [group for _, group in part.groupby("budget")]
        found = np.array([(group["parameters"].mean(), *mean_and_half(group["score"])) for group in groups])
        ax.errorbar(*found.T[:2], yerr=np.nan_to_num(found[:, 2]), color=colour, marker=mark, ms=6, lw=1.4, capsize=3, label=KINDS[method])
    ax.set(xscale="log", xlabel="parameters of the adapter", ylabel="accuracy on the test images, %")
    return ax


def difference_panel(table: pd.DataFrame, printed: float, ax: Axes | None = None) -> Axes:
    """Differences from LoRA at the same budget with 95 % intervals, and the difference that P2 prints."""
    ax = ax or plt.subplots()[1]
    budgets = levels(table)
    if not budgets:
        return say_missing(ax)
    methods = [name for name in LOOK if name in table.index.unique("method")]
    ax.axhspan(-0.5, 0.5, color=BAND, lw=0, label="half a point")
    ax.axhline(0, color=GREY, lw=1)
    ax.axhline(printed, color="black", ls=":", lw=1.5, label="P2, Tucker-LoRA")
    for shift, method in zip(np.linspace(-0.3, 0.3, len(methods) + 2)[1:-1], methods, strict=True):
        colour, mark = LOOK[method]
        for place, budget in enumerate(budgets):
            if (budget, method) in table.index:
                row = table.loc[(budget, method)]
                ax.plot([place + shift] * 2, [row["low"], row["high"]], color=colour, lw=2)
                ax.plot(place + shift, row["difference"], mark, color=colour, ms=6)
    ax.set_xticks(range(len(budgets)), budgets)
    ax.set(xlabel="budget, as the rank of uniform LoRA", ylabel="points above LoRA", xlim=(-0.5, len(budgets) - 0.5))
    return ax


def ablation_figure(scores: pd.Series, counts: Mapping[str, int], chosen: str, lora: pd.DataFrame) -> Axes:
    """Accuracy of Tucker-LoRA by its ranks, a row each in the order of parameters, with P2's ranks marked and LoRA between."""
    rows = [(counts[name], name, scores.xs(name, level="method")) for name in counts]
    rows += [(round(part["parameters"].mean()), f"LoRA {level(budget)}", part["score"]) for budget, part in lora.groupby("budget")]
    ax = plt.subplots(figsize=(7.2, 0.36 * max(len(rows), 4) + 0.9))[1]
    if scores.empty:
        return say_missing(ax)
    rows.sort(key=lambda row: row[0])
    for place, (_, name, values) in enumerate(rows):
        mean, half = mean_and_half(values) if len(values) > 2 else (values.mean(), 0.0)  # two seeds span the page
        colour, mark = (VERMILLION, "D") if name == chosen else (BLUE, "o") if name.startswith("LoRA") else (GREY, "s")
        ax.plot([mean - half, mean + half], [place] * 2, color=colour, lw=2)
        ax.plot(mean, place, mark, color=colour, ms=8 if name == chosen else 6)
        ax.plot(values, [place - 0.22] * len(values), ".", color=colour, ms=4, alpha=0.5)
    ax.set_yticks(range(len(rows)), [f"{name}   {count:7,d}" for count, name, _ in rows])
    ax.set(xlabel="accuracy on the test images, %", ylabel="ranks and parameters", ylim=(-0.6, len(rows) - 0.4))
    ax.grid(axis="y", visible=False)
    return ax
