"""Pre-training of the book's small vision transformer on classes 0 to 49 of CIFAR-100, in as many sittings as it takes.

``python -m companion.book.pretrain_vit OUT --minutes N`` trains for N minutes and stops; the same command goes on where
the last one stopped, or was killed, and a run in many pieces gives the same weights, to the last bit, as one that nothing
disturbed (with the same number of threads, on the same kind of machine): everything random is drawn from the seed, the
epoch and the step. ``OUT/checkpoint.safetensors`` holds weights, moments and progress, in one file that is written
beside the old one and then renamed; ``OUT/log.jsonl`` has one line an epoch. After the last epoch the weights go to
``OUT/vit-cifar50`` in half precision, with ``record.json`` beside them.

The test images of these classes are looked at for the log only: the weights of the last epoch are exported, whatever it
says.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from companion.data import load_images
from companion.data.hub import sha256_of
from companion.data.image_batches import arrays, augmented, normalised
from companion.runs import provenance

CLASSES = range(50)
SETTING: dict = {
    "model": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 768,
    },
    "epochs": 60,
    "warmup_epochs": 5,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "seed": 0,
}
"""The run behind the bundled weights. ``mixup`` is the parameter of the Beta distribution that weights come from; the
learning rate rises linearly in the first epochs and falls to zero along a cosine; gradients are clipped at norm 1."""

SAVE_SECONDS = 300
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a run has come.

    Attributes
    ----------
    epoch, step : int
        Epochs done, and steps done of the one after them.
    loss : float
        Sum of the loss over the examples of these steps.
    seconds : float
        Time spent on these steps.
    history : list of dict
        One entry an epoch: `epoch` (from 1), `loss` (mean), `accuracy` (of the test images), `seconds` and
        `images_per_second`.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)


class Run:
    """A model in training: its weights, the optimizer's moments, and how far it has come.

    Parameters
    ----------
    setting : mapping
        As `SETTING`.
    n_classes : int
        Outputs of the head.
    path : Path
        The checkpoint: read where there is one.
    data : mapping
        What tells the images from others, by split (`_fingerprint`).

    Raises
    ------
    ValueError
        If the checkpoint is of a run with another setting or other images.
    """

    def __init__(self, setting: Mapping, n_classes: int, path: Path, data: Mapping[str, str]) -> None:
        self.setting, self.path, self.data, self.progress = setting, path, data, Progress()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(setting["seed"])
            self.model = ViTForImageClassification(ViTConfig(**setting["model"], num_labels=n_classes))
        self.names = {value: name for name, value in self.model.named_parameters()}
        decayed = [value for value, name in self.names.items() if name.endswith("weight") and value.ndim > 1]
        others = [value for value, name in self.names.items() if not (name.endswith("weight") and value.ndim > 1)]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, setting["learning_rate"], weight_decay=setting["weight_decay"])
        if path.exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint: the old one stays until the new one is whole and on disk."""
        tensors = {f"model.{name}": value.detach() for value, name in self.names.items()}
        for value, state in self.optimizer.state.items():
            tensors |= {f"{moment}.{self.names[value]}": state[moment] for moment in _MOMENTS}
            tensors["steps"] = state["step"]
        parts = {"progress": asdict(self.progress), "setting": self.setting, "data": self.data}
        about = {name: json.dumps(part) for name, part in parts.items()}
        new = self.path.with_suffix(".tmp")
        save_file(tensors, new, metadata=about)
        _rename(new, self.path)

    def _load(self) -> None:
        with safe_open(self.path, framework="pt") as file:
            about = file.metadata()
            if json.loads(about["setting"]) != self.setting:
                raise ValueError(
                    f"{self.path} is of a run with the setting {about['setting']}, this one has "
                    f"{json.dumps(self.setting)}; use the same or another folder"
                )
            if json.loads(about.get("data", "{}")) != self.data:
                raise ValueError(
                    f"{self.path} is of a run on the images {about.get('data', '(not recorded)')}, these are "
                    f"{json.dumps(self.data)}; use the same or another folder"
                )
            self.progress = Progress(**json.loads(about["progress"]))
            kept = {name: file.get_tensor(name) for name in file.keys()}
        for value, name in self.names.items():
            value.data.copy_(kept[f"model.{name}"])
            if "steps" in kept:
                moments = {moment: kept[f"{moment}.{name}"] for moment in _MOMENTS}
                self.optimizer.state[value] = {"step": kept["steps"].clone(), **moments}


def pretrain(
    out: Path, train: pd.DataFrame, test: pd.DataFrame, setting: Mapping = SETTING, minutes: float | None = None
) -> list[dict]:
    """Train, or go on training, until all epochs are done or the time is over; at the end export the weights.

    Parameters
    ----------
    out : Path
        Folder of the run; made where there is none.
    train, test : pandas.DataFrame
        Images, as from `companion.data.load_images`.
    setting : mapping
        As `SETTING`.
    minutes : float, optional
        Stop after the first step that ends later than this; None trains to the end.

    Returns
    -------
    list of dict
        The log so far, one entry an epoch.

    Raises
    ------
    ValueError
        If `out` holds a run with another setting or other images, or the training diverged.
    """
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    (pixels, labels), shown = arrays(train), arrays(test)
    data = {"train": _fingerprint(pixels, labels), "test": _fingerprint(*shown)}
    run = Run(setting, len(train.attrs["class_names"]), out / "checkpoint.safetensors", data)
    _log(run, out)  # the last sitting may have ended between the checkpoint and the log
    while run.progress.epoch < setting["epochs"]:
        if not _epoch(run, pixels, labels, None if minutes is None else start + 60 * minutes):
            run.save()
            return run.progress.history
        _close_epoch(run, len(labels), *shown)
        run.save()
        _log(run, out)
        print(json.dumps(run.progress.history[-1]), flush=True)
    _export(run, out / "vit-cifar50", train, test)
    return run.progress.history


