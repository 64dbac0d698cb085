"""What the laws of P2's section 4 say of recorded training runs: the chapter *Do real layers follow the law?*.

A `Layer` is one matrix of a run of `companion.book.real_layers`: the path of its leading singular values, and what was
measured at the start. The predictions take the start alone, or the start and the first half of the path; `r_squared`
judges them. Time is the sum of the learning rates times the adapters' scaling (`companion.gradient_flow` says why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike
from scipy.optimize import least_squares, minimize_scalar

from companion.book.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from companion.book.real_layers import SCALING
from companion.runs import read_records
from companion.scalar_flow import activation_times, crossing_times, scalar_flow
from companion.tanh_law import tanh_activation_times, tanh_squared

__all__ = [
    "MODES", "PREDICTIONS", "RUNS", "Layer", "activation", "decay_of_spectra", "early_growth", "early_update",
    "first_checkpoint", "fit_curve", "growing_update", "half_times", "half_times_scatter", "in_order", "kinds_of_pairs",
    "latest_study", "layers", "log_decay", "mean_and_error", "overlaps", "paths", "predict", "r_squared", "read", "skill",
    "surplus", "table", "worth",
]  # fmt: skip

MODES = 7  # P2's figure 1(b) has seven
RUNS = {
    ("adamw", "peft"): "AdamW, PEFT's start",
    ("sgd", "frame:0.01"): "SGD, small frame",
    ("sgd", "peft"): "SGD, PEFT's start",
    ("adamw", "frame:0.01"): "AdamW, small frame",
}
"""Optimiser and start of the recorded runs: P2's own run, then the run that its theorem is about."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One matrix of one run.

    Attributes
    ----------
    name : str
        ``"3 query"``: layer and matrix.
    times : ndarray, shape (T,)
        Scaling times the sum of the learning rates.
    seen : ndarray, shape (T, modes)
        Singular values of the update.
    amplitudes : ndarray, shape (T, modes)
        ``u_i' dW(t) v_i`` on the singular vectors of the last update.
    strengths, lengths, seeds, slopes : ndarray, shape (modes,)
        Of the first gradient (`companion.book.real_layers.starting_point`).
    drift, a_norm, b_norm : ndarray, shape (T,)
        As `companion.book.real_layers.trajectory` has them.
    """

    name: str
    times: np.ndarray
    seen: np.ndarray
    amplitudes: np.ndarray
    strengths: np.ndarray
    lengths: np.ndarray
    seeds: np.ndarray
    slopes: np.ndarray
    drift: np.ndarray
    a_norm: np.ndarray
    b_norm: np.ndarray

    @property
    def half(self) -> int:
        """Number of checkpoints in the first half of the steps."""
        return (len(self.times) + 1) // 2


def read(source: str | Path = "real-layers") -> pd.DataFrame:
    """Records of a study, without rows where there are none yet.

    Parameters
    ----------
    source : str or Path
        As for `companion.runs.read_records`.
    """
    try:
        return read_records(source)
    except FileNotFoundError:
        return pd.DataFrame(columns=["key", "config.seed"])


def layers(runs: pd.DataFrame, starts: pd.DataFrame, seed: int = 0) -> dict[str, list[Layer]]:
    """The recorded runs of one seed, by name of `RUNS`, each a list of its matrices.

    Parameters
    ----------
    runs, starts : DataFrame
        From `read`: the training runs, and what they start from.
    seed : int

    Returns
    -------
    dict of str to list of Layer
        In the order of `RUNS`; runs that are not recorded, or whose start is not, are left out.
    """
    runs, starts = (records[records["config.seed"] == seed] for records in (runs, starts))
    found = {}
    for (optimizer, init), label in RUNS.items():
        if len(runs) and len(starts):
            chosen = runs[(runs["config.optimizer"] == optimizer) & (runs["config.init"] == init)]
            start = starts.iloc[-1][f"metrics.{init}"]
            for _, row in chosen.iterrows():
                times = SCALING * np.array(row["metrics.times"])
                found[label] = [_layer(name, times, path, start[name]) for name, path in row["metrics.layers"].items()]
    return found


def _layer(name: str, times: np.ndarray, path: Mapping[str, list], start: Mapping[str, list]) -> Layer:
    given = {key: np.array(start[key])[:MODES] for key in ("strengths", "lengths", "seeds", "slopes")}
    parts = name.split(".")
    return Layer(
        f"{parts[parts.index('layer') + 1]} {parts[-1]}",
        times,
        np.array(path["singular_values"])[:, :MODES],
        np.array(path["amplitudes"])[:, :MODES],
        drift=np.array(path["balance_drift"]),
        a_norm=np.array(path["a_norm"]),
        b_norm=np.array(path["b_norm"]),
        **given,
    )


def r_squared(seen: ArrayLike, predicted: ArrayLike) -> float:
    """``1 - sum (seen - predicted)^2 / sum (seen - mean)^2``, all modes and times together.

    Parameters
    ----------
    seen, predicted : array_like, shape (T, modes)
        One mean for all modes, the kindest reading: what modes differ by counts as variance explained.

    Returns
    -------
    float
        1 for a perfect prediction, 0 for one number for everything, below 0 for worse; NaN where a prediction is.
    """
    y, z = np.asarray(seen, float), np.asarray(predicted, float)
    return float(1 - np.sum((y - z) ** 2) / np.sum((y - y.mean()) ** 2))


def _printed(layer: Layer, strengths: np.ndarray, times: np.ndarray | None = None, one_sided: bool = False) -> np.ndarray:
    shifts = np.log(layer.lengths) / 2
    times = layer.times if times is None else times
    return tanh_squared(times, strengths, "theorem", shifts=shifts, one_sided=one_sided)


def _best_unit(layer: Layer) -> np.ndarray:
    """Eq. 4, strengths the last singular values, with the unit of time that suits the matrix best."""
    last, t = layer.seen[-1], layer.times / layer.times[-1]
    curve = lambda log_unit: _printed(layer, last, np.exp(log_unit) * t, one_sided=True)  # noqa: E731
    grid = np.linspace(-4, 16, 161)
    worth = [r_squared(layer.seen, curve(x)) for x in grid]
    best = grid[int(np.argmax(worth))]
    found = minimize_scalar(lambda x: -r_squared(layer.seen, curve(x)), bounds=(best - 0.2, best + 0.2), method="bounded")
    return curve(found.x)


def _halves(layer: Layer, curve: str) -> np.ndarray:
    t, h = layer.times, layer.half
    fits = [fit_curve(t[:h], layer.seen[:h, i], curve) for i in range(layer.seen.shape[1])]
    return np.stack([fit(t) for fit in fits], axis=1)


def _curved(layer: Layer) -> np.ndarray:
    """The scalar law with measured strengths and seeds and one curvature, fitted to the first half."""
    h = layer.half

    def curve(log_kappa: float, times: np.ndarray) -> np.ndarray:
        kappa = np.exp(log_kappa)
        return scalar_flow(kappa * times, layer.strengths / kappa, layer.seeds)

    grid = np.linspace(-8, 6, 113)
    miss = lambda x: float(np.sum((curve(x, layer.times[:h]) - layer.seen[:h]) ** 2))  # noqa: E731
    best = grid[int(np.argmin([miss(x) for x in grid]))]
    found = minimize_scalar(miss, bounds=(best - 0.2, best + 0.2), method="bounded")
    return curve(found.x, layer.times)


def _end_known(layer: Layer) -> np.ndarray:
    """The scalar law with every mode's end given: its curvature is strength over end."""
    last = layer.seen[-1]
    kappa = layer.strengths / last
    return np.stack([scalar_flow(k * layer.times, m, c) for k, m, c in zip(kappa, last, layer.seeds, strict=True)], axis=1)


