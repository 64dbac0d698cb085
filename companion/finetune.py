"""One fine-tuning run: warm up the head, train, evaluate."""

import random
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from companion.heads import head_of, warm_up_head
from companion.metrics import task_metrics

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["adapter_parameters", "evaluate", "finetune", "head_of", "warm_up_head"]


def finetune(
    model: nn.Module,
    dataloader: "DataLoader",
    epochs: int = 3,
    learning_rate: float = 2e-4,
    seed: int = 0,
    progress: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    precision: str = "fp32",
    optimizer: str = "adamw",
) -> dict[str, float]:
    """Train what requires gradients, with a linear warm-up over 6% of the steps (P2 appendix G.2).

    The rest are the defaults of `transformers.Trainer`: linear decay to zero, gradients clipped at norm 1.

    Parameters
    ----------
    model : nn.Module
        A transformers or PEFT model; trained in place and left in eval mode.
    dataloader : DataLoader
        From `companion.data.make_dataloader` (texts) or `make_image_dataloader`, with its seed: batches are taken as
        it gives them.
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
    optimizer : str
        ``"adamw"`` without weight decay, as P2 has it, or ``"sgd"`` without momentum and without clipping, whose small steps follow
        the gradient flow.

    Returns
    -------
    dict of str to float
        ``steps``, ``seconds`` and ``train_loss`` (mean over the steps).

    Raises
    ------
    ValueError
        An unknown optimizer or precision, or one that the device does not have; epochs that are not positive.
    """
    if not epochs > 0:
        raise ValueError(f"epochs: got {epochs!r}; accepted: 1 or more")
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"optimizer: got {optimizer!r}; accepted: 'adamw', 'sgd'")
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
            **({"optim": "sgd", "max_grad_norm": 0.0} if optimizer == "sgd" else {}),  # else transformers' own AdamW
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
        As for `companion.metrics.task_metrics`; by default accuracy (classification, images too) or Spearman correlation (regression).

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
    if not torch.isfinite(logits).all():  # the largest of NaN would be the first class
        raise ValueError("predictions must hold no NaN and no infinity: the training diverged, or the model is damaged")
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
