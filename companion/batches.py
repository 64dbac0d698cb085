"""What the package needs to know of a batch: its examples, how much each counts, its loss, and how to move it."""

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "LossFn",
    "batch_loss",
    "batch_size",
    "example_weights",
    "first_label_counts",
    "has_token_labels",
    "read",
    "to_device",
]

LossFn = Callable[[nn.Module, Any], Tensor]


def read(model: nn.Module, batches: Iterable, loss_fn: LossFn | None, recorder) -> None:
    """One forward and backward pass over batches with the signs of their examples, the recorder's hooks in place."""
    first_counts = None
    for index, (batch, signs) in enumerate(batches):
        batch = to_device(batch, recorder.device)
        by_token = loss_fn is None and has_token_labels(batch)
        if by_token and first_counts is None and (batch["labels"][:, 0] != -100).any():
            first_counts = first_label_counts(model, batch)
        recorder.start(signs, example_weights(batch, by_token, first_counts is not False))
        loss = batch_loss(model, batch, loss_fn, index)
        if loss.requires_grad:
            recorder.backward(loss)
        if not recorder.reached and not recorder.readings:
            raise ValueError(
                "the loss does not depend on any target module: the gradient of every target module is exactly zero"
            )


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


def batch_loss(model: nn.Module, batch: Any, loss_fn: LossFn | None, index: int) -> Tensor:
    """Mean loss over the examples of a batch, a finite scalar; the model's own without a `loss_fn`."""
    if loss_fn is not None:
        loss = loss_fn(model, batch)
    else:
        if not isinstance(batch, Mapping):
            kind = type(batch).__name__
            raise ValueError(f"dataloader: got a batch of type {kind}; without loss_fn it must be a mapping")
        if batch.get("labels") is None:
            raise ValueError(f"dataloader: the batch has {sorted(batch)} but no 'labels'; add them or pass loss_fn")
        loss = getattr(model(**batch), "loss", None)
        if loss is None:
            raise ValueError("model: its output has no loss; pass loss_fn")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = type(loss).__name__
        raise ValueError(f"loss_fn: got {kind}; accepted: a scalar tensor, the mean over the batch's examples")
    if not torch.isfinite(loss):
        raise ValueError(f"loss: batch {index} gave {loss.item()}; accepted: a finite number")
    return loss.reshape(())


def batch_size(batch: Any) -> int:
    """Number of examples: the first dimension of the labels, else of the first tensor found."""
    items = batch if isinstance(batch, (list, tuple)) else [batch]
    if isinstance(batch, Mapping):
        items = [batch["labels"], *batch.values()] if isinstance(batch.get("labels"), Tensor) else list(batch.values())
    for item in items:
        if isinstance(item, Tensor) and item.ndim:
            if not len(item):
                raise ValueError("dataloader: got a batch without examples; accepted: one or more in each batch")
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
