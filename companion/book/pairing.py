"""Chapter sources (MyST Markdown) and notebooks: two forms of the same cells.

The source is what people edit. A notebook carries a hash of its cells as they were last written, so an edit made in
the notebook can be noticed before it is overwritten, and brought back with `write_source`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import jupytext
import nbformat
from jupytext.myst import myst_to_notebook
from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE_INFO = {"name": "python"}
HASH_KEY = "source_sha256"
DEFAULT_HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
# What Colab, VS Code and Jupyter write into a cell when somebody opens and runs it: not an edit.
TOOL_METADATA = {
    "ExecuteTime", "cellView", "colab", "collapsed", "execution", "executionInfo", "id", "jupyter", "outputId",
    "scrolled", "trusted", "vscode",
}  # fmt: skip


def cell_key(cell: NotebookNode) -> str:
    """Type, source and metadata of a cell as one string, without what notebook tools add by themselves."""
    metadata = {key: value for key, value in cell.metadata.items() if key not in TOOL_METADATA}
    return json.dumps([cell.cell_type, cell.source, metadata], sort_keys=True, ensure_ascii=False)


def cell_keys(nb: NotebookNode) -> list[str]:
    """`cell_key` of every cell, in order."""
    return [cell_key(cell) for cell in nb.cells]


def cells_hash(nb: NotebookNode) -> str:
    """SHA-256 over the cells (not the outputs) of a notebook, in hexadecimal."""
    return hashlib.sha256("\n".join(cell_keys(nb)).encode()).hexdigest()


def is_edited(nb: NotebookNode) -> bool:
    """True when the cells are not those the book's own tool last wrote."""
    return nb.metadata.get("companion", {}).get(HASH_KEY) != cells_hash(nb)


def read_notebook(path: Path) -> NotebookNode:
    """Read an `.ipynb` file as notebook format 4."""
    return nbformat.read(path, as_version=4)


def read_source(path: Path) -> NotebookNode:
    """Read a chapter source as a notebook without outputs.

    The cell identifiers depend on the cell's content and on how often that content occurred before, so that they are
    the same in every build and inserting a cell does not change the others.
    """
    nb = jupytext.reads(path.read_text("utf-8"), fmt="md:myst")
    nb.metadata.pop("jupytext", None)
    nb.metadata.update(kernelspec=dict(KERNELSPEC), language_info=dict(LANGUAGE_INFO))
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in nb.cells:
        key = cell_key(cell)
        cell.id = hashlib.sha256(f"{seen[key]}\n{key}".encode()).hexdigest()[:12]
        seen[key] += 1
    nb.metadata["companion"] = {HASH_KEY: cells_hash(nb)}
    return nb


def dumps(nb: NotebookNode) -> str:
    """The notebook as the text of an `.ipynb` file."""
    nbformat.validate(nb)
    return nbformat.writes(nb) + "\n"


def write_source(nb: NotebookNode, path: Path) -> None:
    """Write the cells of a notebook as a chapter source; text of unchanged cells and the header stay as they were.

    Parameters
    ----------
    nb : NotebookNode
        The notebook; outputs and metadata written by notebook tools are left out.
    path : Path
        The source, replaced if it exists.

    Raises
    ------
    ValueError
        If a cell holds an attachment (a pasted picture), which Markdown cannot carry.
    """
    for number, cell in enumerate(nb.cells, start=1):
        if cell.get("attachments"):
            raise ValueError(f"cell {number} holds a pasted picture; save it under book/_static and link to it instead")
    header, body = _split_header(path.read_text("utf-8")) if path.exists() else (DEFAULT_HEADER, "")
    text = header + _merge(body, nb)
    if _keys_of(text) != _keys_of_notebook(nb):  # a reused text merged with its neighbour: write every cell afresh
        text = header + "".join(_render(cell, previous) for previous, cell in _with_previous(nb))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _split_header(text: str) -> tuple[str, str]:
    if text.startswith("---\n"):
        end = text.index("\n---\n", 3) + len("\n---\n")
        return text[:end], text[end:]
    return "", text


def _merge(body: str, nb: NotebookNode) -> str:
    """The new cells as text, taking the old text of each cell that is unchanged."""
    old_keys, old_texts = _segments(body)
    cells = list(_with_previous(nb))
    parts: list[str] = []
    matcher = SequenceMatcher(a=old_keys, b=_keys_of_notebook(nb), autojunk=False)
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        if operation == "equal":
            parts += old_texts[i1:i2]
        else:
            parts += [_render(cell, previous) for previous, cell in cells[j1:j2]]
    return "".join(parts)


def _segments(body: str) -> tuple[list[str], list[str]]:
    """Key and verbatim text of every cell of a source (without header)."""
    nb = myst_to_notebook(body, add_source_map=True)
    lines = body.splitlines(keepends=True)
    starts = []
    for cell, line in zip(nb.cells, nb.metadata.pop("source_map", []), strict=True):
        has_opening_line = cell.cell_type != "markdown" or (line > 0 and lines[line - 1].startswith("+++"))
        starts.append(line - 1 if has_opening_line else line)
    ends = [*starts[1:], len(lines)]
    return cell_keys(nb), ["".join(lines[start:end]) for start, end in zip(starts, ends, strict=True)]


def _render(cell: NotebookNode, previous: NotebookNode | None) -> str:
    """One cell as MyST text, after a blank line and, between two Markdown cells, a cell break."""
    metadata = {key: value for key, value in cell.metadata.items() if key not in TOOL_METADATA}
    clean = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
    if cell.cell_type == "raw":
        clean = nbformat.v4.new_raw_cell
    single = nbformat.v4.new_notebook(cells=[clean(cell.source.strip("\n"), metadata=metadata)])
    text = jupytext.writes(single, fmt={"extension": ".md", "format_name": "myst", "notebook_metadata_filter": "-all"})
    needs_break = cell.cell_type == "markdown" and not metadata and previous is not None
    opening = "+++\n\n" if needs_break and previous.cell_type == "markdown" else ""
    return "\n" + opening + text.rstrip("\n") + "\n"


def _with_previous(nb: NotebookNode):
    return zip([None, *nb.cells[:-1]], nb.cells, strict=True)


def _keys_of(text: str) -> list[str]:
    return cell_keys(jupytext.reads(text, fmt="md:myst"))


def _keys_of_notebook(nb: NotebookNode) -> list[str]:
    """Keys of the cells as a source can hold them: outer blank lines and empty Markdown cells do not survive."""
    copies = []
    for cell in nb.cells:
        copy = nbformat.from_dict({**cell, "source": cell.source.strip("\n") if cell.cell_type == "code" else _trim(cell)})
        if copy.source or copy.cell_type == "code":
            copies.append(cell_key(copy))
    return copies


def _trim(cell: NotebookNode) -> str:
    return cell.source.rstrip().lstrip("\n")
