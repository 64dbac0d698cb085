r"""Where the true ranks are known: a teacher that is the model plus low-rank updates, and a student that is the model.

Texts are real, labels are the teacher's outputs plus noise, and the loss is squared error. What can be told from them?

*What the outputs show.* A classifier of two classes shows one direction of the last hidden state, at one token. Here 16
outputs are read at every token: the leading principal components, scaled to variance 1. A few hundred texts then give
more numbers than all updates have parameters. MiniLM's inputs fill their space (90 % of their variance takes 135 to 214
of 384 directions), so nearly any update changes something, but not equally: some move the outputs ten times as much as
others of their norm. So each is scaled until, alone, it changes the outputs by :math:`\sqrt r` units to first order.
Its right singular vectors are drawn like differences of the matrix's inputs. Within a matrix directions still differ.

*What training finds.* The planted ranks suffice for a loss of 0. Lower ones leave less than is missing in each matrix,
because other matrices make up for some of it.

*What the first gradient shows.* To first order it is :math:`G_l = -\sum_m H_{lm} \Delta W_m` with H the Gauss-Newton
curvature. Its own block :math:`H_{ll}` keeps the rank roughly, but not the shape: one large direction, mostly along
the mean input, makes a flat update look like rank 1. The other blocks give a matrix without any update a gradient of
several modes, with any number of texts and without noise. So the first gradient shows how many directions an update
has, and hardly in which matrix it is; ``planted`` restricted to one matrix at a time separates the two.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader

from companion import _validate, data
from companion.gradients import GradientSpectrum, gradient_spectra
from companion.read_out import PLACES, ReadOut, fit_read_out, mean_loss, outputs_of, squared_error
from companion.targets import linear_targets

__all__ = ["LIGHT", "PROFILES", "SETTING", "Planted", "plant", "rank_recovery"]

SETTING: dict[str, object] = {
    "study": "planted",
    "model": "minilm",
    "task": "stsb-mini",
    "targets": ["query", "value"],
    "planted": None,
    "largest_rank": 6,
    "profile": "flat",
    "strength": 0.2,
    "noise": 0.02,
    "read_out": "tokens",
    "outputs": 16,
    "examples": 1500,
    "test_examples": 300,
    "max_length": 24,
    "flips": 9,
    "max_rank": 16,
    "scaling": 2.0,
    "batch_size": 8,
    "steps": 1500,
    "learning_rate": 1e-2,
}
"""A planted problem and how students are trained on it; `plant` says what the values mean."""

LIGHT: dict[str, object] = SETTING | {"examples": 192, "test_examples": 64, "steps": 20}
"""The same for a minute on one core, which shows what rules answer and trains too little to tell ranks apart."""

PROFILES = {
    "flat": lambda r: np.ones(r),
    "exponential": lambda r: np.exp(-np.arange(r) / 2),
    "power": lambda r: 1 / np.arange(1, r + 1),
}
"""Singular values of an update of rank r by name, which are equal, :math:`e^{-i/2}`, or 1/i."""

PROBE_TEXTS = 64  # the read-out and the size of the updates are fitted to so many training texts
PROBE_STEP = 0.3  # rms singular values of W: small enough to be linear, large enough for float32


@dataclass(eq=False)
class Planted:
    """A problem with known ranks.

    Attributes
    ----------
    student : nn.Module
        The pretrained encoder with the fixed read-out that the teacher has too; in eval mode.
    ranks : dict of str to int
        Planted rank of every target matrix, by full name.
    updates : dict of str to Tensor, shape (out, in)
        Teacher's weight minus student's; none where the rank is 0.
    train, test : DataLoader
        Batches of texts in a fixed order; the labels are the teacher's outputs, with noise in `train` only.
    frame : pandas.DataFrame
        The texts of `train`.
    config : dict
        What `plant` was given.
    """

    student: nn.Module
    ranks: dict[str, int]
    updates: dict[str, Tensor]
    train: DataLoader
    test: DataLoader
    frame: pd.DataFrame
    config: dict[str, object]

    @cached_property
    def _losses(self) -> dict[tuple[int, ...], float]:  # of students by their ranks, for `companion.students`
        return {}

    @cached_property
    def costs(self) -> dict[str, int]:
        """Parameters of one rank, ``out + in``, by full name."""
        return {name: sum(self.student.get_submodule(name).weight.shape) for name in self.ranks}

    @cached_property
    def spectra(self) -> dict[str, GradientSpectrum]:
        """Spectra of the student's first gradient on the training texts."""
        seed, flips = self.config["seed"], self.config["flips"]
        return gradient_spectra(self.student, self.train, list(self.ranks), squared_error, flips, seed)

    @contextmanager
    def teacher(self) -> Iterator[nn.Module]:
        """The student's model with the teacher's weights, inside the ``with`` block only.

        Returns
        -------
        context manager
            Its value is the model.
        """
        with shifted(self.student, self.updates):
            yield self.student


