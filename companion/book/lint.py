"""House style of a chapter, as checks on its notebook: `python -m companion.book.lint book/CHAPTER.ipynb`.

Every check takes a notebook and returns what is wrong, one sentence each; an empty list means that all is well.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode, v4

from companion import __version__
from companion.book.claims import VERDICTS
from companion.book.pairing import authored_cells, read_notebook

MEDIAN_LINES, P90_LINES, MAX_LINES, SETUP_LINES = 5, 15, 30, 6
MARKDOWN_PER_CODE = 1.2
COMPARED_CELLS = 5
EXERCISES = 3
SIGNIFICANT_DIGITS = 5  # the aim is 4; a fifth is tolerated for numbers such as 1.0005
SECTIONS = ("aim", "theory", "experiment", "what survives", "exercises", "summary")
FOLDING_TAGS = {"hide-input", "hide-cell"}
SEEDED = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "BitGenerator"}
TORCH_DRAWS = {"bernoulli", "multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm"}
NUMBER = re.compile(r"(?<![\w.])[-+]?(\d+\.\d+)(?:[eE][-+]?\d+)?(?![\w.]*\.\d)")


def lint(nb: NotebookNode, version: str = __version__, reference: bool = False) -> list[str]:
    """Everything that is wrong with a chapter, apart from the cells that the book's tool adds.

    Parameters
    ----------
    nb : NotebookNode
        The chapter with its outputs.
    version : str
        The package version that its setup cell must print.
    reference : bool
        True for a page of the reference part, which has neither exercises nor the sections of a chapter.
    """
    nb = v4.new_notebook(metadata=nb.metadata, cells=authored_cells(nb))
    checks = [
        cell_lengths, markdown_share, figures, randomness, installs, directives, glued_values, solutions, verdicts,
        digits,
    ]  # fmt: skip
    if not reference:
        checks += [compared_cells, exercises, sections]
    return setup_cell(nb, version) + [problem for check in checks for problem in check(nb)]


def _numbered(nb: NotebookNode, cell_type: str) -> Iterator[tuple[int, NotebookNode]]:
    return ((number, cell) for number, cell in enumerate(nb.cells, start=1) if cell.cell_type == cell_type)


def _code(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return list(_numbered(nb, "code"))


def _text(nb: NotebookNode) -> str:
    return "\n\n".join(cell.source for _, cell in _numbered(nb, "markdown"))


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def _printed(cell: NotebookNode) -> str:
    """What a reader sees as text below a cell."""
    parts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(parts)


def _calls(cell: NotebookNode) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name and node of every call in a code cell; lines with `%` or `!` are left out."""
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def cell_lengths(nb: NotebookNode) -> list[str]:
    """Non-blank lines per code cell: median, 90th percentile and maximum."""
    lengths = {number: _lines(cell) for number, cell in _code(nb)}
    if not lengths:
        return ["there is no code cell"]
    values = sorted(lengths.values())
    p90 = values[-(-9 * len(values) // 10) - 1]
    problems = [f"cell {n} has {count} lines, at most {MAX_LINES}" for n, count in lengths.items() if count > MAX_LINES]
    if statistics.median(values) > MEDIAN_LINES:
        problems.append(f"code cells have a median of {statistics.median(values)} lines, at most {MEDIAN_LINES}")
    if p90 > P90_LINES:
        problems.append(f"the 90th percentile of lines in code cells is {p90}, at most {P90_LINES}")
    return problems


def markdown_share(nb: NotebookNode) -> list[str]:
    """Enough text cells for the code cells."""
    code, markdown = len(_code(nb)), len(list(_numbered(nb, "markdown")))
    if markdown < MARKDOWN_PER_CODE * code:
        return [f"{markdown} Markdown cells for {code} code cells, at least {MARKDOWN_PER_CODE} for each"]
    return []


def setup_cell(nb: NotebookNode, version: str) -> list[str]:
    """The first code cell is short and prints the package version."""
    if not _code(nb):
        return []
    number, cell = _code(nb)[0]
    problems = []
    if _lines(cell) > SETUP_LINES:
        problems.append(f"cell {number} (setup) has {_lines(cell)} lines, at most {SETUP_LINES}")
    if version not in _printed(cell):
        problems.append(f"cell {number} (setup) does not print the package version {version}")
    return problems


def figures(nb: NotebookNode) -> list[str]:
    """Each cell that shows an image names, captions and describes it in its metadata."""
    problems = []
    for number, cell in _code(nb):
        data = [mime for output in cell.outputs for mime in output.get("data", {})]
        if not any(mime.startswith("image/") for mime in data):
            continue
        mystnb = cell.metadata.get("mystnb", {})
        figure, image = mystnb.get("figure", {}), mystnb.get("image", {})
        needed = [("figure", figure, "name"), ("figure", figure, "caption"), ("image", image, "alt")]
        missing = [f"{part}.{key}" for part, values, key in needed if not str(values.get(key) or "").strip()]
        problems += [f"cell {number} shows a figure without mystnb.{key}" for key in missing]
        if "dark-light" not in str(image.get("classes", "")).split():
            problems.append(f"cell {number} shows a figure without `classes: dark-light`")
        if sum(mime.startswith("image/") for mime in data) > 1:
            problems.append(f"cell {number} shows more than one figure: give each its cell and its caption")
    return problems


def compared_cells(nb: NotebookNode) -> list[str]:
    """Enough cells whose output the tests compare, and each of them has text to compare."""
    compared = [(number, cell) for number, cell in _code(nb) if "nbval-check-output" in _tags(cell)]
    problems = [f"cell {n} is compared but prints nothing" for n, cell in compared if not _printed(cell).strip()]
    if len(compared) < COMPARED_CELLS:
        problems.append(f"{len(compared)} cells are tagged nbval-check-output, at least {COMPARED_CELLS}")
    return problems


def randomness(nb: NotebookNode) -> list[str]:
    """Random numbers come from a seeded generator only."""
    problems = []
    for number, cell in _code(nb):
        for name, call in _calls(cell):
            head, _, last = name.rpartition(".")
            if head in ("np.random", "numpy.random") and last not in SEEDED:
                problems.append(f"cell {number}: {name} draws from hidden global state; use a generator")
            if last == "default_rng" and not call.args and not call.keywords:
                problems.append(f"cell {number}: {name}() has no seed")
            if head == "torch" and last in TORCH_DRAWS and "generator" not in {word.arg for word in call.keywords}:
                problems.append(f"cell {number}: {name} without generator=")
    return problems


def installs(nb: NotebookNode) -> list[str]:
    """No shell command, and an installation only where the cell checks that it runs on Colab."""
    problems = []
    for number, cell in _code(nb):
        if re.search(r"^\s*!", cell.source, re.MULTILINE):
            problems.append(f"cell {number} runs a shell command")
        if "%pip" in cell.source and "google.colab" not in cell.source:
            problems.append(f"cell {number} installs packages outside Colab")
    return problems


def directives(nb: NotebookNode) -> list[str]:
    """Directives use the colon fence, whose content still reads where directives are not rendered."""
    return [
        f"cell {number} has a directive in a backtick fence: {match.group().strip()}"
        for number, cell in _numbered(nb, "markdown")
        for match in re.finditer(r"^\s*`{3,}\{[\w:.-]+\}.*$", cell.source, re.MULTILINE)
    ]


def glued_values(nb: NotebookNode) -> list[str]:
    """What is put into the text by a role is also printed, and what the text uses was computed."""
    problems, known = [], set()
    for number, cell in _code(nb):
        glued = [call for name, call in _calls(cell) if name.split(".")[-1] == "glue" and call.args]
        names = {str(call.args[0].value) for call in glued if isinstance(call.args[0], ast.Constant)}
        if names and not _printed(cell).strip():
            problems.append(f"cell {number} glues {', '.join(sorted(names))} without printing it: roles fail on Colab")
        known |= names
    used = re.findall(r"\{glue:\w+\}`([^`:]+)", _text(nb))
    unknown = [name for name in used if name not in known and "ipynb" not in name]
    return problems + [f"the text uses {name!r}, which no cell glues" for name in unknown]


def solutions(nb: NotebookNode) -> list[str]:
    """Solutions in code lie between their two marks, in a cell that is folded away."""
    problems = []
    for number, cell in _code(nb):
        marks = re.findall(r"^\s*### (BEGIN|END) SOLUTION\s*$", cell.source, re.MULTILINE)
        if marks != ["BEGIN", "END"] * (len(marks) // 2) or len(marks) != cell.source.count(" SOLUTION"):
            problems.append(f"cell {number}: ### BEGIN SOLUTION and ### END SOLUTION do not pair up")
        elif marks and not _tags(cell) & FOLDING_TAGS:
            problems.append(f"cell {number} holds a solution that is not folded: tag it hide-input or hide-cell")
    return problems


def exercises(nb: NotebookNode) -> list[str]:
    """Enough exercises, each with a solution."""
    text = _text(nb)
    labels = re.findall(r":::\{exercise(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*?:label: *(\S+)", text)
    solved = set(re.findall(r":::\{solution(?:-start)?\} *(\S+)", text))
    problems = [f"exercise {label} has no solution" for label in labels if label not in solved]
    if len(labels) < EXERCISES:
        problems.append(f"{len(labels)} exercises with a label, at least {EXERCISES}")
    return problems


def sections(nb: NotebookNode) -> list[str]:
    """The parts every chapter has, in their order."""
    headings = [line.lower() for line in re.findall(r"^#{1,3} +(.+)$", _text(nb), re.MULTILINE)]
    problems, position = [], 0
    for section in SECTIONS:
        found = [index for index, heading in enumerate(headings) if index >= position and section in heading]
        if found:
            position = found[0] + 1
        else:
            problems.append(f"no heading {section!r} in its place (the order is {', '.join(SECTIONS)})")
    return problems


def verdicts(nb: NotebookNode) -> list[str]:
    """No verdict on a claim is typed: `companion.book.claims` computes them."""
    problems = []
    for number, cell in _code(nb):
        tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))
        typed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & set(VERDICTS)
        problems += [f"cell {number} types the verdict {verdict!r}" for verdict in sorted(typed)]
    return problems


def digits(nb: NotebookNode) -> list[str]:
    """No printed number has more digits than it can mean."""
    problems = []
    for number, cell in _code(nb):
        for match in NUMBER.finditer(_printed(cell)):
            count = len(match.group(1).replace(".", "").lstrip("0"))
            if count > SIGNIFICANT_DIGITS:
                problems.append(f"cell {number} prints {match.group()}: {count} significant digits, aim at 4")
    return problems


def main(paths: list[str]) -> int:
    """Print what is wrong with the given notebooks; returns the exit status."""
    problems = [
        f"{path}: {problem}"
        for path in map(Path, paths)
        for problem in lint(read_notebook(path), reference=path.parent.name == "reference")
    ]
    print("\n".join(problems) if problems else "no problem found")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
