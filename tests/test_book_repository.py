"""One URL in pyproject.toml: badge, first cell and buttons follow from it, and nothing else names it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from nbformat import v4

from companion.book import notebooks, pairing, repository
from companion.book.repository import Repository, checked

ROOT = Path(__file__).parents[1]
URL = "https://github.com/a-teacher/my.fork"
HOME = Repository("the-package", "1.2.0", URL)
NONE = Repository("the-package", "1.2.0", None)


@pytest.mark.parametrize(
    "given",
    [URL, f"{URL}/", f"{URL}.git", f"{URL}.git/", f" {URL}\n", URL.replace("https://github", "HTTPS://GitHub")],
)
def test_urls_are_brought_to_one_form(given):
    assert checked(given) == URL == checked(checked(given))


def test_owner_and_name_keep_their_case():
    assert checked("https://github.com/A-Teacher/My.Fork") == "https://github.com/A-Teacher/My.Fork"


@pytest.mark.parametrize(
    "bad",
    ["", "github.com/a/b", "http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/tree/main",
     "https://gitlab.com/a/b", 'https://github.com/a/b"\nx = "', "https://github.com/-a/b", "https://github.com/a/b c",
     "https://github.com/a/..", "https://github.com/a/.", "https://github.com/a/.git", "https://github.com/a/b.git.git",
     "https://github.com/a/b#c", "https://github.com/a/b?c", "https://github.com/ä/b", "https://user@github.com/a/b",
     "https://github.com.evil.org/a/b", "https://github.com/a/b@v1",
     "https://github.com/a/$(id)", "git@github.com:a/b"],
)  # fmt: skip
def test_other_urls_are_refused_and_named(bad):
    with pytest.raises(ValueError, match="https://github.com/OWNER/NAME, got"):
        checked(bad)


BEFORE = '[project]\nname = "x" # [project.urls]\nversion = "1"\n'


@pytest.mark.parametrize(
    "table",
    [
        "[project.urls]\n",
        "[project.urls]",
        "[ project . urls ]  # where\n# Repository = none yet\n\n[tool.a]\nRepository = 'stays'\nb = [\n  [1],\n]\n",
        '[project.urls]\nHome = "https://x.org"\n"Repository" = "https://github.com/o/n"  # old\n[tool.a]\nb = 1\n',
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_rest_of_the_file_stays_byte_by_byte(tmp_path, table, newline):
    path = tmp_path / "pyproject.toml"
    path.write_bytes((BEFORE + table).replace("\n", newline).encode())
    repository.write(URL, path)
    once = path.read_bytes()
    assert repository.read(path).url == URL
    assert newline == "\r\n" or b"\r" not in once
    assert once.count(b"\n") == once.count(newline.encode())
    kept = [line for line in (BEFORE + table).splitlines() if not line.startswith('"Repository')]
    assert [line for line in once.decode().splitlines() if URL not in line] == kept
    repository.write(URL, path)
    assert path.read_bytes() == once
    repository.write(None, path)
    assert path.read_bytes().decode().splitlines() == kept


@pytest.mark.parametrize(
    "text",
    [
        BEFORE + '[project.urls]\nRepository = """\nhttps://github.com/o/n"""\n',
        BEFORE + 'urls.Repository = "https://github.com/o/n"\n[tool.a]\n',
        BEFORE + "[project.urls]\nbroken\n",
    ],
)
def test_what_cannot_be_set_is_left_alone_and_said(tmp_path, text):
    path = tmp_path / "pyproject.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"pyproject.toml.*\[project.urls\]"):
        repository.write(URL, path)
    assert path.read_text("utf-8") == text


def test_an_empty_url_is_none_in_the_file_and_refused_on_the_command_line(tmp_path, monkeypatch):
    path = tmp_path / "pyproject.toml"
    path.write_text(BEFORE + '[project.urls]\nRepository = ""\n', "utf-8")
    assert repository.read(path).url is None
    monkeypatch.chdir(tmp_path)
    assert repository.main(["set", URL]) == 0
    assert repository.main(["set", ""]) == 1
    assert repository.read().url == URL


@pytest.fixture
def pyproject(tmp_path):
    return Path(shutil.copy(ROOT / "pyproject.toml", tmp_path))


def test_setting_changes_one_line_and_unsetting_takes_it_back(pyproject):
    before = pyproject.read_text("utf-8")
    repository.write(None, pyproject)
    unset = pyproject.read_text("utf-8")
    repository.write(URL, pyproject)
    once = pyproject.read_text("utf-8")
    assert repository.read(pyproject).url == URL
    assert set(once.splitlines()) - set(unset.splitlines()) == {f'Repository = "{URL}"'}
    repository.write("https://github.com/other/home.git", pyproject)
    assert repository.read(pyproject).url == "https://github.com/other/home"
    assert URL not in pyproject.read_text("utf-8")
    repository.write(None, pyproject)
    assert pyproject.read_text("utf-8") == unset
    assert tomllib.loads(before)["project"]["dependencies"] == tomllib.loads(unset)["project"]["dependencies"]
    assert list(pyproject.parent.iterdir()) == [pyproject]


