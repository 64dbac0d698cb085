"""Hooks that accumulate weight gradients at the activations, and a model left exactly as found."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from companion.sign_flips import check_flips
from companion.sketching import DenseSums, Sketch, as_sketch, sketch_entries, sketch_saves
from companion.targets import is_packed, linear_targets, packed_modules

__all__ = ["GradientRecorder", "accumulator_bytes", "pristine"]

NewSums = Callable[[str, tuple[int, int], torch.dtype, torch.device], DenseSums]


class GradientRecorder:
    """Hooks on the targets that accumulate sum_i w_i g_i and sum_i s_ij w_i g_i for every flip j, in any readings."""

    def __init__(self, model: nn.Module, targets: Mapping[str, nn.Module], flips: int, new_sums: NewSums):
        self.targets = targets
        self.new_sums = new_sums
        self.packed = {name: module for name, module in packed_modules(model).items() if name not in targets}
        self.device = next(chain(*((*module.parameters(), *module.buffers()) for module in targets.values()))).device
        self.sums: dict[str, DenseSums] = {}
        self.signs = torch.empty(0)  # (1 + flips, examples) of the current batch, times the batch's total weight
        self.sign_weight = np.zeros(1 + flips)  # sum_i w_i (1, s_i1, ..., s_ik) over all batches
        self.n_examples = 0
        self.readings = 0  # completed
        self.reached = False  # whether the current batch's loss depends on a target
        self.called: set[str] = set()
        self.half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
        self._scale: float | None = None  # of the loss in the backward pass; None until the first one
        self._finite: bool | None = None  # of the gradients in a trial backward pass; None in a real one
        self._handles: list = []

    def __enter__(self):
        for name, module in self.open().items():
            # first in line, so that a user's own hook changes what comes after ours, as it does for autograd
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True, prepend=True))
        for name, module in self.packed.items():
            self._handles.append(module.register_forward_hook(_cut_hook(name), with_kwargs=True, prepend=True))
        return self

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def open(self) -> dict[str, nn.Module]:
        """Targets that another reading would say more about."""
        return {name: module for name, module in self.targets.items() if not self.readings or not self.sums[name].done}

    def start(self, signs: np.ndarray, weights: np.ndarray) -> None:
        """Before each batch: signs (flips, examples) and the weight of each example in the batch's mean loss."""
        rows = np.vstack([np.ones(len(weights)), signs])
        if self.readings:  # the balance of the signs is known: centred at once
            m = self._means()
            rows[1:] = (rows[1:] - m[:, None]) / np.sqrt(1 - m**2)[:, None]
            rows /= self.sign_weight[0]
        else:
            self.sign_weight += rows @ weights
            self.n_examples += len(weights)
        # the loss is sum_i w_i l_i / sum_i w_i: times the sum, batches of any size add up with their share
        self.signs = torch.from_numpy(rows * weights.sum())
        self.reached = False

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a batch's loss; in half precision of a multiple, so that small gradients are not lost."""
        if self._scale is None:
            self._scale = self._largest_scale(loss) if self.half else 1.0
        self.signs /= self._scale
        loss.backward(torch.full_like(loss, self._scale))

    def _largest_scale(self, loss: Tensor) -> float:
        """A power of two with room for gradients sixteen times as large; half precision has nothing below 6e-8."""
        for scale in (2.0**11, 2.0**7, 2.0**3):
            self._finite = True
            loss.backward(torch.full_like(loss, 16 * scale), retain_graph=True)
            finite, self._finite = self._finite, None
            if finite:
                return scale
        return 1.0

    def _hook(self, name: str):
        def forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            self.called.add(name)
            if not torch.is_grad_enabled():  # a part of the model, or of the loss, that no gradient passes
                return output
            given = args[0] if args else next(iter(kwargs.values()))
            _check_features(name, module, given, output)
            inputs = given.detach()
            version = inputs._version
            if not output.requires_grad:  # frozen base: the graph starts here
                _check_not_cut(name, module, given)
                output = _Start.apply(torch.ones((), requires_grad=True), output.detach())

            def backward(grad: Tensor) -> None:
                if inputs._version != version:
                    raise RuntimeError(
                        f"{name}: its input was changed in place during the forward pass; its gradient is lost"
                    )
                self._add(name, inputs, grad)

            output.register_hook(backward)
            return output

        return forward

    @torch.no_grad()
    def _add(self, name: str, inputs: Tensor, grads: Tensor) -> None:
        """Add the batch's per-example gradients dY_i' X_i, weighted by every row of signs."""
        self.reached = True
        if self._finite is not None:
            self._finite = self._finite and bool(torch.isfinite(grads).all())
            return
        examples = self.signs.shape[1]
        x, dy = _by_example(name, inputs, examples), _by_example(name, grads, examples)  # (B, T, in), (B, T, out)
        dtype = _sums_dtype(self.targets[name], x.dtype)
        x, dy = x.to(dtype), dy.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            if name not in self.sums:
                self.sums[name] = self.new_sums(name, (dy.shape[2], x.shape[2]), dtype, x.device)
            self.sums[name].add(x, dy, self.signs.to(x.device, dtype))

    def finish(self) -> None:
        """After all batches: means instead of sums, the signs centred, and a check that there is a gradient."""
        if not self.readings:
            self._finish_first()
        for name in self.open():
            self.sums[name].close()
        self.readings += 1

    def _finish_first(self) -> None:
        silent = [name for name in self.targets if name not in self.sums or not self.sums[name].total[0].any()]
        if len(silent) == len(self.targets):
            raise ValueError(
                "the gradient of every target module is exactly zero: does the loss depend on the targets?"
            )
        m = self._means()
        if np.any(1 - m**2 < 1e-12):
            raise ValueError("dataloader: a single example carries all the weight, so no sign flip is balanced")
        if silent:
            notes = [name if name in self.called else f"{name} (never called as a module)" for name in silent]
            warnings.warn(f"zero gradient in {', '.join(notes)}: they get an all-zero spectrum", stacklevel=5)
        for name, module in self.targets.items():
            if name not in self.sums:
                shape = (module.out_features, module.in_features)
                self.sums[name] = self.new_sums(name, shape, _sums_dtype(module), self.device)
            self.sums[name].centre(self.sign_weight[0], m)
            if not torch.isfinite(self.sums[name].total).all():
                raise ValueError(f"{name}: the gradient holds NaN or infinite entries")

    def _means(self) -> np.ndarray:
        """m_j, the weighted mean of the signs of each flip."""
        return self.sign_weight[1:] / self.sign_weight[0]


