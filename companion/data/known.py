"""The files of known data sets: where they lie (in the package, in the user's folder, on the hub), and whether they are
those that the tables describe."""

import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import pandas as pd

from .errors import DataIntegrityError, DataUnavailableError
from .hub import fetch, forget, sha256_of
from .image_tasks import ImageTask
from .tasks import FileSpec, Task

ASSETS = files("companion") / "assets"


def load_known(
    known: Mapping[str, Task] | Mapping[str, ImageTask], name: str, split: str, read: Callable[[Path], pd.DataFrame]
) -> pd.DataFrame:
    """Read one split of a data set of the table and check that it is the file that the table describes.

    Parameters
    ----------
    known : mapping of str to Task or ImageTask
        The table, `TASKS` or `IMAGE_TASKS`.
    name, split : str
        Which of its files.
    read : callable
        Makes a frame of the file, one row an example, or raises DataIntegrityError.

    Returns
    -------
    pandas.DataFrame
        What `read` gave, with `attrs` as in `load_task`.

    Raises
    ------
    ValueError
        If the data set has no such split.
    DataUnavailableError
        If the file can be had from none of the places.
    DataIntegrityError
        If it is damaged or, outside the user's folder, another one.
    """
    task = known[name]
    spec = _known_split(task, split)
    source, path = _locate(known, task, split, spec)
    digest = sha256_of(path)
    try:
        if source != "folder" and digest != spec.sha256:
            raise DataIntegrityError(f"{path}: SHA-256 is {digest}, expected {spec.sha256} for {name}/{split}")
        frame = read(path)
        if source != "folder" and len(frame) != spec.rows:
            raise DataIntegrityError(f"{path}: {len(frame)} rows, expected {spec.rows} for {name}/{split}")
    except DataIntegrityError:
        if source == "hub":
            forget(path)  # so that the next call downloads it afresh
        raise
    frame.attrs = {
        "task": name,
        "split": split,
        "source": source,
        "rows": len(frame),
        "sha256": digest,
        "subset": task.bundled or len(frame) != spec.rows,
    }
    return frame


def _known_split(task: Task | ImageTask, split: str) -> FileSpec:
    if split not in task.splits:
        raise ValueError(f"task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    return task.splits[split]


def _locate(
    known: Mapping[str, Task] | Mapping[str, ImageTask], task: Task | ImageTask, split: str, spec: FileSpec
) -> tuple[str, Path]:
    """Find the file: ("bundled" | "folder" | "hub", path)."""
    if task.bundled:
        return "bundled", _bundled_file(spec)
    folder = os.environ.get("COMPANION_DATA_DIR")
    if folder:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataUnavailableError(
                f"COMPANION_DATA_DIR is {folder!r}, which is not a folder; "
                f"set it to a folder that holds {task.folder}{spec.path}, or unset it"
            )
        path = root / f"{task.folder}{spec.path}"
        if path.is_file():
            return "folder", path
    try:
        return "hub", fetch(task.repo, spec.path, task.revision, repo_type="dataset")
    except DataUnavailableError as error:
        raise DataUnavailableError(_unavailable(known, task, split, spec, error)) from error


def _bundled_file(spec: FileSpec) -> Path:
    path = Path(str(ASSETS)) / spec.path
    if not path.is_file():
        raise DataUnavailableError(f"{path} is missing from the installed package; reinstall spectral-lora-companion")
    return path


def _unavailable(
    known: Mapping[str, Task] | Mapping[str, ImageTask],
    task: Task | ImageTask,
    split: str,
    spec: FileSpec,
    error: Exception,
) -> str:
    folder = os.environ.get("COMPANION_DATA_DIR")
    state = f"it is {folder!r} and lacks that file" if folder else "it is not set"
    bundled = [name for name, other in known.items() if other.bundled]
    return (
        f"task {task.name!r}, split {split!r} is not available: {error}\n"
        f"Options: set COMPANION_DATA_DIR to a folder that holds {task.folder}{spec.path} ({state}); "
        f"use a bundled subset ({', '.join(bundled)}); or connect to the hub "
        f"(data set {task.repo}; HF_ENDPOINT names a mirror, HF_HUB_OFFLINE must not be 1)."
    )
