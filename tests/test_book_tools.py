"""The tool that makes notebooks from sources, the settings, the figure style and the glue."""

import nbformat
import pytest

from companion.book import notebooks, pairing
from companion.book.notebooks import ChapterError, main
from companion.book.repository import Repository

CHAPTER = pairing.DEFAULT_HEADER + """
# A chapter

Some words.

+++ {"slideshow": {"slide_type": "slide"}}

A cell with metadata.

+++

Another   cell.

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-a, caption: "A: line"}
---
import os
print(sorted(os.listdir()), os.environ["BOOK_MODE"])
```

```{code-cell} ipython3
:tags: [nbval-check-output]

1 + 1
```

```{code-cell} ipython3
1 + 1
```

The end.
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.delenv("BOOK_MODE", raising=False)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "one.md").write_text(CHAPTER, "utf-8")
    return tmp_path


def run(book, *arguments):
    return main(["--book", str(book), *arguments])


def edit(path, number, source):
    nb = pairing.read_notebook(path)
    nb.cells[number].source = source
    nbformat.write(nb, path)


def test_build_gives_the_same_bytes_again(book):
    assert run(book, "build") == 0
    first = (book / "one.ipynb").read_bytes()
    assert run(book, "build", "one") == 0
    assert (book / "one.ipynb").read_bytes() == first
    assert run(book, "check") == 0


def test_built_notebook(book):
    run(book, "build")
    nb = pairing.read_notebook(book / "one.ipynb")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert "google.colab" in code[0].source
    assert code[1].outputs[0].text == "[] light\n"  # an empty working directory
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert nb.metadata == {
        "companion": {"source_sha256": pairing.cells_hash(nb)},
        "kernelspec": pairing.KERNELSPEC,
        "language_info": {"name": "python"},
    }
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    assert all("execution" not in cell.metadata for cell in nb.cells)


def test_sources_in_folders_become_notebooks_in_folders(book, tmp_path):
    (book / "src" / "reference").mkdir()
    (book / "src" / "one.md").rename(book / "src" / "reference" / "two.md")
    assert run(book, "build", "reference/two") == 0
    assert (book / "reference" / "two.ipynb").exists()
    assert run(book, "build", str(book / "src" / "reference" / "two.md")) == 0
    assert run(book, "check") == 0
    edit(book / "reference" / "two.ipynb", 0, "# Another title")
    assert run(book, "check") == 1
    assert run(book, "import", str(book / "reference" / "two.ipynb")) == 0
    assert "# Another title" in (book / "src" / "reference" / "two.md").read_text("utf-8")


def test_check_notices_a_first_cell_of_another_repository(book, capsys):
    run(book, "build")
    nb = pairing.read_notebook(book / "one.ipynb")
    pairing.stamp(nb, Repository("x", "1", "https://github.com/a/b"), "book/one.ipynb")
    nbformat.write(nb, book / "one.ipynb")
    assert not pairing.is_edited(nb)
    assert run(book, "check") == 1
    assert "do not fit pyproject.toml" in capsys.readouterr().err
    assert run(book, "stamp") == 0
    assert run(book, "check") == 0


def test_new_cell_leaves_the_other_identifiers(book):
    before = [cell.id for cell in pairing.read_source(book / "src" / "one.md").cells]
    text = CHAPTER.replace("# A chapter", "First.\n\n+++\n\n# A chapter")
    (book / "src" / "one.md").write_text(text, "utf-8")
    assert [cell.id for cell in pairing.read_source(book / "src" / "one.md").cells][1:] == before


@pytest.mark.parametrize("change", ["source", "type", "metadata", "order"])
def test_hash_sees_every_change_of_the_cells(book, change):
    nb = pairing.read_source(book / "src" / "one.md")
    if change == "source":
        nb.cells[-1].source += "!"
    elif change == "type":
        nb.cells[-1].cell_type = "raw"
    elif change == "metadata":
        nb.cells[-1].metadata["tags"] = ["x"]
    else:
        nb.cells.reverse()
    assert pairing.is_edited(nb)


def test_hash_ignores_outputs_and_what_colab_adds(book):
    nb = pairing.read_source(book / "src" / "one.md")
    for cell in nb.cells:
        cell.metadata.update(id="abc", executionInfo={"elapsed": 3}, outputId="x")
    nb.cells[4].outputs = [nbformat.v4.new_output("stream", text="hello")]
    assert not pairing.is_edited(nb)


def test_build_refuses_an_edited_notebook(book, capsys):
    run(book, "build")
    edit(book / "one.ipynb", -1, "The end, by a teacher.")
    edited = (book / "one.ipynb").read_bytes()
    assert run(book, "build") == 1
    assert f"make import NB={book / 'one.ipynb'}" in capsys.readouterr().err
    assert run(book, "guard") == 1
    assert (book / "one.ipynb").read_bytes() == edited
    assert run(book, "check") == 1


def test_import_brings_the_edit_back_and_build_then_accepts_it(book):
    run(book, "build")
    edit(book / "one.ipynb", -1, "The end, by a teacher.")
    assert run(book, "import", str(book / "one.ipynb")) == 0
    text = (book / "src" / "one.md").read_text("utf-8")
    assert text == CHAPTER.replace("The end.", "The end, by a teacher.")
    assert run(book, "build") == 0
    assert run(book, "check") == 0


def test_import_of_an_unedited_notebook_changes_nothing(book):
    run(book, "build")
    run(book, "import", str(book / "one.ipynb"))
    assert (book / "src" / "one.md").read_text("utf-8") == CHAPTER


@pytest.mark.parametrize("gone", range(7))
def test_import_after_a_cell_was_removed(book, gone):
    nb = pairing.read_source(book / "src" / "one.md")
    del nb.cells[gone]
    pairing.write_source(nb, book / "src" / "one.md")
    assert pairing.cell_keys(pairing.read_source(book / "src" / "one.md")) == pairing.cell_keys(nb)


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize(
    "cell",
    [
        nbformat.v4.new_markdown_cell("New words.\n\n- a list\n\n$$\nx\n$$"),
        nbformat.v4.new_markdown_cell("Tagged.", metadata={"tags": ["x"]}),
        nbformat.v4.new_code_cell(":like an option", metadata={"tags": ["a"], "mystnb": {"image": {"alt": "x"}}}),
        nbformat.v4.new_code_cell("'''\n```\n'''"),
        nbformat.v4.new_raw_cell("raw"),
    ],
    ids=["text", "tagged text", "code", "fence in code", "raw"],
)
def test_import_after_a_cell_was_added(book, place, cell):
    nb = pairing.read_source(book / "src" / "one.md")
    nb.cells.insert(place, cell)
    pairing.write_source(nb, book / "src" / "one.md")
    text = (book / "src" / "one.md").read_text("utf-8")
    assert pairing.cell_keys(pairing.read_source(book / "src" / "one.md")) == pairing.cell_keys(nb)
    assert text.startswith(pairing.DEFAULT_HEADER)
    assert "Another   cell." in text


def test_import_drops_outputs_and_tool_metadata(book):
    run(book, "build")
    nb = pairing.read_notebook(book / "one.ipynb")
    nb.metadata["colab"] = {"provenance": []}
    nb.cells[0].metadata["executionInfo"] = {"elapsed": 3}
    nb.cells.append(nbformat.v4.new_markdown_cell(""))
    nbformat.write(nb, book / "one.ipynb")
    run(book, "import", str(book / "one.ipynb"))
    assert (book / "src" / "one.md").read_text("utf-8") == CHAPTER


def test_import_makes_a_source_that_did_not_exist(book):
    nb = pairing.read_source(book / "src" / "one.md")
    nbformat.write(nb, book / "two.ipynb")
    assert run(book, "import", str(book / "two.ipynb")) == 0
    assert pairing.cell_keys(pairing.read_source(book / "src" / "two.md")) == pairing.cell_keys(nb)


def test_import_refuses_a_pasted_picture(book, capsys):
    nb = pairing.read_source(book / "src" / "one.md")
    nb.cells[0].attachments = {"image.png": {"image/png": "AA=="}}
    nbformat.write(nb, book / "one.ipynb")
    assert run(book, "import", str(book / "one.ipynb")) == 1
    assert "cell 1 holds a pasted picture" in capsys.readouterr().err
    assert (book / "src" / "one.md").read_text("utf-8") == CHAPTER


def test_failed_chapter_leaves_the_old_notebook_and_runs_the_others(book, capsys):
    run(book, "build")
    before = (book / "one.ipynb").read_bytes()
    (book / "src" / "one.md").write_text(CHAPTER.replace("1 + 1", "1 / 0"), "utf-8")
    (book / "src" / "two.md").write_text(CHAPTER, "utf-8")
    assert run(book, "build") == 1
    captured = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in captured.err
    assert "\x1b" not in captured.err
    assert "one: FAILED" in captured.out
    assert (book / "one.ipynb").read_bytes() == before
    assert (book / "two.ipynb").exists()
    assert not list(book.glob("*.tmp"))


def test_interrupted_execution_leaves_the_old_notebook(book, monkeypatch):
    run(book, "build")
    before = (book / "one.ipynb").read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks.NotebookClient, "execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(book, "build")
    assert (book / "one.ipynb").read_bytes() == before
    assert sorted(path.name for path in book.iterdir()) == ["one.ipynb", "src"]


def test_too_large_a_notebook_is_refused(book, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "MAX_BYTES", 1000)
    assert run(book, "build") == 1
    assert "at most 1 kB are allowed" in capsys.readouterr().err
    assert not (book / "one.ipynb").exists()


def test_execute_to_another_folder_leaves_the_book_and_can_be_reused(book, capsys):
    assert run(book, "execute", "--to", str(book / "elsewhere"), "one") == 0
    assert not (book / "one.ipynb").exists()
    assert run(book, "build", "--executed", str(book / "elsewhere")) == 0
    assert "one: reused" in capsys.readouterr().out
    assert (book / "one.ipynb").read_bytes() == (book / "elsewhere" / "one.ipynb").read_bytes()


def test_stale_execution_is_not_reused(book, capsys):
    run(book, "execute", "--to", str(book / "elsewhere"))
    (book / "src" / "one.md").write_text(CHAPTER.replace("1 + 1", "1 + 2"), "utf-8")
    run(book, "build", "--executed", str(book / "elsewhere"))
    assert capsys.readouterr().out.count("one: executed") == 2


@pytest.mark.parametrize("arguments", [("build", "three"), ("execute", "--to", "x", "three"), ("check", "three")])
def test_unknown_chapter(book, arguments, capsys):
    assert run(book, *arguments) == 1
    assert "unknown chapter three; the chapters are one" in capsys.readouterr().err


def test_no_chapter_is_an_error(tmp_path, capsys):
    assert run(tmp_path, "build") == 1
    assert "no chapter source" in capsys.readouterr().err


def test_check_names_what_is_missing(book, capsys):
    assert run(book, "check") == 1
    assert "is missing: run `make notebooks`" in capsys.readouterr().err


def test_check_sees_warnings_and_cells_never_run(book):
    run(book, "build")
    nb = pairing.read_notebook(book / "one.ipynb")
    nb.cells[5].execution_count = None
    nb.cells[4].outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning")]
    nbformat.write(nb, book / "one.ipynb")
    problems = notebooks.check([book / "src" / "one.md"], book)
    assert len(problems) == 2
    assert "standard error" in problems[0]
    assert "never run" in problems[1]


def test_too_slow_a_cell_is_reported(book, monkeypatch):
    monkeypatch.setattr(notebooks, "CELL_TIMEOUT", 1)
    (book / "src" / "one.md").write_text(CHAPTER.replace("1 + 1", "import time; time.sleep(30)"), "utf-8")
    with pytest.raises(ChapterError, match="timed out"):
        notebooks.execute(book / "src" / "one.md")