class _Start(torch.autograd.Function):
    """The output, from here on with a gradient: no copy, and no leaf that a model may not change in place."""

    @staticmethod
    def forward(ctx, root: Tensor, output: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        return None, None


def _sums_dtype(module: nn.Module, activations: torch.dtype = torch.float32) -> torch.dtype:
    """At least float32; float64 where the weights are or, for packed weights, the activations."""
    kind = activations if is_packed(module) else module.weight.dtype
    return torch.float64 if kind == torch.float64 else torch.float32


def _check_features(name: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
    found, stated = (given.shape[-1], output.shape[-1]), (module.in_features, module.out_features)
    if found != stated:
        features = f"maps {found[0]} features to {found[1]}, not in_features to out_features {stated}"
        raise ValueError(f"target_modules: {name} {features}")


def _check_not_cut(name: str, module: nn.Module, given: Tensor) -> None:
    if given.requires_grad:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        raise ValueError(
            f"model: {name} ({kind}) passes no gradient to its input, so the gradients before it are lost; "
            "load the model with a kernel that can be trained through"
        )


def _cut_hook(name: str):
    def forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        tensors = isinstance(given, Tensor) and isinstance(output, Tensor)
        if tensors and torch.is_grad_enabled() and not output.requires_grad:
            _check_not_cut(name, module, given)

    return forward


def _by_example(name: str, tensor: Tensor, examples: int) -> Tensor:
    """View (examples * tokens …, features) or (examples, …, features) as (examples, tokens, features)."""
    if examples == 1:
        return tensor.reshape(1, -1, tensor.shape[-1])
    if tensor.ndim < 2 or tensor.shape[0] % examples or (tensor.ndim > 2 and tensor.shape[0] != examples):
        raise ValueError(
            f"{name}: activations of shape {tuple(tensor.shape)} do not have the batch's {examples} examples along "
            "their first dimension, so examples cannot be told apart; use batches of one example or leave this module "
            "out"
        )
    return tensor.reshape(examples, -1, tensor.shape[-1])


def accumulator_bytes(
    model: nn.Module, target_modules: str | Iterable[str], flips: int = 9, sketch: Sketch | int | None = None
) -> int:
    """Bytes that the sums of `gradient_spectra` and `mean_gradients` will take, all targets together.

    Parameters
    ----------
    model, target_modules, flips, sketch
        As for `gradient_spectra`.

    Returns
    -------
    int
        At the fullest moment: the whole matrices, or the bases and products of a sketch.

    Raises
    ------
    ValueError
        No target, flips not an integer >= 0, or a sketch out of range.
    TypeError
        A target that is not a linear layer.

    Examples
    --------
    Ten 4 x 6 matrices of single precision, which a sketch would not make smaller:

    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> accumulator_bytes(model, ["0"]), accumulator_bytes(model, ["0"], sketch=16)
    (960, 960)
    """
    check_flips(flips)
    sketch, total = as_sketch(sketch), 0
    for module in linear_targets(model, target_modules).values():
        shape = (module.out_features, module.in_features)
        sketched = sketch_saves(sketch, shape, flips)
        entries = sketch_entries(sketch, shape, flips) if sketched else (1 + flips) * math.prod(shape)
        total += entries * _sums_dtype(module).itemsize
    return total


@contextmanager
def pristine(model: nn.Module):
    """Eval mode and no parameter gradients inside; training flags, requires_grad and buffers restored afterwards.

    Layers with packed weights run as they do while an adapter is trained: in eval mode some use kernels without a
    gradient or repack their weights.
    """
    packed = set(packed_modules(model).values())
    others = [module for module in model.modules() if module not in packed]
    buffers = {buffer: buffer.clone() for module in others for buffer in module.buffers(recurse=False)}
    attributes = {module: (dict(vars(module)), dict(module._buffers)) for module in others if module._buffers}
    training = {module: module.training for module in model.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    states = [(module, _packed_state(module)) for module in packed]
    try:
        model.eval()
        for module in packed:
            module.train()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, state in states:
            module.train(training[module])
            _restore_packed(module, state)
        for module, (found, own) in attributes.items():
            if any(module._buffers.get(name) is not buffer for name, buffer in own.items()):
                vars(module).update(found)  # a buffer exchanged for another, and what the module noted of it
                module._buffers.update(own)
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in buffers.items():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _packed_state(module: nn.Module) -> tuple[dict, dict, dict]:
    """What a layer with packed weights may replace in a forward pass, a bias cast to the input's type; no copies."""
    return dict(vars(module)), dict(module._buffers), {p: p.data for p in module.parameters(recurse=False)}


def _restore_packed(module: nn.Module, state: tuple[dict, dict, dict]) -> None:
    attributes, buffers, parameters = state
    vars(module).clear()
    vars(module).update(attributes)
    module._buffers.update(buffers)
    for parameter, value in parameters.items():
        if parameter.dtype != value.dtype or parameter.shape != value.shape:
            parameter.data = value
