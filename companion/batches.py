"""What the package needs to know of a batch: how many examples, how much each counts, and how to move it."""

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["batch_size", "example_weights", "first_label_counts", "has_token_labels", "to_device"]


def has_token_labels(batch: Any) -> bool:
    """Whether the labels are one integer a token, so that a model's own loss is a mean over tokens and not examples."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if labels is not None and not isinstance(labels, Tensor):
        raise ValueError(f"dataloader: labels came as {type(labels).__name__}; accepted: a tensor")
    return labels is not None and labels.ndim >= 2 and not labels.is_floating_point()


@torch.no_grad()
def first_label_counts(model: nn.Module, batch: Mapping) -> bool:
    """Whether the model scores the first label of each text; causal models shift labels by one and do not.

    Asked of the model itself, with and without the first labels: class names do not tell.
    """
    hidden = batch["labels"].clone()
    hidden[:, 0] = -100
    with_first, without = (model(**{**batch, "labels": labels}).loss for labels in (batch["labels"], hidden))
    return not torch.isclose(with_first, without, rtol=1e-6, atol=0)


def example_weights(batch: Any, by_token: bool, first_counts: bool) -> np.ndarray:
    """Weight of each example in the batch's mean loss, shape (examples,): its scored tokens, or 1 each."""
    if not by_token:
        return np.ones(batch_size(batch))
    labels = batch["labels"] if first_counts else batch["labels"][:, 1:]
    return (labels != -100).flatten(1).sum(1).double().cpu().numpy()


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
        return (batch.clone() if batch.is_inference() else batch).to(device)
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return type(batch)(moved) if isinstance(batch, UserDict) else moved  # a tokenizer's BatchEncoding
    if isinstance(batch, (list, tuple)):
        items = [to_device(value, device) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch
