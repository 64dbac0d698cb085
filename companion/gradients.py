"""Gradient spectra with a noise floor, from one backward pass over frozen weights.

For a linear layer y = W x the gradient of a mean loss is G = sum_i dY_i' X_i / n, with X_i (tokens x in) what example i
sends into the layer and dY_i (tokens x out) the gradient at its output. Hooks collect both, so nothing is stored on any
weight. Multiplying whole examples by balanced signs and averaging again cancels what the examples share and keeps what
they do not: the largest singular value of such a flipped mean is a noise floor for the spectrum of G.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.batches import example_weights, to_device
from companion.sign_flips import check_flips, with_signs
from companion.targets import linear_targets

__all__ = ["GradientSpectrum", "MeanGradient", "gradient_spectra", "mean_gradients", "spectrum_of"]

_CHUNK_ENTRIES = 2**24  # per-example gradients held at a time: 64 MiB in float32
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
        """Largest of the flipped floors; without signal a singular value exceeds it with probability `level`."""
        if len(self.floors) == 0:
            raise ValueError("noise_floor: this spectrum was made with flips=0; make it again with flips >= 1")
        return float(np.max(self.floors))

    @property
    def level(self) -> float:
        """False-alarm rate of `noise_floor`: 1 / (number of flips + 1)."""
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
    If the loss of an example has gradient g_i, the mean is sum w_i g_i / sum w_i and a flipped one
    sum w_i e_i g_i / sum w_i with e_i = (s_i - m) / sqrt(1 - m²), s_i = ±1, m the weighted mean of s: exactly balanced
    for any number of examples, split into any batches.
    """
    check_flips(flips)
    targets = linear_targets(model, target_modules)
    device = next(iter(targets.values())).weight.device
    with _pristine(model), _Recorder(targets, flips) as recorder, torch.inference_mode(False), torch.enable_grad():
        for index, (batch, signs) in enumerate(with_signs(dataloader, flips, np.random.default_rng(rng))):
            batch = to_device(batch, device)
            recorder.start(signs, example_weights(model, batch, own_loss=loss_fn is None))
            _backward(_loss(model, batch, loss_fn, index), recorder)
    return recorder.result()


def gradient_spectra(
    model: nn.Module,
    dataloader: Iterable,
    target_modules: str | Iterable[str],
    loss_fn: LossFn | None = None,
    flips: int = 9,
    rng: np.random.Generator | int = 0,
) -> dict[str, GradientSpectrum]:
    """Singular values of every target's mean gradient (P2 Algorithm 1, lines 1-4) with their noise floors.

    Parameters and errors as for `mean_gradients`.

    Returns
    -------
    dict of str to GradientSpectrum
        By full module name. Decompositions in float64.
    """
    gradients = mean_gradients(model, dataloader, target_modules, loss_fn, flips, rng)
    return {name: spectrum_of(gradient) for name, gradient in gradients.items()}


def spectrum_of(gradient: MeanGradient) -> GradientSpectrum:
    """Singular values of one mean gradient and of its flips, decomposed in float64."""
    values = torch.linalg.svdvals(gradient.mean.double())
    # one flip at a time: k decompositions in float64 at once would need k times the memory
    flipped = [torch.linalg.svdvals(matrix.double()) for matrix in gradient.flipped]
    return GradientSpectrum(
        singular_values=values.cpu().numpy(),
        floors=np.array([v[0].item() for v in flipped]),
        shape=tuple(gradient.mean.shape),
        n_examples=gradient.n_examples,
        flip_energies=np.array([v.square().sum().item() for v in flipped]),
    )


# --- one pass ----------------------------------------------------------------------------------------------------------


class _Recorder:
    """Hooks on the targets that accumulate sum_i w_i g_i and sum_i s_ij w_i g_i for every flip j."""

    def __init__(self, targets: Mapping[str, nn.Linear], flips: int):
        self.targets = targets
        self.sums: dict[str, Tensor] = {}  # name -> (1 + flips, out * in)
        self.signs = torch.empty(0)  # (1 + flips, examples) of the current batch, times the batch's total weight
        self.sign_weight = np.zeros(1 + flips)  # sum_i w_i (1, s_i1, ..., s_ik) over all batches
        self.n_examples = 0
        self.reached = False  # whether the current batch's loss depends on a target
        self._handles: list = []

    def __enter__(self):
        for name, module in self.targets.items():
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True))
        return self

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()

    def start(self, signs: np.ndarray, weights: np.ndarray) -> None:
        """Before each batch: signs (flips, examples) and the weight of each example in the batch's mean loss."""
        rows = np.vstack([np.ones(len(weights)), signs])
        self.sign_weight += rows @ weights
        self.n_examples += len(weights)
        # the loss is sum_i w_i l_i / sum_i w_i: times the sum, batches of any size add up with their share
        self.signs = torch.from_numpy(rows * weights.sum())
        self.reached = False

    def _hook(self, name: str):
        def forward(module: nn.Linear, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            inputs = (args[0] if args else kwargs["input"]).detach()
            version = inputs._version
            if not output.requires_grad:  # frozen base: the graph starts here
                output = output.detach().requires_grad_().clone()

            def backward(grad: Tensor) -> None:
                if inputs._version != version:
                    raise RuntimeError(f"{name}: its input was changed in place during the forward pass; its gradient is lost")
                self._add(name, inputs, grad)

            output.register_hook(backward)
            return output

        return forward

    @torch.no_grad()
    def _add(self, name: str, inputs: Tensor, grads: Tensor) -> None:
        """Add the batch's per-example gradients dY_i' X_i, weighted by every row of signs."""
        self.reached = True
        examples = self.signs.shape[1]
        x, dy = _by_example(name, inputs, examples), _by_example(name, grads, examples)  # (B, T, in), (B, T, out)
        dtype = torch.promote_types(self.targets[name].weight.dtype, torch.float32)
        x, dy = x.to(dtype), dy.to(dtype)
        out_in = dy.shape[2] * x.shape[2]
        if name not in self.sums:
            self.sums[name] = torch.zeros(self.signs.shape[0], out_in, dtype=dtype, device=x.device)
        signs = self.signs.to(x.device, dtype)
        step = max(1, _CHUNK_ENTRIES // out_in)
        for i in range(0, examples, step):
            gradients = torch.bmm(dy[i : i + step].mT, x[i : i + step])  # (b, out, in)
            self.sums[name].addmm_(signs[:, i : i + step], gradients.flatten(1))

    def result(self) -> dict[str, MeanGradient]:
        """Means, with the signs centred exactly: flipped_j = (sum_j / W - m_j mean) / sqrt(1 - m_j²)."""
        total, m = self.sign_weight[0], self.sign_weight[1:] / self.sign_weight[0]
        silent = [name for name in self.targets if name not in self.sums or not self.sums[name][0].any()]
        if len(silent) == len(self.targets):
            raise ValueError("the gradient of every target module is exactly zero: does the loss depend on the targets?")
        if silent:
            warnings.warn(f"zero gradient in {', '.join(silent)}: they get an all-zero spectrum", stacklevel=4)
        result = {}
        for name, module in self.targets.items():
            shape = (module.out_features, module.in_features)
            sums = self.sums.pop(name, None)
            sums = torch.zeros(1 + len(m), math.prod(shape)) if sums is None else sums.div_(total)
            if not torch.isfinite(sums).all():
                raise ValueError(f"{name}: the gradient holds NaN or infinite entries")
            flipped = sums[1:]
            flipped.addmm_(sums.new_tensor(m)[:, None], sums[:1], alpha=-1)
            flipped.div_(sums.new_tensor(np.sqrt(1 - m**2))[:, None])
            result[name] = MeanGradient(sums[0].view(shape), flipped.view(len(m), *shape), self.n_examples)
        return result


def _by_example(name: str, tensor: Tensor, examples: int) -> Tensor:
    """View (examples * tokens …, features) or (examples, …, features) as (examples, tokens, features)."""
    if tensor.ndim < 2 or tensor.shape[0] % examples or (tensor.ndim > 2 and tensor.shape[0] != examples):
        raise ValueError(
            f"{name}: activations of shape {tuple(tensor.shape)} do not have the batch's {examples} examples along their "
            "first dimension, so examples cannot be told apart"
        )
    return tensor.reshape(examples, -1, tensor.shape[-1])


def _backward(loss: Tensor, recorder: _Recorder) -> None:
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


@contextmanager
def _pristine(model: nn.Module):
    """Eval mode and no parameter gradients inside; training flags and requires_grad restored afterwards."""
    training = {module: module.training for module in model.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
