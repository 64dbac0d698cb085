"""The figures of the chapter *tanh² or logistic? The exact dynamics*."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

__all__ = [
    "amplitudes",
    "fitted_curve",
    "fitted_rates",
    "half_time_ratios",
    "half_times",
    "one_mode",
    "order_shares",
    "overlay",
    "powers",
    "start_errors",
    "start_sizes",
    "thinned",
]

MODES = (BLUE, SKY, GREEN, ORANGE, VERMILLION)  # of the modes, by decreasing strength
PALE = "#c9c9c9"
TIME = "time t (1 / unit of λ)"
FLOOR = 1e-6  # below the picture
TOLERANCE = 0.001  # of the height of a panel: how far a thinned curve may be from the full one


def thinned(times: ArrayLike, values: ArrayLike, height: float) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve that its picture needs, so that notebooks stay small.

    Parameters
    ----------
    times, values : array_like, shape (T,)
    height : float
        Range of the vertical axis. No point of the full curve is farther than 0.1 % of it from the thinned one.

    Returns
    -------
    (ndarray, ndarray), each of shape (kept,)
        With the first and the last point.
    """
    x, y = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    kept, spans = {0, len(x) - 1}, [(0, len(x) - 1)]
    while spans:
        low, high = spans.pop()
        miss = np.abs(np.interp(x[low : high + 1], x[[low, high]], y[[low, high]]) - y[low : high + 1])
        if np.max(miss) > TOLERANCE * height:
            middle = low + int(np.argmax(miss))
            kept.add(middle)
            spans += [(low, middle), (middle, high)]
    chosen = sorted(kept)
    return x[chosen], y[chosen]


def one_mode(times: ArrayLike, curves: Mapping[str, ArrayLike], strength: float, ax: Axes | None = None) -> Axes:
    """One mode under several laws; the first is what happens.

    Parameters
    ----------
    times : array_like, shape (T,)
    curves : mapping of str to array_like, shape (T,)
        Amplitude by name of the law: four at most.
    strength : float
        lambda: a line at its half.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    styles = ((PALE, "-", 6), (GREEN, "-", 1.6), (ORANGE, "-.", 1.8), (VERMILLION, "--", 1.6))
    for (name, values), (colour, style, width) in zip(curves.items(), styles, strict=False):
        ax.plot(*thinned(times, values, strength), style, color=colour, lw=width, label=name)
    ax.axhline(strength / 2, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel=TIME, ylabel="amplitude Φ", ylim=(-0.05 * strength, 1.05 * strength))
    return ax


def overlay(times: ArrayLike, exact: ArrayLike, law: ArrayLike, ax: Axes | None = None) -> Axes:
    """The curves of a law, coloured by mode, on the exact ones.

    Parameters
    ----------
    times : array_like, shape (T,)
    exact, law : array_like, shape (T, s)
        Singular values by decreasing strength, s at most five.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    exact, law = np.asarray(exact), np.asarray(law)
    height = np.max(exact)
    for values, width in ((exact, 4.5), (law, 1.5)):
        for i, colour in zip(range(exact.shape[1]), MODES, strict=False):
            ax.plot(*thinned(times, values[:, i], height), color=PALE if values is exact else colour, lw=width)
    return ax


def fitted_curve(
    times: ArrayLike, curves: Mapping[str, ArrayLike], scale: str = "linear", ax: Axes | None = None
) -> Axes:
    """An exact curve and curves fitted to it.

    Parameters
    ----------
    times : array_like, shape (T,)
    curves : mapping of str to array_like, shape (T,)
        By name, the exact one first; three at most.
    scale : str
        Of the vertical axis, "linear" or "log"; a logarithmic one ends at 1e-5.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for (name, values), (colour, style, width) in zip(
        curves.items(), ((PALE, "-", 6), (VERMILLION, "--", 1.8), (GREEN, "-", 1.4)), strict=False
    ):
        if scale == "log":
            x, y = thinned(times, np.log10(np.maximum(values, FLOOR)), 5)
            y = 10**y
        else:
            x, y = thinned(times, values, np.max(values))
        ax.plot(x, y, style, color=colour, lw=width, label=name)
    ax.set(xlabel=TIME, yscale=scale)
    if scale == "log":
        ax.set_ylim(10 * FLOOR, 3)
        ax.yaxis.set_minor_locator(NullLocator())
    return ax


def fitted_rates(strengths: ArrayLike, fitted: ArrayLike, ax: Axes | None = None) -> Axes:
    """Rates of fitted tanh² curves against the strength of the mode, with the two printed rates.

    Parameters
    ----------
    strengths : array_like, shape (s,)
    fitted : array_like, shape (starts, s)
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    grid = np.linspace(0, 1.05 * np.max(strengths), 40)
    ax.plot(grid, grid**2 / np.sqrt(2), "--", color=VERMILLION, label="λ²/√2 (eq. 4)")
    ax.plot(grid, grid / np.sqrt(2), "-.", color=ORANGE, label="λ/√2 (eq. 19)")
    ax.plot(np.broadcast_to(strengths, np.shape(fitted)).ravel(), np.ravel(fitted), "o", color="black", ms=4, label="fitted")
    ax.set(xlabel="strength λ", ylabel="rate (unit of λ)", xlim=(0, grid[-1]), ylim=(0, 3))
    return ax