def plant(config: Mapping[str, object]) -> Planted:
    """Make a teacher, its student and their data.

    Parameters
    ----------
    config : mapping
        `SETTING`, `LIGHT` or one of your own with the same keys, and an integer ``seed`` that draws ranks, directions,
        noise and texts. ``planted``: name endings of the targets that carry an update (None: all); ``largest_rank``:
        ranks are uniform on 0 … this, one planted matrix alone has rank 1 at least; ``profile``: a key of `PROFILES`;
        ``strength``: root mean square change of the outputs, whose own is 1; ``noise``: standard deviation of the
        noise on each label; ``read_out``: ``"tokens"`` or ``"first"``.

    Returns
    -------
    Planted

    Raises
    ------
    ValueError
        A setting out of range, or a strength that updates of this kind do not reach.
    KeyError
        A setting that is missing.

    Examples
    --------
    >>> planted = plant(LIGHT | {"seed": 0, "examples": 16, "test_examples": 8})
    >>> list(planted.ranks.values())
    [3, 6, 6, 3, 2, 5, 1, 6, 6, 0, 0, 1]
    """
    _check(config)
    tokenizer, seed = data.load_tokenizer(config["model"]), config["seed"]

    def loader(rows: pd.DataFrame) -> DataLoader:
        return data.make_dataloader(rows, tokenizer, config["batch_size"], config["max_length"])

    rows = data.sample(data.load_task(config["task"]), config["examples"], seed)
    test = loader(data.sample(data.load_task(config["task"], "validation"), config["test_examples"], seed))
    train, probe = loader(rows), loader(rows[:PROBE_TEXTS])
    encoder = data.load_model(config["model"]).base_model
    if config["outputs"] > encoder.config.hidden_size // 2:
        raise ValueError(f"outputs: got {config['outputs']}; accepted: at most half of {encoder.config.hidden_size}")
    student = ReadOut(encoder, config["outputs"], config["read_out"]).eval().requires_grad_(False)
    student.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    targets, rng = linear_targets(student, config["targets"]), np.random.default_rng([seed, 1])
    ranks = _draw_ranks(student, targets, config, rng)
    inputs = fit_read_out(student, probe, targets)
    updates = {n: _draw_update(m, inputs[n], ranks[n], config["profile"], rng) for n, m in targets.items() if ranks[n]}
    probe.dataset.labels = outputs_of(student, probe)
    updates = _scaled(updates, student, probe, ranks, config["strength"])
    planted = Planted(student, ranks, updates, train, test, rows, dict(config))
    _label(planted, rng)
    return planted


def _check(config: Mapping[str, object]) -> None:
    for name, known in (("profile", PROFILES), ("read_out", PLACES)):
        if config[name] not in known:
            raise ValueError(f"{name}: got {config[name]!r}; accepted: {', '.join(known)}")
    for name in ("strength", "noise"):
        if _validate.number(name, config[name]) < 0:
            raise ValueError(f"{name}: got {config[name]!r}; accepted: a number >= 0")
    for name in ("seed", "largest_rank", "steps", "outputs", "max_rank", "flips"):
        _validate.integer(name, config[name], 0 if name in ("seed", "largest_rank", "steps") else 1)


def _draw_ranks(student: nn.Module, targets: Mapping, config: Mapping, rng: np.random.Generator) -> dict[str, int]:
    most = min(min(module.weight.shape) for module in targets.values())
    if config["largest_rank"] > most:
        raise ValueError(f"largest_rank: got {config['largest_rank']}; accepted: at most {most}")
    drawn = dict(zip(targets, rng.integers(config["largest_rank"] + 1, size=len(targets)).tolist(), strict=True))
    chosen = targets if config["planted"] is None else linear_targets(student, config["planted"])
    if not set(chosen) <= set(targets):
        raise ValueError(f"planted: {sorted(set(chosen) - set(targets))[0]} is not one of the targets")
    return {name: (max(rank, 1) if len(chosen) == 1 else rank) * (name in chosen) for name, rank in drawn.items()}


