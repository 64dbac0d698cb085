"""Hooks that accumulate weight gradients at the activations, and a model left exactly as found."""

import math
import warnings
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["GradientRecorder", "pristine"]

_CHUNK_ENTRIES = 2**24  # per-example gradients held at a time: 64 MiB in float32


class GradientRecorder:
    """Hooks on the targets that accumulate sum_i w_i g_i and sum_i s_ij w_i g_i for every flip j."""

    def __init__(self, targets: Mapping[str, nn.Linear], flips: int):
        self.targets = targets
        self.sums: dict[str, Tensor] = {}  # name -> (1 + flips, out * in)
        self.signs = torch.empty(0)  # (1 + flips, examples) of the current batch, times the batch's total weight
        self.sign_weight = np.zeros(1 + flips)  # sum_i w_i (1, s_i1, ..., s_ik) over all batches
        self.n_examples = 0
        self.reached = False  # whether the current batch's loss depends on a target
        self.called: set[str] = set()
        self._handles: list = []

    def __enter__(self):
        for name, module in self.targets.items():
            # first in line, so that a user's own hook changes what comes after ours, as it does for autograd
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True, prepend=True))
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
            self.called.add(name)
            if not torch.is_grad_enabled():  # a part of the model, or of the loss, that no gradient passes
                return output
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
        with torch.autocast(x.device.type, enabled=False):
            for i in range(0, examples, step):
                gradients = torch.bmm(dy[i : i + step].mT, x[i : i + step])  # (b, out, in)
                self.sums[name].addmm_(signs[:, i : i + step], gradients.flatten(1))

    def result(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean (out, in) and flipped means (flips, out, in), the signs centred: (sum_j / W - m_j mean) / sqrt(1 - m_j²)."""
        total, m = self.sign_weight[0], self.sign_weight[1:] / self.sign_weight[0]
        silent = [name for name in self.targets if name not in self.sums or not self.sums[name][0].any()]
        if len(silent) == len(self.targets):
            raise ValueError("the gradient of every target module is exactly zero: does the loss depend on the targets?")
        if np.any(1 - m**2 < 1e-12):
            raise ValueError("dataloader: a single example carries all the weight, so no sign flip is balanced")
        if silent:
            notes = [name if name in self.called else f"{name} (never called as a module)" for name in silent]
            warnings.warn(f"zero gradient in {', '.join(notes)}: they get an all-zero spectrum", stacklevel=4)
        result = {}
        for name, module in self.targets.items():
            shape = (module.out_features, module.in_features)
            sums = self.sums.pop(name, None)
            if sums is None:
                dtype = torch.promote_types(module.weight.dtype, torch.float32)
                sums = module.weight.new_zeros((1 + len(m), math.prod(shape)), dtype=dtype)
            sums.div_(total)
            if not torch.isfinite(sums).all():
                raise ValueError(f"{name}: the gradient holds NaN or infinite entries")
            flipped = sums[1:]
            flipped.addmm_(sums.new_tensor(m)[:, None], sums[:1], alpha=-1)
            flipped.div_(sums.new_tensor(np.sqrt(1 - m**2))[:, None])
            result[name] = (sums[0].view(shape), flipped.view(len(m), *shape))
        return result


def _by_example(name: str, tensor: Tensor, examples: int) -> Tensor:
    """View (examples * tokens …, features) or (examples, …, features) as (examples, tokens, features)."""
    if examples == 1:
        return tensor.reshape(1, -1, tensor.shape[-1])
    if tensor.ndim < 2 or tensor.shape[0] % examples or (tensor.ndim > 2 and tensor.shape[0] != examples):
        raise ValueError(
            f"{name}: activations of shape {tuple(tensor.shape)} do not have the batch's {examples} examples along their "
            "first dimension, so examples cannot be told apart; use batches of one example or leave this module out"
        )
    return tensor.reshape(examples, -1, tensor.shape[-1])


@contextmanager
def pristine(model: nn.Module):
    """Eval mode and no parameter gradients inside; training flags, requires_grad and buffers restored afterwards."""
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
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
        with torch.no_grad():
            for buffer, value in buffers.items():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
