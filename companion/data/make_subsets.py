"""Make the bundled subsets `qnli-mini` and `stsb-mini` from a folder with the GLUE files.

``python -m companion.data.make_subsets SOURCE TARGET`` reads ``SOURCE/qnli`` and ``SOURCE/stsb`` (the layout of the
hub data set) and writes the Parquet files below ``TARGET``, printing the row count and SHA-256 of each.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .tasks import TASKS

SEED = 20240
_DRAWS = {("qnli", "train"): 8192, ("qnli", "validation"): 1000, ("stsb", "train"): 2000, ("stsb", "validation"): 500}


def draw_subset(source: Path, task: str, split: str, n: int, seed: int = SEED) -> pd.DataFrame:
    """Draw `n` rows without replacement, in the order of the source file.

    Parameters
    ----------
    source : Path
        Folder that holds ``<task>/<split>-00000-of-00001.parquet``.
    task, split : str
        Which file to draw from.
    n : int
        Number of rows.
    seed : int
        Seed of the draw.

    Returns
    -------
    pandas.DataFrame, shape (n, n_text_columns + 1)
        The text columns and `label`. The running number `idx` of the source is left out.
    """
    frame = pd.read_parquet(source / TASKS[task].splits[split].path)
    rows = np.sort(np.random.default_rng(seed).choice(len(frame), size=n, replace=False))
    return frame.iloc[rows][[*TASKS[task].text_columns, "label"]].reset_index(drop=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all four files and print what `companion.data.tasks` must say about them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with qnli/ and stsb/ in hub layout")
    parser.add_argument("target", type=Path, help="folder to write qnli-mini/ and stsb-mini/ into")
    options = parser.parse_args(arguments)
    for (task, split), n in _DRAWS.items():
        path = options.target / f"{task}-mini" / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pandas(draw_subset(options.source, task, split, n), preserve_index=False)
        # Without the pandas metadata: older versions of pandas read the file just as well.
        pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
        print(f"{path.relative_to(options.target)}  {n} rows  {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