def _persistent(layer: Layer) -> np.ndarray:
    return np.broadcast_to(layer.seen[layer.half - 1], layer.seen.shape)


def _in_proportion(layer: Layer) -> np.ndarray:
    """Every mode in proportion to the time, through the end of the first half."""
    return layer.seen[layer.half - 1] * (layer.times / layer.times[layer.half - 1])[:, None]


PREDICTIONS: dict[str, tuple[str, Callable[[Layer], np.ndarray]]] = {
    "eq. 4, λ from the gradient": ("start", lambda x: _printed(x, x.strengths)),
    "eq. 4 one-sided, λ from the gradient": ("start", lambda x: _printed(x, x.strengths, one_sided=True)),
    "scalar law, λ from the gradient": ("start", lambda x: scalar_flow(x.times, x.strengths, x.seeds)),
    "eq. 4, λ the last values": ("end", lambda x: _printed(x, x.seen[-1])),
    "eq. 4 one-sided, λ the last values": ("end", lambda x: _printed(x, x.seen[-1], one_sided=True)),
    "eq. 4, unit of time fitted": ("end", _best_unit),
    "scalar law, ends given": ("end", _end_known),
    "tanh² fitted": ("half", lambda x: _halves(x, "tanh2")),
    "logistic fitted": ("half", lambda x: _halves(x, "logistic")),
    "saturation fitted": ("half", lambda x: _halves(x, "saturation")),
    "scalar law, curvature fitted": ("half", _curved),
    "in proportion to time": ("half", _in_proportion),
    "nothing changes": ("half", _persistent),
}
"""By name: what is known ("start": the first gradient and the initial factors; "half": and the first half of the path; "end":
the last singular values too) and the prediction, (T, modes) from a `Layer`."""


