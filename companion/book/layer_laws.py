"""What the laws of P2's section 4 say of recorded training runs: the chapter *Do real layers follow the law?*.

A `Layer` is one matrix of a run of `companion.book.real_layers`: the path of its leading singular values, and what was
measured at the start. The predictions take the start alone, or the start and the first half of the path; `r_squared`
judges them. Time is the sum of the learning rates times the adapters' scaling (`companion.gradient_flow` says why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import least_squares, minimize_scalar

from companion.book.real_layers import SCALING
from companion.runs import read_records
from companion.scalar_flow import activation_times, crossing_times, scalar_flow
from companion.tanh_law import tanh_activation_times, tanh_squared

__all__ = [
    "MODES", "PREDICTIONS", "RUNS", "Layer", "activation", "early_update", "fit_curve", "growing_update", "half_times",
    "in_order", "layers", "mean_and_error", "predict", "r_squared", "read", "skill", "table",
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


_PREDICTED: WeakKeyDictionary[Layer, dict[str, np.ndarray]] = WeakKeyDictionary()  # as long as there is the layer


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
    known = _PREDICTED.setdefault(layer, {})
    if name not in known:
        known[name] = PREDICTIONS[name][1](layer)
    curves = np.array(known[name])  # the caller's own
    judged = slice(layer.half, None) if PREDICTIONS[name][0] == "half" else slice(None)
    return curves, r_squared(layer.seen[judged], curves[judged])


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
    """Mean and half the width of its 95 % interval (Student's t), NaN for fewer than two values.

    Parameters
    ----------
    values : array_like, shape (k,)
    """
    x = np.asarray(values, float)
    if x.size < 2:
        return np.nan, np.nan
    return float(x.mean()), float(stats.t.ppf(0.975, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
