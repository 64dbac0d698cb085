"""Data sets by name (bundled with the package, in the user's folder, or on the hub) or folder: `load_task`."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import DataIntegrityError
from .folder import folder_of, folder_task, load_folder
from .image_tasks import IMAGE_TASKS
from .known import load_known
from .tasks import TASKS, Task


def load_task(name: str | os.PathLike, split: str = "train") -> pd.DataFrame:
    """Load one split of a data set: a known one by its name, or your own from a folder of Parquet files.

    Bundled names are read from the package. Any other known name is looked for in ``$COMPANION_DATA_DIR/glue`` when
    that variable is set, then on the hub (``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are respected).

    Parameters
    ----------
    name : str or path
        A key of `TASKS`, such as ``"qnli"`` or ``"qnli-mini"``, or a folder (see the notes). A path object is always a
        folder; a string is one when it holds a path separator or names an existing folder and is no key of `TASKS`.
    split : str
        A split of that task, such as ``"train"`` or ``"validation"``.

    Returns
    -------
    pandas.DataFrame, shape (rows, columns)
        The text columns, `label` (int64, or float32 for regression) and, where the file has it, `idx`.
        ``frame.attrs`` says where it came from: `task` (of a folder, its own name without the path), `split`, `source`
        ("bundled", "folder" or "hub"), `rows`, `sha256` of the file, and `subset` (True when these are not all rows of
        the official split; False for a folder of your own).

    Raises
    ------
    ValueError
        If the task or split is not known.
    DataUnavailableError
        If the file can be had from none of these places, or the folder does not exist or has no train split.
    DataIntegrityError
        If a file was found but is damaged, altered or of another layout.

    Notes
    -----
    A folder holds, for each split, ``train.parquet`` or all shards ``train-00000-of-00003.parquet`` and so on; the
    train split must be there. Of several shards, `sha256` is the SHA-256 of their 64-digit digests, joined in order.

    One or two columns of strings beside `label` and `idx` are the text, in the order of the train file; other
    columns are left out. `label` holds integers from 0 to K - 1 or booleans (classes), strings (classes in the sorted
    order of those in the train split, the same for every split), or floating-point numbers (regression). At
    least two classes, each in the train split; no row without a label (null, NaN, -1).

    Examples
    --------
    >>> frame = load_task("qnli-mini", "validation")
    >>> list(frame.columns[:3]), len(frame), frame.attrs["source"]
    (['question', 'sentence', 'label'], 1000, 'bundled')

    A folder:

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     pd.DataFrame({"text": ["fine", "awful"], "label": ["good", "bad"]}).to_parquet(f"{folder}/train.parquet")
    ...     load_task(folder)["label"].tolist(), task_of(folder).label_names
    ([1, 0], ('bad', 'good'))
    """
    folder = folder_of(name)
    return _load_known(name, split) if folder is None else load_folder(folder, split)


def task_of(name: str | os.PathLike) -> Task:
    """Return what is known of a data set before it is loaded: columns, classes, splits.

    Parameters
    ----------
    name : str or path
        As for `load_task`. For a folder, the labels of the train split are read, and every file is hashed.

    Returns
    -------
    Task
        The entry of `TASKS`, or one made for the folder. Give its `n_labels` to `load_model`.

    Raises
    ------
    ValueError
        If the task is not known.
    DataUnavailableError
        If the folder does not exist or has no train split.
    DataIntegrityError
        If a file of the folder is damaged or of another layout.

    Examples
    --------
    >>> task = task_of("qnli-mini")
    >>> task.n_labels, task.label_names
    (2, ('entailment', 'not_entailment'))
    >>> task_of("stsb-mini").label_range
    (0.0, 5.0)
    """
    folder = folder_of(name)
    return _known_task(name) if folder is None else folder_task(folder)


def sample(frame: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Draw `n` rows at random without replacement.

    Parameters
    ----------
    frame : pandas.DataFrame, shape (rows, columns)
        Where to draw from, texts or images.
    n : int
        Number of rows, 1 to `rows`.
    seed : int
        Seed of the draw.

    Returns
    -------
    pandas.DataFrame, shape (n, columns)
        The rows in random order, with their index. `attrs` is kept: it describes the file the rows came from.

    Raises
    ------
    ValueError
        If `n` is not between 1 and the number of rows.

    Examples
    --------
    >>> sample(load_task("qnli-mini"), n=64, seed=0).shape
    (64, 3)
    """
    if not 1 <= n <= len(frame):
        raise ValueError(f"n is {n}; it must be between 1 and the {len(frame)} rows of the frame")
    drawn = frame.iloc[np.random.default_rng(seed).choice(len(frame), size=n, replace=False)]
    drawn.attrs = dict(frame.attrs)
    return drawn


def _load_known(name: str, split: str) -> pd.DataFrame:
    task = _known_task(name)
    return load_known(TASKS, name, split, lambda path: _read(path, task))


def _known_task(name: str) -> Task:
    if name not in TASKS:
        if name in IMAGE_TASKS:
            raise ValueError(f"task {name!r} holds images; `load_images` loads it, known here are {', '.join(TASKS)}")
        raise ValueError(
            f"unknown task {name!r}; known are {', '.join(TASKS)}; "
            "the path of a folder with train.parquet is accepted too (as in './mine', or an existing folder)"
        )
    return TASKS[name]


def _read(path: Path, task: Task) -> pd.DataFrame:
    """Read a Parquet file and check that it is a file of this task."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise DataIntegrityError(f"{path} cannot be read as Parquet (truncated or foreign?): {error}") from error
    wanted = [*task.text_columns, "label"]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise DataIntegrityError(
            f"{path} has columns {list(frame.columns)}; {task.name!r} also needs {', '.join(missing)}"
        )
    frame = frame[[*wanted, "idx"] if "idx" in frame.columns else wanted]
    _check_values(frame, path, task)
    return frame.astype({"label": "float32" if task.regression else "int64"})


def _check_values(frame: pd.DataFrame, path: Path, task: Task) -> None:
    """Raise DataIntegrityError unless texts are strings, nothing is missing and labels are in range."""
    if frame.empty:
        raise DataIntegrityError(f"{path} has no rows")
    for column in (*task.text_columns, "label"):
        if frame[column].isna().any():
            raise DataIntegrityError(f"{path}: column {column!r} has {int(frame[column].isna().sum())} missing values")
    for column in task.text_columns:
        if not pd.api.types.is_string_dtype(frame[column]):
            raise DataIntegrityError(f"{path}: column {column!r} is {frame[column].dtype}, expected text")
    label, (low, high) = frame["label"], task.label_range
    right_type = pd.api.types.is_float_dtype if task.regression else pd.api.types.is_integer_dtype
    accepted = f"{task.name!r} has {'real numbers' if task.regression else 'integers'} from {low} to {high}"
    if not right_type(label):
        raise DataIntegrityError(f"{path}: column 'label' is {label.dtype}; {accepted}")
    if not label.between(low, high).all():
        raise DataIntegrityError(f"{path}: column 'label' goes from {label.min()} to {label.max()}; {accepted}")
