"""Image data sets by name (bundled, in the user's folder, or on the hub) or folder, and batches of them for a model."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import DataIntegrityError
from .folder import folder_of, load_image_folder
from .image_tasks import IMAGE_TASKS, ImageTask
from .known import load_known
from .loader import LengthGroupedBatches
from .parquet import read_columns

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

CROP_MARGIN = 4  # black pixels around an image before a random crop
_FORMATS = ("PNG", "WEBP", "JPEG", "BMP")


def load_images(
    name: str | os.PathLike, split: str = "train", classes: Iterable[int] | None = None
) -> pd.DataFrame:
    """Load one split of an image data set: a known one by its name, or your own from a folder of Parquet files.

    ``"fashion-mnist-mini"`` is part of the package: 2,000 training and 1,000 test images of Fashion-MNIST, the same number
    of each of 10 classes, grey values repeated in three channels and 28 x 28 pixels padded with black to 32 x 32.
    ``"cifar100"`` (50,000 training and 10,000 test images, 32 x 32) is looked for in ``$COMPANION_DATA_DIR/cifar100``
    when that variable is set, then on the hub.

    Parameters
    ----------
    name : str or path
        ``"fashion-mnist-mini"``, ``"cifar100"``, or a folder (see the notes). A path object is always a folder; a string
        is one when it holds a path separator or names an existing folder and is not one of these names.
    split : str
        A split of that data set, such as ``"train"`` or ``"test"``.
    classes : iterable of int, optional
        Keep the images of these classes only; the i-th of them becomes class i. Nothing else is decoded.

    Returns
    -------
    pandas.DataFrame, shape (rows, 2)
        `image`: a uint8 array of shape (height, width, 3) in each row, RGB, all of one size (``np.stack(frame["image"])`` has
        shape (rows, height, width, 3)); `label`: int64, 0 to K - 1 (float32 for a regression). ``frame.attrs`` says where
        they came from, as for `load_task`: `rows`, `sha256` and `subset` are of the whole file; besides, `class_names`
        (tuple of str, the K names) and `classes` (the numbers these classes have in the data set).

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
    A folder holds files as for `load_task`. One column holds the images, as bytes of PNG, WebP, JPEG or BMP files, or as
    structs with a field `bytes` (as on the hub); its name is free. `label` holds classes or real numbers, as for texts.

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


def make_image_dataloader(
    images: pd.DataFrame,
    batch_size: int = 32,
    seed: int | None = None,
    augment: bool = False,
    size: int | None = None,
    num_workers: int = 0,
) -> "DataLoader":
    """Serve images in batches, normalised from 0 ... 255 to -1 ... 1 (mean and standard deviation 0.5, as ViT-B/16 has it).

    Parameters
    ----------
    images : pandas.DataFrame, shape (n, 2)
        Columns `image` and `label`, as from `load_images`.
    batch_size : int
        Images per batch; the last batch may be smaller.
    seed : int or None
        None: in the order of the frame. An integer: shuffled, differently in each pass, reproducibly.
    augment : bool
        Crop each image at random after padding it with 4 black pixels, and flip half of them left to right; drawn from
        `seed`, which must be given.
    size : int or None
        Resize to this height and width (bilinear), such as 224 for ViT-B/16; None leaves the images as they are.
    num_workers : int
        Processes that make batches; 0 means this one. With `augment` it must be 0.

    Returns
    -------
    torch.utils.data.DataLoader
        Batches are dicts: `pixel_values`, float32 of shape (batch, 3, height, width), and `labels` of shape (batch,), int64
        or, for a float label column, float32.

    Raises
    ------
    ValueError
        If the frame is empty or lacks a column, the images differ in size, `batch_size` or `size` is not positive, or
        `augment` comes without `seed` or with workers.

    Examples
    --------
    >>> images = load_images("fashion-mnist-mini", "test")[:40]
    >>> [tuple(batch["pixel_values"].shape) for batch in make_image_dataloader(images)]
    [(32, 3, 32, 32), (8, 3, 32, 32)]
    """
    import torch
    from torch.utils.data import DataLoader

    for argument, value in (("batch_size", batch_size), ("size", size)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} is {value}; it must be at least 1")
    if augment and (seed is None or num_workers):
        raise ValueError(
            f"augment is True with seed {seed} and num_workers {num_workers}; it needs an integer seed and no workers"
        )
    dataset = ImageDataset(*arrays(images))
    return DataLoader(
        dataset,
        batch_sampler=LengthGroupedBatches(np.zeros(len(dataset)), batch_size, seed),
        collate_fn=ImageCollator(np.random.default_rng([seed, 0, 1]) if augment else None, size),
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed or 0),  # else each pass would draw from torch's global state
    )


