"""Simulations and figures of the chapter *Reading the rank off the first gradient*."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike
from scipy.sparse.linalg import svds

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, VERMILLION

__all__ = [
    "cost_of_keeping", "detection", "example_noise", "flips_of", "mode_order", "model_errors", "modes_by_constant",
    "ranks_by_examples", "rules_by_spectrum", "signed_sums", "top", "worth_keeping",
]  # fmt: skip

DENSE = 200  # smaller side up to which a whole decomposition is as fast as one mode

RULES = {  # colour, marker and line of a rule, by its place
    0: (VERMILLION, "D", "-"),
    1: (ORANGE, "s", "-"),
    2: (PURPLE, "v", "-"),
    3: (BLUE, "o", "-"),
    4: (GREEN, "^", "-"),
}

# --- Simulations -----------------------------------------------------------------------------------------------------


def top(matrices: np.ndarray) -> np.ndarray:
    """Largest singular values of a stack of matrices, shape (..., m, d) to (...)."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrices.mT @ matrices)[..., -1], 0))


def cost_of_keeping(
    squares: ArrayLike, shape: tuple[int, int], draws: int, rng: np.random.Generator, noise: float = 1.0
) -> np.ndarray:
    """What keeping the first mode adds to the squared error, one mode planted in noise.

    Parameters
    ----------
    squares : array_like, shape (k,)
        Squared strengths of the mode, in units of ``noise² max(shape)``.
    shape : (int, int)
    draws : int
        Noise matrices to average over; each is used for all strengths.
    rng : numpy Generator
    noise : float
        Standard deviation of an entry.

    Returns
    -------
    ndarray, shape (k,)
        Mean of ``||y u v' - M||² - ||M||²`` with the first mode ``y u v'`` of M + noise, in units of
        ``noise² max(shape)``.
    """
    unit = noise**2 * max(shape)
    cost = []
    for _ in range(draws):
        matrix = noise * rng.standard_normal((max(shape), min(shape)))
        corner = matrix[0, 0]
        for strength in np.sqrt(np.asarray(squares) * unit):
            matrix[0, 0] = corner + strength  # the vectors of the mode are unit vectors
            y, u, v = _first_mode(matrix)
            cost.append(y * y - 2 * strength * y * u[0] * v[0])
    return np.mean(np.reshape(cost, (draws, -1)), axis=0) / unit


