"""Gradient spectra with a noise floor, from one backward pass over frozen weights.

For a linear layer ``y = W x`` the gradient of a mean loss is ``G = sum_i dY_i' X_i / n``, with ``X_i`` (tokens x in) what
example i sends into the layer and ``dY_i`` (tokens x out) the gradient at its output. Hooks collect both, so nothing is stored on any
weight. Multiplying whole examples by balanced signs and averaging again cancels what the examples share and keeps what
they do not: the largest singular value of such a flipped mean is a noise floor for the spectrum of G.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.batches import example_weights, first_label_counts, has_token_labels, to_device
from companion.hooks import GradientRecorder, pristine
from companion.sign_flips import check_flips, with_signs
from companion.targets import linear_targets

__all__ = ["GradientSpectrum", "MeanGradient", "gradient_spectra", "mean_gradients", "spectrum_of"]

LossFn = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class MeanGradient:
    """Mean gradient of one matrix and its sign-flipped companions.

    Attributes
    ----------
    mean : Tensor, shape (out, in)
        Gradient of the mean loss.
    flipped : Tensor, shape (flips, out, in)
        The same average with balanced signs: weights sum to zero, mean square one, so that noise keeps its size.
    n_examples : int
        Examples in the mean.
    """

    mean: Tensor
    flipped: Tensor
    n_examples: int


@dataclass(frozen=True, eq=False)
class GradientSpectrum:
    """Singular values of a mean gradient beside the noise they have to exceed.

    Attributes
    ----------
    singular_values : ndarray, shape (min(out, in),)
        Decreasing, float64.
    floors : ndarray, shape (flips,)
        Largest singular value of each sign-flipped mean.
    shape : (int, int)
        (out, in) of the weight.
    n_examples : int
        Examples in the mean gradient.
    flip_energies : ndarray, shape (flips,), optional
        Squared Frobenius norm of each sign-flipped mean: what noise alone adds to ``sum(singular_values**2)``.
    """

    singular_values: np.ndarray
    floors: np.ndarray
    shape: tuple[int, int]
    n_examples: int
    flip_energies: np.ndarray | None = None

    @property
    def noise_floor(self) -> float:
        """Largest of the flipped floors; without signal a singular value exceeds it with probability `level`.

        Raises
        ------
        ValueError
            The spectrum was made with ``flips=0``.
        """
        if len(self.floors) == 0:
            raise ValueError("noise_floor: this spectrum was made with flips=0; make it again with flips >= 1")
        return float(np.max(self.floors))

    @property
    def level(self) -> float:
        """False-alarm rate of `noise_floor`: 1 / (number of flips + 1).

        Exact for Gaussian noise and orthogonal flips. With n examples at most n - 1 flips are orthogonal: more of them
        overlap, and the rate falls more slowly than this (9 flips of 8 examples: .10 to .12 measured).
        """
        return 1.0 / (len(self.floors) + 1)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        # lets a rule of `rank_rules` be applied to the spectrum itself
        return np.array(self.singular_values, dtype=dtype)


def mean_gradients(
    model: nn.Module,
    dataloader: Iterable,
    target_modules: str | Iterable[str],
    loss_fn: LossFn | None = None,
    flips: int = 9,
    rng: np.random.Generator | int = 0,
) -> dict[str, MeanGradient]:
    """Mean gradient of every target matrix, and `flips` balanced sign-flipped means, from one pass.

    Parameters
    ----------
    model : nn.Module
        Run in eval mode on its own device; left exactly as found, also after an exception. Nothing needs
        ``requires_grad``: frozen bases work.
    dataloader : iterable of batches
        Read once. A batch is what `loss_fn` takes; without one, a mapping with ``labels`` that the model is called with.
        Its examples lie along the first dimension of its tensors.
    target_modules : str or iterable of str
        As in PEFT: a regular expression for the full name, ``"all-linear"``, or name endings.
    loss_fn : callable, optional
        ``loss_fn(model, batch)`` returns the scalar mean over the examples of the batch. Default: the model's own loss,
        weighted by scored tokens where the labels are one integer a token.
    flips : int
        Number of flipped means; their maximum is a floor of level 1 / (flips + 1).
    rng : numpy Generator or int
        Draws the signs.

    Returns
    -------
    dict of str to MeanGradient
        By full module name, in the model's order; at least float32, on the model's device.

    Raises
    ------
    ValueError
        No batch, fewer than 8 examples with flips > 0, more flips than distinct splits, a loss that is NaN, missing or
        does not reach the targets, labels missing, or every gradient exactly zero.
    TypeError
        A target that is not a floating-point `nn.Linear`.

    Notes
    -----
    Cost: one forward and one backward pass to the activations, plus ``flips + 1`` accumulators of each matrix's size.
    If the loss of an example has gradient ``g_i``, the mean is ``sum w_i g_i / sum w_i`` and a flipped one
    ``sum w_i e_i g_i / sum w_i`` with ``e_i = (s_i - m) / sqrt(1 - m²)``, ``s_i = ±1``, m the weighted mean of s: exactly
    balanced for any number of examples, split into any batches. P2 Algorithm 1, lines 1-3, has the mean; the flips are
    this book's.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> batches = [torch.ones(8, 6), torch.zeros(4, 6)]
    >>> loss = lambda model, batch: model(batch).square().mean()
    >>> found = mean_gradients(model, batches, ["0"], loss)["0"]
    >>> tuple(found.mean.shape), tuple(found.flipped.shape), found.n_examples
    ((4, 6), (9, 4, 6), 12)
    """
    check_flips(flips)
    targets = linear_targets(model, target_modules)
    device, first_counts = next(iter(targets.values())).weight.device, None
    with pristine(model), GradientRecorder(targets, flips) as recorder, torch.inference_mode(False), torch.enable_grad():
        for index, (batch, signs) in enumerate(with_signs(dataloader, flips, np.random.default_rng(rng))):
            batch = to_device(batch, device)
            by_token = loss_fn is None and has_token_labels(batch)
            if by_token and first_counts is None and (batch["labels"][:, 0] != -100).any():
                first_counts = first_label_counts(model, batch)
            recorder.start(signs, example_weights(batch, by_token, first_counts is not False))
            _backward(_loss(model, batch, loss_fn, index), recorder)
    return {name: MeanGradient(*pair, recorder.n_examples) for name, pair in recorder.result().items()}


def gradient_spectra(
    model: nn.Module,
    dataloader: Iterable,
    target_modules: str | Iterable[str],
    loss_fn: LossFn | None = None,
    flips: int = 9,
    rng: np.random.Generator | int = 0,
) -> dict[str, GradientSpectrum]:
    """Singular values of every target's mean gradient (P2 Algorithm 1, lines 1-4) with their noise floors.

    Parameters
    ----------
    model, dataloader, target_modules, loss_fn, flips, rng
        As for `mean_gradients`.

    Returns
    -------
    dict of str to GradientSpectrum
        By full module name. Decompositions in float64.

    Raises
    ------
    ValueError
        As for `mean_gradients`.
    TypeError
        As for `mean_gradients`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> batches = [torch.ones(8, 6), torch.zeros(4, 6)]
    >>> loss = lambda model, batch: model(batch).square().mean()
    >>> found = gradient_spectra(model, batches, ["0"], loss)["0"]
    >>> found.singular_values.shape, len(found.floors), found.level
    ((4,), 9, 0.1)
    """
    gradients = mean_gradients(model, dataloader, target_modules, loss_fn, flips, rng)
    return {name: spectrum_of(gradient) for name, gradient in gradients.items()}


def spectrum_of(gradient: MeanGradient) -> GradientSpectrum:
    """Singular values of one mean gradient and of its flips, decomposed in float64.

    Parameters
    ----------
    gradient : MeanGradient

    Returns
    -------
    GradientSpectrum

    Examples
    --------
    >>> mean, flipped = 2 * torch.eye(3), torch.ones(1, 3, 3)
    >>> spectrum = spectrum_of(MeanGradient(mean, flipped, n_examples=8))
    >>> spectrum.singular_values, round(spectrum.noise_floor, 4)
    (array([2., 2., 2.]), 3.0)
    """
    values = torch.linalg.svdvals(gradient.mean.double())
    # one flip at a time: k matrices in float64 at once would need k times the memory
    norms = np.array([_norms(matrix.double()) for matrix in gradient.flipped]).reshape(-1, 2)
    return GradientSpectrum(
        singular_values=values.cpu().numpy(),
        floors=norms[:, 0],
        shape=tuple(gradient.mean.shape),
        n_examples=gradient.n_examples,
        flip_energies=norms[:, 1],
    )


def _norms(matrix: Tensor) -> tuple[float, float]:
    """Spectral norm and squared Frobenius norm of a float64 matrix.

    From the Gram matrix of the shorter side, half the work of a decomposition: squaring costs the small singular values
    their digits and the largest none.
    """
    gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    return math.sqrt(max(torch.linalg.eigvalsh(gram)[-1].item(), 0.0)), gram.trace().item()


def _backward(loss: Tensor, recorder: GradientRecorder) -> None:
    if loss.requires_grad:
        loss.backward()
    if not recorder.reached:
        raise ValueError("the loss does not depend on any target module: the gradient of every target module is exactly zero")


def _loss(model: nn.Module, batch: Any, loss_fn: LossFn | None, index: int) -> Tensor:
    if loss_fn is not None:
        loss = loss_fn(model, batch)
    else:
        if not isinstance(batch, Mapping):
            raise ValueError(f"dataloader: got a batch of type {type(batch).__name__}; without loss_fn it must be a mapping")
        if batch.get("labels") is None:
            raise ValueError(f"dataloader: the batch has {sorted(batch)} but no 'labels'; add them or pass loss_fn")
        loss = getattr(model(**batch), "loss", None)
        if loss is None:
            raise ValueError("model: its output has no loss; pass loss_fn")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss_fn: got {type(loss).__name__}; accepted: a scalar tensor, the mean over the batch's examples")
    if not torch.isfinite(loss):
        raise ValueError(f"loss: batch {index} gave {loss.item()}; accepted: a finite number")
    return loss.reshape(())
