"""An encoder with a fixed linear read-out of several outputs, and squared error between outputs."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from companion.batches import to_device

__all__ = ["PLACES", "ReadOut", "fit_read_out", "mean_loss", "outputs_of", "squared_error"]

PLACES = ("tokens", "first")


class ReadOut(nn.Module):
    """An encoder whose outputs are linear in its last hidden states.

    Parameters
    ----------
    encoder : PreTrainedModel
    outputs : int
        Numbers read out at each place.
    place : str
        ``"tokens"``: at every token; ``"first"``: at the first one, where a sentence classifier reads.
    """

    def __init__(self, encoder: nn.Module, outputs: int, place: str) -> None:
        super().__init__()
        self.encoder, self.place = encoder, place
        self.head = nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **other: Tensor) -> Tensor:
        """Outputs of shape (batch, tokens or 1, outputs)."""
        other.pop("labels", None)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **other}
        hidden = self.encoder(**inputs).last_hidden_state  # (B, T, d)
        return self.head(hidden if self.place == "tokens" else hidden[:, :1])


def squared_error(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Squared distance to the labels: mean over outputs, then over an example's own tokens, then over examples."""
    outputs = model(**batch)  # (B, T or 1, P)
    mask = batch["attention_mask"][:, : outputs.shape[1]].to(outputs.dtype)
    errors = (outputs - batch["labels"][:, : outputs.shape[1]]).square().mean(-1)
    return ((errors * mask).sum(1) / mask.sum(1)).mean()


@torch.no_grad()
def mean_loss(model: nn.Module, loader: DataLoader) -> float:
    """`squared_error` over all examples."""
    device = next(model.parameters()).device
    sums = [(squared_error(model, to_device(batch, device)).item(), len(batch["labels"])) for batch in loader]
    return float(np.average([loss for loss, _ in sums], weights=[size for _, size in sums]))


@torch.no_grad()
def outputs_of(model: nn.Module, loader: DataLoader) -> np.ndarray:
    """Outputs in the order of the loader's data set, (examples, tokens or 1, outputs); zero where a text has ended."""
    device = next(model.parameters()).device
    outputs = []
    for batch in loader:
        mask = batch["attention_mask"].to(device)
        found = model(**to_device(batch, device))
        outputs.append((found * mask[:, : found.shape[1], None]).cpu().numpy())
    width = max(found.shape[1] for found in outputs)
    padded = [np.pad(found, ((0, 0), (0, width - found.shape[1]), (0, 0))) for found in outputs]
    in_order = np.empty((len(loader.dataset), *padded[0].shape[1:]), np.float32)
    in_order[np.concatenate(list(loader.batch_sampler))] = np.concatenate(padded)
    return in_order


@torch.no_grad()
def fit_read_out(model: ReadOut, loader: DataLoader, targets: Mapping[str, nn.Linear]) -> dict[str, np.ndarray]:
    """Let the head read the leading principal components of the hidden states, each with mean 0 and variance 1.

    Parameters
    ----------
    model : ReadOut
        Its head is set in place.
    loader : DataLoader
        Ordered batches.
    targets : mapping of str to nn.Linear
        Modules of `model`.

    Returns
    -------
    dict of str to ndarray, shape (tokens, in)
        Inputs of every target, from the same pass.

    Raises
    ------
    ValueError
        More outputs than directions in which the hidden states vary.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in [*targets, "head"]}
    mask = torch.empty(0)

    def keep(name: str):
        def hook(module: nn.Module, args: tuple) -> None:
            found[name].append(args[0][mask[:, : args[0].shape[1]]].double().cpu().numpy())

        return hook

    modules = {**targets, "head": model.head}
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    try:
        for batch in loader:
            batch = to_device(batch, model.head.weight.device)
            mask = batch["attention_mask"].bool()
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    hidden = np.concatenate(found.pop("head"))  # (tokens, d)
    variances, directions = np.linalg.eigh(np.cov(hidden.T))
    leading = slice(-1, -1 - model.head.out_features, -1)
    if variances[leading][-1] < 1e-9 * variances[-1]:
        raise ValueError(
            f"outputs: got {model.head.out_features}; hidden states at {len(hidden)} places vary in fewer directions"
        )
    weight = (directions[:, leading] / np.sqrt(variances[leading])).T
    model.head.weight.copy_(torch.from_numpy(weight))
    model.head.bias.copy_(torch.from_numpy(-weight @ hidden.mean(0)))
    return {name: np.concatenate(inputs) for name, inputs in found.items()}
