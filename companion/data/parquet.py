"""Parquet files of any origin, read by pyarrow alone, with errors that name the file and what is wrong with it."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import DataIntegrityError

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_PLAIN = {
    "strings": pa.large_string(),
    "integers": pa.int64(),
    "real numbers": pa.float64(),
    "images": pa.large_binary(),
}
_LABELS = ("strings", "integers", "real numbers")


def kind_of(arrow_type: pa.DataType) -> str | None:
    """What a column holds: "strings", "integers" (also booleans), "real numbers", "images" (the bytes of image files,
    alone or in structs beside a path), or None for anything else."""
    value = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    if pa.types.is_string(value) or pa.types.is_large_string(value) or str(value) == "string_view":
        return "strings"
    if pa.types.is_integer(value) or pa.types.is_boolean(value):
        return "integers"
    if pa.types.is_struct(value) and value.get_field_index("bytes") >= 0:
        value = value.field("bytes").type
    if pa.types.is_binary(value) or pa.types.is_large_binary(value):
        return "images"
    return "real numbers" if pa.types.is_floating(value) else None


def text_columns(path: Path) -> tuple[str, ...]:
    """Names of the one or two columns of strings, in the order of the file; `label` and `idx` do not count."""
    with _opened(path) as file:
        schema = file.schema_arrow
    strings = [field.name for field in schema if kind_of(field.type) == "strings"]
    texts = tuple(name for name in strings if name not in ("label", "idx") and not _PANDAS_INDEX.fullmatch(name))
    if len(texts) not in (1, 2):
        raise DataIntegrityError(
            f"{path} has {len(texts) or 'no'} columns of strings beside 'label' and 'idx'; accepted are one or two; "
            f"the columns are {_described(schema)}"
        )
    return texts


def image_column(path: Path) -> str:
    """Name of the one column of encoded images."""
    with _opened(path) as file:
        schema = file.schema_arrow
    images = [field.name for field in schema if kind_of(field.type) == "images"]
    if len(images) != 1:
        raise DataIntegrityError(
            f"{path} has {len(images) or 'no'} columns of images; accepted is one, of the bytes of image files "
            f"or of structs with a field 'bytes'; the columns are {_described(schema)}"
        )
    return images[0]


def row_count(path: Path) -> int:
    """Number of rows according to the footer of the file."""
    with _opened(path) as file:
        return file.metadata.num_rows


def read_columns(
    paths: Sequence[Path], names: Sequence[str], kind: str = "strings", label: str = "label", idx: bool = False
) -> pa.Table:
    """Read files of one split, one after the other.

    Parameters
    ----------
    paths : sequence of Path
        The files, in order.
    names : sequence of str
        Columns of texts or images.
    kind : str
        What these hold, ``"strings"`` or ``"images"``.
    label : str
        Column of labels.
    idx : bool
        Whether to read the column `idx` as well, where the files have one of integers or strings.

    Returns
    -------
    pyarrow.Table, shape (rows, columns)
        At least one row and no nulls in the columns `names`, then `label` and `idx`. Strings are of type large_string,
        images large_binary, labels large_string, bool, int64 or float64, none of them dictionary-encoded.

    Raises
    ------
    DataIntegrityError
        If a file cannot be read, lacks a column, or has null or another type in one; if there are no rows; if the
        files do not fit together.
    """
    tables = [table for table in (_read(path, names, kind, label, idx) for path in paths) if table.num_rows]
    if not tables:
        raise DataIntegrityError(f"{listed(paths)}: no rows")
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataIntegrityError(f"the columns of {listed(paths)} are not of the same types: {error}") from error


def listed(items: Iterable, n: int = 10) -> str:
    """The first `n` items with commas between them, and dots when there are more."""
    shown = [str(item) for item in islice(items, n + 1)]
    return ", ".join(shown[:n]) + (", …" if len(shown) > n else "")


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; whatever pyarrow raises meanwhile becomes a DataIntegrityError."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise DataIntegrityError(f"{path} is not a file but a folder, a device or a link that leads nowhere")
    try:
        # A handle, not the path: pyarrow takes folder names such as a=1 for columns, and paths with : for addresses.
        with path.open("rb") as handle, pq.ParquetFile(handle) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataIntegrityError(f"{path} cannot be read as Parquet (truncated or foreign?): {error}") from error


def _read(path: Path, names: Sequence[str], kind: str, label: str, idx: bool) -> pa.Table:
    """Read one file; see `read_columns`."""
    with _opened(path) as file:
        schema = file.schema_arrow
    wanted = [*names, label]
    if idx and "idx" in schema.names and kind_of(schema.field("idx").type) in ("strings", "integers"):
        wanted.append("idx")
    unclear = [name for name in dict.fromkeys(wanted) if schema.names.count(name) != 1]
    if unclear:
        raise DataIntegrityError(
            f"{path} must have one column {' and one '.join(map(repr, unclear))}; the columns are {_described(schema)}"
        )
    with _opened(path) as file:
        table = file.read(columns=wanted).select(wanted)
        table.validate(full=True)  # else text that is not UTF-8 is found much later
    if not table.num_rows:
        return table
    columns = {name: _plain(table[name], path, name, (kind,)) for name in names}
    columns["label"] = _plain(table[label], path, label, _LABELS)
    return pa.table(columns | ({"idx": table["idx"]} if "idx" in wanted else {}))


def _plain(column: pa.ChunkedArray, path: Path, name: str, accepted: tuple[str, ...]) -> pa.ChunkedArray:
    """Decode a column to the widest type of its kind; DataIntegrityError for another kind or nulls."""
    kind = kind_of(column.type)
    if not pa.types.is_null(column.type) and kind not in accepted:
        raise DataIntegrityError(f"{path}: column {name!r} is {column.type}, accepted are {', '.join(accepted)}")
    if kind == "images" and pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if kind is not None and not pa.types.is_boolean(column.type):
        try:
            column = column.cast(_PLAIN[kind])
        except pa.ArrowException as error:
            raise DataIntegrityError(f"{path}: column {name!r} is {column.type} and out of range: {error}") from error
    if column.null_count:
        raise DataIntegrityError(f"{path}: column {name!r} has {column.null_count} missing values")
    return column


def _described(schema: pa.Schema) -> str:
    return listed((f"{field.name!r} ({field.type})" for field in schema), 30) or "none"
