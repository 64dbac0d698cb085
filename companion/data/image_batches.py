"""From a frame of images to batches for a model: shuffled, augmented, normalised."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .loader import LengthGroupedBatches

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

CROP_MARGIN = 4  # black pixels around an image before a random crop


def make_image_dataloader(
    images: pd.DataFrame,
    batch_size: int = 32,
    seed: int | None = None,
    augment: bool = False,
    size: int | None = None,
    num_workers: int = 0,
) -> "DataLoader":
    """Serve images in batches, normalised from 0 ... 255 to -1 ... 1.

    This is a mean and a standard deviation of 0.5 on the scale of 0 to 1, as ViT-B/16 (in21k) has it.

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
        Resize to this height and width (bilinear, antialiased), such as 224 for ViT-B/16; None leaves the images as they are.
    num_workers : int
        Processes that make batches; 0 means this one. With `augment` it must be 0.

    Returns
    -------
    torch.utils.data.DataLoader
        Batches are dicts: `pixel_values`, float32 of shape (batch, 3, height, width); `labels` of shape (batch,), int64
        or, for a float label column, float32.

    Raises
    ------
    ValueError
        If the frame is empty or lacks a column, the images differ in size, `batch_size` or `size` is not positive, or
        `augment` comes without `seed` or with workers.

    Examples
    --------
    >>> from companion.data import load_images
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
            values = torch.nn.functional.interpolate(values, size=(self.size, self.size), mode="bilinear", antialias=True)
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
    first = np.asarray(images["image"].iloc[0])
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3:
        raise ValueError(
            f"images has images of {first.dtype} and shape {first.shape}; accepted: uint8 (0 to 255) and (height, width, 3)"
        )
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
