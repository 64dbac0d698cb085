"""The figures of the chapter *Auditing the tables*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from companion.book.audit import Interval, Printed, attainable, interval, smallest_sd
from companion.book.plotting import BLUE, GREEN, GREY, SKY, VERMILLION

__all__ = ["count_lattice", "energy_ranks", "numbers_of_runs", "possible_t"]


def count_lattice(mean: Printed, sd: Printed, n: int, ax: Axes | None = None) -> Axes:
    """Every pair of mean and standard deviation that n whole numbers can have, around a printed pair.

    Parameters
    ----------
    mean, sd : str or Interval
        What is printed: a box in the figure.
    n : int
        How many whole numbers.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    mean, sd = interval(mean, "mean"), interval(sd, "sd")
    around = Interval(mean.low - 0.2, mean.high + 0.2)
    for ddof, colour, label in ((0, SKY, f"divided by {n}"), (1, BLUE, f"divided by {n - 1}")):
        ax.plot(*zip(*attainable(around, Interval(0, 0.6), n, ddof), strict=True), "o", color=colour, ms=4, label=label)
    size = mean.high - mean.low, sd.high - sd.low
    ax.add_patch(Rectangle((mean.low, sd.low), *size, color=VERMILLION, label="printed, with its rounding"))
    ax.set(xlabel=f"mean of {n} whole numbers", ylabel="standard deviation", ylim=(-0.03, 0.63))
    return ax


def numbers_of_runs(mean: Printed, sd: Printed, runs: Sequence[int], ax: Axes | None = None) -> Axes:
    """Smallest standard deviation of whole numbers with a printed mean, by how many there are.

    Parameters
    ----------
    mean, sd : str or Interval
        What is printed; the standard deviation is a band in the figure.
    runs : sequence of int
        Numbers of runs to look at.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    runs = np.asarray(runs)
    least = np.array([smallest_sd(mean, int(n)) for n in runs])
    fits = np.array([bool(attainable(mean, sd, int(n))) for n in runs])
    ax.axhspan(interval(sd).low, interval(sd).high, color=VERMILLION, alpha=0.35, lw=0)
    ax.plot(runs, least, "o", color=GREY, ms=3, label="smallest s.d. with this mean")
    ax.plot(runs[fits], least[fits], "o", color=GREEN, ms=6, label="mean and s.d. as printed")
    ax.set(xlabel="number of runs", ylabel="standard deviation", ylim=(0, None))
    return ax


def possible_t(rows: Mapping[str, tuple[Interval, Interval, Printed]], ax: Axes | None = None) -> Axes:
    """Printed t statistics on the ranges that the numbers beside them allow.

    Parameters
    ----------
    rows : mapping of str to (Interval, Interval, str)
        By test: the range as the paper words it, the range under another reading, the printed t.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic t axis; ranges that leave it are cut.
    """
    ax = ax or plt.subplots()[1]
    left, right = 0.15, 60.0
    for row, (as_worded, other, printed) in enumerate(rows.values()):
        for allowed, colour, height in ((other, "#cfe6f5", 0.62), (as_worded, SKY, 0.34)):
            low, high = max(allowed.low, left), min(allowed.high, right)
            ax.barh(row, high - low, height, low, color=colour)
        inside = as_worded.distance(printed) == 0
        style = {"color": "black"} if inside else {"color": VERMILLION, "markeredgecolor": "black"}
        value = (interval(printed).low + interval(printed).high) / 2
        ax.plot(value, row, "o" if inside else "D", ms=7, **style)
        ax.annotate(printed, (value, row), (0, 8), textcoords="offset points", ha="center", fontsize=8.5)
    ax.barh([0], [0], color=SKY, label="possible t (narrow)")
    ax.barh([0], [0], color="#cfe6f5", label="under another reading (tall)")
    ax.plot([], [], "o", color="black", label="printed, possible")
    ax.plot([], [], "D", color=VERMILLION, markeredgecolor="black", label="printed, outside")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xscale="log", xlim=(left, right), ylim=(len(rows) - 0.4, -0.75), xlabel="t statistic")
    ax.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20, 50], ["0.2", "0.5", "1", "2", "5", "10", "20", "50"])
    ax.grid(axis="y", visible=False)
    return ax


def energy_ranks(
    taus: Sequence[float],
    printed: Sequence[Printed],
    others: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
) -> Axes:
    """Printed mean ranks against the share of energy, and mean ranks of spectra that exist.

    Parameters
    ----------
    taus : sequence of float
        Shares of energy.
    printed : sequence of str
        Mean ranks as printed, with their rounding as error bars.
    others : mapping of str to sequence of float
        Mean ranks of real or made-up spectra, by name.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ends = [interval(value, "printed") for value in printed]
    middle, half = np.array([((e.low + e.high) / 2, (e.high - e.low) / 2) for e in ends]).T
    for (name, ranks), colour, marker in zip(others.items(), (GREEN, BLUE, GREY), "s^v", strict=False):
        ax.plot(taus, ranks, marker=marker, color=colour, lw=1.2, label=name)
    ax.errorbar(taus, middle, half, fmt="D-", color=VERMILLION, capsize=3, label="printed")
    ax.set(xlabel="τ, the share of energy demanded", ylabel="mean rank", ylim=(0, None))
    return ax
