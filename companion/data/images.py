"""Image data sets by name (bundled, in the user's folder, or on the hub) or folder: `load_images`."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import DataIntegrityError
from .folder import folder_of, load_image_folder
from .image_tasks import IMAGE_TASKS, ImageTask
from .known import load_known
from .parquet import read_columns

_FORMATS = ("PNG", "WEBP", "JPEG", "BMP")


def load_images(
    name: str | os.PathLike, split: str = "train", classes: Iterable[int] | None = None
) -> pd.DataFrame:
    """Load one split of an image data set: a known one by its name, or your own from a folder of Parquet files.

    ``"fashion-mnist-mini"`` is part of the package: 2,000 training and 1,000 test images of Fashion-MNIST, equally many
    of each of 10 classes, grey values repeated in three channels and 28 x 28 pixels padded with black to 32 x 32.
    ``"cifar100"`` (50,000 training and 10,000 test images, 32 x 32) is looked for in ``$COMPANION_DATA_DIR/cifar100``
    when that variable is set, then on the hub.

    Parameters
    ----------
    name : str or path
        ``"fashion-mnist-mini"``, ``"cifar100"``, or a folder (see the notes). A path object is always a folder; a
        string is one when it holds a path separator or names an existing folder and is not one of these names.
    split : str
        A split of that data set, such as ``"train"`` or ``"test"``.
    classes : iterable of int, optional
        Keep the images of these classes only; the i-th of them becomes class i. Nothing else is decoded.

    Returns
    -------
    pandas.DataFrame, shape (rows, 2)
        `image`: in each row a uint8 array of shape (height, width, 3), RGB, all of one size, so that
        ``np.stack(frame["image"])`` has shape (rows, height, width, 3); `label`: int64, 0 to K - 1 (float32 for a
        regression). ``frame.attrs`` says where they came from, as for `load_task` (`rows`, `sha256` and `subset` are of
        the whole file); besides, `class_names`, a tuple of K, and `classes`, the numbers they have in the data set.

    Raises
    ------
    ValueError
        If the data set or split is not known, or `classes` are not distinct classes of the data set.
    DataUnavailableError
        If the file can be had from none of these places, or the folder does not exist or has no train split.
    DataIntegrityError
        If a file was found but is damaged, altered or of another layout, or an image cannot be decoded.

    Notes
    -----
    A folder holds files as for `load_task`. One column, of any name, holds the images, as bytes of PNG, WebP, JPEG or
    BMP files, or as structs with a field `bytes` (as on the hub); `label` holds classes or real numbers, as for texts.

    Examples
    --------
    >>> frame = load_images("fashion-mnist-mini", "test", classes=[5, 7, 9])
    >>> frame.attrs["class_names"], len(frame), frame["image"][0].shape
    (('sandal', 'sneaker', 'ankle boot'), 300, (32, 32, 3))
    """
    folder = folder_of(name, IMAGE_TASKS)
    if folder is not None:
        frame, names = load_image_folder(folder, split, IMAGE_TASKS)
        margin = 0
    elif name in IMAGE_TASKS:
        task = IMAGE_TASKS[name]
        frame = load_known(IMAGE_TASKS, name, split, lambda path: _read(path, task))
        names, margin = task.label_names, task.margin
    else:
        raise ValueError(
            f"unknown image data set {name!r}; known are {', '.join(IMAGE_TASKS)} (texts: `load_task`); "
            "the path of a folder with train.parquet is accepted too (as in './mine', or an existing folder)"
        )
    kept = range(len(names)) if classes is None else _checked_classes(classes, names)
    attrs = frame.attrs | {"class_names": tuple(names[i] for i in kept), "classes": tuple(kept)}
    if classes is not None:
        frame = frame[frame["label"].isin(kept)].reset_index(drop=True)
        frame["label"] = frame["label"].map({old: new for new, old in enumerate(kept)}).astype("int64")
    decoded = _decoded(frame["image"], margin, f"{name}, split {split!r}")
    result = pd.DataFrame({"image": pd.Series(list(decoded), dtype=object), "label": frame["label"]})
    result.attrs = attrs
    return result


def _read(path: Path, task: ImageTask) -> pd.DataFrame:
    """Read a file of a known data set without decoding; the images stay bytes."""
    columns = (task.image_column,)
    frame = read_columns([path], columns, "images", task.label_column).to_pandas(ignore_metadata=True)
    label, high = frame["label"], len(task.label_names) - 1
    if not pd.api.types.is_integer_dtype(label) or not label.between(0, high).all():
        raise DataIntegrityError(
            f"{path}: column {task.label_column!r} is {label.dtype} from {label.min()} to {label.max()}; "
            f"{task.name!r} has integers from 0 to {high}"
        )
    return frame.rename(columns={task.image_column: "image"})


def _checked_classes(classes: Iterable[int], names: Sequence[str]) -> list[int]:
    """The classes as a list, after a check that they are distinct classes of the data set."""
    kept = list(classes)
    known = all(isinstance(i, int | np.integer) and 0 <= i < len(names) for i in kept)
    if not kept or not known or len(set(kept)) < len(kept):
        accepted = f"distinct integers from 0 to {len(names) - 1}" if names else "None, for the labels are real numbers"
        raise ValueError(f"classes is {kept}; accepted are {accepted}")
    return [int(i) for i in kept]


def _decoded(encoded: Iterable[bytes], margin: int, where: str) -> np.ndarray:
    """Decode image files, of whatever format, into one array (rows, height, width, 3)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    images: list[np.ndarray] = []
    for row, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
                if file.mode[0] in "IF":  # conversion would cut every value above 255
                    raise ValueError(f"its mode is {file.mode!r}, and 8 bits a channel are accepted")
                image = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataIntegrityError(
                f"{where}: image {row} of those asked for cannot be decoded: {error}; "
                f"accepted are {', '.join(_FORMATS)}"
            ) from error
        if images and image.shape != images[0].shape:
            (h, w), (height, width) = image.shape[:2], images[0].shape[:2]
            raise DataIntegrityError(
                f"{where}: image {row} of those asked for is {h} x {w} pixels and the first one {height} x {width}; "
                "accepted is one size"
            )
        images.append(image)
    if not images:
        raise DataIntegrityError(f"{where}: no image of the classes asked for")
    return np.pad(np.stack(images), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
