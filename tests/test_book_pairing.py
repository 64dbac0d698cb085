"""The notebooks in book/ are what their sources say, complete and unedited."""

from pathlib import Path

import pytest

from companion.book import notebooks
from companion.book.notebooks import MAX_BYTES, check
from companion.book.pairing import authored_cells, cell_keys, is_edited, read_notebook, read_source

BOOK = Path(__file__).parents[1] / "book"
SOURCES = sorted((BOOK / "src").rglob("*.md"))
chapters = pytest.mark.parametrize("source", SOURCES, ids=notebooks.chapter_name)


def notebook_of(source):
    return notebooks.notebook_of(source, BOOK)


def test_book_has_chapters():
    assert SOURCES


def test_every_notebook_has_a_source():
    assert set(BOOK.rglob("*.ipynb")) == set(map(notebook_of, SOURCES))


@chapters
def test_notebook_has_the_cells_of_its_source(source):
    assert cell_keys(read_notebook(notebook_of(source))) == cell_keys(read_source(source))


@chapters
def test_notebook_is_as_it_was_written(source):
    assert not is_edited(read_notebook(notebook_of(source)))


@chapters
def test_cell_identifiers_are_those_of_the_source(source):
    nb = read_notebook(notebook_of(source))
    assert [cell.id for cell in authored_cells(nb)] == [cell.id for cell in read_source(source).cells]
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)


@chapters
def test_first_code_cell_installs_on_colab_and_is_not_on_the_page(source):
    first = next(cell for cell in read_notebook(notebook_of(source)).cells if cell.cell_type == "code")
    assert "google.colab" in first.source and "%pip install" in first.source
    assert set(first.metadata["tags"]) == {"generated", "remove-cell"}
    assert not first.outputs


@chapters
def test_every_cell_was_run_in_order(source):
    ran = [
        cell
        for cell in read_notebook(notebook_of(source)).cells
        if cell.cell_type == "code" and cell.source.strip() and "skip-execution" not in cell.metadata.get("tags", [])
    ]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))


@chapters
def test_outputs_hold_no_error_no_warning_and_no_timing(source):
    for cell in read_notebook(notebook_of(source)).cells:
        assert "execution" not in cell.metadata
        for output in cell.get("outputs", []):
            assert output.output_type != "error", output.evalue
            assert output.get("name") != "stderr", output.text


@chapters
def test_notebook_is_small(source):
    assert notebook_of(source).stat().st_size <= MAX_BYTES


def test_the_tool_agrees():
    assert check(SOURCES, BOOK) == []