def _draw_update(module: nn.Linear, inputs: np.ndarray, rank: int, profile: str, rng: np.random.Generator) -> Tensor:
    """Random directions, the right ones like differences of inputs (tokens, in); in units of W's rms singular value."""
    left = rng.standard_normal((module.out_features, rank))
    right = (inputs - inputs.mean(0)).T @ rng.standard_normal((len(inputs), rank))
    u, v = np.linalg.qr(left)[0], np.linalg.qr(right)[0]
    unit = module.weight.norm().item() / np.sqrt(min(module.weight.shape))
    return torch.from_numpy(unit * (u * PROFILES[profile](rank)) @ v.T).to(module.weight)


@contextmanager
def shifted(model: nn.Module, updates: Mapping[str, Tensor], factor: float = 1.0) -> Iterator[None]:
    """Add updates to weights, and put back exactly what was there."""
    weights = {name: model.get_submodule(name).weight for name in updates}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data.add_(updates[name], alpha=factor)
        yield
    finally:
        for name, weight in weights.items():
            weight.data.copy_(before[name])


def _scaled(
    updates: Mapping[str, Tensor], student: nn.Module, probe: DataLoader, ranks: Mapping[str, int], strength: float
) -> dict[str, Tensor]:
    """Updates that are equally visible for their rank and together change the outputs by `strength`."""

    def change(some: Mapping[str, Tensor], factor: float) -> float:
        with shifted(student, some, factor):
            return np.sqrt(mean_loss(student, probe))

    if strength == 0 or not updates:
        return {}
    alone = {name: change({name: update}, PROBE_STEP) / PROBE_STEP for name, update in updates.items()}
    if min(alone.values()) == 0:
        raise ValueError(f"planted: an update of {min(alone, key=alone.get)} changes no output of read_out")
    updates = {name: update * (np.sqrt(ranks[name]) / alone[name]) for name, update in updates.items()}
    factor = strength / np.sqrt(sum(ranks[name] for name in updates))
    for _ in range(12):
        found = change(updates, factor)
        if abs(found / strength - 1) < 0.02:
            return {name: update * factor for name, update in updates.items()}
        factor *= np.clip(strength / found, 0.3, 3)
    raise ValueError(f"strength: got {strength}; the outputs change by {found:.3g} however large the updates are")


def _label(planted: Planted, rng: np.random.Generator) -> None:
    with planted.teacher() as teacher:
        for loader in (planted.train, planted.test):
            loader.dataset.labels = outputs_of(teacher, loader)
    noise = rng.standard_normal(planted.train.dataset.labels.shape, np.float32)
    planted.train.dataset.labels += np.float32(planted.config["noise"]) * noise


def rank_recovery(found: Mapping[str, int], planted: Mapping[str, int]) -> dict[str, float | None]:
    """How near ranks are to the planted ones.

    Parameters
    ----------
    found, planted : mapping of str to int
        By name of the matrix, the same names.

    Returns
    -------
    dict
        ``error`` (mean absolute), ``exact`` and ``within_one`` (shares of the matrices), and ``correlation``
        (Spearman's over the matrices; None where either side is the same for all).

    Raises
    ------
    ValueError
        Names that differ, or none.

    Examples
    --------
    >>> rank_recovery({"a": 1, "b": 4, "c": 6}, {"a": 0, "b": 4, "c": 6})["within_one"]
    1.0
    """
    if not planted or set(found) != set(planted):
        raise ValueError(f"found: got ranks of {sorted(found)}; accepted: of {sorted(planted)}")
    a, b = np.array([(found[name], planted[name]) for name in planted], float).T
    distance = np.abs(a - b)
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    return {
        "error": float(distance.mean()),
        "exact": float(np.mean(distance == 0)),
        "within_one": float(np.mean(distance <= 1)),
        "correlation": None if constant else float(stats.spearmanr(a, b).statistic),
    }
