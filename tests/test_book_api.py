"""Every public name is on a page of the package's reference, with what a reader needs, and its examples are true."""

import ast
import doctest
import importlib
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from nbformat import v4

import companion
from companion.book import api_pages

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "book" / "reference" / "api"
MODULES = [name for name in companion.__all__ if name != "book"]
SOURCES = [path for folder in ("companion", "companion/data") for path in sorted((ROOT / folder).glob("*.py"))]
SECTION = re.compile(r"^(?P<title>[A-Z][a-z]+(?: [A-Z][a-z]+)?)\n-{3,}$", re.MULTILINE)


def page_of(module):
    return PAGES / f"{module.replace('_', '-')}.md"


def public(module):
    return {name: getattr(importlib.import_module(f"companion.{module}"), name) for name in exported(module)}


def exported(module):
    return importlib.import_module(f"companion.{module}").__all__


def callables():
    """(name, function or class) of everything that can be called, methods included."""
    for module in MODULES:
        for name, value in public(module).items():
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{module}.{name}", value
            if inspect.isclass(value):
                methods = {k: v for k, v in vars(value).items() if inspect.isfunction(v) and not k.startswith("_")}
                yield from ((f"{module}.{name}.{k}", v) for k, v in methods.items())


CALLABLES = dict(callables())
FUNCTIONS = {name: value for name, value in CALLABLES.items() if inspect.isfunction(value)}
each_callable = pytest.mark.parametrize("name", CALLABLES)
each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_module = pytest.mark.parametrize("module", MODULES)


def sections(value):
    """Text of each numpydoc section by its title; the summary under ``""``."""
    text = inspect.cleandoc(value.__doc__ or "")
    starts = [(0, 0, "")] + [(m.start(), m.end(), m["title"]) for m in SECTION.finditer(text)]
    ends = [start for start, _, _ in starts[1:]] + [len(text)]
    return {title: text[after:end].strip("\n") for (_, after, title), end in zip(starts, ends, strict=True)}


def documented(value):
    """Names that the sections Parameters and Attributes explain."""
    found = sections(value)
    text = found.get("Parameters", "") + "\n" + found.get("Attributes", "")
    entries = re.findall(r"^\*{0,2}(\w[\w, ]*?)(?: :.*)?$", text, re.MULTILINE)
    return {name.strip() for entry in entries for name in entry.split(",")}


def raising():
    """Names of the functions of the package that raise, themselves or through another one of them."""
    bodies = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                bodies[node.name] = node
    names = {name for name, node in bodies.items() if any(isinstance(part, ast.Raise) and part.exc for part in ast.walk(node))}
    while True:
        more = {name for name, node in bodies.items() if called(node) & names} - names
        if not more:
            return names
        names |= more


def called(node):
    return {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


RAISING = raising()


def test_every_public_module_has_a_page_in_the_overview():
    overview = (PAGES / "index.md").read_text("utf-8")
    listed = re.search(r"\.\. module-table::\n\n(.*?)```", overview, re.DOTALL).group(1).split()
    assert sorted(listed) == sorted(MODULES)
    assert all(page_of(module).is_file() for module in MODULES)
    assert {path.stem for path in PAGES.glob("*.md")} == {page_of(m).stem for m in MODULES} | {"index", "command-line"}


@each_module
def test_page_shows_every_public_name_and_nothing_else(module):
    text = page_of(module).read_text("utf-8")
    shown = re.findall(r"^\.\. (?:auto(?:class|function|data|exception)|py:data):: (\w+)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(exported(module))
    assert f".. automodule:: companion.{module}\n" in text


@each_module
def test_table_at_the_head_of_the_page_is_complete(module):
    listed = re.search(r":nosignatures:\n\n(.*?)```", page_of(module).read_text("utf-8"), re.DOTALL).group(1).split()
    assert sorted({*listed, "TASKS"}) == sorted({*exported(module), "TASKS"})  # a dictionary's docstring is dict's


@each_callable
def test_summary_is_one_sentence(name):
    summary = sections(CALLABLES[name])[""].split("\n")[0]
    assert summary.endswith((".", ":")), summary


@each_function
def test_every_argument_is_explained(name):
    arguments = [a for a in inspect.signature(FUNCTIONS[name]).parameters if a != "self"]
    assert [a for a in arguments if a not in documented(FUNCTIONS[name])] == []


@pytest.mark.parametrize("name", [name for name, value in CALLABLES.items() if is_dataclass(value)])
def test_every_field_is_explained(name):
    assert {field.name for field in fields(CALLABLES[name])} <= documented(CALLABLES[name])


@each_function
def test_result_is_explained(name):
    has_result = inspect.signature(FUNCTIONS[name]).return_annotation is not None
    assert ("Returns" in sections(FUNCTIONS[name])) == has_result


@each_function
def test_errors_are_explained(name):
    if FUNCTIONS[name].__name__ in RAISING:
        assert "Raises" in sections(FUNCTIONS[name])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_examples_are_true(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if ">>>" not in path.read_text("utf-8"):
        return
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_imports_of_a_cell_are_found():
    cell = "%matplotlib inline\nfrom companion import data, gradients as gr\nfrom companion.study import read_records\nimport numpy"
    assert api_pages.imported_modules(cell) == {"data", "gradients", "study"}


def test_chapters_by_module_reads_code_cells_only(tmp_path):
    cells = [v4.new_markdown_cell("from companion import study"), v4.new_code_cell("import companion.advice")]
    (tmp_path / "a-chapter.ipynb").write_text(v4.writes(v4.new_notebook(cells=cells)), "utf-8")
    assert api_pages.chapters_by_module(tmp_path) == {"advice": ["a-chapter"]}


def test_names_of_the_package_in_types_become_links():
    gradients = importlib.import_module("companion.gradients")
    lines = ["* **gradient** (*MeanGradient*) -- of it", "*dict of str to MeanGradient* -- By *name*.", "a **bold** *int*"]
    api_pages.link_types(None, "function", "spectrum_of", gradients.spectrum_of, None, lines)
    assert lines[0] == "* **gradient** (`MeanGradient`) -- of it"
    assert lines[1] == "*dict of str to* \\ `MeanGradient` -- By *name*."
    assert lines[2] == "a **bold** *int*"


def values_with_text():
    """(place, first line) of the docstrings of variables and properties, of which napoleon reads ``type: text``."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            body = getattr(node, "body", None)
            if isinstance(node, ast.FunctionDef):
                decorators = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
                if decorators & {"property", "cached_property"} and (text := ast.get_docstring(node)):
                    yield f"{path.name}: {node.name}", text
            elif isinstance(node, ast.Module | ast.ClassDef):
                for variable, text in zip(body, body[1:], strict=False):
                    if isinstance(variable, ast.Assign | ast.AnnAssign) and isinstance(text, ast.Expr):
                        if isinstance(text.value, ast.Constant):
                            yield f"{path.name}: {ast.unparse(variable)[:30]}", inspect.cleandoc(text.value.value)


def test_no_text_of_a_variable_reads_as_a_type():
    """Else the page shows half of the sentence as a type, and the build stops at links that lead nowhere."""
    texts = dict(values_with_text())
    assert len(texts) > 5
    assert not [place for place, text in texts.items() if re.match(r"[^`\n]*: ", text.splitlines()[0])]