def predict(layer: Layer, name: str) -> tuple[np.ndarray, float]:
    """A prediction and its R²: of the second half where the first was used, else of the whole path.

    Parameters
    ----------
    layer : Layer
    name : str
        Of `PREDICTIONS`.

    Returns
    -------
    (ndarray, float)
        Shape (T, modes), and R².
    """
    curves = _predicted(layer, name)
    judged = slice(layer.half, None) if PREDICTIONS[name][0] == "half" else slice(None)
    return curves, r_squared(layer.seen[judged], curves[judged])


@cache
def _predicted(layer: Layer, name: str) -> np.ndarray:
    return PREDICTIONS[name][1](layer)


CURVES: dict[str, tuple[Callable[..., np.ndarray], Callable[[float], tuple[float, ...]]]] = {
    "tanh2": (lambda t, rate, shift: np.tanh(np.maximum(rate * t + shift, 0)) ** 2, lambda half: (0.88 / half, 0.0)),
    "logistic": (
        lambda t, rate, shift: 1 / (1 + np.exp(np.clip(-(rate * t + shift), -500, 500))),
        lambda half: (4 / half, -4.0),
    ),
    "saturation": (lambda t, rate: -np.expm1(-rate * t), lambda half: (0.7 / half,)),
}


def fit_curve(times: ArrayLike, curve: ArrayLike, shape: str) -> Callable[[np.ndarray], np.ndarray]:
    """Least-squares fit of ``level * f(rate t + shift)``.

    Parameters
    ----------
    times, curve : array_like, shape (T,)
        The first time is 0.
    shape : str
        ``"tanh2"``: one-sided tanh²; ``"logistic"``; ``"saturation"``: ``1 - exp(-rate t)``, without a shift and so without an
        onset.

    Returns
    -------
    callable
        The fitted curve as a function of times; zero for a curve of zeros. The level is at most twice the largest
        value given, or a rate near 0 would make it anything.
    """
    t, y = np.asarray(times, float), np.asarray(curve, float)
    top, end = float(np.max(y)), float(t[-1])
    if top <= 0:
        return lambda x: np.zeros(np.shape(x))
    function, guess = CURVES[shape]
    half = float(crossing_times(t, y, top / 2)) / end
    first = np.array([1.0, *guess(max(half, 1e-3))])
    low = [0.0, 0.0] + [-np.inf] * (len(first) - 2)
    found = least_squares(
        lambda p: p[0] * function(t / end, *p[1:]) - y / top, first, bounds=(low, [2.0, *[np.inf] * (len(first) - 1)])
    )
    return lambda x: top * found.x[0] * function(np.asarray(x) / end, *found.x[1:])


def half_times(layer: Layer, curves: np.ndarray | None = None) -> np.ndarray:
    """When each curve first reaches half of its last value, shape (modes,).

    Parameters
    ----------
    layer : Layer
    curves : ndarray, shape (T, modes), optional
        Singular values by default.
    """
    curves = layer.seen if curves is None else curves
    return crossing_times(layer.times, curves, curves[-1] / 2)


def activation(layer: Layer, law: str) -> np.ndarray:
    """Times that a law predicts for half of a mode's strength, from the start alone, shape (modes,).

    Parameters
    ----------
    layer : Layer
    law : str
        ``"printed"``: P2 theorem 4.2(b) with the root mean square of ``eps rho_i`` for eps; ``"scalar law"``.
    """
    if law == "printed":
        return tanh_activation_times(layer.strengths, float(np.sqrt(np.mean(layer.lengths))))
    if law == "scalar law":
        return activation_times(layer.strengths, layer.seeds)
    raise ValueError(f"law: got {law!r}; accepted: 'printed', 'scalar law'")