class ImageDataset:
    """Images and labels, each example a dict.

    Attributes
    ----------
    pixels : numpy.ndarray, shape (n, height, width, 3)
        uint8.
    labels : numpy.ndarray, shape (n,)
        int64 classes or float32 targets.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"pixels": self.pixels[i], "labels": self.labels[i]}


class ImageCollator:
    """Makes a batch of examples: augmented where there is a generator, normalised, resized.

    Parameters
    ----------
    rng : numpy.random.Generator or None
        What the augmentation draws from; None for no augmentation.
    size : int or None
        Height and width of the result.
    """

    def __init__(self, rng: np.random.Generator | None, size: int | None) -> None:
        self.rng = rng
        self.size = size

    def __call__(self, examples: Sequence[dict[str, np.ndarray]]) -> dict[str, "torch.Tensor"]:
        import torch

        pixels = np.stack([example["pixels"] for example in examples])
        values = normalised(pixels if self.rng is None else augmented(pixels, self.rng))
        if self.size is not None:
            values = torch.nn.functional.interpolate(values, size=(self.size, self.size), mode="bilinear")
        labels = np.array([example["labels"] for example in examples])
        return {"pixel_values": values, "labels": torch.from_numpy(labels)}


def arrays(images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, height, width, 3), uint8, and labels (n,), int64 or float32, of a frame as from `load_images`."""
    if not {"image", "label"} <= set(images.columns) or images.empty:
        raise ValueError(
            f"images has {len(images)} rows and columns {list(images.columns)}; it needs rows, 'image' and 'label'"
        )
    shapes = {np.shape(image) for image in images["image"]}
    if len(shapes) > 1:
        raise ValueError(f"images has images of shapes {sorted(shapes)}; accepted: one shape")
    dtype = np.float32 if pd.api.types.is_float_dtype(images["label"]) else np.int64
    return np.stack(images["image"].to_list()), images["label"].to_numpy(dtype=dtype)


def augmented(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random crops after padding with `CROP_MARGIN` black pixels, half of them flipped left to right.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (n, height, width, 3)
        uint8.
    rng : numpy.random.Generator
        Where shifts and flips are drawn from.

    Returns
    -------
    numpy.ndarray, shape (n, height, width, 3)
        uint8; `pixels` is left as it is.
    """
    n, height, width, _ = pixels.shape
    margin = (CROP_MARGIN, CROP_MARGIN)
    padded = np.pad(pixels, ((0, 0), margin, margin, (0, 0)))
    top, left = rng.integers(0, 2 * CROP_MARGIN + 1, (2, n, 1))
    flipped = rng.random((n, 1)) < 0.5
    rows = top + np.arange(height)  # (n, height)
    columns = left + np.where(flipped, np.arange(width)[::-1], np.arange(width))  # (n, width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalised(pixels: np.ndarray) -> "torch.Tensor":
    """From uint8 (n, height, width, 3) to float32 (n, 3, height, width) between -1 and 1."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return values.float().div_(127.5).sub_(1)


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
    from PIL import Image, UnidentifiedImageError

    images: list[np.ndarray] = []
    for row, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
                image = np.asarray(file.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataIntegrityError(
                f"{where}: image {row} of those asked for cannot be decoded: {error}; accepted are {', '.join(_FORMATS)}"
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
