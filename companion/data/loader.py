"""From a frame of texts to padded batches for a model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .folder import FolderName
from .tasks import TASKS

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

_BATCHES_PER_CHUNK = 50  # shuffled examples are sorted by length within chunks of this many batches


class EncodedDataset:
    """Tokenised examples, each a dict of lists of token numbers and one label.

    Attributes
    ----------
    features : dict of str to list of list of int
        `input_ids`, `attention_mask` and, when the tokenizer makes them, `token_type_ids`: one list per example.
    labels : numpy.ndarray, shape (n,)
        int64 classes or float32 targets.
    """

    def __init__(self, features: dict[str, list[list[int]]], labels: np.ndarray) -> None:
        self.features = features
        self.labels = labels
        self.lengths = np.array([len(ids) for ids in features["input_ids"]])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {**{key: rows[i] for key, rows in self.features.items()}, "labels": self.labels[i]}


class PadCollator:
    """Pads the examples of a batch to the longest of them.

    Parameters
    ----------
    padding : dict of str to int
        The value that fills each feature.
    side : str
        ``"right"`` or ``"left"``: where the filling goes.
    """

    def __init__(self, padding: dict[str, int], side: str) -> None:
        self.padding = padding
        self.side = side

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, "torch.Tensor"]:
        import torch

        width = max(len(example["input_ids"]) for example in examples)
        batch = {}
        for key, value in self.padding.items():
            rows = np.full((len(examples), width), value, dtype=np.int64)  # (batch, width)
            for row, example in zip(rows, examples, strict=True):
                ids = example[key]
                row[slice(width - len(ids), None) if self.side == "left" else slice(len(ids))] = ids
            batch[key] = torch.from_numpy(rows)
        batch["labels"] = torch.from_numpy(np.array([example["labels"] for example in examples]))
        return batch


class LengthGroupedBatches:
    """Batches of examples of similar length, each example once per pass.

    Parameters
    ----------
    lengths : numpy.ndarray, shape (n,)
        Number of tokens of each example.
    batch_size : int
        Examples per batch; the last batch may be smaller.
    seed : int or None
        None: by length, the same every time. An integer: shuffled anew at each pass, reproducibly.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int | None) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator: a pass counts when its first batch is taken (DataLoader may make an iterator and drop it).
        if self.seed is None:
            yield from self._cut(np.argsort(self.lengths, kind="stable"))
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(len(self.lengths))
        size = self.batch_size * _BATCHES_PER_CHUNK
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        batches = self._cut(np.concatenate([c[np.argsort(self.lengths[c], kind="stable")] for c in chunks]))
        yield from (batches[i] for i in rng.permutation(len(batches)))

    def _cut(self, order: np.ndarray) -> list[list[int]]:
        return [order[start : start + self.batch_size].tolist() for start in range(0, len(order), self.batch_size)]


def make_dataloader(
    frame: pd.DataFrame,
    tokenizer: Any,
    batch_size: int = 32,
    max_length: int = 128,
    seed: int | None = None,
    num_workers: int = 0,
) -> "DataLoader":
    """Tokenise a frame once and serve it in batches of similar length, padded to the longest of each batch.

    Parameters
    ----------
    frame : pandas.DataFrame, shape (n, columns)
        One or two text columns and `label`, as from `load_task`.
    tokenizer : transformers.PreTrainedTokenizerBase
        As from `load_tokenizer`.
    batch_size : int
        Examples per batch; the last batch may be smaller.
    max_length : int
        Examples are cut to this many tokens.
    seed : int or None
        None: ordered by length, the same in every pass. An integer: shuffled, differently in each pass, reproducibly.
    num_workers : int
        Processes that collate batches; 0 means this one.

    Returns
    -------
    torch.utils.data.DataLoader
        Batches are dicts: `input_ids`, `attention_mask` and, when the tokenizer makes them, `token_type_ids`, int64 of
        shape (batch, width); `labels` of shape (batch,), int64 or, for a float label column, float32.

    Raises
    ------
    ValueError
        If the frame is empty, lacks `label` or has not one or two text columns, the tokenizer has no padding token,
        or `batch_size` or `max_length` is not positive.

    Examples
    --------
    >>> from companion.data import load_task, load_tokenizer
    >>> frame = load_task("qnli-mini", "validation")[:40]
    >>> batches = make_dataloader(frame, load_tokenizer("minilm"))
    >>> [len(batch["labels"]) for batch in batches]
    [32, 8]
    """
    import torch
    from torch.utils.data import DataLoader

    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    dataset = encode(frame, tokenizer, max_length)
    return DataLoader(
        dataset,
        batch_sampler=LengthGroupedBatches(dataset.lengths, batch_size, seed),
        collate_fn=PadCollator(_padding(tokenizer, dataset), tokenizer.padding_side),
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed or 0),  # else each pass would draw from torch's global state
    )


def encode(frame: pd.DataFrame, tokenizer: Any, max_length: int = 128) -> EncodedDataset:
    """Tokenise the text columns of a frame, without padding.

    Parameters
    ----------
    frame, tokenizer, max_length
        As in `make_dataloader`.

    Returns
    -------
    EncodedDataset
        One entry per row, in the order of the frame.
    """
    columns = _text_columns(frame)
    encoded = tokenizer(*(frame[column].tolist() for column in columns), truncation=True, max_length=max_length)
    longest = max(len(ids) for ids in encoded["input_ids"])
    if longest > max_length:  # tokenizers skip truncation without a word when a pair's special tokens do not fit
        raise ValueError(f"max_length is {max_length}; too short for the special tokens of {len(columns)} texts")
    kept = [key for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded]
    label = frame["label"]
    dtype = np.float32 if pd.api.types.is_float_dtype(label) else np.int64
    return EncodedDataset({key: encoded[key] for key in kept}, label.to_numpy(dtype=dtype))


def _text_columns(frame: pd.DataFrame) -> list[str]:
    if "label" not in frame.columns or frame.empty:
        raise ValueError(f"frame has {len(frame)} rows and columns {list(frame.columns)}; it needs rows and 'label'")
    name = frame.attrs.get("task", "")
    task = None if isinstance(name, FolderName) else TASKS.get(name)
    if task is not None and set(task.text_columns) <= set(frame.columns):
        return list(task.text_columns)
    columns = [c for c in frame.columns if c not in ("label", "idx") and pd.api.types.is_string_dtype(frame[c])]
    if len(columns) not in (1, 2):
        raise ValueError(f"frame has text columns {columns}; one or two are accepted, beside 'label' and 'idx'")
    return columns


def _padding(tokenizer: Any, dataset: EncodedDataset) -> dict[str, int]:
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer has no padding token; set one, such as tokenizer.pad_token = tokenizer.eos_token")
    values = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0}
    if "token_type_ids" in dataset.features:
        values["token_type_ids"] = tokenizer.pad_token_type_id
    return values
