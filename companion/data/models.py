"""Models and tokenizers by name: the bundled ViT, MiniLM as an installed package, a local folder, or the hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import DataIntegrityError
from .sources import model_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(name: str | os.PathLike) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model.

    Parameters
    ----------
    name : str or path
        As for `load_model`.

    Returns
    -------
    transformers.PreTrainedTokenizerBase
        The tokenizer.

    Raises
    ------
    ValueError
        As for `load_model`.
    DataUnavailableError
        As for `load_model`.

    Examples
    --------
    >>> load_tokenizer("minilm")("A rank.")["input_ids"]
    [101, 1037, 4635, 1012, 102]
    """
    from transformers import AutoTokenizer

    folder = model_folder(name, "tokenizer")
    with _quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_model(name: str | os.PathLike, n_labels: int = 2, seed: int = 0) -> "PreTrainedModel":
    """Load a pretrained encoder of texts or images with a new classification head.

    The head is drawn from `seed` alone (weights normal with the model's `initializer_range`, biases zero), whatever
    head the checkpoint has, and torch's global random state is left as it was.

    Parameters
    ----------
    name : str or path
        ``"minilm"`` (the installed all-MiniLM-L6-v2, 22.7M parameters), ``"vit-cifar50"`` (the bundled ViT, trained on
        classes 0 to 49 of CIFAR-100, 2.7M parameters), a folder with ``config.json`` and ``*.safetensors``, or a hub name:
        ``"owner/name"``, ``"owner/name@revision"``, or a bare name such as ``"bert-base-uncased"`` or
        ``"vit-base-patch16-224-in21k"``. A model that classifies images gets batches of `make_image_dataloader`.
    n_labels : int
        Number of classes; 1 means regression (mean squared error).
    seed : int
        Seed of the head.

    Returns
    -------
    transformers.PreTrainedModel
        In evaluation mode, float32, on the CPU. From the hub, ``model.config._commit_hash`` is the resolved commit;
        it is None for other sources.

    Raises
    ------
    ValueError
        If `n_labels` is not positive, or `name` is neither a folder nor a legal model name.
    DataUnavailableError
        If the model is not installed, lacks files, or cannot be fetched.
    DataIntegrityError
        If the weights are damaged or do not fit the model that config.json describes.

    Examples
    --------
    >>> load_model("minilm", n_labels=3).classifier
    Linear(in_features=384, out_features=3, bias=True)
    """
    import torch
    from safetensors import SafetensorError
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        AutoConfig,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
    )

    if n_labels < 1:
        raise ValueError(f"n_labels is {n_labels}; it must be 1 (regression) or the number of classes")
    folder = model_folder(name, "weights")
    problem = "regression" if n_labels == 1 else "single_label_classification"
    local = {"local_files_only": True, "trust_remote_code": False}
    with _quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for a pooler that the checkpoint lacks
        config = AutoConfig.from_pretrained(folder, num_labels=n_labels, problem_type=problem, **local)
        of_images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        auto = AutoModelForImageClassification if of_images else AutoModelForSequenceClassification
        try:
            model, report = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a stored head of another size; anything else is refused below
                output_loading_info=True,
                **local,
            )
        except SafetensorError as error:
            raise DataIntegrityError(f"the weights in {folder} cannot be read (truncated?): {error}") from error
    _check_encoder(model, report, folder)
    _draw_head(model, seed)
    model.config._commit_hash = folder.name if folder.parent.name == "snapshots" else None
    return model.eval()


def _check_encoder(model: "PreTrainedModel", report: dict, folder: os.PathLike) -> None:
    """Refuse a checkpoint that leaves part of the encoder at random values; a pooler may be new."""
    if model.base_model_prefix not in dict(model.named_children()):
        raise DataIntegrityError(f"{type(model).__name__}, the model in {folder}, has no separate encoder and head")
    prefix = model.base_model_prefix + "."
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    lost = [key for key in [*report["missing_keys"], *mismatched] if key.startswith(prefix) and "pooler" not in key]
    if lost:
        raise DataIntegrityError(
            f"the weights in {folder} do not fit its config.json: {len(lost)} encoder tensors are missing or of "
            f"another shape, such as {sorted(lost)[0]}"
        )


def _draw_head(model: "PreTrainedModel", seed: int) -> None:
    """Draw every linear layer outside the encoder from `seed`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    std = getattr(model.config, "initializer_range", None) or 0.02
    for layer in _head_layers(model):
        with torch.no_grad():
            layer.weight.normal_(0.0, std, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()


def _head_layers(model: "PreTrainedModel") -> "Iterator[torch.nn.Linear]":
    import torch

    for name, child in model.named_children():
        if name != model.base_model_prefix:
            yield from (module for module in child.modules() if isinstance(module, torch.nn.Linear))


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence the load report and progress bar of transformers, and put its settings back afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
