"""The classification head: the convex fit that comes before gradients are measured."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_validate
from torch import nn

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["head_of", "warm_up_head"]


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer of the model's classification head.

    Parameters
    ----------
    model : nn.Module
        With a submodule `classifier` or `score`.

    Returns
    -------
    nn.Linear

    Raises
    ------
    ValueError
        No linear layer there.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.classifier = nn.Sequential(nn.Tanh(), nn.Linear(8, 2))
    >>> head_of(model)
    Linear(in_features=8, out_features=2, bias=True)
    """
    for name in ("classifier", "score"):
        layers = [m for m in getattr(model, name, nn.Identity()).modules() if isinstance(m, nn.Linear)]
        if layers:
            return layers[-1]
    raise ValueError(f"model: {type(model).__name__} has no linear layer in 'classifier' or 'score'")


@torch.no_grad()
def warm_up_head(model: nn.Module, dataloader: "DataLoader", folds: int = 5) -> float:
    """Fit the last linear layer of the head to the frozen features, in place, and nothing else.

    A fresh head sends every gradient through its own random read-out direction. The fit is the convex one: ridge-penalised
    logistic regression (least squares for regression). The penalty is chosen by cross-validated log-loss, the
    quantity whose gradient is measured next: a choice by accuracy can leave an over-confident head.

    Parameters
    ----------
    model : nn.Module
        Sequence classifier with `classifier` or `score`, before any adapter; its mode is left as it was.
    dataloader : DataLoader
        Dict batches with ``labels``. Use other examples than those of the gradient: on its own the fit has converged, and
        the gradient would be smaller than on new examples.
    folds : int
        Cross-validation folds.

    Returns
    -------
    float
        Cross-validated accuracy (classification) or R² (regression) of the frozen features.

    Raises
    ------
    ValueError
        No such head, a class with fewer than two examples, or too few examples for the folds.

    Warns
    -----
    UserWarning
        The frozen features do not predict the labels, so that the fitted head is close to zero.
    """
    head = head_of(model)
    features, labels = _features(model, dataloader)
    if len(labels) < 4 * folds:
        raise ValueError(f"dataloader: got {len(labels)} examples; a fit with {folds} folds takes at least {4 * folds}")
    if head.out_features > 1 and set(np.unique(labels)) != set(range(head.out_features)):
        raise ValueError(f"dataloader: got labels {np.unique(labels).tolist()}; accepted: each of 0 … {head.out_features - 1}")
    counts = dict(zip(*(found.tolist() for found in np.unique(labels, return_counts=True)), strict=True))
    if head.out_features > 1 and min(counts.values()) < 2:
        raise ValueError(f"dataloader: got {counts} examples by label; a fit takes at least two of each")
    strongest, cross_validated, fit = _fitted(features, labels, head.out_features == 1, folds)
    if strongest:
        warnings.warn(
            "the frozen features do not predict the labels: cross-validation chose the strongest penalty, and the head is "
            "close to zero; use more examples",
            stacklevel=3,
        )
    weight, bias = np.atleast_2d(fit.coef_), np.atleast_1d(fit.intercept_)
    if head.out_features == 2:  # scikit-learn gives one log-odds: half to each class, with opposite signs
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head.weight.copy_(torch.from_numpy(weight))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(bias))
    return cross_validated


def _fitted(features: np.ndarray, labels: np.ndarray, regression: bool, folds: int) -> tuple[bool, float, BaseEstimator]:
    """Whether the strongest penalty is the best, the cross-validated score with the best one, and the fit with it.

    From the strongest penalty down, until the cross-validated loss rises: weaker ones would take most of the time, and
    the loss has one minimum along the path.
    """
    if regression:
        path = [Ridge(alpha=alpha) for alpha in np.logspace(4, -2, 7)]
        measured = {"score": "r2", "loss": "neg_mean_squared_error"}
    else:  # a tolerance for choosing; the fit itself has converged, see `warm_up_head`
        path = [LogisticRegression(max_iter=5000, tol=1e-4, C=c) for c in np.logspace(-5, 2, 8)]
        measured = {"score": "accuracy", "loss": _minus_log_loss}
    best, least, score = path[0], np.inf, np.nan
    for estimator in path:
        found = cross_validate(estimator, features, labels, scoring=measured, cv=folds)
        loss = -found["test_loss"].mean()
        if loss > least:
            break
        best, least, score = estimator, loss, float(found["test_score"].mean())
    final = best if regression else best.set_params(tol=1e-6)
    return best is path[0], score, final.fit(features, labels)


def _minus_log_loss(estimator: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's ``"neg_log_loss"``, also of a fold that lacks a rare class."""
    return -log_loss(labels, estimator.predict_proba(features), labels=estimator.classes_)


def _features(model: nn.Module, dataloader: "DataLoader") -> tuple[np.ndarray, np.ndarray]:
    """What enters the last linear layer, (examples, features) in float64, and the labels (examples,)."""
    features: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda module, args: features.append(args[0].detach().double().cpu()))
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for batch in dataloader:
            labels.append(batch["labels"])
            model(**{key: value.to(model.device) for key, value in batch.items() if key != "labels"})
            if features[-1].ndim == 3:  # the head of a decoder reads every token, its loss the last one that is no padding
                mask = batch.get("attention_mask", torch.ones(features[-1].shape[:2], dtype=torch.long)).cpu()
                last = (mask * torch.arange(mask.shape[1])).argmax(1)
                features[-1] = features[-1][torch.arange(len(last)), last]
    finally:
        hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(features).numpy(), torch.cat(labels).numpy()