def in_order(layer: Layer, level: str = "own") -> float:
    """Share of pairs of modes of which the larger one is first.

    Parameters
    ----------
    layer : Layer
        Its amplitudes are taken: sorted singular values pass a common level in order by definition.
    level : str
        ``"own"``: each mode at half of its own last amplitude; ``"common"``: both at half of the weaker one's.

    Returns
    -------
    float
    """
    if level not in ("own", "common"):
        raise ValueError(f"level: got {level!r}; accepted: 'own', 'common'")
    path, last = layer.amplitudes, layer.amplitudes[-1]
    first, second = np.triu_indices(path.shape[1], k=1)
    levels = (last[first] if level == "own" else last[second]) / 2
    before = crossing_times(layer.times, path[:, first], levels)
    after = crossing_times(layer.times, path[:, second], last[second] / 2)
    return float(np.mean(before < after))


def early_update(gradient: np.ndarray, a: np.ndarray, scaling: float, time: float) -> np.ndarray:
    """``-s^2 t G A'A``: what any gradient flow from B = 0 does first.

    Parameters
    ----------
    gradient : ndarray, shape (out, in)
    a : ndarray, shape (r, in)
    scaling, time : float

    Returns
    -------
    ndarray, shape (out, in)
    """
    return -(scaling**2) * time * (gradient @ a.T) @ a


def growing_update(gradient: np.ndarray, a: np.ndarray, scaling: float, time: float) -> np.ndarray:
    """The flow from B = 0 while the gradient stays what it is, exactly.

    ``dW = -s U sinh(s L t) V'A'A (I + V (cosh(s L t) - I) V')`` for the gradient ``U L V'``.

    Parameters
    ----------
    gradient : ndarray, shape (out, in)
    a : ndarray, shape (r, in)
    scaling, time : float
        The time of the factors: the sum of the learning rates.

    Returns
    -------
    ndarray, shape (out, in)
    """
    u, strengths, vt = np.linalg.svd(gradient, full_matrices=False)
    angle = scaling * strengths * time
    seen = vt @ a.T  # V'A'
    grown = a + (seen * (np.cosh(angle) - 1)[:, None]).T @ vt
    return -scaling * u @ (np.sinh(angle)[:, None] * (seen @ grown))


def skill(layer: Layer, name: str) -> float:
    """Share of the squared change in the second half that a prediction gets right: R² against "nothing changes".

    Parameters
    ----------
    layer : Layer
    name : str
        Of `PREDICTIONS`.
    """
    later, last_known = layer.seen[layer.half :], layer.seen[layer.half - 1]
    predicted = predict(layer, name)[0][layer.half :]
    return float(1 - np.sum((later - predicted) ** 2) / np.sum((later - last_known) ** 2))


