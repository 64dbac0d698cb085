"""Sphinx extension for the pages of the package: links in docstrings, the help of the command, the table of modules.

Four things that the usual extensions do not do without warnings or stale text:

* ``code-link``, the default role: a name in single backticks is a link where the package documents it, and code otherwise.
* ``command-help:: ranks``: what ``companion ranks --help`` prints, asked of the command when the page is built.
* ``task-table::``: the data sets that `companion.data` knows.
* ``module-table::``: one line for each module, from the first line of its docstring and the imports of the chapters.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole

MAX_SIGNATURE = 200  # characters of a class's signature
HELP_COLUMNS = 76  # fits the column of a page
PACKAGE = "companion"


class CodeLink(SphinxRole):
    """A name as code, and as a link where the documentation has it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name = self.text.removesuffix("()")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return [nodes.literal(self.rawtext, self.text)], []
        code = nodes.literal(self.rawtext, self.text, classes=["xref", "py"])
        # A class or a dotted name is looked for everywhere; `singular_values` is an argument before it is a method elsewhere.
        # Sphinx asks whether the option is there, not what it says.
        anywhere = {"refspecific": True} if "." in name or name[0].isupper() else {}
        link = pending_xref("", code, refdomain="py", reftype="obj", reftarget=name, optional=True, **anywhere)
        context = self.env.ref_context
        link["refdoc"], link["py:module"], link["py:class"] = self.env.docname, context.get("py:module"), context.get("py:class")
        return [link], []


def keep_as_code(app: Sphinx, env: BuildEnvironment, node: pending_xref, code: nodes.Node) -> nodes.Node | None:
    """What `CodeLink` could not find stays code, without a warning."""
    return nodes.literal("", code.astext()) if node.get("optional") else None


def link_types(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """In the emphasised types of parameters and results, turn names of the package into links."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    known = [key for key in vars(module or app) if key[:1].isupper() and is_ours(getattr(module, key, None))]
    if not known:
        return
    names = re.compile(rf"\b({'|'.join(known)})\b")
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(?<![*\w])\*(?![*\s])([^*`]+)\*(?![*\w])", lambda match: _with_links(match, names), line)


def _with_links(match: re.Match, names: re.Pattern) -> str:
    """``*mapping of str to Name*`` as ``*mapping of str to* `Name```."""
    parts = names.split(match.group(1))
    if len(parts) == 1:
        return match.group()
    marks = ("*", "`")
    return "\\ ".join(_marked(part, marks[i % 2]) for i, part in enumerate(parts) if part)


def _marked(part: str, mark: str) -> str:
    """Emphasis or role around a part of a type; blanks at its ends stay outside."""
    inner = part.strip()
    return part.replace(inner, f"{mark}{inner}{mark}") if inner else part


def is_ours(value: object) -> bool:
    """Whether a value is a class that this package defines."""
    return isinstance(value, type) and value.__module__.split(".")[0] == PACKAGE


def short_signature(app: Sphinx, what: str, name: str, obj: object, options: object, *signature: str | None):
    """No signature where nobody would use it: protocols, exceptions, and records with more fields than a line holds."""
    if what not in ("class", "exception"):
        return None
    uncalled = getattr(obj, "_is_protocol", False) or issubclass(obj, BaseException)
    return ("", None) if uncalled or len(signature[0] or "") > MAX_SIGNATURE else None


class CommandHelp(SphinxDirective):
    """The help text of the command line, or of the subcommand that is named."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", f"{PACKAGE}.cli", *self.arguments, "--help"]
        environment = {**os.environ, "COLUMNS": str(HELP_COLUMNS), "NO_COLOR": "1"}
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        self.env.note_dependency(import_module(f"{PACKAGE}.cli").__file__)
        return [nodes.literal_block(text, text.rstrip(), language="text")]


class TaskTable(SphinxDirective):
    """The data sets of `companion.data.TASKS`: labels, rows of each split, where the files come from."""

    def run(self) -> list[nodes.Node]:
        rows = [("name", "labels", "rows", "source")]
        for task in import_module(f"{PACKAGE}.data").TASKS.values():
            splits = ", ".join(f"{name} {spec.rows:,}" for name, spec in task.splits.items())
            labels = ", ".join(task.label_names) or "a number from {:g} to {:g}".format(*task.label_range)
            rows.append((f"``{task.name}``", labels, splits, "with the package" if task.bundled else "folder or hub"))
        return parsed(self, list_table(rows, (12, 34, 38, 16)))


class ModuleTable(SphinxDirective):
    """Modules with links to their pages, what they are for, and the chapters that import them."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        used = chapters_by_module(Path(self.env.srcdir) / "book")
        rows = [("module", "what it is for", "used in")]
        for name in self.content:
            summary = import_module(f"{PACKAGE}.{name}").__doc__.splitlines()[0]
            chapters = ", ".join(f":doc:`/book/{chapter}`" for chapter in used.get(name, []))
            page = f":doc:`{name} </book/reference/api/{name.replace('_', '-')}>`"
            rows.append((page, summary, chapters or "–"))
        return parsed(self, list_table(rows, (22, 48, 30)))


def list_table(rows: list[tuple[str, ...]], widths: tuple[int, ...]) -> list[str]:
    """Rows, the first one as header, as lines of a ``list-table``."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in rows:
        lines += [f"   {'  -' if i else '* -'} {cell}" for i, cell in enumerate(row)]
    return lines


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """Nodes of reStructuredText lines; in Markdown pages the directive stands in an ``eval-rst`` block."""
    node = nodes.Element()
    directive.state.nested_parse(StringList(lines, directive.name), directive.content_offset, node)
    return node.children


def chapters_by_module(book: Path) -> dict[str, list[str]]:
    """For each module of the package, the chapters (names of notebooks) whose cells import it."""
    used: dict[str, list[str]] = {}
    for path in sorted(book.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        modules = set().union(*(imported_modules(cell.source) for cell in cells if cell.cell_type == "code"))
        for module in modules:
            used.setdefault(module, []).append(path.stem)
    return used


def imported_modules(source: str) -> set[str]:
    """Modules of the package that a cell imports: ``from companion import data`` and ``from companion.data import sample``."""
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith(f"{PACKAGE}.")}
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            found.add(node.module.split(".")[1])
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register roles, directives and handlers; called by Sphinx."""
    app.add_role("code-link", CodeLink())
    app.add_directive("command-help", CommandHelp)
    app.add_directive("task-table", TaskTable)
    app.add_directive("module-table", ModuleTable)
    app.connect("missing-reference", keep_as_code)
    app.connect("autodoc-process-docstring", link_types, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", short_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
