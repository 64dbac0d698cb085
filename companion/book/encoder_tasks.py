"""Linear tasks from a frozen encoder, for the chapter *K\\* done right*: what a layer reads, and what a later one makes of it.

Tokens are the samples, as they are for the weights of a layer. Texts are kept together: tokens of one text are not
independent, so that test sets and folds are made of whole texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from companion import data
from companion.book.kstar_rules import Folds
from companion.decay import DecayFit, fit_decay
from companion.kstar import paper_threshold
from companion.reduced_rank import new_input_thresholds

__all__ = ["CORPORA", "EncoderTask", "RankedFit", "encoder_tasks", "one_hot", "random_subspace_scores"]

CORPORA = {  # name: (data set, text columns, tokens in a text, about)
    "Questions": ("qnli-mini", ["question"], 14),
    "Passages": ("qnli-mini", ["sentence"], 34),
    "Questions with passages": ("qnli-mini", ["question", "sentence"], 46),
    "Sentence pairs": ("stsb-mini", ["sentence1", "sentence2"], 28),
}
MAX_LENGTH = 64
NULL = 1e-4  # directions of the inputs with less than this share of the largest singular value are dropped
TEST = 5  # every fifth text is held out


@dataclass(frozen=True)
class EncoderTask:
    """Hidden states of a frozen encoder at the tokens of a corpus.

    Attributes
    ----------
    inputs, outputs : ndarray, shape (tokens, d)
        Hidden states at the first and at the last layer.
    texts : ndarray of int, shape (tokens,)
        The text of each token, increasing.
    labels : ndarray, shape (texts,)
        The labels of the data set.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    texts: np.ndarray
    labels: np.ndarray

    @cached_property
    def pooled(self) -> np.ndarray:
        """Mean of the outputs over the tokens of each text, shape (texts, d)."""
        sums = np.zeros((len(self.labels), self.outputs.shape[1]))
        np.add.at(sums, self.texts, self.outputs)
        return sums / np.bincount(self.texts, minlength=len(sums))[:, None]

    def split(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Training tokens, about so many (whole texts), and the tokens of the held-out texts."""
        held = self.texts % TEST == 0
        kept = np.flatnonzero(~held)
        last = self.texts[kept[min(tokens, len(kept)) - 1]]
        return kept[self.texts[kept] <= last], np.flatnonzero(held)


def encoder_tasks(tokens: int, seed: int = 0) -> dict[str, EncoderTask]:
    """MiniLM's hidden states before its first and after its last layer, for four corpora of the bundled data.

    Parameters
    ----------
    tokens : int
        Tokens of each corpus, about; as many texts are drawn as have them.
    seed : int
        Of the draw of texts.

    Returns
    -------
    dict of str to EncoderTask
    """
    import torch

    model, tokenizer = data.load_model("minilm").base_model, data.load_tokenizer("minilm")
    tasks = {}
    for name, (source, columns, length) in CORPORA.items():
        frame = data.sample(data.load_task(source), max(tokens // length, 2 * TEST), seed)
        loader = data.make_dataloader(frame[[*columns, "label"]], tokenizer, batch_size=50, max_length=MAX_LENGTH)
        order, states, texts = iter(np.concatenate(list(loader.batch_sampler))), [], []
        with torch.no_grad():
            for batch in loader:
                batch.pop("labels")
                mask = batch["attention_mask"].bool()
                hidden = model(**batch, output_hidden_states=True).hidden_states
                states.append(torch.stack([hidden[0][mask], hidden[-1][mask]]).double().numpy())
                texts += np.repeat([next(order) for _ in range(len(mask))], mask.sum(1)).tolist()
        both, texts = np.concatenate(states, axis=1), np.array(texts)
        place = np.argsort(texts, kind="stable")
        tasks[name] = EncoderTask(*both[:, place], texts[place], frame["label"].to_numpy())
    return tasks


class RankedFit:
    """Least squares on the training tokens of a task, with the ranks that different rules choose.

    Inputs are centred, put on the directions in which they vary, and scaled to a mean variance of 1: P1's threshold is
    for such inputs.

    Parameters
    ----------
    task : EncoderTask
    tokens : int
        Training tokens, about.

    Attributes
    ----------
    x, y : ndarray, shapes (n, d_in), (n, d_out)
        Centred training data.
    noise : float
        From the residuals.
    weight_values, z_values : ndarray
        Singular values of the weights and of Z.
    tau : float
        P1's threshold, d = d_in.
    """

    def __init__(self, task: EncoderTask, tokens: int) -> None:
        kept, held = task.split(tokens)
        x, x_mean = task.inputs[kept], task.inputs[kept].mean(axis=0)
        self.y = task.outputs[kept] - task.outputs[kept].mean(axis=0)
        _, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
        axes = vt[s > NULL * s[0]].T
        axes *= np.sqrt(len(kept) * axes.shape[1] / np.sum(s**2))
        self.x, self.groups = (x - x_mean) @ axes, task.texts[kept]
        self.x_held = (task.inputs[held] - x_mean) @ axes
        self.y_held = task.outputs[held] - task.outputs[kept].mean(axis=0)
        self.groups_held = task.texts[held]
        q, r = np.linalg.qr(self.x)
        z = q.T @ self.y
        self.weights = np.linalg.solve(r, z)
        _, self.z_values, self.right = np.linalg.svd(z, full_matrices=False)
        self.cut = np.linalg.svd(self.weights, full_matrices=False)
        self.weight_values = self.cut[1]
        self.residuals = self.y - q @ z
        free = len(self.x) - 1 - self.x.shape[1]
        self.noise = float(np.sqrt(np.sum(self.residuals**2) / (free * self.y.shape[1])))
        self.tau = paper_threshold(self.noise, self.x.shape[1], len(self.x))

    def fit(self, pieces: int = 1) -> DecayFit:
        """P1's fit (eq. 4): lines through the logarithms of the singular values of the weights above `tau`."""
        return fit_decay(self.weight_values, self.tau, max_pieces=pieces)

    def ranks(self) -> dict[str, int | None]:
        """The ranks of P1's fit (None where eq. 4 cannot be evaluated) and count, of the cut of Z, and of cross-validation.

        Cross-validation has five folds of whole texts.
        """
        fit, (n, d_in), d_out = self.fit(), self.x.shape, self.y.shape[1]
        k_star = min(fit.k_star(self.tau), len(self.weight_values)) if fit.modes > 1 and fit.decays[0] > 1 else None
        thresholds = new_input_thresholds(self.noise, d_in, d_out, n - 1, estimated=True)
        return {
            "K*": k_star,
            "count": int(np.sum(self.weight_values > self.tau)),
            "cut of Z": int(np.argmin([*(self.z_values > thresholds), False])),
            "cross-validation": self.cross_validated(self.groups),
        }

    def cross_validated(self, groups: np.ndarray, folds: int = 5) -> int:
        """The rank with the least held-out squared error; `groups` (n,) are kept together, in folds of neighbours."""
        _, place = np.unique(groups, return_inverse=True)
        fold = place * folds // (place.max() + 1)
        cuts = [np.flatnonzero(fold == i) for i in range(folds)]
        return int(np.argmin(Folds(self.x[None], self.y[None], cuts).cross_validated()[0]))

    def errors(self, ranks: ArrayLike, weights: bool = False) -> np.ndarray:
        """Squared error of each held-out text at each rank, shape (ranks, texts); of the cut weights if asked for."""
        names, place = np.unique(self.groups_held, return_inverse=True)
        left, values, right = self.cut
        found = []
        for r in ranks:
            w = (left[:, :r] * values[:r]) @ right[:r] if weights else self.weights @ self.right[:r].T @ self.right[:r]
            squares = np.sum((self.y_held - self.x_held @ w) ** 2, axis=1)
            found.append(np.bincount(place, squares, len(names)))
        return np.array(found)

    def r2(self, ranks: ArrayLike, weights: bool = False) -> np.ndarray:
        """Held-out R² at each rank, all outputs together, shape (ranks,)."""
        return 1 - self.errors(ranks, weights).sum(axis=1) / np.sum(self.y_held**2)

    def difference(self, first: int, second: int, draws: int = 400, seed: int = 0) -> tuple[float, float]:
        """R² at the first rank (weights cut) minus R² at the second (Z cut), with 1.96 standard errors over texts."""
        a, b = self.errors([first], weights=True)[0], self.errors([second])[0]
        _, place = np.unique(self.groups_held, return_inverse=True)
        total = np.bincount(place, np.sum(self.y_held**2, axis=1))
        drawn = np.random.default_rng(seed).integers(len(a), size=(draws, len(a)))
        found = np.sum((b - a)[drawn], axis=1) / np.sum(total[drawn], axis=1)
        return float(np.sum(b - a) / np.sum(total)), 1.96 * float(found.std())


def random_subspace_scores(
    x: np.ndarray, y: np.ndarray, held: tuple[np.ndarray, np.ndarray], sizes: ArrayLike, rng: np.random.Generator
) -> np.ndarray:
    """Held-out R² of weights fitted inside random subspaces of all weights (Aghajanyan et al. 2021), shape (sizes,).

    Parameters
    ----------
    x, y : ndarray, shapes (n, d_in), (n, d_out)
    held : pair of ndarray
        Held-out inputs and outputs.
    sizes : array_like of int
        Dimensions of the subspaces, which are nested, at most ``d_in d_out``.
    rng : numpy Generator
        For the subspace.
    """
    shape = x.shape[1], y.shape[1]
    basis = rng.standard_normal((max(sizes), *shape))
    gram = np.tensordot(np.tensordot(basis, x.T @ x, axes=(1, 0)), basis, axes=([2, 1], [1, 2]))
    cross = np.tensordot(basis, x.T @ y, axes=2)
    scores = []
    for size in sizes:
        w = np.tensordot(np.linalg.solve(gram[:size, :size], cross[:size]), basis[:size], axes=1)
        scores.append(1 - np.sum((held[1] - held[0] @ w) ** 2) / np.sum(held[1] ** 2))
    return np.array(scores)


def one_hot(labels: ArrayLike) -> np.ndarray:
    """A column for each class, centred, shape (n, classes)."""
    table = pd.get_dummies(pd.Series(np.asarray(labels))).to_numpy(float)
    return table - table.mean(axis=0)