def table(found: Mapping[str, Sequence[Layer]], names: Iterable[str] = tuple(PREDICTIONS)) -> pd.DataFrame:
    """R² of predictions by matrix: columns ``run``, ``matrix``, ``prediction``, ``known``, ``R2``.

    Parameters
    ----------
    found : mapping of str to sequence of Layer
        From `layers`.
    names : iterable of str
        Of `PREDICTIONS`.
    """
    rows = [
        (run, layer.name, name, PREDICTIONS[name][0], predict(layer, name)[1])
        for run, parts in found.items()
        for layer in parts
        for name in names
    ]
    return pd.DataFrame(rows, columns=["run", "matrix", "prediction", "known", "R2"])


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Mean and two standard errors, NaN for fewer than two values.

    Parameters
    ----------
    values : array_like, shape (k,)
    """
    x = np.asarray(values, float)
    return (float(x.mean()), float(2 * x.std(ddof=1) / np.sqrt(x.size))) if x.size > 1 else (np.nan, np.nan)


def log_decay(spectra: ArrayLike) -> np.ndarray:
    """``log rho`` of modes 1 to 8 and of modes 9 to 16: slopes of lines through the logarithms.

    Parameters
    ----------
    spectra : array_like, shape (matrices, 16)
        Decreasing, positive.

    Returns
    -------
    ndarray, shape (2, matrices)
    """
    logs = np.log(np.asarray(spectra, float))
    return -np.array([np.polyfit(np.arange(8), part.T, 1)[0] for part in (logs[:, :8], logs[:, 8:16])])


KINDS = {
    "same task": "one task, two seeds",
    "two tasks": "two tasks",
    "same A": "adapters, same A, two tasks",
    "other A": "adapters, other A",
}


def kinds_of_pairs(record: Mapping[str, object]) -> pd.DataFrame:
    """Overlaps of task vectors over that of random subspaces.

    Parameters
    ----------
    record : mapping
        ``config`` and ``metrics`` of `companion.book.real_layers.run_tasks`.

    Returns
    -------
    DataFrame
        One row for each pair, side, dimension and matrix: ``kind`` (a key of `KINDS`), ``side``, ``dimension``, ``ratio``.
    """
    runs, width, rows = record["config"]["runs"], record["metrics"]["width"], []
    for pair in record["metrics"]["overlaps"]:
        (task, _, a), (other_task, _, other_a) = runs[pair["first"]], runs[pair["second"]]
        kind = ("same task" if task == other_task else "two tasks") if a is None else "same A" if a == other_a else "other A"
        chance = pair["dimension"] / width
        rows += [(kind, pair["side"], pair["dimension"], value / chance) for value in pair["overlap"]]
    return pd.DataFrame(rows, columns=["kind", "side", "dimension", "ratio"])


def latest_study(stored: pd.DataFrame) -> dict[str, dict]:
    """The last record of a study as ``{"config": ..., "metrics": ...}``.

    Parameters
    ----------
    stored : DataFrame
        From `read`, with a row or more.
    """
    row = stored.iloc[-1]
    return {
        part: {name.removeprefix(f"{part}."): row[name] for name in stored if name.startswith(f"{part}.")}
        for part in ("config", "metrics")
    }


def surplus(runs: pd.DataFrame, low: int = 8, high: int = 64) -> np.ndarray:
    """Score at a high uniform rank minus that at a low one, for every task and seed that has both.

    Parameters
    ----------
    runs : DataFrame
        Records of the GLUE study.
    low, high : int
        Ranks.

    Returns
    -------
    ndarray
        Points; empty where there is no such pair.
    """
    if "config.method" not in runs:
        return np.array([])
    uniform = runs[(runs["config.method"] == "uniform") & (runs["config.split"] == "validation")]
    scores = uniform.pivot_table("metrics.score", ["config.task", "config.seed"], "config.rank", aggfunc="last")
    if not {low, high} <= set(scores):
        return np.array([])
    return (scores[high] - scores[low]).dropna().to_numpy(float)


def _dots(ax: Axes, x: ArrayLike, y: ArrayLike, colour: str, size: float, label: str | None = None) -> None:
    """Round dots as one path, once the scales are set: in an SVG a marker of its own takes five times the room."""
    points = np.column_stack([np.ravel(x), np.ravel(y)])
    points = points[np.all(np.isfinite(points), axis=1)]
    if len(points):
        shift = 2e-3 * (points[:, 0] if ax.get_xscale() == "log" else np.full(len(points), np.ptp(points[:, 0]) or 1.0))
        ends = points + np.column_stack([shift, np.zeros(len(points))])  # not of length zero, which some renderers leave out
        corners = np.vstack([np.stack([points, ends], axis=1).reshape(-1, 2), points[-1:]])
        codes = [*[Outline.MOVETO, Outline.LINETO] * len(points), Outline.CLOSEPOLY]  # with a closed piece nothing is simplified
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
    ax.set(xlabel="time (sum of step sizes)")
    ax.yaxis.set_minor_locator(NullLocator())
    return ax


def paths(parts: Sequence[Layer], names: Sequence[str], modes: Sequence[int] = (0, 2), columns: int = 2) -> Figure:
    """A panel for each matrix: singular values of its update by time, and predictions.

    Parameters
    ----------
    parts : sequence of Layer
        Of one run.
    names : sequence of str
        Two of `PREDICTIONS`: dashed, and thin.
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
    fig.supxlabel("time (scaling times the sum of the learning rates)", fontsize=11)
    fig.supylabel("singular value of the update", fontsize=11)
    return fig


def first_checkpoint(found: Mapping[str, Sequence[Layer]], ax: Axes | None = None) -> Axes:
    """Singular values at the first checkpoint against what the first gradient says of them.

    Parameters
    ----------
    found : mapping of str to sequence of Layer
        From `layers`.
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


RUN_COLOURS = {
    "AdamW, PEFT's start": VERMILLION,
    "SGD, small frame": BLUE,
    "SGD, PEFT's start": GREEN,
    "AdamW, small frame": ORANGE,
}
KNOWN = {"start": "before training", "end": "last values given", "half": "first half given"}


def worth(rows: pd.DataFrame, names: Sequence[str] = tuple(PREDICTIONS), ax: Axes | None = None, low: float = -1.0) -> Axes:
    """R² of every prediction: a line over the middle half of the matrices of each run, a dot at their median.

    Parameters
    ----------
    rows : DataFrame
        From `table`.
    names : sequence of str
        Of `PREDICTIONS`, in its order.
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
        From `layers`.
    law : str
        As for `activation`.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    ax.set(xscale="log", yscale="log", ylim=(0.04, 1.2), xlabel="predicted half-time", ylabel="seen half-time")
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
        From `kinds_of_pairs`.
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
