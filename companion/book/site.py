"""Sphinx extension of the book's site: the ledger of claims, running times, figures to move, and the repository URL.

Directives: `{claims-ledger}` (every claim with its measurement and verdict, taken from the notebooks of this build) and
`{chapter-times}` (measured minutes and memory of every chapter, taken from the record `chapter-times`). A chapter with
`<div class="movable" data-figure="NAME">` gets the scripts of that figure; other pages load none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from companion.book import claims, repository
from companion.book.claims import Finding
from companion.book.pairing import read_notebook
from companion.book.timing import latest

PLANNED = "not written yet"
# The scripts of each figure that readers move, below book/_static: its formulas, then what draws them.
MOVABLE = {"trajectories": ("scalar-law", "trajectories"), "spectrum": ("spiked-law", "spectrum")}
PLACE = re.compile(r'<div class="movable" data-figure="([\w-]+)">')


def follow_repository(app: Sphinx, config: Config) -> None:
    """Give the theme its buttons if `pyproject.toml` names a repository; otherwise no page has a dead one."""
    home = repository.read(Path(app.srcdir) / "pyproject.toml")
    options = config.html_theme_options
    options["use_repository_button"] = options["use_issues_button"] = home.url is not None
    if home.url:
        options |= {"repository_url": home.url, "repository_branch": home.tag, "path_to_docs": ""}
        options["launch_buttons"] = {"colab_url": repository.COLAB}


def notebooks(app: Sphinx) -> dict[str, Path]:
    """Notebooks of this build by document name."""
    source = Path(app.srcdir)
    paths = (path for path in sorted((source / "book").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts)
    return {path.relative_to(source).with_suffix("").as_posix(): path for path in paths}


def document_of(chapter: str, documents: Sequence[str]) -> str | None:
    """The document of a chapter, None while it is not written."""
    return next((name for name in documents if name.rpartition("/")[2] == chapter), None)


class ClaimsLedger(SphinxDirective):
    """All claims in a table, after a sentence that counts the verdicts."""

    def run(self) -> list[nodes.Node]:
        """Read the notebooks of this build and make the table."""
        sources = notebooks(self.env.app)
        for path in sources.values():
            self.env.note_dependency(str(path))
        findings = claims.ledger([read_notebook(path) for path in sources.values()])
        counts = Counter(finding.verdict for finding in findings)
        listed = ", ".join(f"{verdict} {counts[verdict]}" for verdict in claims.VERDICTS)
        head = ("Claim", "Printed", "Measured", "Verdict")
        rows = [row_of(finding, list(sources)) for finding in findings]
        return [nodes.paragraph(text=f"{len(findings)} claims: {listed}."), table(head, rows, (36, 16, 36, 12), "claims")]


def row_of(finding: Finding, documents: Sequence[str]) -> nodes.row:
    """One claim as a row that can be linked to by its id."""
    claim = finding.claim
    chapter = document_of(claim.chapter, documents)
    where = [link(claims.chapters()[claim.chapter], chapter, claims.anchor(claim.id) if finding.printed else "")]
    if chapter is None:
        where = [nodes.emphasis(text=claims.chapters()[claim.chapter]), nodes.Text(f" ({PLANNED})")]
    first = [
        nodes.paragraph("", "", nodes.strong(text=claim.place), nodes.Text(f". {claim.statement}")),
        nodes.paragraph("", "", nodes.literal(text=claim.id), nodes.Text(" · "), *where),
    ]
    if claim.note:
        first.append(nodes.paragraph("", "", nodes.emphasis(text=claim.note)))
    seen = [nodes.paragraph(text=text) for text in claims.account(finding)]
    colour = f"verdict-{claims.VERDICTS.index(finding.verdict)}"
    verdict = nodes.inline(text=finding.verdict, classes=["verdict", colour])
    cells = (first, [nodes.paragraph(text=claim.printed)], seen, [nodes.paragraph("", "", verdict)])
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells), ids=[claim.id])


class ChapterTimes(SphinxDirective):
    """Measured minutes and memory of every chapter, light and full."""

    def run(self) -> list[nodes.Node]:
        """Read the record and make the table, in the order of the ledger."""
        documents = list(notebooks(self.env.app))
        rows = []
        chapter = {name: name.rpartition("/")[2] for name in latest()}
        order = [*claims.chapters(), *chapter.values()]
        for name, runs in sorted(latest().items(), key=lambda item: order.index(chapter[item[0]])):
            title = link(runs["light"]["title"], document_of(chapter[name], documents), "")
            values = (minutes(runs.get("light")), minutes(runs.get("full")), memory(runs), hardware(runs))
            cells = [nodes.paragraph("", "", title), *(nodes.paragraph(text=value) for value in values)]
            rows.append(nodes.row("", *(nodes.entry("", cell) for cell in cells)))
        head = ("Chapter", "Light, minutes", "Full, minutes", "Memory, GB", "Measured on")
        return [table(head, rows, (40, 14, 14, 12, 20), "times")]


def minutes(run: dict | None) -> str:
    """Running time for the table, in minutes."""
    if run is None:
        return "not measured"
    return f"{run['seconds'] / 60:.1f}" if run["seconds"] >= 6 else "below 0.1"


def memory(runs: dict[str, dict]) -> str:
    """Largest memory of the runs of a chapter in gigabytes."""
    return f"{max(run['peak_memory_mib'] for run in runs.values()) * 2**20 / 1e9:.1f}"


def hardware(runs: dict[str, dict]) -> str:
    """What the runs of a chapter were made on."""
    return "; ".join(dict.fromkeys(run["hardware"] for run in runs.values()))


def link(text: str, document: str | None, fragment: str) -> nodes.Node:
    """A link to another page, resolved when the builder is known; plain text if there is no such page."""
    if document is None:
        return nodes.Text(text)
    return nodes.reference("", text, internal=True, refuri="", book_document=document, book_fragment=fragment)


def resolve_links(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Give every link made by `link` its address."""
    for node in doctree.findall(nodes.reference):
        target = node.get("book_document")
        if target is None:
            continue
        uri = app.builder.get_relative_uri(document, target)
        fragment = node["book_fragment"]
        if fragment:  # one page holds the whole book: only the fragment leads on
            uri = f"#{fragment}" if app.builder.name == "singlehtml" else f"{uri}#{fragment}"
        node["refuri"] = uri


def table(head: Sequence[str], rows: Sequence[nodes.row], widths: Sequence[int], name: str) -> nodes.table:
    """A table with a heading."""
    columns = [nodes.colspec("", colwidth=width) for width in widths]
    titles = nodes.row("", *(nodes.entry("", nodes.paragraph(text=title)) for title in head))
    group = nodes.tgroup("", *columns, nodes.thead("", titles), nodes.tbody("", *rows), cols=len(head))
    return nodes.table("", group, classes=[name])


def add_movable_figures(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Let a page load what its movable figures need."""
    names = PLACE.findall(context.get("body", ""))
    if not names:
        return
    unknown = set(names) - set(MOVABLE)
    if unknown:
        raise ExtensionError(f"{page}: there is no movable figure {', '.join(sorted(unknown))}")
    laws, figures = zip(*(MOVABLE[name] for name in names), strict=True)
    for style in ("uplot/uPlot.min.css", "movable/movable.css"):
        app.add_css_file(style)
    for script in ("uplot/uPlot.iife.min", *(f"movable/{name}" for name in (*laws, "movable", *figures))):
        app.add_js_file(f"{script}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", follow_repository)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-page-context", add_movable_figures)
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("chapter-times", ChapterTimes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
