"""Make the bundled subset `fashion-mnist-mini` from the four files of Fashion-MNIST.

``python -m companion.data.make_images SOURCE TARGET`` reads ``SOURCE/train-images-idx3-ubyte.gz`` and the three files
beside it (on Debian, the package dataset-fashion-mnist has them in ``/usr/share/datasets/fashion-mnist``) and writes
``TARGET/fashion-mnist-mini/train.parquet`` and ``test.parquet``, printing the row count and SHA-256 of each.
"""

import argparse
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .hub import sha256_of

SEED = 20240
_DRAWS = {"train": ("train", 200), "test": ("t10k", 100)}  # stem of the source files, images of each class
_CLASSES = 10


def read_source(source: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of the original files, which hold raw bytes after a header.

    Parameters
    ----------
    source : Path
        Folder of the files.
    stem : str
        ``"train"`` or ``"t10k"``.

    Returns
    -------
    images : numpy.ndarray, shape (n, 28, 28)
        Grey values, uint8, white on black.
    labels : numpy.ndarray, shape (n,)
        Classes 0 to 9, uint8.
    """
    images = gzip.decompress((source / f"{stem}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((source / f"{stem}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return np.frombuffer(images, np.uint8).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8)


def draw_subset(source: Path, split: str, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Draw the same number of images of each class without replacement, in the order of the source file.

    Parameters
    ----------
    source : Path
        Folder of the files.
    split : str
        ``"train"`` (2,000 images) or ``"test"`` (1,000).
    seed : int
        Seed of the draw.

    Returns
    -------
    images : numpy.ndarray, shape (n, 28, 28)
        As from `read_source`.
    labels : numpy.ndarray, shape (n,)
        Their classes.
    """
    stem, n = _DRAWS[split]
    images, labels = read_source(source, stem)
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(labels == k), size=n, replace=False) for k in range(_CLASSES)]
    rows = np.sort(np.concatenate(drawn))
    return images[rows], labels[rows]


def encoded(image: np.ndarray) -> bytes:
    """A grey image (h, w) as lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files and print what `companion.data.image_tasks` must say about them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with the four .gz files of Fashion-MNIST")
    parser.add_argument("target", type=Path, help="folder to write fashion-mnist-mini/ into")
    options = parser.parse_args(arguments)
    for split in _DRAWS:
        images, labels = draw_subset(options.source, split)
        path = options.target / "fashion-mnist-mini" / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "image": pa.array([{"bytes": encoded(image)} for image in images], pa.struct([("bytes", pa.binary())])),
            "label": pa.array(labels.astype(np.int64)),
        }
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False, write_statistics=False)
        print(f"{path.relative_to(options.target)}  {len(labels)} rows  {sha256_of(path)}")


if __name__ == "__main__":
    main()
