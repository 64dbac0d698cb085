"""The figures of the chapter *Tucker: three ranks instead of one*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, VERMILLION
from companion.tucker import parameter_counts

__all__ = [
    "coupling", "errors", "half_times", "learning", "order", "predicted", "shapes", "surplus", "unrecovered",
]  # fmt: skip

LINES = ("-", "--", "-.", ":")
MARKS = "osD^v"


def shapes(
    ranks: Sequence[int], fair: bool = True, places: Mapping[str, tuple[float, float]] | None = None, ax: Axes | None = None
) -> Axes:
    """Parameters of Tucker-LoRA over those of matrix LoRA for tensors (d, d, d_3).

    Parameters
    ----------
    ranks : sequence of int
        The Tucker rank of the tensors.
    fair : bool
        Against the smallest matrix LoRA that represents them; otherwise against the printed one.
    places : mapping of str to (float, float), optional
        Points to name, by d and d_3.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With filled contours at powers of two, and the line ``d_3 = d^2`` of attention weights.
    """
    ax = ax or plt.subplots()[1]
    ax.set(xscale="log", yscale="log", xlim=(4, 1024), ylim=(4, 2**18), xlabel="$d_1 = d_2$", ylabel="$d_3$")
    sides, depths = (np.unique(np.geomspace(4, end, n).astype(int)) for end, n in ((1024, 49), (2**18, 61)))
    ratio = np.empty((depths.size, sides.size))
    for i, depth in enumerate(depths):
        for j, side in enumerate(sides):
            counts = parameter_counts((side, side, depth), ranks)
            ratio[i, j] = counts.tucker / (counts.lora_fair if fair else counts.lora_printed)
    levels = np.array([-10.0, -8, -6, -4, -2, -1, 0, 1])
    ax.contourf(sides, depths, np.log2(ratio), levels=levels, cmap="viridis", extend="both", alpha=0.75)
    lines = ax.contour(sides, depths, np.log2(ratio), levels=levels, colors="black", linewidths=0.6, linestyles="solid")
    names = {level: f"1/{2**-level:.0f}" if level < 0 else f"{2**level:.0f}" for level in levels}
    if fair:  # 1/2 lies on the line of attention weights
        del names[-1]
    spots = False if fair else [(7, 8), (21, 8), (75, 12), (290, 60)]  # near the foot, away from that line
    ax.clabel(lines, list(names), fmt=names, fontsize=8.5, manual=spots)
    ax.plot(sides, sides.astype(float) ** 2, color="white", lw=2.6)
    ax.plot(sides, sides.astype(float) ** 2, color="black", lw=1.4, ls="--")
    for name, (side, depth) in (places or {}).items():
        ax.plot(side, depth, "o", color="white", mec="black", ms=6)
        shift = (0, 6) if side > 100 else (-7, 2)
        ax.annotate(name, (side, depth), shift, textcoords="offset points", fontsize=8.5, ha="right")
    ax.grid(False)
    return ax


def learning(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Axes | None = None, looks: Sequence[int] = range(6)
) -> Axes:
    """Learned share of one component against time in units of its half-time.

    Parameters
    ----------
    curves : mapping of str to (array_like, array_like)
        Times in half-times and shares, by name.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    looks : sequence of int
        Colour and line of each curve, as numbered in `half_times`.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for index, (name, (times, shares)) in zip(looks, curves.items(), strict=False):
        ax.plot(times, shares, color=PALETTE[index % 6], ls=LINES[index % 4], label=name)
    ax.set(xlim=(0, 2), ylim=(-0.03, 1.05), xlabel="time, in half-times of the flow", ylabel="learned share")
    return ax