def learning_rate(setting: Mapping, epochs: float) -> float:
    """Learning rate after some epochs, fractions included: a line up, then half a cosine down to zero."""
    warmup = setting["warmup_epochs"]
    if epochs < warmup or setting["epochs"] <= warmup:
        return setting["learning_rate"] * epochs / warmup
    done = (epochs - warmup) / (setting["epochs"] - warmup)
    return setting["learning_rate"] * (1 + np.cos(np.pi * min(done, 1.0))) / 2


@torch.no_grad()
def accuracy(model: torch.nn.Module, pixels: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (n, height, width, 3), uint8, whose largest output is that of their label."""
    model.eval()
    batches = np.array_split(np.arange(len(labels)), -(-len(labels) // 500))
    hits = [model(pixel_values=normalised(pixels[i])).logits.argmax(1).numpy() == labels[i] for i in batches]
    return float(np.concatenate(hits).mean())


def _epoch(run: Run, pixels: np.ndarray, labels: np.ndarray, deadline: float | None) -> bool:
    """The rest of an epoch; False when time ran out before its end."""
    setting, progress, size = run.setting, run.progress, run.setting["batch_size"]
    order = np.random.default_rng([setting["seed"], progress.epoch, 0]).permutation(len(labels))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    run.model.train()
    saved = begun = time.perf_counter()
    while progress.step < len(batches):
        rows = batches[progress.step]
        rng = np.random.default_rng([setting["seed"], progress.epoch, 1 + progress.step])
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(setting, progress.epoch + (progress.step + 1) / len(batches))
        progress.loss += _step(run, pixels[rows], labels[rows], rng) * len(rows)
        progress.step += 1
        now = time.perf_counter()
        progress.seconds, begun = progress.seconds + now - begun, now
        if deadline is not None and now > deadline and progress.step < len(batches):
            return False
        if now > saved + SAVE_SECONDS:
            run.save()
            saved = begun = time.perf_counter()
    return True


def _step(run: Run, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> float:
    """One step on a batch, each image mixed with another one of the batch; the loss before it."""
    values, targets = normalised(augmented(pixels, rng)), torch.from_numpy(labels)
    weight, partners = float(rng.beta(*2 * [run.setting["mixup"]])), torch.from_numpy(rng.permutation(len(labels)))
    logits = run.model(pixel_values=weight * values + (1 - weight) * values[partners]).logits
    smoothing = run.setting["label_smoothing"]
    own, other = (functional.cross_entropy(logits, y, label_smoothing=smoothing) for y in (targets, targets[partners]))
    loss = weight * own + (1 - weight) * other
    if not torch.isfinite(loss):
        raise ValueError(f"loss: epoch {run.progress.epoch + 1}, step {run.progress.step + 1} gave {loss.item()}")
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    return loss.item()


def _close_epoch(run: Run, n: int, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Add a line to the history and start the next epoch."""
    progress = run.progress
    line = {
        "epoch": progress.epoch + 1,
        "loss": round(progress.loss / n, 6),
        "accuracy": accuracy(run.model, pixels, labels),
        "seconds": round(progress.seconds, 1),
        "images_per_second": round(n / progress.seconds, 1),
    }
    run.progress = Progress(epoch=progress.epoch + 1, history=[*progress.history, line])


def _export(run: Run, folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Weights in half precision and the record of their training, in a folder that `load_model` reads."""
    new = folder.with_suffix(".tmp")
    shutil.rmtree(new, ignore_errors=True)
    run.model.eval().half().save_pretrained(new)
    rounded = run.model.float()
    record = {
        "setting": run.setting,
        "parameters": rounded.num_parameters(),
        "classes": list(train.attrs["class_names"]),
        "training_images": len(train),
        "test_images": len(test),
        "accuracy": accuracy(rounded, *arrays(test)),
        "seconds": round(sum(line["seconds"] for line in run.progress.history), 1),
        "sha256": sha256_of(new / "model.safetensors"),
        "history": run.progress.history,
        **provenance(train),
    }
    _write(new / "record.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    print(f"{folder}: accuracy {record['accuracy']:.4f}, SHA-256 of the weights {record['sha256']}")


def _fingerprint(pixels: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of images and labels, in their order."""
    digest = hashlib.sha256(repr((pixels.shape, labels.dtype.str)).encode())
    for values in (pixels, labels):
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def _log(run: Run, out: Path) -> None:
    """The history as a file, one line an epoch."""
    if run.progress.history:
        _write(out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in run.progress.history))


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".tmp")
    new.write_text(text, "utf-8")
    _rename(new, path)


def _rename(new: Path, path: Path) -> None:
    """Put a finished file in the place of an old one, once it is on disk."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on CIFAR-100, from ``$COMPANION_DATA_DIR/cifar100`` or the hub."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the run; one that holds a run is gone on with")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes (default: train to the end)")
    parser.add_argument("--epochs", type=int, default=SETTING["epochs"], help="of the whole run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train, test = (load_images("cifar100", split, CLASSES) for split in ("train", "test"))
    if (len(train), len(test)) != (500 * len(CLASSES), 100 * len(CLASSES)):
        raise SystemExit(f"CIFAR-100 has 500 and 100 images of a class; these files have {len(train)} and {len(test)}")
    history = pretrain(options.out, train, test, SETTING | {"epochs": options.epochs}, options.minutes)
    print(f"{len(history)} of {options.epochs} epochs are done")


if __name__ == "__main__":
    main()