def half_times(measured: ArrayLike, predicted: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """Predicted against measured half-times, a mark for each mode of each start.

    Parameters
    ----------
    measured : array_like, shape (starts, s)
    predicted : mapping of str to array_like, shape (starts, s)
        By name, five at most; the first is ours.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With logarithmic axes and the line of equality.
    """
    ax = ax or plt.subplots()[1]
    ends = 0.4, 60
    ax.plot(ends, ends, color=GREY, lw=1)
    styles = (("o", GREEN), ("^", PURPLE), ("s", VERMILLION), ("x", ORANGE), ("+", BLUE))
    for (name, values), (mark, colour) in reversed(list(zip(predicted.items(), styles, strict=False))):
        ax.plot(np.ravel(measured), np.ravel(values), mark, color=colour, ms=4.5, mew=1.3, label=name, ls="")
    ax.set(xscale="log", yscale="log", xlabel="measured half-time (1 / unit of λ)", ylabel="predicted half-time (1 / unit of λ)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
        axis.set_minor_locator(NullLocator())
    ax.set(xlim=(1.4, 40), ylim=ends)
    return ax


def half_time_ratios(
    scales: ArrayLike, ratios: ArrayLike, limits: ArrayLike, strengths: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Printed over measured half-time against the scale of the start, with the limits for small starts.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    ratios : array_like, shape (k, s)
    limits, strengths : array_like, shape (s,)
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With logarithmic axes, small starts to the left.
    """
    ax = ax or plt.subplots()[1]
    ax.axhspan(0.8, 1.25, color="#e7f3ec", lw=0)
    for i, (strength, limit, colour) in enumerate(zip(strengths, limits, MODES, strict=False)):
        ax.plot(scales, np.asarray(ratios)[:, i], "o-", color=colour, ms=4, lw=1.4, label=f"λ = {strength:g}")
        ax.plot(np.min(scales) / 12, limit, "<", color=colour, ms=7, clip_on=False)
    ax.set(xscale="log", yscale="log", xlabel="scale of the start ε", ylabel="printed over measured half-time")
    ax.set_yticks([0.25, 0.5, 1, 2], ["0.25", "0.5", "1", "2"])
    ax.set_ylim(0.2, 3.6)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def amplitudes(
    times: ArrayLike, curves: ArrayLike, level: float, crossings: ArrayLike, strengths: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Mode amplitudes on the way, with the times at which they cross a common level, numbered by strength.

    Parameters
    ----------
    times : array_like, shape (T,)
    curves : array_like, shape (T, s)
    level : float
    crossings, strengths : array_like, shape (s,)
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    ax.axhline(level, color=GREY, lw=0.8, ls=":")
    for i, (strength, time, colour) in enumerate(zip(strengths, crossings, MODES, strict=False)):
        ax.plot(*thinned(times, np.asarray(curves)[:, i], 1), color=colour, lw=1.6, label=f"{i + 1}: λ = {strength:g}")
    for place, i in enumerate(np.argsort(crossings)):
        height = level * (1.25 + 0.22 * place)
        ax.vlines(crossings[i], level, height, color=MODES[i], lw=0.8)
        ax.plot(crossings[i], height, "o", color="white", markeredgecolor=MODES[i], ms=12, mew=1.5, zorder=3)
        ax.text(crossings[i], height, str(i + 1), ha="center", va="center_baseline", fontsize=9, zorder=4)
    ax.set(xlabel=TIME, ylabel="mode amplitude")
    return ax


def order_shares(
    scales: ArrayLike,
    measured: Mapping[float, ArrayLike],
    predicted: Mapping[float, ArrayLike],
    draws: int,
    ax: Axes | None = None,
) -> Axes:
    """Share of starts from which the weaker of two modes comes first, against the scale of the start.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    measured, predicted : mapping of float to array_like, shape (k,)
        By the ratio of the two strengths; points and lines.
    draws : int
        Starts behind each point: bars are Wilson's 95 % intervals of a share.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic axis, small starts to the left.
    """
    ax = ax or plt.subplots()[1]
    for (ratio, shares), colour, mark in zip(measured.items(), (VERMILLION, ORANGE, GREEN, BLUE), "os^D", strict=False):
        ax.plot(scales, predicted[ratio], color=colour, lw=1.4)
        x, y = np.asarray(scales), np.asarray(shares)
        intervals = [binomtest(round(share * draws), draws).proportion_ci(method="wilson") for share in y]
        ax.vlines(x, *np.transpose(intervals), color=colour, lw=1, alpha=0.6)
        ax.plot(x, y, mark, color=colour, ms=6, label=f"λ₂ = {ratio:g} λ₁", clip_on=False, zorder=3)
    ax.set(xscale="log", ylim=(0, 0.7), xlabel="scale of the start ε", ylabel="share of starts out of order")
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def powers(
    scales: ArrayLike, found: Mapping[str, ArrayLike], exponents: Mapping[str, float], ax: Axes | None = None
) -> Axes:
    """Quantities against the scale of the start with the power laws derived for them, and the square that P2 prints.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    found : mapping of str to array_like, shape (k,)
        Largest values along the flow by name: three at most.
    exponents : mapping of str to float
        The derived exponent of each; its line goes through the value at the smallest scale.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With logarithmic axes.
    """
    ax = ax or plt.subplots()[1]
    scales = np.asarray(scales, dtype=float)
    last = int(np.argmin(scales))
    for (name, values), colour, mark in zip(found.items(), (BLUE, ORANGE, PURPLE), "o^s", strict=False):
        line = values[last] * (scales / scales[last]) ** exponents[name]
        ax.plot(scales, line, color=colour, lw=1.4)
        ax.plot(scales, values, mark, color=colour, ms=5.5, label=f"{name}: derived power {exponents[name]:.2f}")
    ax.plot(scales, scales**2, "--", color=VERMILLION, lw=1.4, label="ε², as printed")
    ax.set(xscale="log", yscale="log", xlabel="scale of the start ε", ylabel="largest value along the flow")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def start_sizes(
    scales: ArrayLike, measured: ArrayLike, law: ArrayLike, printed: ArrayLike, strengths: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Half-times of the modes from tiny to large starts: measured, by QR seeds, as printed.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    measured, law, printed : array_like, shape (k, s)
        NaN or negative values are not drawn.
    strengths : array_like, shape (s,)
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With logarithmic axes.
    """
    ax = ax or plt.subplots()[1]
    measured, law, printed = (np.asarray(x, dtype=float) for x in (measured, law, printed))
    for i, (strength, colour) in enumerate(zip(strengths, MODES, strict=False)):
        shown = np.where(printed[:, i] > 0, printed[:, i], np.nan)
        ax.plot(scales, shown, "--", color=colour, lw=1)
        ax.plot(scales, law[:, i], color=colour, lw=1.4)
        ax.plot(scales, measured[:, i], "o", color=colour, ms=4.5, label=f"λ = {strength:g}")
    ax.set(xscale="log", yscale="log", xlabel="scale of the start ε", ylabel="half-time (1 / unit of λ)", ylim=(0.15, 120))
    ax.set_yticks([0.2, 1, 5, 20, 100], ["0.2", "1", "5", "20", "100"])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def start_errors(scales: ArrayLike, errors: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """Largest error of laws against the scale of the start.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    errors : mapping of str to array_like, shape (k,)
        In units of lambda_i, by name of the law: two at most, ours first.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With logarithmic axes.
    """
    ax = ax or plt.subplots()[1]
    for (name, values), (colour, style) in zip(
        errors.items(), ((GREEN, "o-"), (VERMILLION, "^--")), strict=False
    ):
        ax.plot(scales, values, style, color=colour, ms=5, lw=1.4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="scale of the start ε", ylabel="largest error (share of λᵢ)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax
