"""Gradient spectra with a noise floor, from one backward pass over frozen weights.

For a linear layer y = W x the gradient of a mean loss is G = sum_i dY_i' X_i / n, with X_i (tokens x in) what example i
sends into the layer and dY_i (tokens x out) the gradient at its output. Hooks collect both, so nothing is stored on any
weight. Multiplying whole examples by balanced signs and averaging again cancels what the examples share and keeps what
they do not: the largest singular value of such a flipped mean is a noise floor for the spectrum of G.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.targets import linear_targets

__all__ = ["GradientSpectrum", "MeanGradient", "gradient_spectra", "mean_gradients"]

MIN_EXAMPLES = 8
_STREAM_FROM = 64  # examples; below this the signs are drawn for the whole set at once, nearly orthogonal
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
    _check_flips(flips)
    targets = linear_targets(model, target_modules)
    device = next(iter(targets.values())).weight.device
    with _pristine(model), _Recorder(targets, flips) as recorder, torch.inference_mode(False), torch.enable_grad():
        for index, (batch, signs) in enumerate(_with_signs(dataloader, flips, np.random.default_rng(rng))):
            batch = _to(batch, device)
            recorder.start(signs, _example_weights(model, batch, loss_fn))
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
    return {name: _spectrum(gradient) for name, gradient in gradients.items()}


def _spectrum(gradient: MeanGradient) -> GradientSpectrum:
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


# --- signs -------------------------------------------------------------------------------------------------------------


def _check_flips(flips: int) -> None:
    if isinstance(flips, bool) or not isinstance(flips, int) or flips < 0:
        raise ValueError(f"flips: got {flips!r}; accepted: an integer >= 0")


def _with_signs(dataloader: Iterable, flips: int, rng: np.random.Generator) -> Iterator[tuple[Any, np.ndarray]]:
    """Batches with the signs of their examples, shape (flips, examples).

    Small sets are read ahead, so that their signs are balanced splits, distinct and nearly orthogonal; from 64 examples
    on independent signs are so anyway, up to the exact centring in `_Recorder.result`.
    """
    batches, head, count = iter(dataloader), [], 0
    for batch in batches:
        head.append(batch)
        count += _batch_size(batch)
        if count >= _STREAM_FROM:
            for batch in chain(head, batches):
                yield batch, rng.choice([-1.0, 1.0], (flips, _batch_size(batch)))
            return
    if count == 0:
        raise ValueError("dataloader: it gave no examples")
    signs = balanced_signs(count, flips, rng) if flips else np.empty((0, count))
    ends = np.cumsum([_batch_size(batch) for batch in head])
    yield from zip(head, np.split(signs, ends[:-1], axis=1), strict=True)


def balanced_signs(n: int, flips: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct splits of n examples into halves, as signs of shape (flips, n), as orthogonal to each other as they come.

    Raises ValueError below 8 examples and when there are fewer distinct splits than flips.
    """
    distinct = math.comb(n, n // 2) // (2 if n % 2 == 0 else 1)  # a split and its negative give the same floor
    if n < MIN_EXAMPLES:
        raise ValueError(
            f"dataloader: got {n} examples; a sign-flip floor needs at least {MIN_EXAMPLES} "
            f"({n} have {distinct} distinct balanced splits, best attainable level 1/{distinct + 1})"
        )
    if flips > distinct:
        raise ValueError(
            f"flips: got {flips}; {n} examples have {distinct} distinct balanced splits, best attainable level 1/{distinct + 1}"
        )
    base = np.where(np.arange(n) < n // 2, -1.0, 1.0)
    chosen = np.empty((0, n))
    while len(chosen) < flips:
        candidates = rng.permuted(np.tile(base, (64, 1)), axis=1)
        overlap = candidates @ chosen.T  # (64, chosen)
        cost = np.where(np.abs(overlap) >= n - 1, np.inf, overlap**2).sum(axis=1)  # the same split is never taken twice
        if np.isfinite(cost.min()):
            chosen = np.vstack([chosen, candidates[cost.argmin()]])
    return chosen


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


def _example_weights(model: nn.Module, batch: Any, loss_fn: LossFn | None) -> np.ndarray:
    """Weight of each example in the batch's mean loss: its scored tokens for token labels, else 1; shape (examples,)."""
    n = _batch_size(batch)
    labels = batch.get("labels") if loss_fn is None and isinstance(batch, Mapping) else None
    if labels is None or labels.ndim < 2 or labels.is_floating_point():
        return np.ones(n)
    causal = any(part in type(model).__name__ for part in ("CausalLM", "LMHead"))
    scored = labels[:, 1:] if causal else labels  # a causal model predicts token t+1 at t: the first label is not scored
    return (scored != -100).flatten(1).sum(1).double().cpu().numpy()


def _batch_size(batch: Any) -> int:
    """Number of examples: the first dimension of the labels, else of the first tensor found."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    if isinstance(batch, Mapping):
        batch = [batch["labels"], *batch.values()] if isinstance(batch.get("labels"), Tensor) else list(batch.values())
    for item in batch if isinstance(batch, (list, tuple)) else ():
        if isinstance(item, Tensor) and item.ndim:
            return item.shape[0]
    raise ValueError(f"dataloader: got a batch of type {type(batch).__name__} without a tensor in it")


def _to(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; containers keep their type."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [_to(value, device) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch


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
