"""Joining the pages of the site to a book, without a browser."""

from pathlib import Path

import pytest

from companion.book import browser, printing
from companion.book.printing import Entry, PrintingError

TOC = """
format: jb-book
root: book/index
parts:
  - caption: First
    chapters:
      - file: book/one
        sections:
          - file: book/api/deep
  - caption: Second
    chapters:
      - file: book/two
"""
PAGE = """<html><head><link rel="stylesheet" href="{up}_static/a.css">
<script>window.MathJax = {{}}</script><script defer src="{up}_static/mathjax/m.js"></script>
<script src="{up}_static/other.js"></script></head><body><main><article class="bd-article">
<section id="{name}"><h1>Title of {name}<a class="headerlink" href="#{name}">#</a></h1><!-- book-pdf -->
{text}</section></article></main></body></html>"""
TEXTS = {
    "book/index": '<p><a href="one.html#part">one</a> <a href="https://example.org/#x">out</a></p>',
    "book/one": '<section id="part"><h2>Part <em>A</em></h2><p><a href="#part">here</a> <a href="two.html">two</a></p>'
    '<a href="../_images/a.svg"><img src="../_images/a.svg" alt="A"></a>'
    "<details><summary>Show</summary><p>folded</p></details><button>Copy</button></section>",
    "book/api/deep": '<p><a href="../one.html#part">up</a></p>',
    "book/two": '<section id="part"><h2>Part B</h2></section>',
}
PAGES = [Entry("book/index"), Entry("book/one", "First"), Entry("book/api/deep"), Entry("book/two", "Second")]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of four small pages."""
    for name, text in TEXTS.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(up="../" * name.count("/"), name=name.rpartition("/")[2], text=text), "utf-8")
    return tmp_path


def test_entries_follow_the_table_of_contents(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    assert printing.entries(tmp_path / "_toc.yml") == PAGES


def test_links_lead_to_the_joined_page(site):
    book = printing.joined(site, PAGES, "A & B", "Somebody")
    ids = [tag["id"] for tag in book.select("[id]")]
    assert len(ids) == len(set(ids))
    inside = [link["href"] for link in book.select("a[href]") if link["href"].startswith("#")]
    assert {address[1:] for address in inside} <= set(ids)
    assert [link["href"] for link in book.select("section a[href]")] == [
        "#book-one--part",
        "https://example.org/#x",
        "#book-one--part",
        "#book-two",
        "#book-one--part",
    ]
    assert book.title.string == "A & B"


def test_nothing_is_folded_and_no_button_is_left(site):
    book = printing.joined(site, PAGES, "T", "A")
    assert "folded" in book.get_text()
    assert not book.select("details, button, summary, a.headerlink")
    assert book.select_one("img")["src"] == "_images/a.svg"


def test_styles_and_mathjax_are_taken_once(site):
    head = printing.joined(site, PAGES, "T", "A").head
    assert [link["href"] for link in head.select("link")] == ["_static/a.css"]
    assert [script.get("src") for script in head.select("script")] == [None, "_static/mathjax/m.js"]


def test_contents_have_parts_pages_and_sections(site):
    contents = printing.joined(site, PAGES, "T", "A").select_one("nav.printed-contents")
    words = [item.get_text() for item in contents.select("li.part, li > a")]
    assert words == [
        "Title of index", "First", "Title of one", "Part A", "Title of deep", "Second", "Title of two", "Part B",
    ]  # fmt: skip


def test_a_missing_page_is_named(site):
    with pytest.raises(PrintingError, match=r"three\.html is missing"):
        printing.joined(site, [*PAGES, Entry("book/three")], "T", "A")


def test_the_landing_page_links_the_pdf_once(site):
    pdf = site / "made" / "book.pdf"
    pdf.parent.mkdir()
    pdf.write_bytes(b"%PDF-")
    assert all(printing.link_from_landing_page(site, "book/index", pdf) for _ in range(2))
    text = (site / "book" / "index.html").read_text(encoding="utf-8")
    assert text.count('href="../book.pdf"') == 1
    assert (site / "book.pdf").read_bytes() == b"%PDF-"


def test_a_page_without_a_place_for_the_link_stays(site):
    page = site / "book" / "index.html"
    page.write_text("<article></article>", encoding="utf-8")
    pdf = site / "book.pdf.part"
    pdf.write_bytes(b"")
    (site / "made").mkdir()
    pdf = pdf.rename(site / "made" / "book.pdf")
    assert not printing.link_from_landing_page(site, "book/index", pdf)
    assert page.read_text(encoding="utf-8") == "<article></article>"


def test_the_command_names_what_is_missing(tmp_path, capsys):
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    (tmp_path / "_config.yml").write_text("title: T\nauthor: A\nlogo: a.svg\n", encoding="utf-8")
    arguments = ["--site", str(tmp_path), "--source", str(tmp_path), "--out", str(tmp_path / "b.pdf")]
    assert printing.main(arguments) == 1
    assert "build the site first" in capsys.readouterr().err
    assert not (tmp_path / "b.pdf").exists()


def test_a_named_browser_is_the_only_candidate(monkeypatch):
    monkeypatch.setenv(browser.VARIABLE, "/nowhere/chromium")
    assert browser.candidates() == ["/nowhere/chromium"]
    monkeypatch.delenv(browser.VARIABLE)
    assert browser.candidates()[0] is None
