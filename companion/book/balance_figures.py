"""The figures of the chapter *The balance invariant*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION

__all__ = ["along_a_run", "drift_by_step", "one_mode"]

FAINT = "#c4c4c4"
MARKERS = (("o", BLUE), ("s", GREEN), ("^", ORANGE), ("D", PURPLE), ("v", VERMILLION))


def one_mode(
    strength: float,
    flows: Sequence[tuple[ArrayLike, ArrayLike]],
    steps: tuple[ArrayLike, ArrayLike],
    adam: tuple[ArrayLike, ArrayLike],
    ax: Axes | None = None,
) -> Axes:
    """Paths of one mode in the plane of its two numbers, over the hyperbolas on which the balance is constant.

    Parameters
    ----------
    strength : float
        lambda; the minima ``a b = lambda`` are drawn in black.
    flows : sequence of (array_like, array_like), shapes (T,)
        a and b along paths of gradient flow.
    steps, adam : (array_like, array_like), shapes (T,)
        a and b of gradient descent with large steps, and of Adam.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With equal scales.
    """
    ax = ax or plt.subplots(figsize=(5.2, 4.6))[1]
    a, b = np.linspace(-0.35, 2.4, 400), np.linspace(-1.1, 1.9, 400)
    grid = a[None, :] ** 2 - b[:, None] ** 2
    levels = [-3, -2, -1, -0.5, -0.1, 0.1, 0.5, 1, 2, 3, 4, 5]
    ax.contour(a, b, grid, levels=levels, colors=FAINT, linewidths=0.8, linestyles="solid")
    ax.contour(a, b, grid, levels=[0], colors=GREY, linewidths=1.2, linestyles="dotted")
    right = a[a > strength / b[-1]]
    ax.plot(right, strength / right, color="black", lw=2.6, label="minima, a b = λ")
    for k, (x, y) in enumerate(flows):
        ax.plot(x, y, color=BLUE, lw=2, label=None if k else "gradient flow")
        ax.plot(x[0], y[0], "o", color=BLUE, ms=5)
    ax.plot(*steps, "o-", color=VERMILLION, ms=4.5, lw=1, label="gradient descent")
    ax.plot(*adam, "--", color=PURPLE, lw=2, label="Adam")
    ax.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]), xlabel="a", ylabel="b", aspect="equal")
    ax.grid(visible=False)
    return ax


def drift_by_step(
    sizes: ArrayLike, drifts: Mapping[str, ArrayLike], predicted: Mapping[str, ArrayLike], ax: Axes | None = None
) -> Axes:
    """Drift of the balance over a fixed time against the step size, with what is predicted.

    Parameters
    ----------
    sizes : array_like, shape (k,)
        Effective step sizes.
    drifts : mapping of str to array_like, shape (k,)
        Relative drift by optimiser; at most five of them.
    predicted : mapping of str to array_like, shape (k,)
        Dashed lines in the colour of the optimiser of the same name.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        With two logarithmic axes.
    """
    ax = ax or plt.subplots(figsize=(6.4, 4.2))[1]
    for (name, values), (marker, colour) in zip(drifts.items(), MARKERS, strict=False):
        hollow = {"ms": 9, "markerfacecolor": "none", "markeredgewidth": 1.6} if marker == "D" else {"ms": 6}
        ax.plot(sizes, values, marker, color=colour, label=name, **hollow)
        if name in predicted:
            ax.plot(sizes, predicted[name], "--", color=colour, lw=1.4)
        else:
            ax.plot(sizes, values, color=colour, lw=0.8)
    ax.plot([], [], "--", color=GREY, lw=1.4, label="predicted")
    ax.axhline(1, color=GREY, lw=1, ls=":")
    ax.annotate(
        "as large as Φ(0)", (max(sizes), 1), (0, -3), textcoords="offset points", ha="right", va="top", fontsize=8.5, color=GREY
    )
    ax.set(xscale="log", yscale="log", xlabel="step size η (units of time)", ylabel="drift relative to ‖Φ(0)‖")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    return ax


def along_a_run(
    steps: ArrayLike,
    runs: Mapping[str, Mapping[str, ArrayLike]],
    reference: ArrayLike,
    axes: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """What does not cancel in every matrix of a model while it is trained, a panel for each optimiser.

    Parameters
    ----------
    steps : array_like, shape (T,)
        Number of steps taken.
    runs : mapping of str to mapping of str to array_like, shape (T,)
        By optimiser, at most three, and by name of the matrix: shares from 0 to 1. Names that end in "value" are drawn solid, others dashed.
    reference : array_like, shape (T,)
        Drawn in black in every panel: what steps of one constant gradient would give.
    axes : sequence of Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    sequence of Axes
        With logarithmic y axes.
    """
    if axes is None:
        axes = plt.subplots(1, len(runs), figsize=(7.2, 3.4), sharex=True, sharey=True, squeeze=False)[1][0]
    for ax, (title, matrices), colour in zip(axes, runs.items(), (BLUE, GREEN, VERMILLION), strict=False):
        drawn = set()
        for name, shares in matrices.items():
            kind = "value" if name.endswith("value") else "query"
            ax.plot(steps, shares, "-" if kind == "value" else "--", color=colour, lw=1.2, label=None if kind in drawn else kind)
            drawn.add(kind)
        ax.plot(steps, reference, color="black", lw=1.6, ls=":", label="one constant gradient")
        ax.set(title=title, xlabel="step", yscale="log")
        ax.set_yticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("share that does not cancel")
    return axes
