"""A task of the user's own, texts or images: a folder with one Parquet file, or several shards, for each split."""

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataIntegrityError, DataUnavailableError
from .hub import sha256_of
from .parquet import image_column, kind_of, listed, read_columns, row_count, text_columns
from .tasks import TASKS, FileSpec, Task

LAYOUT = "train.parquet, or shards such as train-00000-of-00001.parquet; other splits likewise"
_FILE_NAME = re.compile(r"(?P<split>\w+(?:\.\w+)*?)(?:-(?P<shard>\d{5,})-of-(?P<shards>\d{5,}))?\.parquet")


class FolderName(str):
    """The name of a folder as the name of a task: the known task of the same name, if any, is another one."""


@dataclass(frozen=True)
class Schema:
    """What the train split says about all splits of a folder.

    Attributes
    ----------
    columns : tuple of str
        One or two of texts, in the order of the file, or one of images.
    kind : str
        ``"integers"``, ``"strings"`` or ``"real numbers"``: what `label` holds.
    label_names : tuple of str
        Names of the classes; empty for real numbers.
    score_range : tuple of float
        Smallest and largest real number; (0, 0) for classes.
    """

    columns: tuple[str, ...]
    kind: str
    label_names: tuple[str, ...] = ()
    score_range: tuple[float, float] = (0.0, 0.0)


def folder_of(name: str | os.PathLike, known: Collection[str] = TASKS) -> Path | None:
    """Return the folder that `name` means (it need not exist), None when it can only be one of the `known` names."""
    if isinstance(name, FolderName):
        raise ValueError(f"name is {name!r}, which a folder was loaded under; give the path of the folder")
    if isinstance(name, os.PathLike):
        return Path(os.path.expanduser(os.fsdecode(name)))
    if not isinstance(name, str) or name in known:
        return None
    path = os.path.expanduser(name)
    separators = (os.sep, os.altsep or os.sep)
    return Path(path) if any(separator in path for separator in separators) or os.path.isdir(path) else None


def splits_of(folder: Path, known: Collection[str] = TASKS) -> list[str]:
    """Names of the splits of a folder, train first; no file is opened."""
    return list(_splits(folder, known))


def load_folder(folder: Path, split: str) -> pd.DataFrame:
    """Load one split of a folder of texts; as `load_task`."""
    frame, _ = _load(folder, split, "strings", TASKS)
    return frame


