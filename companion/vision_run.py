"""One run of the vision study, from its configuration to its record: an adapter on an image classifier.

The protocol is that of `companion.glue_run`: all kinds of adapters see the same images and steps and start from the same
head, the learning rate is chosen on images cut from the *training* split, and the test images are read once, by the final
run.
"""

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from companion import data
from companion.finetune import evaluate, finetune, head_of, warm_up_head
from companion.matched_adapters import Place, trained_parameters, with_adapter
from companion.metrics import score
from companion.runs import provenance

__all__ = ["PAPER_VISION", "VISION_SETTING", "run_vision_once", "split_images"]

VISION_SETTING: dict[str, object] = {
    "study": "vision",
    "model": "vit-cifar50",
    "classes": [50, 100],
    "rank": 1,
    "ranks": None,
    "scaling": 2.0,
    "alpha": 4.0,
    "head": "warm",
    "per_class": 50,
    "calibration": 10,
    "epochs": 5,
    "batch_size": 32,
    "augment": True,
    "size": None,
    "precision": "fp32",
}
"""What runs of the CPU study share. ``classes``: the first, and the one after the last, None for all of the data set;
``rank``: that of the uniform LoRA whose parameters are the budget; ``ranks``: of Tucker-LoRA where the budget does not
decide; ``per_class`` images to train on, None for all, ``calibration`` of them for the first gradient."""

PAPER_VISION: dict[str, object] = VISION_SETTING | {
    "model": "vit-base-patch16-224-in21k", "classes": None, "head": "fresh", "per_class": None, "epochs": 50,
    "batch_size": 64, "size": 224, "rank": 1, "ranks": [4, 2, 2], "alpha": 1.0,
}  # fmt: skip
"""The setting of P2, appendix G.4, whose learning rate is 1e-3; it falls linearly here, along a cosine there."""

TUNING_PER_CLASS = 20


def run_vision_once(config: Mapping[str, object], records: Path | None = None) -> dict:
    """One run of the study.

    Parameters
    ----------
    config : mapping
        `VISION_SETTING` or `PAPER_VISION` with ``task`` (a name or a folder, as for `companion.data.load_images`),
        ``method`` (a key of `companion.matched_adapters.KINDS`, ``"probe"`` or ``"full"``), ``learning_rate``, ``seed`` and
        ``split``: ``"tuning"`` evaluates on images cut from the training split, ``"test"`` on the official test images.
    records : Path, optional
        Not read: no two kinds of adapters are the same training.

    Returns
    -------
    dict
        ``metrics``: ``accuracy``, ``score`` (in points), ``loss``, ``train_loss``, ``parameters`` (of the adapter, without
        the head), ``ranks`` (what was chosen), seconds spent on ``choosing``, ``training`` and ``evaluating``; and the
        record's provenance.

    Raises
    ------
    ValueError
        A training that diverged, or what the adapter raises.
    KeyError
        A setting that is missing.
    """
    start = time.perf_counter()
    images = _load(*_data_of(config), "train")
    train, tuning = split_images(images, config["per_class"], config["seed"])
    test = tuning if config["split"] == "tuning" else _load(*_data_of(config), "test")
    calibration, rest = _apart(train, config["calibration"])
    model = data.load_model(config["model"], len(images.attrs["class_names"]), config["seed"])

    def loader(frame: pd.DataFrame, **options):
        return data.make_image_dataloader(frame, config["batch_size"], size=config["size"], **options)

    if config["method"] == "probe":
        warm_up_head(model, loader(train))
    elif config["head"] == "warm":
        with torch.no_grad():
            for parameter, fitted in zip(head_of(model).parameters(), _fitted_head(_frozen(config)), strict=True):
                parameter.copy_(fitted)
    source = provenance(images, model)
    result: dict = {"train_loss": None}
    ranks: dict[str, object] = {}
    if config["method"] == "full":
        model.requires_grad_(True)
    elif config["method"] != "probe":
        budget = None if config["rank"] is None else _uniform(model, config["rank"])
        fixed = None if config["ranks"] is None else tuple(config["ranks"])
        place = Place(
            model, budget, loader(calibration), fixed, config["scaling"], config["alpha"], config["seed"]
        )
        model, ranks = with_adapter(config["method"], place)
    chosen = time.perf_counter()
    parameters = 0 if config["method"] == "probe" else trained_parameters(model)
    if config["method"] != "probe":
        batches = loader(train, seed=config["seed"], augment=config["augment"])
        options = {"precision": config["precision"]}
        result = finetune(model, batches, config["epochs"], config["learning_rate"], config["seed"], **options)
    trained = time.perf_counter()
    measured = evaluate(model, loader(test))
    times = {"choosing": chosen - start, "training": trained - chosen, "evaluating": time.perf_counter() - trained}
    metrics = {
        **measured,
        "score": score({name: value for name, value in measured.items() if name != "loss"}),
        "train_loss": result["train_loss"],
        "parameters": parameters,
        "ranks": ranks,
        **{name: round(seconds, 2) for name, seconds in times.items()},
    }
    return {"metrics": metrics, **source}


