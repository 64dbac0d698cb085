"""The site that Sphinx builds: the ledger with its links, and buttons that follow from the repository URL."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from companion.book import claims, repository, site, timing
from companion.book.notebooks import main as notebooks_main
from companion.book.pairing import read_notebook

ROOT = Path(__file__).parents[1]
URL = "https://github.com/a-teacher/a-fork"
CHAPTER = "book/marchenko-pastur"


class Links(HTMLParser):
    """Addresses and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs["href"]] if "href" in attrs else []
        self.ids += [attrs["id"]] if "id" in attrs else []


@pytest.fixture(scope="module", params=[None, URL], ids=["without URL", "with URL"])
def build(request, tmp_path_factory):
    """A site of two chapters and the ledger, built with and without a repository URL."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"
    shutil.copytree(ROOT / "book", source / "book", ignore=shutil.ignore_patterns("src"))
    for name in ("pyproject.toml", "_config.yml"):
        shutil.copy(ROOT / name, source)
    pages = {"index.md": "# Start\n", "reference/claims.md": None, "reference/teaching.md": None}
    for path in (source / "book").rglob("*.md"):
        name = path.relative_to(source / "book").as_posix()
        if name not in pages:
            path.unlink()
        elif pages[name]:
            path.write_text(pages[name], "utf-8")
    chapters = [path.relative_to(source).with_suffix("").as_posix() for path in (source / "book").rglob("*.ipynb")]
    listed = [{"file": name} for name in (*chapters, "book/reference/claims", "book/reference/teaching")]
    toc = {"format": "jb-book", "root": "book/index", "chapters": listed}
    (source / "_toc.yml").write_text(yaml.safe_dump(toc), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        repository.write(request.param)
        assert notebooks_main(["stamp"]) == 0
    command = ["jupyter-book", "build", str(source), "--path-output", str(folder), "-q"]
    run = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "_build" / "html", request.param


def page(build, name):
    return (build[0] / f"{name}.html").read_text("utf-8")


def test_buttons_follow_the_url(build):
    links = Links(page(build, CHAPTER)).links
    tag = repository.read(ROOT / "pyproject.toml").tag
    colab = f"https://colab.research.google.com/github/a-teacher/a-fork/blob/{tag}/{CHAPTER}.ipynb"
    outside = {link for link in links if "github" in link or "colab" in link}
    if build[1] is None:
        assert outside == set()
    else:
        assert links.count(colab) == 2  # the button of the theme, and the badge
        assert URL in outside and any(link.startswith(f"{URL}/issues/new") for link in outside)
        assert all(link.startswith((URL, colab)) for link in outside)


def test_no_dead_button(build):
    for path in build[0].rglob("book/**/*.html"):
        text = path.read_text("utf-8")
        assert "dropdown-launch-buttons" not in text or "colab.research.google.com" in text
        assert not [link for link in Links(text).links if link in ("", "#None", "None")]


def test_the_picture_of_the_badge_is_there(build):
    pictures = re.findall(r'src="([^"]*open-in-colab[^"]*)"', page(build, CHAPTER))
    assert len(pictures) == (build[1] is not None)
    assert all((build[0] / CHAPTER).parent.joinpath(name).is_file() for name in pictures)


def test_first_cells_are_for_notebooks_not_for_pages(build):
    assert "%pip" not in page(build, CHAPTER)


def test_ledger_shows_every_claim_and_its_verdict(build):
    text = page(build, "book/reference/claims")
    assert set(claims.load()) <= set(Links(text).ids)
    books = [read_notebook(path) for path in (ROOT / "book").rglob("*.ipynb")]
    findings = claims.ledger(books)
    shown = re.findall(r'<span class="verdict verdict-(\d)">', text)
    assert [claims.VERDICTS[int(number)] for number in shown] == [finding.verdict for finding in findings]
    assert f"{len(findings)} claims" in text


def test_every_measured_claim_links_to_its_row_in_the_chapter(build):
    ledger = Links(page(build, "book/reference/claims"))
    fragments = [link for link in ledger.links if "#claim-" in link]
    books = [read_notebook(path) for path in (ROOT / "book").rglob("*.ipynb")]
    assert len(fragments) == sum("printed" in record for nb in books for record in claims.records(nb)) >= 10
    for link in fragments:
        target, _, fragment = link.partition("#")
        text = (build[0] / "book" / "reference" / target).resolve().read_text("utf-8")
        assert fragment in Links(text).ids


def test_times_of_every_chapter_come_from_the_record(build):
    text = page(build, "book/reference/teaching")
    runs = timing.latest()
    for path in (ROOT / "book" / "src").rglob("*.md"):
        run = runs[path.relative_to(ROOT / "book" / "src").with_suffix("").as_posix()]["light"]
        assert site.minutes(run) in text


def test_full_time_that_was_not_measured_is_not_invented():
    assert site.minutes(None) == "not measured"