def _first_mode(matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    if matrix.shape[1] > DENSE:
        u, y, vt = svds(matrix, k=1, v0=np.ones(min(matrix.shape)))
        return y[0], u[:, 0], vt[0]
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    y, v = np.sqrt(values[-1]), vectors[:, -1]
    return y, matrix @ v / y, v


def flips_of(n: int, flips: int, rng: np.random.Generator) -> np.ndarray:
    """Coin tosses, centred and scaled to mean square 1, as the package takes them from 64 examples on: (flips, n)."""
    signs = rng.choice([-1.0, 1.0], (flips, n))
    signs -= signs.mean(axis=1, keepdims=True)
    return signs / signs.std(axis=1, keepdims=True)


def signed_sums(
    n: int, rng: np.random.Generator, scales: ArrayLike = 1.0, flips: int = 9, shape: tuple[int, int] = (64, 32)
) -> tuple[np.ndarray, np.ndarray]:
    """All that the first gradient of a linear task and its flips take from n examples.

    Parameters
    ----------
    n : int
    rng : numpy Generator
    scales : array_like, shape (d,), or float
        Standard deviations of the inputs.
    flips : int
    shape : (int, int)
        Outputs and inputs, (m, d).

    Returns
    -------
    (ndarray, ndarray), shapes (1 + flips, d, d) and (1 + flips, m, d)
        ``sum e_i x_i x_i' / n`` and ``sum e_i noise_i x_i' / n``: first with all e_i = 1, then for each flip.
    """
    m, d = shape
    x, noise = scales * rng.standard_normal((n, d)), rng.standard_normal((n, m))
    weights = np.vstack([np.ones(n), flips_of(n, flips, rng)])
    second, cross = (np.array([(a * w[:, None]).T @ x / n for w in weights]) for a in (x, noise))
    return second, cross


def example_noise(kind: str, size: int, n: int, entries: int, rng: np.random.Generator) -> np.ndarray:
    """Noise in the gradients of n examples, `size` times, shape (size, n, entries).

    "Gaussian"; "heavy-tailed": each example has its own scale, so that entries have a t law with three degrees of freedom;
    "skewed": a centred exponential number for each example, times one matrix that all examples share.
    """
    if kind == "Gaussian":
        return rng.standard_normal((size, n, entries))
    if kind == "heavy-tailed":
        return rng.standard_normal((size, n, entries)) * np.sqrt(3 / rng.chisquare(3, (size, n, 1)))
    if kind == "skewed":
        return (rng.exponential(size=(size, n, 1)) - 1) * rng.standard_normal((size, 1, entries))
    raise ValueError(f"kind: got {kind!r}; accepted: 'Gaussian', 'heavy-tailed', 'skewed'")


def model_errors(size: float, rng: np.random.Generator, steps: int = 600, rate: float = 0.3) -> tuple[float, float]:
    """How far the quadratic model of a loss is off while LoRA of rank 8 trains one hidden layer.

    The network is ``V tanh(W x)`` with 32 inputs, 32 hidden units and 8 outputs; W is trained from W_0 on 200 examples whose
    outputs are those of ``W_0 +`` a planted update of rank 4, plus noise.

    Parameters
    ----------
    size : float
        Norm of the planted update over that of W_0.
    rng : numpy Generator
    steps, rate : int, float
        Gradient steps and their size.

    Returns
    -------
    (float, float)
        Largest ``|model - loss|`` over the decrease of the loss since the point of expansion: about W_0, and about the
        weights after a tenth of the steps.
    """
    n, width, outputs = 200, 32, 8
    x, w0 = rng.standard_normal((n, width)), rng.standard_normal((width, width)) / np.sqrt(width)
    v = rng.standard_normal((outputs, width)) / np.sqrt(width)
    left, right = (np.linalg.qr(rng.standard_normal((width, 4)))[0] for _ in range(2))
    update = left * [1, 0.8, 0.6, 0.4] @ right.T
    update *= size * np.linalg.norm(w0) / np.linalg.norm(update)
    y = np.tanh(x @ (w0 + update).T) @ v.T + 0.1 * rng.standard_normal((n, outputs))
    a, b, path = rng.standard_normal((8, width)) / np.sqrt(width), np.zeros((width, 8)), []
    for _ in range(steps):
        h = np.tanh(x @ (w0 + b @ a).T)
        gradient = (((h @ v.T - y) @ v) * (1 - h**2)).T @ x / n
        a, b = a - rate * b.T @ gradient, b - rate * gradient @ a.T
        path.append(w0 + b @ a)
    tenth, every = steps // 10, steps // 20
    about = ((w0, path[every - 1 :: every]), (path[tenth - 1], path[tenth + every - 1 :: every]))
    start, early = (_model_error(base, later, x, v, y) for base, later in about)
    return start, early


def _model_error(base: np.ndarray, path: list[np.ndarray], x: np.ndarray, v: np.ndarray, y: np.ndarray) -> float:
    start, errors = taylor(base, 0 * base, x, v, y)[0], []
    for w in path:
        now, (_, slope, bend) = taylor(w, 0 * w, x, v, y)[0], taylor(base, w - base, x, v, y)
        errors.append(abs(start + slope + bend / 2 - now) / (start - now))
    return max(errors)


def taylor(w: np.ndarray, d: np.ndarray, x: np.ndarray, v: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Loss of ``v tanh(w x)`` at w, and its first two derivatives along d."""
    h, dz = np.tanh(x @ w.T), x @ d.T
    first = (1 - h**2) * dz
    residual, moved, bent = h @ v.T - y, first @ v.T, (-2 * h * first * dz) @ v.T
    parts = np.sum(residual**2) / 2, np.sum(residual * moved), np.sum(moved**2 + residual * bent)
    return tuple(float(part) / len(x) for part in parts)


# --- Figures ---------------------------------------------------------------------------------------------------------


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
        offset = (-34, -17) if zeros[name] == min(zeros.values()) else (7, 8)  # clear of the other curves
        ax.annotate(
            f"{zeros[name]:.2f}", (zeros[name], 0), offset, textcoords="offset points", color=colour, fontweight="bold"
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
    ax.plot(examples, np.median(best, axis=1), color="black", lw=3, label="least error")
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
        ax.plot(places, values, "o-", color=colour, lw=2.4, ms=13, markerfacecolor="white", markeredgewidth=2)
        for place, value in zip(places, values, strict=True):
            ax.text(place, value, str(mode), ha="center", va="center_baseline", fontsize=8.5, fontweight="bold")
    ax.set(yscale="log", xlim=(-0.3, len(sizes) - 0.7), ylabel="singular value")
    ax.set_xticks(places, list(columns))
    ticks = [t for t in (0.25, 0.5, 1, 2, 4) if sizes.min() / 1.3 <= t <= sizes.max() * 1.3]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", visible=False)
    return ax