@lru_cache(maxsize=4)
def _load(task: str, classes: tuple[int, int] | None, split: str) -> pd.DataFrame:
    """Images of a run's classes, decoded once in a process."""
    return data.load_images(task, split, None if classes is None else range(*classes))


def _data_of(config: Mapping[str, object]) -> tuple[str, tuple[int, int] | None]:
    classes = config["classes"]
    return str(config["task"]), None if classes is None else tuple(classes)


def split_images(images: pd.DataFrame, per_class: int | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training images, drawn by the seed, and tuning images, the same for every seed and never trained on.

    Parameters
    ----------
    images : pandas.DataFrame
        A training split, from `companion.data.load_images`.
    per_class : int or None
        To train on, equally many of each class as far as there are so many; None for all that are left.
    seed : int

    Returns
    -------
    train, tuning : pandas.DataFrame
        20 tuning images of each class, or a fifth of a smaller class.

    Raises
    ------
    ValueError
        Fewer than five images of a class, or no image to train on.
    """
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class: got {per_class}; accepted: an integer >= 1 or None")
    shuffled = data.sample(images, len(images), 0)
    held = min(TUNING_PER_CLASS, int(shuffled["label"].value_counts().min()) // 5)
    if not held:
        raise ValueError("images: got a class with fewer than 5 images; accepted: 5 or more of each")
    tuning, rest = _apart(shuffled, held)
    drawn = data.sample(rest, len(rest), seed)
    train = drawn if per_class is None else _apart(drawn, per_class)[0]
    return train.reset_index(drop=True), tuning.reset_index(drop=True)


def _apart(images: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first `count` of each class, and all others."""
    first = images.groupby("label").cumcount() < count
    return images[first], images[~first]


def _uniform(model, rank: float) -> int:
    """Parameters of uniform LoRA of this rank."""
    return round(rank * sum(Place(model).costs.values()))


_HEAD_KEYS = ("model", "task", "classes", "per_class", "calibration", "batch_size", "size", "seed")


def _frozen(config: Mapping[str, object]) -> tuple:
    """What the fitted head depends on, hashable."""
    return tuple((k, tuple(config[k]) if isinstance(config[k], list) else config[k]) for k in _HEAD_KEYS)


@lru_cache(maxsize=8)
def _fitted_head(frozen: tuple) -> tuple[torch.Tensor, ...]:
    """Weight and bias fitted to all training images but those of the gradient: the same for all kinds of one seed."""
    config = dict(frozen)
    images = _load(*_data_of(config), "train")
    _, rest = _apart(split_images(images, config["per_class"], config["seed"])[0], config["calibration"])
    model = data.load_model(config["model"], len(images.attrs["class_names"]), config["seed"])
    warm_up_head(model, data.make_image_dataloader(rest, config["batch_size"], size=config["size"]))
    return tuple(parameter.detach().clone() for parameter in head_of(model).parameters())
