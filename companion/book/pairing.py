"""Chapter sources (MyST Markdown) and notebooks: two forms of the same cells.

The source is what people edit. A notebook carries a hash of its cells as they were last written, so an edit made in
the notebook can be noticed before it is overwritten, and brought back with `write_source`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import jupytext
import nbformat
from jupytext.myst import myst_to_notebook, notebook_to_myst
from nbformat import NotebookNode, v4

from companion.book.repository import Repository

GENERATED = "generated"  # tag of the cells that the book's tool adds (badge, installation) and sources do not hold
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


class UnwritableCell(ValueError):
    """A cell that Markdown cannot hold; the message says what to do."""


def cell_key(cell: NotebookNode) -> str:
    """Type, source and metadata of a cell as one string, without what notebook tools add by themselves."""
    metadata = {key: value for key, value in cell.metadata.items() if key not in TOOL_METADATA}
    return json.dumps([cell.cell_type, cell.source, metadata], sort_keys=True, ensure_ascii=False)


def authored_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The cells that a person wrote: all but those that the book's tool adds."""
    return [cell for cell in nb.cells if GENERATED not in cell.metadata.get("tags", [])]


def cell_keys(nb: NotebookNode) -> list[str]:
    """`cell_key` of every authored cell, in order."""
    return [cell_key(cell) for cell in authored_cells(nb)]


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


def stamp(nb: NotebookNode, repository: Repository, path: str) -> None:
    """Give a notebook the cells that follow from the public home of the book, in place of those it has.

    Parameters
    ----------
    nb : NotebookNode
        The notebook, changed in place; outputs of authored cells stay.
    repository : Repository
        Where the book lives.
    path : str
        Path of the notebook in the repository.
    """
    cells = authored_cells(nb)
    first = v4.new_code_cell(repository.first_cell(), metadata={"tags": [GENERATED, "remove-cell"]})
    position = next((index for index, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    if position < len(cells) and cells[position].execution_count is not None:
        first.execution_count = 1
    cells.insert(position, first)
    badge = repository.badge(path)
    if badge:
        cells.insert(1, v4.new_markdown_cell(badge, metadata={"tags": [GENERATED]}))
    for cell in cells:
        if GENERATED in cell.metadata.get("tags", []):
            cell.id = hashlib.sha256(f"{GENERATED}\n{cell_key(cell)}".encode()).hexdigest()[:12]
    nb.cells = cells


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
    UnwritableCell
        If a cell holds an attachment (a pasted picture), which Markdown cannot carry.
    """
    for number, cell in enumerate(nb.cells, start=1):
        if cell.get("attachments"):
            raise UnwritableCell(f"cell {number} holds a pasted picture; save it in book/_static and link to it")
    header, body = _split_header(path.read_text("utf-8")) if path.exists() else (DEFAULT_HEADER, "")
    cells = _as_in_source(nb)
    text = header + _merge(body, cells)
    if cell_keys(jupytext.reads(text, fmt="md:myst")) != [cell_key(cell) for cell in cells]:
        # a text that was kept runs into its new neighbour: write every cell afresh
        text = header + "".join(_render(cells, index) for index in range(len(cells)))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _split_header(text: str) -> tuple[str, str]:
    if text.startswith("---\n"):
        end = text.index("\n---\n", 3) + len("\n---\n")
        return text[:end], text[end:]
    return "", text


def _as_in_source(nb: NotebookNode) -> list[NotebookNode]:
    """The cells as a source can hold them: no outputs, no tool metadata, no outer blank lines, no empty text cells."""
    new = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell, "raw": v4.new_raw_cell}
    cells = []
    for cell in authored_cells(nb):
        metadata = {key: value for key, value in cell.metadata.items() if key not in TOOL_METADATA}
        source = cell.source.strip("\n") if cell.cell_type == "code" else cell.source.rstrip().lstrip("\n")
        if source or cell.cell_type == "code":
            cells.append(new[cell.cell_type](source, metadata=metadata))
    return cells


def _merge(body: str, cells: list[NotebookNode]) -> str:
    """The cells as text, taking the old text of each cell that is unchanged."""
    old_keys, old_texts = _segments(body)
    matcher = SequenceMatcher(a=old_keys, b=[cell_key(cell) for cell in cells], autojunk=False)
    parts: list[str] = []
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        parts += old_texts[i1:i2] if operation == "equal" else [_render(cells, index) for index in range(j1, j2)]
    return "".join(parts)


def _segments(body: str) -> tuple[list[str], list[str]]:
    """Key and verbatim text of every cell of a source (without header)."""
    nb = myst_to_notebook(body, add_source_map=True)
    lines = body.splitlines(keepends=True)
    starts = []
    for cell, line in zip(nb.cells, nb.metadata.pop("source_map", []), strict=True):
        has_opening_line = cell.cell_type != "markdown" or (line > 0 and lines[line - 1].startswith("+++"))
        starts.append(line - 1 if has_opening_line else line)
    if starts:
        starts[0] = 0  # blank lines before the first cell belong to it
    bounds = [*starts, len(lines)]
    return cell_keys(nb), ["".join(lines[start:end]) for start, end in pairwise(bounds)]


def _render(cells: list[NotebookNode], index: int) -> str:
    """One cell as MyST text, after a blank line and, between two Markdown cells, a cell break."""
    cell = cells[index]
    text = notebook_to_myst(v4.new_notebook(cells=[cell]))
    follows_markdown = index > 0 and cells[index - 1].cell_type == cell.cell_type == "markdown"
    opening = "+++\n\n" if follows_markdown and not cell.metadata else ""
    return "\n" + opening + text.strip("\n") + "\n"
