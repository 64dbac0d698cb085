"""Gradient spectra with a noise floor, from one backward pass over frozen weights.

For a linear layer ``y = W x`` the gradient of a mean loss is ``G = sum_i dY_i' X_i / n``, with ``X_i`` (tokens x in)
what example i sends into the layer and ``dY_i`` (tokens x out) the gradient at its output. Hooks collect both, so
nothing is stored on any weight. Multiplying whole examples by balanced signs and averaging again cancels what they
share and keeps the rest: the largest singular value of such a flipped mean is a noise floor for the spectrum of G.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from companion.batches import LossFn, read
from companion.hooks import GradientRecorder, accumulator_bytes, pristine
from companion.sign_flips import check_flips, with_signs
from companion.sketching import Sketch, SketchedSums, accumulators, as_sketch, warn_of_errors
from companion.targets import linear_targets

__all__ = [
    "GradientSpectrum", "MeanGradient", "Sketch", "accumulator_bytes",
    "gradient_spectra", "mean_gradients", "spectrum_of",
]  # fmt: skip


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
    singular_values : ndarray, shape (min(out, in),) or, of a sketch, (k,)
        Decreasing, float64.
    floors : ndarray, shape (flips,)
        Largest singular value of each sign-flipped mean.
    shape : (int, int)
        (out, in) of the weight.
    n_examples : int
        Examples in the mean gradient.
    flip_energies : ndarray, shape (flips,), optional
        Squared Frobenius norm of each sign-flipped mean: what noise alone adds to `energy`.
    energy : float, optional
        Squared Frobenius norm of the mean gradient; without it, ``sum(singular_values**2)``. Of a sketch this and
        `flip_energies` are unbiased estimates, good to some per cent.
    errors, floor_errors : ndarray, shape (k,) and (flips,), optional
        Of a sketch, whose values are lower bounds: how much higher the exact ones may be (estimated, for 95 % or more).
    """

    singular_values: np.ndarray
    floors: np.ndarray
    shape: tuple[int, int]
    n_examples: int
    flip_energies: np.ndarray | None = None
    energy: float | None = None
    errors: np.ndarray | None = None
    floor_errors: np.ndarray | None = None

    @property
    def truncated(self) -> bool:
        """Whether only the leading singular values are known."""
        return len(self.singular_values) < min(self.shape)

    @property
    def noise_floor(self) -> float:
        """Largest of the flipped floors; without signal the first singular value exceeds it with probability `level`.

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
        ``requires_grad``: frozen bases work, and so do layers with packed 4-bit or 8-bit weights.
    dataloader : iterable of batches
        Read once. A batch is what `loss_fn` takes; without one, a mapping with ``labels`` that the model is called
        with. Its examples lie along the first dimension of its tensors.
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
        A target that is not a linear layer (`companion.targets.linear_targets`).

    Notes
    -----
    Cost: one forward and one backward pass to the activations, plus ``flips + 1`` accumulators of each matrix's size.
    If the loss of an example has gradient ``g_i``, the mean is ``sum w_i g_i / sum w_i`` and a flipped one
    ``sum w_i e_i g_i / sum w_i`` with ``e_i = (s_i - m) / sqrt(1 - m²)``, ``s_i = ±1``, m the weighted mean of s:
    exactly balanced for any number of examples, split into any batches. P2 Algorithm 1, lines 1-3, has the mean; the
    flips are this book's.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> batches = [torch.ones(8, 6), torch.zeros(4, 6)]
    >>> loss = lambda model, batch: model(batch).square().mean()
    >>> found = mean_gradients(model, batches, ["0"], loss)["0"]
    >>> tuple(found.mean.shape), tuple(found.flipped.shape), found.n_examples
    ((4, 6), (9, 4, 6), 12)
    """
    recorder = _read_all(model, dataloader, target_modules, loss_fn, flips, rng, None)
    return {name: _mean_gradient(recorder, name) for name in recorder.targets}


