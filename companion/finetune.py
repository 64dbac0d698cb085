"""One fine-tuning run: warm up the head, train, evaluate."""

import random
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from companion.metrics import task_metrics

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["adapter_parameters", "evaluate", "finetune", "head_of", "warm_up_head"]


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
        No such head, a class without examples, or too few examples for the folds.

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
    search = _head_search(head.out_features == 1, folds).fit(features, labels)
    fit = search.best_estimator_
    if search.best_index_ == _STRONGEST[head.out_features == 1]:
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
    return float(search.cv_results_["mean_test_score"][search.best_index_])


_STRONGEST = {True: 6, False: 0}  # place of the strongest penalty in the grids below, for regression and classification


def _head_search(regression: bool, folds: int) -> GridSearchCV:
    """Grid over the penalty; ``score`` is what is reported, ``loss`` what is minimised."""
    estimator: BaseEstimator
    if regression:
        estimator, grid, score, loss = Ridge(), {"alpha": np.logspace(-2, 4, 7)}, "r2", "neg_mean_squared_error"
    else:
        estimator, grid = LogisticRegression(max_iter=5000, tol=1e-6), {"C": np.logspace(-5, 2, 8)}
        score, loss = "accuracy", "neg_log_loss"
    return GridSearchCV(estimator, grid, scoring={"score": score, "loss": loss}, refit="loss", cv=folds)


def _features(model: nn.Module, dataloader: "DataLoader") -> tuple[np.ndarray, np.ndarray]:
    """What enters the last linear layer, (examples, features) in float64, and the labels (examples,)."""
    features: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda module, args: features.append(args[0].double().cpu()))
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for batch in dataloader:
            labels.append(batch["labels"])
            model(**{key: value.to(model.device) for key, value in batch.items() if key != "labels"})
    finally:
        hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def finetune(
    model: nn.Module,
    dataloader: "DataLoader",
    epochs: int = 3,
    learning_rate: float = 2e-4,
    seed: int = 0,
    progress: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    precision: str = "fp32",
) -> dict[str, float]:
    """Train what requires gradients with AdamW and a linear warm-up over 6% of the steps (P2 appendix G.2).

    The rest are the defaults of `transformers.Trainer`: linear decay to zero, gradients clipped at norm 1.

    Parameters
    ----------
    model : nn.Module
        A transformers or PEFT model; trained in place and left in eval mode.
    dataloader : DataLoader
        From `companion.data.make_dataloader`, with its seed: batches are taken as it gives them.
    epochs : int
        Passes over the examples.
    learning_rate : float
        The largest, at the end of the warm-up.
    seed : int
        Sets dropout; the global random states are put back afterwards.
    progress : bool
        Show a progress bar.
    callbacks : sequence of transformers.TrainerCallback
        Called during training, as AdaLoRA needs it.
    precision : str
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: mixed precision as accelerate does it; several GPUs are its matter too.

    Returns
    -------
    dict of str to float
        ``steps``, ``seconds`` and ``train_loss`` (mean over the steps).

    Raises
    ------
    ValueError
        An unknown precision, or one that the device does not have.
    """
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision: got {precision!r}; accepted: 'fp32', 'bf16', 'fp16'")
    with tempfile.TemporaryDirectory() as folder, _random_states_kept():
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            warmup_steps=int(np.ceil(0.06 * epochs * len(dataloader))),
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=not progress,
            dataloader_pin_memory=False,
            use_cpu=not torch.accelerator.is_available(),
            bf16=precision == "bf16",
            fp16=precision == "fp16",
        )
        trainer = _GivenBatches(
            model, arguments, train_dataset=dataloader.dataset, batches=dataloader, callbacks=list(callbacks)
        )
        trainer.remove_callback(PrinterCallback)  # with the progress bar off it would print the result
        result = trainer.train()
        # accelerate leaves mixed precision wrapped around the model's forward pass
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    model.eval()
    return {"steps": result.global_step, "seconds": result.metrics["train_runtime"], "train_loss": result.training_loss}


@contextmanager
def _random_states_kept():
    """Trainer seeds Python, NumPy and torch globally; put all three back."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


class _GivenBatches(Trainer):
    """A Trainer that takes the batches it is given (length-grouped, seeded) in place of its own sampler's."""

    def __init__(self, *args, batches: "DataLoader", **kwargs):
        self.batches = batches
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> "DataLoader":
        return self.accelerator.prepare(self.batches)


@torch.no_grad()
def evaluate(model: nn.Module, dataloader: "DataLoader", task: str = "") -> dict[str, float]:
    """Mean loss on the labels and the metrics of a task.

    Parameters
    ----------
    model : nn.Module
        Put in eval mode and back.
    dataloader : DataLoader
        Dict batches with ``labels``.
    task : str
        As for `companion.metrics.task_metrics`; by default accuracy (classification) or Spearman correlation (regression).

    Returns
    -------
    dict of str to float
        ``loss`` (cross-entropy, or squared error for one output; without what a method adds to it in training) and the
        metrics by name.

    Raises
    ------
    ValueError
        Predictions that are NaN or infinite, as after a training that diverged.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    outputs, truths = [], []
    for batch in dataloader:
        truths.append(batch["labels"])
        inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
        outputs.append(model(**inputs).logits.float().cpu())
    model.train(training)
    logits, truth = torch.cat(outputs), torch.cat(truths)
    regression = logits.shape[1] == 1
    loss = functional.mse_loss(logits[:, 0], truth) if regression else functional.cross_entropy(logits, truth)
    predictions = logits[:, 0] if regression else logits.argmax(1)
    return {"loss": loss.item(), **task_metrics(task, truth.numpy(), predictions.numpy(), regression)}


def adapter_parameters(model: nn.Module) -> int:
    """Number of trainable LoRA parameters, the head excluded.

    Parameters
    ----------
    model : nn.Module
        A PEFT model.

    Returns
    -------
    int
        A rank r on an (out, in) matrix counts r (out + in).

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> config = LoraConfig(r=2, target_modules=["0"])
    >>> adapter_parameters(get_peft_model(nn.Sequential(nn.Linear(6, 4)), config))
    20
    """
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "lora_" in name)
