"""Problems whose gradients are known: a real linear layer, fed so that every example has the gradient one chooses."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["planted_layer", "spiked_examples"]


def planted_layer(gradients: np.ndarray, batch_sizes: int | list[int] = 64) -> tuple[nn.Module, list, Callable]:
    """A linear layer, batches and a loss whose example i has exactly the gradient ``gradients[i]``.

    Every example feeds the unit vectors e_1 … e_in as its tokens; its loss is <W, G_i>.

    Parameters
    ----------
    gradients : ndarray, shape (n, out, in)
    batch_sizes : int or list of int
        As for `torch.split`.

    Returns
    -------
    model : nn.Module
        With one target, ``"layer"``.
    batches : list of (Tensor, Tensor)
    loss_fn : callable
        For `companion.gradients.gradient_spectra`.
    """
    n, out_features, in_features = gradients.shape
    units = torch.eye(in_features).expand(n, -1, -1)  # (n, in, in)
    targets = torch.as_tensor(gradients, dtype=torch.float32)
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(in_features, out_features, bias=False))
    return model, list(zip(units.split(batch_sizes), targets.split(batch_sizes), strict=True)), _inner_product


def _inner_product(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    units, targets = batch
    return (model(units).mT * targets).sum() / len(units)  # mean over the examples of <W, G_i>


def spiked_examples(
    n: int,
    strengths: list[float],
    shape: tuple[int, int],
    rng: np.random.Generator,
    row_scale: np.ndarray | float = 1.0,
) -> np.ndarray:
    """n example gradients: one planted matrix in all of them, and independent Gaussian noise.

    Parameters
    ----------
    n : int
    strengths : list of float
        Singular values of the planted matrix, in units of the noise edge of the mean of n examples with unit noise.
    shape : (int, int)
    rng : numpy Generator
    row_scale : array_like, shape (out, 1), or float
        Standard deviation of the noise in each row.

    Returns
    -------
    ndarray, shape (n, out, in)
    """
    out_features, in_features = shape
    u, v = (np.linalg.qr(rng.standard_normal((d, max(len(strengths), 1))))[0] for d in shape)
    edge = (np.sqrt(out_features) + np.sqrt(in_features)) / np.sqrt(n)
    signal = (u[:, : len(strengths)] * (edge * np.array(strengths))) @ v[:, : len(strengths)].T
    return signal + row_scale * rng.standard_normal((n, out_features, in_features))