def load_image_folder(folder: Path, split: str, known: Collection[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Load one split of a folder of images, not yet decoded, so that `image` holds bytes; and the names of the classes."""
    frame, schema = _load(folder, split, "images", known)
    return frame.rename(columns={schema.columns[0]: "image"}), schema.label_names


def _load(folder: Path, split: str, content: str, known: Collection[str]) -> tuple[pd.DataFrame, Schema]:
    splits = _splits(folder, known)
    name = _name_of(folder)
    if split not in splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(splits)} (files in {folder})")
    schema = _schema(folder, splits, content)
    shards = _shards(folder, split, splits[split])
    table = read_columns(shards, schema.columns, content, idx=content == "strings")
    frame = table.to_pandas(ignore_metadata=True)
    frame["label"] = _labels(table["label"], schema, f"{folder}, split {split!r}")
    frame.attrs = {
        "task": name,
        "split": split,
        "source": "folder",
        "rows": len(frame),
        "sha256": _digest(shards),
        "subset": False,
    }
    return frame, schema


def folder_task(folder: Path) -> Task:
    """Describe a folder; as `task_of`."""
    splits = _splits(folder, TASKS)
    schema = _schema(folder, splits, "strings")
    files = {split: _shards(folder, split, shards) for split, shards in splits.items()}
    return Task(
        name=_name_of(folder),
        text_columns=schema.columns,
        n_labels=max(len(schema.label_names), 1),
        label_names=schema.label_names,
        splits={split: _file_spec(split, shards) for split, shards in files.items()},
        repo="",
        revision="",
        attribution="",
        score_range=schema.score_range,
    )


def _name_of(folder: Path) -> FolderName:
    """Last component of the path as the user gave it, or of the folder that ``.`` or ``a/..`` leads to."""
    name = folder.name if folder.name != ".." else ""
    return FolderName(name or folder.resolve().name or "folder")


def _splits(folder: Path, known: Collection[str]) -> dict[str, list[Path]]:
    """The files of each split, train and validation first; DataUnavailableError when there is no train split."""
    if not os.path.isdir(folder):
        raise DataUnavailableError(
            f"name is {os.fspath(folder)!r}, which is not an existing folder; "
            f"accepted are a folder that holds {LAYOUT}, and the names {', '.join(known)}"
        )
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataUnavailableError(f"name is {os.fspath(folder)!r}, a folder that cannot be listed: {error}") from error
    splits: dict[str, list[Path]] = {}
    for entry in entries:
        if match := _FILE_NAME.fullmatch(entry.name):
            splits.setdefault(match["split"], []).append(entry)
    if "train" not in splits:
        found = listed(entry.name for entry in entries) or "nothing"
        raise DataUnavailableError(f"{folder} has no train split; it holds {found}; accepted are {LAYOUT}")
    return {split: splits[split] for split in sorted(splits, key=lambda s: (s != "train", s != "validation", s))}


def _shards(folder: Path, split: str, files: list[Path]) -> list[Path]:
    """The files of one split in the order of their numbers, checked to be all of one set."""
    matches = [_FILE_NAME.fullmatch(path.name) for path in files]
    totals = {match["shards"] for match in matches}
    if len(totals) > 1:
        names = listed(path.name for path in files)
        raise DataIntegrityError(f"{folder} holds more than one set of files for split {split!r}: {names}")
    if totals == {None}:
        return files
    by_number = {int(match["shard"]): path for match, path in zip(matches, files, strict=True)}
    total = int(totals.pop())
    missing = [i for i in islice((i for i in range(total) if i not in by_number), 11)]
    beyond = [i for i in by_number if i >= total]
    if missing or beyond:
        problem = f"lacks shard {listed(missing)}" if missing else f"has shard {listed(beyond)}"
        raise DataIntegrityError(f"{folder}: split {split!r} {problem}; accepted are all shards 0 .. {total - 1}")
    return [by_number[i] for i in sorted(by_number)]


def _digest(shards: list[Path]) -> str:
    """SHA-256 of the file; of several shards, of their hexadecimal digests, written one after the other."""
    digests = [sha256_of(path) for path in shards]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _file_spec(split: str, shards: list[Path]) -> FileSpec:
    path = shards[0].name if len(shards) == 1 else f"{split}-*-of-{len(shards):05}.parquet"
    return FileSpec(path, sum(row_count(shard) for shard in shards), _digest(shards))


def _schema(folder: Path, splits: dict[str, list[Path]], content: str) -> Schema:
    """Read columns of strings or images, and classes, off the train split; only its column `label` is read."""
    shards = _shards(folder, "train", splits["train"])
    first = next((shard for shard in shards if row_count(shard)), shards[0])
    columns = text_columns(first) if content == "strings" else (image_column(first),)
    label = read_columns(shards, names=())["label"]
    kind = kind_of(label.type)
    where = f"{folder}, split 'train'"
    if kind == "real numbers":
        scores = _finite_scores(label, where)
        return Schema(columns, kind, score_range=(float(scores.min()), float(scores.max())))
    classes = sorted(pc.unique(label).to_pylist())
    names = tuple(map(str, classes))  # of booleans "False" and "True"
    if kind == "integers":
        _check_classes([int(number) for number in classes], where)
    if len(classes) < 2:
        raise DataIntegrityError(
            f"{where}: column 'label' is {names[0]!r} in every row; at least two classes are needed "
            "(real numbers of a floating-point type make a regression)"
        )
    return Schema(columns, kind, names)


def _check_classes(classes: list[int], where: str) -> None:
    """Raise DataIntegrityError unless the sorted integers are 0, 1, 2 and so on."""
    low, high = classes[0], classes[-1]
    accepted = "accepted are classes from 0 to K - 1, each of them in the train split"
    if low < 0:
        raise DataIntegrityError(f"{where}: column 'label' goes from {low} to {high}; {accepted} (-1 is no label)")
    if high >= len(classes):
        present = set(classes)
        missing = list(islice((i for i in range(high) if i not in present), 11))
        raise DataIntegrityError(
            f"{where}: column 'label' goes from {low} to {high} without {listed(missing)}; {accepted}"
        )


def _labels(label: pa.ChunkedArray, schema: Schema, where: str) -> np.ndarray:
    """Return the labels as the model takes them: int64 classes or float32 scores."""
    kind = kind_of(label.type)
    if kind != schema.kind:
        raise DataIntegrityError(f"{where}: column 'label' holds {kind}, that of the train split {schema.kind}")
    if kind == "real numbers":
        return _finite_scores(label, where)
    if kind == "strings":
        classes = pc.index_in(label, value_set=pa.array(schema.label_names, pa.large_string()))
        if classes.null_count:
            unknown = listed(map(repr, sorted(pc.unique(label.filter(pc.is_null(classes))).to_pylist())))
            known = listed(map(repr, schema.label_names))
            raise DataIntegrityError(f"{where}: column 'label' has {unknown}; the train split has {known}")
        return classes.to_numpy().astype(np.int64)
    classes = label.cast(pa.int64()).to_numpy()
    high = len(schema.label_names) - 1
    if classes.min() < 0 or classes.max() > high:
        raise DataIntegrityError(
            f"{where}: column 'label' goes from {classes.min()} to {classes.max()}; "
            f"the train split has integers from 0 to {high}"
        )
    return classes


def _finite_scores(label: pa.ChunkedArray, where: str) -> np.ndarray:
    scores = label.to_numpy()
    if np.isnan(scores).any():
        raise DataIntegrityError(f"{where}: column 'label' has {int(np.isnan(scores).sum())} missing values (NaN)")
    largest = np.finfo(np.float32).max
    if np.abs(scores).max() > largest:
        raise DataIntegrityError(
            f"{where}: column 'label' goes from {scores.min()} to {scores.max()}; "
            f"accepted are real numbers from {-largest:.4g} to {largest:.4g}"
        )
    return scores.astype(np.float32)
