"""The figures of the chapter *Is too much rank benign?*."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

__all__ = ["convergence", "curvatures", "losses", "risk_by_rank", "risk_paths", "surplus_by_scale", "surplus_paths"]

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
MARKS = "os^Dv<P"
ZERO = 1e-18  # where rounding is drawn on a logarithmic axis


def convergence(
    times: ArrayLike, errors: Mapping[int, ArrayLike], late: Mapping[int, ArrayLike] | None = None, ax: Axes | None = None
) -> Axes:
    """Error against time for several ranks: median of the starts, with all of them as a band.

    Parameters
    ----------
    times : array_like, shape (T,)
    errors : mapping of int to array_like, shape (starts, T)
        By rank; in units of the first value.
    late : mapping of int to array_like, shape (T,), optional
        Predicted late errors, dotted; with them the axis is logarithmic.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for (rank, runs), colour in zip(errors.items(), COLOURS, strict=False):
        ax.fill_between(times, np.min(runs, axis=0), np.max(runs, axis=0), color=colour, alpha=0.25, lw=0)
        ax.plot(times, np.median(runs, axis=0), color=colour, label=f"r = {rank}")
        if late is not None:
            ax.plot(times, late[rank], ":", color=colour, lw=1.3)
    if late is not None:
        ax.set_yscale("log")
    ax.set(xlabel="time t (1 / unit of λ)", ylabel="error, share of its first value")
    return ax


def surplus_paths(steps: ArrayLike, paths: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """The largest surplus singular value against steps; values below 1e-18 are drawn there.

    Parameters
    ----------
    steps : array_like, shape (T,)
    paths : mapping of str to array_like, shape (T,)
        By method.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis.
    """
    ax = ax or plt.subplots()[1]
    for (name, values), colour in zip(paths.items(), COLOURS, strict=False):
        ax.plot(steps, np.maximum(values, ZERO), color=colour, label=name)
    ax.set(yscale="log", ylim=(ZERO / 3, 3), xlabel="step", ylabel="surplus singular value")
    return ax


def surplus_by_scale(scales: ArrayLike, largest: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """The largest surplus singular value of a whole run against the scale of its start.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    largest : mapping of str to array_like, shape (k,)
        By method, in the colours of `surplus_paths`.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Logarithmic, with eps^2 as a grey line.
    """
    ax = ax or plt.subplots()[1]
    ax.plot(scales, np.square(scales), "--", color="black", lw=1.2, label="ε²")
    for (name, values), colour, mark in zip(largest.items(), COLOURS, MARKS, strict=False):
        ax.plot(scales, np.maximum(values, ZERO), mark, ls="-", color=colour, lw=1.2, ms=6, label=name)
    ax.set(xscale="log", yscale="log", ylim=(ZERO / 3, 3), xlabel="scale ε of the start", ylabel="largest surplus in the run")
    return ax


def risk_paths(times: ArrayLike, risks: Mapping[int, ArrayLike], ax: Axes | None = None) -> Axes:
    """Risk against time for several ranks: mean over the draws, and a band of two standard errors.

    Parameters
    ----------
    times : array_like, shape (T,)
        The first, 0, is left out of the logarithmic axis.
    risks : mapping of int to array_like, shape (draws, T)
        By rank.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for (rank, runs), colour in zip(risks.items(), (BLUE, GREEN, VERMILLION), strict=False):
        mean, error = np.mean(runs, axis=0), 2 * np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
        ax.fill_between(times[1:], (mean - error)[1:], (mean + error)[1:], color=colour, alpha=0.25, lw=0)
        ax.plot(times[1:], mean[1:], color=colour, label=f"r = {rank}")
    ax.set(xscale="log", ylim=(0, None), xlabel="training time t", ylabel="excess risk")
    return ax


def risk_by_rank(
    ranks: ArrayLike, trained: ArrayLike, others: Mapping[str, Mapping[int, ArrayLike]], true_rank: int, ax: Axes | None = None
) -> Axes:
    """Excess risk against rank: at the end of training, and with remedies; bars are two standard errors.

    Parameters
    ----------
    ranks : array_like, shape (k,)
    trained : array_like, shape (draws, k)
        At the end of training.
    others : mapping of str to (mapping of int to array_like, shape (draws,))
        By name, then by rank.
    true_rank : int
        Marked by a line.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axvline(true_rank, color=GREY, lw=1, ls="--")
    ax.plot(ranks, np.mean(trained, axis=0), color="black", label="trained to the end")
    styles = enumerate(zip((ORANGE, PURPLE, SKY, GREEN), MARKS, strict=False))
    for (name, by_rank), (k, (colour, mark)) in zip(others.items(), styles, strict=False):
        values = np.array(list(by_rank.values()))  # (ranks, draws)
        error = 2 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        shift = 0.45 * k - 0.45  # so that no mark hides another
        ax.errorbar(np.add(list(by_rank), shift), values.mean(axis=1), error, fmt=mark, color=colour, capsize=3, ms=6, label=name)
    ax.set(ylim=(0, None), xlabel="rank r", ylabel="excess risk")
    return ax


def losses(sizes: ArrayLike, models: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """The loss along a training path, true and as expansions around its start predict it.

    Parameters
    ----------
    sizes : array_like, shape (k,)
        Size of the update.
    models : mapping of str to array_like, shape (k,)
        By name; the first is the true loss.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    styles = (("black", "-", "o"), (VERMILLION, "--", "v"), (BLUE, "-", "s"), (GREEN, ":", "^"))
    for (name, values), (colour, line, mark) in zip(models.items(), styles, strict=False):
        ax.plot(sizes, values, line, marker=mark, color=colour, ms=4.5, label=name)
    ax.set(xlabel="size of the update, share of the weights (%)", ylabel="training loss")
    return ax


def curvatures(values: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """Curvature of a loss along directions, a row for each kind of direction; negative values are drawn hollow.

    Parameters
    ----------
    values : mapping of str to array_like, shape (k,)
        By kind of direction, per unit of squared length.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis for the size of the curvature.
    """
    ax = ax or plt.subplots()[1]
    for row, (found, colour) in enumerate(zip(values.values(), COLOURS, strict=False)):
        found = np.atleast_1d(found)
        for part, fill in ((found[found > 0], colour), (found[found < 0], "none")):
            ax.plot(np.abs(part), np.full(part.size, row), "o", ms=7, markerfacecolor=fill, markeredgecolor=colour)
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xscale="log", ylim=(len(values) - 0.5, -0.5), xlabel="|curvature| per unit of squared length")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", left=False)
    return ax