def gradient_spectra(
    model: nn.Module,
    dataloader: Iterable,
    target_modules: str | Iterable[str],
    loss_fn: LossFn | None = None,
    flips: int = 9,
    rng: np.random.Generator | int = 0,
    sketch: Sketch | int | None = None,
) -> dict[str, GradientSpectrum]:
    """Singular values of every target's mean gradient (P2 Algorithm 1, lines 1-4) with their noise floors.

    Parameters
    ----------
    model, dataloader, target_modules, loss_fn, flips, rng
        As for `mean_gradients`.
    sketch : Sketch or int, optional
        For matrices too large to keep ``flips + 1`` times: only k leading singular values (k stands for ``Sketch(k)``),
        from products with thin matrices. Takes 2 to ``sketch.passes`` readings, each a forward and a backward pass, and
        keeps the batches. What would not get smaller is kept whole, and exact; `accumulator_bytes` tells beforehand.

    Returns
    -------
    dict of str to GradientSpectrum
        By full module name. Decompositions in float64.

    Raises
    ------
    TypeError, ValueError
        As for `mean_gradients`; a sketch out of range, or gradients that change from one reading to the next.

    Warns
    -----
    UserWarning
        A sketch has used all its readings and some error is above its tolerance: flat spectra, a bulk of noise.

    Notes
    -----
    Peak memory beyond the model and a forward and backward pass: the accumulators (`accumulator_bytes`), 64 MiB at most
    (or a matrix) of per-example gradients, and a matrix or two in float64 while one is decomposed. The alternative to a
    sketch: call this for some of the targets at a time, with as many readings, and everything exact.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> batches = [torch.ones(8, 6), torch.zeros(4, 6)]
    >>> loss = lambda model, batch: model(batch).square().mean()
    >>> found = gradient_spectra(model, batches, ["0"], loss)["0"]
    >>> found.singular_values.shape, len(found.floors), found.level
    ((4,), 9, 0.1)
    """
    sketch = as_sketch(sketch)
    recorder = _read_all(model, dataloader, target_modules, loss_fn, flips, rng, sketch)
    spectra = {name: _spectrum(recorder, name, sketch) for name in recorder.targets}
    if sketch is not None:
        warn_of_errors(spectra, sketch)
    return spectra


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
    # one flip at a time in float64
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

    From the Gram matrix of the shorter side, half the work: squaring costs small values their digits, the largest none.
    """
    gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    return math.sqrt(max(torch.linalg.eigvalsh(gram)[-1].item(), 0.0)), gram.trace().item()


def _read_all(model, dataloader, target_modules, loss_fn, flips, rng, sketch: Sketch | None) -> GradientRecorder:
    """As many readings of the data as the accumulators of all targets need, or are allowed."""
    check_flips(flips)
    targets = linear_targets(model, target_modules)
    rng = np.random.default_rng(rng)
    batches = with_signs(dataloader, flips, rng)
    if sketch is not None:
        batches = list(batches)  # to be read again; signs are drawn first, the same ones as for whole matrices
    recorder = GradientRecorder(model, targets, flips, accumulators(targets, flips, sketch, rng))
    while recorder.open() and recorder.readings < (sketch.passes if sketch else 1):
        with pristine(model), recorder, torch.inference_mode(False), torch.enable_grad():
            read(model, batches, loss_fn, recorder)
        recorder.finish()
    return recorder


def _mean_gradient(recorder: GradientRecorder, name: str) -> MeanGradient:
    sums = recorder.sums.pop(name)  # one matrix after the other is let go
    return MeanGradient(sums.total[0].view(sums.shape), sums.total[1:].view(-1, *sums.shape), recorder.n_examples)


def _spectrum(recorder: GradientRecorder, name: str, sketch: Sketch | None) -> GradientSpectrum:
    if isinstance(recorder.sums[name], SketchedSums):
        return GradientSpectrum(**recorder.sums.pop(name).result(), n_examples=recorder.n_examples)
    spectrum = spectrum_of(_mean_gradient(recorder, name))
    if sketch is None:
        return spectrum
    leading, energy = spectrum.singular_values[: sketch.k], float(np.sum(spectrum.singular_values**2))
    exact = {"energy": energy, "errors": np.zeros_like(leading), "floor_errors": np.zeros_like(spectrum.floors)}
    return replace(spectrum, singular_values=leading, **exact)