def half_times(
    scales: ArrayLike,
    curves: Mapping[str, ArrayLike],
    points: tuple[ArrayLike, ArrayLike] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Half-time against the scale of the start, both logarithmic.

    Parameters
    ----------
    scales : array_like, shape (k,)
        eps.
    curves : mapping of str to array_like, shape (k,)
        By name.
    points : (array_like, array_like), optional
        Scales and half-times of integrated flows.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    for index, (name, values) in enumerate(curves.items()):
        ax.plot(scales, values, color=PALETTE[index % 6], ls=LINES[index % 4], label=name)
    if points is not None:
        ax.plot(*points, "o", color="black", ms=5, label="integrated flow")
    ax.set(xscale="log", yscale="log", xlabel="scale ε of the start", ylabel="half-time (1 / unit of λ)")
    ax.invert_xaxis()
    ax.legend()
    return ax


def order(half: ArrayLike, names: Sequence[str], last: float, ax: Axes | None = None) -> Axes:
    """Half-time of each component against that of the next weaker one; below the diagonal the weaker one was first.

    Parameters
    ----------
    half : array_like, shape (starts, s)
        NaN for a component that was not learned: drawn at `last`.
    names : sequence of str, length s - 1
        Of the pairs.
    last : float
        End of the runs.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Logarithmic.
    """
    ax = ax or plt.subplots()[1]
    times = np.where(np.isnan(half), last * 1.25, half)
    for k, name in enumerate(names):
        ax.plot(times[:, k], times[:, k + 1], MARKS[k], color=(BLUE, ORANGE)[k % 2], ms=6, mec="white", mew=0.6, label=name)
    low = np.nanmin(times) * 0.8
    ax.plot([low, 1.5 * last], [low, 1.5 * last], color="black", lw=1)
    ax.fill_between([low, 1.5 * last], low, [low, 1.5 * last], color=VERMILLION, alpha=0.1, lw=0)
    for line in (ax.axhline, ax.axvline):
        line(last * 1.1, color=GREY, lw=1, ls=":")
    ax.set(xscale="log", yscale="log", xlim=(low, 1.5 * last), ylim=(low, 1.5 * last))
    ax.set(xlabel="half-time of the stronger component", ylabel="half-time of the weaker component")
    ax.legend(loc="lower right")
    return ax


def errors(times: ArrayLike, runs: ArrayLike, reached: ArrayLike, ax: Axes | None = None) -> Axes:
    """Error against time, one line a start; dashed those that have not recovered.

    Parameters
    ----------
    times : array_like, shape (T,)
    runs : array_like, shape (T, starts)
        Relative errors.
    reached : array_like of bool, shape (starts,)
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic vertical axis.
    """
    ax = ax or plt.subplots()[1]
    values = np.maximum(runs, 1e-9)
    for done, colour, line in ((True, BLUE, "-"), (False, VERMILLION, "--")):
        chosen = np.asarray(reached) == done
        if chosen.any():
            name = ("not recovered", "recovered")[done] + f": {chosen.sum()}"
            ax.plot(times, values[:, chosen], line, color=colour, lw=0.9, alpha=0.8, label=[name] + ["_"] * (chosen.sum() - 1))
    ax.set(yscale="log", ylim=(1e-9, 2), xlabel="time t", ylabel="relative error")
    ax.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    return ax


def unrecovered(times: ArrayLike, runs: Mapping[str, ArrayLike], tolerance: float, ax: Axes | None = None) -> Axes:
    """Share of the starts whose error is still above a tolerance, against time.

    Parameters
    ----------
    times : array_like, shape (T,)
        The first, 0, is left out of the logarithmic axis.
    runs : mapping of str to array_like, shape (T, starts)
        Relative errors, by name.
    tolerance : float
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic time axis.
    """
    ax = ax or plt.subplots()[1]
    for index, (name, values) in enumerate(runs.items()):
        share = np.mean(np.asarray(values) > tolerance, axis=1)
        ax.step(times[1:], share[1:], where="post", color=(GREEN, PURPLE, ORANGE)[index % 3], ls=LINES[index % 4], label=name)
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="time t", ylabel="share of starts not recovered")
    ax.legend(loc="lower left", fontsize=8.5, handlelength=1.6, handletextpad=0.5, borderaxespad=0.2, borderpad=0.2)
    return ax


def surplus(times: ArrayLike, values: ArrayLike, rate: float, ax: Axes | None = None) -> Axes:
    """A surplus mode singular value against time, beside an exponential that meets it at the end.

    Parameters
    ----------
    times : array_like, shape (T,)
    values : array_like, shape (T,)
    rate : float
        Of the exponential.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With a logarithmic vertical axis.
    """
    ax = ax or plt.subplots()[1]
    times, values = np.asarray(times), np.asarray(values)
    ax.plot(times, values, color=BLUE, label="small random core")
    ax.plot(times, values[-1] * np.exp(rate * (times[-1] - times)), ":", color="black", lw=1.4, label="at the predicted rate")
    ax.set(yscale="log", xlabel="time t", ylabel="surplus mode singular value")
    ax.legend()
    return ax


def coupling(dims: ArrayLike, found: Mapping[str, ArrayLike], printed: ArrayLike, ax: Axes | None = None) -> Axes:
    """Coupling over the error against the dimension, medians of the starts, beside the printed order.

    Parameters
    ----------
    dims : array_like, shape (k,)
    found : mapping of str to array_like, shape (k,) or less
        By moment of the run, from the first dimension on.
    printed : array_like, shape (k,)
        ``r / d``.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Both axes logarithmic.
    """
    ax = ax or plt.subplots()[1]
    for index, (name, values) in enumerate(found.items()):
        ax.plot(dims[: len(values)], values, MARKS[index], color=PALETTE[index], ls=LINES[index % 4], ms=6, label=name)
    ax.plot(dims, printed, ":", color="black", lw=1.4, label="r/d, printed order")
    ax.set(xscale="log", yscale="log", xlabel="dimension d", ylabel="coupling / error")
    ax.set_xticks(dims, [str(d) for d in dims])
    ax.set_yticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.legend()
    return ax


def predicted(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], last: Sequence[float], ax: Axes | None = None
) -> Axes:
    """Measured against predicted waits, one point a start; those not learned in time are hollow, at the end.

    Parameters
    ----------
    pairs : mapping of str to (array_like, array_like)
        Predicted and measured, by name; NaN for what was not learned.
    last : sequence of float
        End of the runs, for each name.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Both axes logarithmic.
    """
    ax = ax or plt.subplots()[1]
    for index, ((name, (law, found)), end) in enumerate(zip(pairs.items(), last, strict=True)):
        late, style = np.isnan(found), dict(color=(BLUE, ORANGE)[index % 2], marker=MARKS[index], ls="none", ms=6)
        ax.plot(np.asarray(law)[~late], np.asarray(found)[~late], **style, label=name)
        ax.plot(np.asarray(law)[late], np.full(late.sum(), end), **style, mfc="none")
    low, high = 0.7 * min(np.min(law) for law, _ in pairs.values()), 1.5 * max(np.max(law) for law, _ in pairs.values())
    ax.plot([low, high], [low, high], color="black", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="predicted wait", ylabel="wait of the flow")
    ax.legend(loc="upper left")
    return ax
