"""The chapters keep the house style, and every check of the style fails on a bad sample."""

import re
from collections import Counter
from pathlib import Path

import pytest
from nbformat import v4

from companion import __version__
from companion.book import lint
from companion.book.pairing import read_notebook

NOTEBOOKS = sorted((Path(__file__).parents[1] / "book").rglob("*.ipynb"))
FIGURE = {"figure": {"name": "fig-a", "caption": "A."}, "image": {"alt": "A line.", "classes": "dark-light"}}
SECTIONS = ["Aim", "Theory", "Experiment", "What survives", "Exercises", "Summary"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps_the_style(path):
    assert lint.lint(read_notebook(path), reference=path.parent.name == "reference") == []


def test_names_of_figures_are_unique_in_the_book():
    cells = [cell for path in NOTEBOOKS for cell in read_notebook(path).cells]
    figures = [cell.metadata.get("mystnb", {}).get("figure") for cell in cells]
    names = Counter(figure["name"] for figure in figures if figure)
    assert [name for name, count in names.items() if count > 1] == []


def text(source):
    return v4.new_markdown_cell(source)


def code(source, printed="", tags=(), image=False, **metadata):
    cell = v4.new_code_cell(source, metadata={"tags": list(tags), **metadata})
    if printed:
        cell.outputs.append(v4.new_output("stream", name="stdout", text=printed))
    if image:
        cell.outputs.append(v4.new_output("display_data", data={"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}))
    return cell


def book(*cells):
    return v4.new_notebook(cells=list(cells))


def exercise(label, solved=True):
    solution = f"\n\n:::{{solution}} {label}\n:label: {label}-solution\nDo it.\n:::" if solved else ""
    return text(f":::{{exercise}} Title\n:label: {label}\n\nWhat?\n:::{solution}")


def good_chapter():
    texts = [text(f"## {section}") for section in SECTIONS]
    compared = [code("print(1.25)", "1.25\n", tags=["nbval-check-output"]) for _ in range(5)]
    return book(
        code("import companion\nprint(companion.__version__)", f"companion {__version__}\n"),
        *compared,
        code("plt.show()", image=True, mystnb=FIGURE),
        code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION\nassert x", tags=["hide-input"]),
        *texts,
        *[exercise(f"ex-{number}") for number in range(4)],
    )


def test_a_good_chapter_passes():
    assert lint.lint(good_chapter()) == []


def test_a_reference_page_needs_no_exercises():
    page = book(code("import companion", f"companion {__version__}\n"), text("One."), text("Two."))
    assert lint.lint(page, reference=True) == []
    assert lint.lint(page) != []


def test_cells_that_the_tool_adds_do_not_count():
    nb = good_chapter()
    nb.cells.insert(0, code("x = 1\n" * 40, tags=["generated"]))
    assert lint.lint(nb) == []


def test_every_check_is_part_of_lint():
    helpers = {"lint", "main", "read_notebook", "authored_cells"}
    checks = {name for name, value in vars(lint).items() if callable(value) and re.fullmatch(r"[a-z][a-z_]+", name)}
    source = Path(lint.__file__).read_text("utf-8").split("def lint")[1].split("def _")[0]
    assert [name for name in checks - helpers if name not in source] == []


BAD = {
    "too long a cell": (lint.cell_lengths, book(code("x = 1\n" * 31))),
    "long cells": (lint.cell_lengths, book(*[code("x = 1\n" * 6) for _ in range(3)])),
    "some very long cells": (lint.cell_lengths, book(*[code("x = 1\n" * lines) for lines in [1] * 8 + [16] * 2])),
    "no code": (lint.cell_lengths, book(text("Only words."))),
    "few words": (lint.markdown_share, book(code("x = 1"), text("One."))),
    "no name": (lint.figures, book(code("show()", image=True, mystnb={**FIGURE, "figure": {"caption": "A."}}))),
    "no caption": (lint.figures, book(code("show()", image=True, mystnb={**FIGURE, "figure": {"name": "fig-a"}}))),
    "empty alt": (lint.figures, book(code("show()", image=True, mystnb={**FIGURE, "image": {"alt": " "}}))),
    "no metadata": (lint.figures, book(code("plt.show()", image=True))),
    "few compared cells": (lint.compared_cells, book(code("print(1)", "1\n", tags=["nbval-check-output"]))),
    "compared without output": (lint.compared_cells, book(*[code("x", tags=["nbval-check-output"]) for _ in range(5)])),
    "global generator": (lint.randomness, book(code("np.random.seed(0)"))),
    "legacy draw": (lint.randomness, book(code("x = np.random.randn(3)"))),
    "no seed": (lint.randomness, book(code("rng = np.random.default_rng()"))),
    "torch without generator": (lint.randomness, book(code("torch.randn(\n    3\n)"))),
    "shell": (lint.installs, book(code("!pip install companion"))),
    "install everywhere": (lint.installs, book(code("%pip install companion"))),
    "backtick directive": (lint.directives, book(text("```{note}\nRead me.\n```"))),
    "glued, not printed": (lint.glued_values, book(code("glue('a', 1)"))),
    "used, not glued": (lint.glued_values, book(text("It is {glue:text}`b:.2f`."))),
    "mark without partner": (lint.solutions, book(code("### BEGIN SOLUTION\nx = 1", tags=["hide-input"]))),
    "misspelt mark": (lint.solutions, book(code("# BEGIN SOLUTION\nx\n### END SOLUTION", tags=["hide-input"]))),
    "open solution": (lint.solutions, book(code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION"))),
    "few exercises": (lint.exercises, book(exercise("a"), exercise("b"))),
    "unsolved exercise": (lint.exercises, book(*[exercise(label) for label in "abc"], exercise("d", solved=False))),
    "section missing": (lint.sections, book(*[text(f"## {name}") for name in SECTIONS[:-1]])),
    "sections swapped": (lint.sections, book(*[text(f"## {name}") for name in SECTIONS[::-1]])),
    "typed verdict": (lint.verdicts, book(code("print('so it', 'fails as printed')"))),
    "verdict in a condition": (lint.verdicts, book(code("x = 'holds' if y else 'open'"))),
    "too many digits": (lint.digits, book(code("x", "0.333333\n"))),
}


@pytest.mark.parametrize("name", BAD)
def test_check_fails_on_a_bad_sample(name):
    check, nb = BAD[name]
    assert check(nb) != []


@pytest.mark.parametrize("source", ["a = 1\n" * 7 + "print()", "pass"], ids=["long", "no version"])
def test_setup_cell_check_fails_on_a_bad_sample(source):
    printed = "companion 0.0.1" if source == "pass" else __version__
    assert lint.setup_cell(book(code(source, printed)), __version__) != []


@pytest.mark.parametrize(
    "source",
    [
        "rng = np.random.default_rng(0)",
        "torch.randn(3, generator=generator)",
        "torch.normal(0.0, 1.0, (2,), generator=generator)",
        'if "google.colab" in sys.modules:\n    %pip install -q companion',
    ],
)
def test_good_code_passes(source):
    nb = book(code(source))
    assert lint.randomness(nb) + lint.installs(nb) == []


@pytest.mark.parametrize("printed", ["companion 0.1.0", "1.234e-05", "12.34 %", "1000000 rows", "2.13.0", "0.00012"])
def test_good_numbers_pass(printed):
    assert lint.digits(book(code("x", printed))) == []


def test_command_line(tmp_path, capsys):
    path = tmp_path / "good.ipynb"
    path.write_text(v4.writes(good_chapter()), "utf-8")
    assert lint.main([str(path)]) == 0
    path.write_text(v4.writes(book(code("!ls"))), "utf-8")
    assert lint.main([str(path)]) == 1
    assert "shell command" in capsys.readouterr().out