def test_a_file_without_the_table_is_named(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "x"\nversion = "1"\n', "utf-8")
    with pytest.raises(ValueError, match=r"has no table \[project.urls\]"):
        repository.write(URL, path)
    assert repository.read(path).url is None


def test_a_bad_url_in_the_file_is_not_used(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "x"\nversion = "1"\n[project.urls]\nRepository = "ftp://x"\n', "utf-8")
    with pytest.raises(ValueError, match="got 'ftp://x'"):
        repository.read(path)


def test_addresses_carry_the_tag_of_the_version():
    assert HOME.colab("book/one.ipynb") == (
        "https://colab.research.google.com/github/a-teacher/my.fork/blob/v1.2.0/book/one.ipynb"
    )
    assert f'"the-package[chapters] @ git+{URL}@v1.2.0"' in HOME.first_cell()
    assert HOME.badge("book/one.ipynb").startswith("[![Open in Colab](_static/open-in-colab.svg)](https://colab")
    assert "(../_static/" in HOME.badge("book/reference/two.ipynb")


def test_without_a_url_there_is_no_badge_and_the_first_cell_says_what_to_do():
    assert NONE.badge("book/one.ipynb") is None and NONE.colab("book/one.ipynb") is None
    assert "http" not in NONE.first_cell()
    assert "make wheel" in NONE.first_cell() and "/content/the_package-1.2.0-py3-none-any.whl" in NONE.first_cell()


@pytest.mark.parametrize("home", [HOME, NONE])
def test_first_cell_is_short_and_does_nothing_here(home):
    source = home.first_cell()
    assert len(source.splitlines()) <= 6 and max(map(len, source.splitlines())) <= 125
    quiet = source.replace("%pip install -q", "raise SystemExit #")
    subprocess.run([sys.executable, "-c", quiet], check=True)


def notebook():
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("x = 1"), v4.new_markdown_cell("End")]
    return v4.new_notebook(cells=cells)


def test_stamp_adds_badge_and_first_cell_and_can_be_repeated():
    nb = notebook()
    pairing.stamp(nb, HOME, "book/one.ipynb")
    once = [dict(cell) for cell in nb.cells]
    kinds = [(cell.cell_type, pairing.GENERATED in cell.metadata.get("tags", [])) for cell in nb.cells]
    assert kinds == [("markdown", False), ("markdown", True), ("code", True), ("code", False), ("markdown", False)]
    pairing.stamp(nb, HOME, "book/one.ipynb")
    assert [dict(cell) for cell in nb.cells] == once
    pairing.stamp(nb, NONE, "book/one.ipynb")
    assert [cell.cell_type for cell in nb.cells] == ["markdown", "code", "code", "markdown"]
    assert URL not in str(nb)


def test_generated_cells_are_no_edit_and_do_not_reach_the_source(tmp_path):
    nb, plain = notebook(), notebook()
    pairing.stamp(nb, HOME, "book/one.ipynb")
    assert pairing.cells_hash(nb) == pairing.cells_hash(plain)
    pairing.write_source(nb, tmp_path / "one.md")
    assert "colab" not in (tmp_path / "one.md").read_text("utf-8").lower()


def test_repointing_a_book_renews_every_notebook_and_nothing_runs(tmp_path, monkeypatch):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (ROOT / "book").rglob("*.ipynb"):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    monkeypatch.chdir(tmp_path)
    copies = sorted((tmp_path / "book").rglob("*.ipynb"))
    before = [path.read_bytes() for path in copies]
    assert repository.main(["set", URL]) == 0
    assert notebooks.main(["stamp"]) == 0
    for path in copies:
        nb = pairing.read_notebook(path)
        assert repository.read().first_cell() in [cell.source for cell in nb.cells]
        assert repository.read().badge(path.relative_to(tmp_path).as_posix()) in [cell.source for cell in nb.cells]
        assert str(nb).count(URL.removeprefix("https://github.com/")) == 2
    assert repository.main(["unset"]) == 0
    assert notebooks.main(["stamp"]) == 0
    if repository.read(ROOT / "pyproject.toml").url is None:
        assert [path.read_bytes() for path in copies] == before


def test_only_pyproject_and_what_is_generated_from_it_name_the_repository(monkeypatch):
    """Whatever the URL is, sources and pages do not name it."""
    monkeypatch.chdir(ROOT)
    url = repository.read().url or URL
    for path in ROOT.glob("book/**/*.md"):
        assert url.removeprefix("https://") not in path.read_text("utf-8"), path
    for name in ("README.md", "CITATION.cff", "_config.yml", "_toc.yml", "Makefile", "environment.yml"):
        assert url.removeprefix("https://") not in (ROOT / name).read_text("utf-8"), name


def test_commands_say_what_is_wrong(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert repository.main(["show"]) == 1
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert repository.main(["set", "https://example.org/x"]) == 1
    assert "got 'https://example.org/x'" in capsys.readouterr().err
