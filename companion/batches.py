"""What the package needs to know of a batch: how many examples, how much each counts, and how to move it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["batch_size", "example_weights", "to_device"]


def example_weights(model: nn.Module, batch: Any, own_loss: bool) -> np.ndarray:
    """Weight of each example in the batch's mean loss: its scored tokens for token labels, else 1; shape (examples,)."""
    n = batch_size(batch)
    labels = batch.get("labels") if own_loss and isinstance(batch, Mapping) else None
    if labels is None or labels.ndim < 2 or labels.is_floating_point():
        return np.ones(n)
    causal = any(part in type(model).__name__ for part in ("CausalLM", "LMHead"))
    scored = labels[:, 1:] if causal else labels  # a causal model predicts token t+1 at t: the first label is not scored
    return (scored != -100).flatten(1).sum(1).double().cpu().numpy()


def batch_size(batch: Any) -> int:
    """Number of examples: the first dimension of the labels, else of the first tensor found."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    if isinstance(batch, Mapping):
        batch = [batch["labels"], *batch.values()] if isinstance(batch.get("labels"), Tensor) else list(batch.values())
    for item in batch if isinstance(batch, (list, tuple)) else ():
        if isinstance(item, Tensor) and item.ndim:
            return item.shape[0]
    raise ValueError(f"dataloader: got a batch of type {type(batch).__name__} without a tensor in it")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; containers keep their type."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [to_device(value, device) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch
