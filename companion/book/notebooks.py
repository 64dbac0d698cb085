"""Make the notebooks of the book from their Markdown sources, one way.

    python -m companion.book.notebooks build [CHAPTER ...]             run, and write book/CHAPTER.ipynb
    python -m companion.book.notebooks execute --to DIR [CHAPTER ...]  run, and write DIR/CHAPTER.ipynb
    python -m companion.book.notebooks check [CHAPTER ...]             do sources and notebooks agree?
    python -m companion.book.notebooks import book/CHAPTER.ipynb       bring an edited notebook back to its source
    python -m companion.book.notebooks stamp                           renew badge and first cell, running nothing

CHAPTER is a name (`marchenko-pastur`, `reference/notation`) or the path of a source; none means all.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from companion.book import repository
from companion.book.pairing import (
    LANGUAGE_INFO,
    UnwritableCell,
    cell_keys,
    dumps,
    is_edited,
    read_notebook,
    read_source,
    stamp,
    write_source,
)
from companion.book.svg import compact

CELL_TIMEOUT = 600  # seconds
MAX_BYTES = 500_000
SVG = "image/svg+xml"
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
KERNEL_ENVIRONMENT = {
    "BOOK_MODE": "light",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "2",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class ChapterError(Exception):
    """A chapter that cannot be built, checked or imported; the message says what to do."""


def chapter_name(source: Path) -> str:
    """Path of a source below the folder `src`, without its ending; the notebook has the same below the book."""
    parts = source.with_suffix("").parts
    start = max((index + 1 for index, part in enumerate(parts) if part == "src"), default=len(parts) - 1)
    return "/".join(parts[start:])


def notebook_of(source: Path, target: Path) -> Path:
    """Where the notebook of a source lies in the folder `target`."""
    return target / f"{chapter_name(source)}.ipynb"


def execute(source: Path) -> NotebookNode:
    """Run a chapter from its source in an empty working directory.

    Parameters
    ----------
    source : Path
        The chapter as MyST Markdown.

    Returns
    -------
    NotebookNode
        The notebook with outputs; the same for every run of a deterministic chapter.

    Raises
    ------
    ChapterError
        If a cell fails, takes longer than `CELL_TIMEOUT`, or the kernel dies; with the traceback.
    """
    nb = read_source(source)
    _stamp(nb, source)
    with tempfile.TemporaryDirectory(prefix="chapter-") as folder:
        client = NotebookClient(
            nb,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env=_kernel_environment())
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise ChapterError(f"{source}: {ANSI_COLOUR.sub('', str(error))}") from error
    nb.metadata["language_info"] = dict(LANGUAGE_INFO)
    return _compacted(nb)


def _compacted(nb: NotebookNode) -> NotebookNode:
    for data in (output.data for cell in nb.cells for output in cell.get("outputs", []) if "data" in output):
        if SVG in data:
            data[SVG] = compact(data[SVG])
    return nb


def _stamp(nb: NotebookNode, source: Path) -> None:
    try:
        stamp(nb, repository.read(), f"book/{chapter_name(source)}.ipynb")
    except (OSError, ValueError) as error:
        raise ChapterError(f"{source}: cannot make the first cell: {error}") from error


def _kernel_environment() -> dict[str, str]:
    environment = {**KERNEL_ENVIRONMENT, **os.environ}
    if environment["BOOK_MODE"] == "light":
        environment["HF_HUB_OFFLINE"] = "1"
    environment.pop("MPLBACKEND", None)
    return environment


def write(nb: NotebookNode, path: Path) -> None:
    """Write a notebook in one step, so that an interruption leaves the old file; refuse one that is too large."""
    text = dumps(nb)
    size = len(text.encode())
    if size > MAX_BYTES:
        number, largest = max(enumerate(nb.cells, start=1), key=lambda pair: len(str(pair[1])))
        raise ChapterError(
            f"{path}: {size / 1000:.0f} kB, at most {MAX_BYTES / 1000:.0f} kB are allowed; largest is cell {number} "
            f"({len(str(largest)) / 1000:.0f} kB): {largest.source[:60]!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def refuse_edited(source: Path, notebook: Path) -> None:
    """Raise `ChapterError` if the notebook holds an edit that is not in the source."""
    if not notebook.exists():
        return
    nb = read_notebook(notebook)
    if is_edited(nb) and cell_keys(nb) != cell_keys(read_source(source)):
        raise ChapterError(
            f"{notebook} was edited by hand: building it would lose the edit. Bring the edit back to the source with "
            f"`make import NB={notebook}`, or delete the notebook to give the edit up."
        )


def build(sources: Sequence[Path], target: Path, executed: Path | None = None) -> list[str]:
    """Write the notebook of every source to the folder `target`.

    Parameters
    ----------
    sources : sequence of Path
        Chapter sources.
    target : Path
        Folder of the notebooks.
    executed : Path, optional
        Folder of notebooks that `execute` or the tests ran; one whose cells equal the source is used instead of a new run.

    Returns
    -------
    list of str
        One message for every chapter that failed; its old notebook is as it was.
    """
    failures = []
    for source in sources:
        start = time.monotonic()
        verdict = "reused"
        try:
            nb = _matching(notebook_of(source, executed), source) if executed else None
            if nb is None:
                verdict = "executed"
                nb = execute(source)
            _stamp(nb, source)
            write(nb, notebook_of(source, target))
        except ChapterError as error:
            verdict = "FAILED"
            failures.append(str(error))
        print(f"{chapter_name(source)}: {verdict} in {time.monotonic() - start:.1f} s", flush=True)
    return failures


def _matching(notebook: Path, source: Path) -> NotebookNode | None:
    nb = read_notebook(notebook) if notebook.exists() else None
    return _compacted(nb) if nb is not None and cell_keys(nb) == cell_keys(read_source(source)) else None


def check(sources: Sequence[Path], target: Path) -> list[str]:
    """What is wrong between the sources and the notebooks in `target`, one message each; nothing is run."""
    problems = []
    for source in sources:
        notebook = notebook_of(source, target)
        if not notebook.exists():
            problems.append(f"{notebook} is missing: run `make notebooks`")
            continue
        nb = read_notebook(notebook)
        if cell_keys(nb) != cell_keys(read_source(source)):
            hint = f"`make import NB={notebook}`" if is_edited(nb) else "`make notebooks`"
            problems.append(f"{notebook} and {source} differ: run {hint}")
        elif is_edited(nb):
            problems.append(f"{notebook}: the cells are not what was last written; run `make notebooks`")
        elif not _is_stamped(nb, source):
            problems.append(f"{notebook}: badge or first cell do not fit pyproject.toml; run `make notebooks`")
        if notebook.stat().st_size > MAX_BYTES:
            problems.append(f"{notebook} is larger than {MAX_BYTES / 1000:.0f} kB")
        for number, cell in enumerate(nb.cells, start=1):
            problems += [f"{notebook}, cell {number}: {problem}" for problem in _output_problems(cell)]
    return problems


def _is_stamped(nb: NotebookNode, source: Path) -> bool:
    cells = [dict(cell) for cell in nb.cells]
    _stamp(nb, source)
    return cells == [dict(cell) for cell in nb.cells]


def restamp(book: Path) -> None:
    """Renew badge and first cell of every notebook in the folder of the book, running nothing."""
    home = repository.read()
    for notebook in sorted(book.rglob("*.ipynb")):
        nb = read_notebook(notebook)
        stamp(nb, home, f"book/{notebook.relative_to(book).as_posix()}")
        write(nb, notebook)


def _output_problems(cell: NotebookNode) -> list[str]:
    if cell.cell_type != "code" or "skip-execution" in cell.metadata.get("tags", []):
        return []
    problems = [f"it failed with {output.ename}" for output in cell.outputs if output.output_type == "error"]
    if cell.execution_count is None and cell.source.strip():
        problems.append("it was never run; run `make notebooks`")
    if any(output.get("name") == "stderr" for output in cell.outputs):
        problems.append("it writes to standard error (a warning?)")
    return problems


def import_notebook(notebook: Path, book: Path) -> Path:
    """Bring the cells of a notebook of the book back to its source and return the path of the source."""
    inside = notebook.resolve().is_relative_to(book.resolve())
    name = notebook.resolve().relative_to(book.resolve()) if inside else Path(notebook.name)
    source = book / "src" / name.with_suffix(".md")
    try:
        write_source(read_notebook(notebook), source)
    except UnwritableCell as error:
        raise ChapterError(f"{notebook}: {error}") from error
    return source


def _select(names: Sequence[str], source_folder: Path) -> list[Path]:
    """The sources that are meant by chapter names or paths, all of them for none."""
    available = {chapter_name(path): path for path in sorted(source_folder.rglob("*.md"))}
    if not available:
        raise ChapterError(f"there is no chapter source in {source_folder}")
    chosen = [chapter_name(Path(name)) if name.endswith(".md") else name for name in names]
    unknown = [name for name in chosen if name not in available]
    if unknown:
        raise ChapterError(f"unknown chapter {', '.join(unknown)}; the chapters are {', '.join(available)}")
    return [available[name] for name in chosen] if names else list(available.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m companion.book.notebooks`; returns the exit status."""
    options = _parser().parse_args(arguments)
    book = Path(options.book)
    try:
        if options.command == "import":
            print(f"wrote {import_notebook(Path(options.notebook), book)}")
            return 0
        if options.command == "stamp":
            restamp(book)
            return 0
        sources = _select(options.chapters, book / "src")
        if options.command in ("build", "guard"):
            for source in sources:
                refuse_edited(source, notebook_of(source, book))
        if options.command == "guard":
            return 0
        if options.command == "check":
            problems = check(sources, book)
        elif options.command == "execute":
            problems = build(sources, Path(options.to), options.executed)
        else:
            problems = build(sources, book, options.executed)
    except ChapterError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion.book.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("--book", default="book", help="folder of the notebooks; the sources lie in its folder src")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "build": "run chapters and write their notebooks in place",
        "execute": "run chapters and write their notebooks to another folder",
        "check": "say whether sources and notebooks agree, running nothing",
        "guard": "fail if a notebook holds an edit that is not in its source",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("chapters", nargs="*", metavar="CHAPTER")
        if name == "execute":
            command.add_argument("--to", required=True, metavar="DIR")
        if name in ("build", "execute"):
            command.add_argument("--executed", metavar="DIR", type=Path, help="take notebooks from here where the cells agree")
    commands.add_parser("stamp", help="renew badge and first cell of every notebook of the book, running nothing")
    command = commands.add_parser("import", help="bring an edited notebook back to its source")
    command.add_argument("notebook")
    return parser


if __name__ == "__main__":
    sys.exit(main())
