"""The built site as one PDF: title page, contents with page numbers, then every page of the table of contents.

    python -m companion.book.printing --site _build/html --out _build/pdf/spectral-theory-of-lora.pdf

The pages are joined as they were built, so numbers of figures, equations and statements are those of the site. The PDF
is also copied into the site, and its landing page gets a link wherever it holds the comment `<!-- book-pdf -->`.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from companion.book.browser import NoBrowser, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAME = "book.html"
MARK = "<!-- book-pdf -->"
LINK = re.compile(re.escape(MARK) + r"(?:<p class=\"book-pdf\">.*?</p>)?", re.DOTALL)
# On paper these do nothing.
USELESS = "script, button, summary, a.headerlink, .claims-filter, .book-pdf"
REFERENCES = ("for", "aria-labelledby", "aria-describedby", "aria-controls")
READY = "async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }"

NUMBER = """(numbers) => {
  for (const place of document.querySelectorAll("[data-of]")) place.textContent = numbers[place.dataset.of] ?? "";
}"""
MAX_PRINTS = 4

STYLE = """
@page { size: A4; margin: 22mm 21mm 24mm; @bottom-center { content: counter(page); font: 9pt sans-serif; } }
@page :first { @bottom-center { content: none; } }
html { font-size: 10.5pt !important; }
body, .bd-main, .bd-content, .bd-article-container, .bd-article {
  display: block !important; margin: 0 !important; max-width: none !important; min-height: 0 !important;
  overflow: visible !important; padding: 0 !important; width: auto !important;
}
.bd-article h1, .bd-main .bd-content .bd-article h1:first-of-type { display: block; font-size: 2.2em; margin-top: 0; }
.bd-article :is(h1, h2, h3, h4, .admonition-title, .part) { break-after: avoid; }
.bd-article :is(figure, img, tr, pre, .cell_input, .math, .admonition-title) { break-inside: avoid; }
.bd-main .bd-content table { break-inside: auto; }
.bd-article p { orphans: 3; widows: 3; }
.bd-article img { max-height: 200mm; }
.bd-article .cell, .bd-article .cell_output { break-inside: auto; }
.bd-article pre { line-height: 1.3; }
.printed-page, .printed-contents { break-before: page; }
.printed-title { padding-top: 55mm; text-align: center; }
.printed-title .title { font-size: 3em; line-height: 1.2; margin-bottom: 1em; }
.printed-title img { width: 40mm; }
.part { color: #555; font-size: 1.1em; margin: 0 0 0.5em; }
.printed-contents ol { list-style: none; margin: 0; padding: 0; }
.printed-contents li { margin: 0; }
.printed-contents li a { color: inherit; display: flex; gap: 0.5em; text-decoration: none; }
.printed-contents li a::before { border-bottom: 1px dotted #999; content: ""; flex: 1; order: 1; }
.printed-contents li a .number { flex: none; order: 2; text-align: right; width: 2.5em; }
.printed-contents > ol > li { font-weight: 600; margin-top: 0.5em; }
.printed-contents ol ol { font-weight: 400; padding-left: 1.5em; }
.printed-contents .part { font-weight: 400; margin: 1.2em 0 0; }
"""


class PrintingError(Exception):
    """The site cannot be printed; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """A page of the book.

    Attributes
    ----------
    name : str
        The name of the document, `book/index`.
    part : str or None
        The title of the part that begins with this page.
    """

    name: str
    part: str | None = None

    @property
    def slug(self) -> str:
        """A name for ids."""
        return self.name.replace("/", "-")


def entries(toc: Path) -> list[Entry]:
    """The pages of the book in reading order.

    Parameters
    ----------
    toc : Path
        `_toc.yml`.

    Returns
    -------
    list of Entry
    """
    from sphinx_external_toc.parsing import parse_toc_yaml

    site_map = parse_toc_yaml(toc)

    def below(name: str) -> Iterator[Entry]:
        for subtree in site_map[name].subtrees:
            part = subtree.caption
            for item in subtree.items:
                if str(item) in site_map:
                    yield Entry(str(item), part)
                    part = None
                    yield from below(str(item))

    return [Entry(site_map.root.docname), *below(site_map.root.docname)]


def part_of_book(site: Path, entry: Entry, known: dict[str, str]) -> Tag:
    """The text of a page, ready to stand in one file with all others.

    Parameters
    ----------
    site : Path
        The folder of the built site.
    entry : Entry
        The page.
    known : dict
        The slug of every page of the book by its file in the site.

    Returns
    -------
    bs4.Tag
        A section. Its ids begin with the slug, links to other pages of the book lead to these ids, and pictures are
        named from the folder of the site.

    Raises
    ------
    PrintingError
        If the page has not been built.
    """
    path = site / f"{entry.name}.html"
    if not path.is_file():
        raise PrintingError(f"{path} is missing: build the site first")
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article.bd-article")
    if article is None:
        raise PrintingError(f"{path} has no article: it was not built by the theme of the book")
    article.name, article.attrs = "section", {"class": "printed-page", "id": entry.slug}
    for tag in article.select(USELESS):
        tag.decompose()
    for tag in article.select("details"):
        tag.name = "div"
    for tag in article.select("[id]"):
        tag["id"] = f"{entry.slug}--{tag['id']}"
    for attribute in REFERENCES:
        for tag in article.select(f"[{attribute}]"):
            tag[attribute] = " ".join(f"{entry.slug}--{name}" for name in tag[attribute].split())
    for tag in article.select("a[href]"):
        moved = _moved(tag["href"], f"{entry.name}.html", known)
        if moved is None:
            tag.unwrap()
        else:
            tag["href"] = moved
    for tag in article.select("img[src]"):
        tag["src"] = _from_root(tag["src"], f"{entry.name}.html")
    if entry.part:
        caption = soup.new_tag("p", attrs={"class": "part"})
        caption.string = entry.part
        article.insert(0, caption)
    return article


def _from_root(address: str, page: str) -> str:
    """A relative address on a page, seen from the folder of the site."""
    if urlsplit(address).scheme:
        return address
    path = os.path.normpath(PurePosixPath(page).parent / unquote(urlsplit(address).path))
    return quote(PurePosixPath(path).as_posix())


def _moved(address: str, page: str, known: dict[str, str]) -> str | None:
    """Where a link of a page leads in the joined book; None if it leads to a file that is not in the book."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return address
    target = unquote(_from_root(address, page)) if parts.path else page
    if target not in known:
        return None
    return f"#{known[target]}--{unquote(parts.fragment)}" if parts.fragment else f"#{known[target]}"


def joined(site: Path, pages: Sequence[Entry], title: str, author: str, logo: str | None = None) -> BeautifulSoup:
    """The whole book as one page, to lie in the folder of the site.

    Parameters
    ----------
    site : Path
        The folder of the built site.
    pages : sequence of Entry
        The pages in reading order, the landing page first.
    title, author : str
        For the title page.
    logo : str, optional
        File name of a picture in `_static` for the title page.

    Returns
    -------
    bs4.BeautifulSoup
    """
    known = {f"{entry.name}.html": entry.slug for entry in pages}
    sections = [part_of_book(site, entry, known) for entry in pages]
    picture = f'<img src="_static/{quote(logo)}" alt="">' if logo else ""
    book = BeautifulSoup(
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title></head><body><main class='bd-main'><div class='bd-content'>"
        f"<div class='bd-article-container'><article class='bd-article'><div class='printed-title'>"
        f"{picture}<p class='title'>{html.escape(title)}</p><p>{html.escape(author)}</p></div>"
        f"</article></div></div></main></body></html>",
        "html.parser",
    )
    for tag in _head(site, pages):
        book.head.append(tag)
    style = book.new_tag("style")
    style.string = STYLE
    book.head.append(style)
    book.article.append(contents(sections))
    for section in sections:
        book.article.append(section)
    return book


def _head(site: Path, pages: Sequence[Entry]) -> Iterator[Tag]:
    """Every stylesheet of the pages once, and MathJax with its configuration."""
    seen = set()
    for entry in pages:
        page = f"{entry.name}.html"
        soup = BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser")
        for tag in soup.select("head link[rel=stylesheet], body link[rel=stylesheet], head script"):
            if tag.name == "script" and "mathjax" not in str(tag).lower():
                continue
            for attribute in ("href", "src"):
                if tag.get(attribute):
                    tag[attribute] = _from_root(tag[attribute], page)
            if str(tag) not in seen:
                seen.add(str(tag))
                yield tag.extract()


def contents(sections: Sequence[Tag]) -> Tag:
    """The table of contents: parts, pages and their sections, with places for the page numbers.

    Parameters
    ----------
    sections : sequence of bs4.Tag
        As `part_of_book` made them.

    Returns
    -------
    bs4.Tag
    """
    soup = BeautifulSoup("<nav class='printed-contents'><h1>Contents</h1><ol></ol></nav>", "html.parser")
    for section in sections:
        part = section.select_one(":scope > p.part")
        if part is not None:
            caption = soup.new_tag("li", attrs={"class": "part"})
            caption.string = part.get_text()
            soup.ol.append(caption)
        item = _item(soup, section["id"], section.h1)
        soup.ol.append(item)
        below = soup.new_tag("ol")
        for heading in section.select("h2"):
            below.append(_item(soup, heading.find_parent(attrs={"id": True})["id"], heading))
        item.append(below)
    return soup.nav.extract()


def _item(soup: BeautifulSoup, target: str, heading: Tag | None) -> Tag:
    item = soup.new_tag("li")
    link = soup.new_tag("a", href=f"#{target}")
    words = soup.new_tag("span")
    for child in heading.contents if heading else []:
        words.append(child.__copy__())
    number = soup.new_tag("span", attrs={"class": "number", "data-of": target})
    link.extend([words, number])
    item.append(link)
    return item


def write_pdf(book: BeautifulSoup, site: Path, out: Path) -> int:
    """Print the joined book with Chromium; no other host is asked.

    Parameters
    ----------
    book : bs4.BeautifulSoup
        As `joined` made it.
    site : Path
        The folder of the built site.
    out : Path
        The PDF; written under another name first, so that it is either complete or not there.

    Returns
    -------
    int
        The number of pages.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="print-") as name, chromium() as browser:
        folder = Path(name)
        for path in site.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        (folder / NAME).write_text(str(book), encoding="utf-8")
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto((folder / NAME).as_uri(), wait_until="load")
        page.evaluate(READY)
        draft = folder / "draft.pdf"
        count = _print_until_settled(page, draft)
        part = out.with_name(out.name + ".part")
        shutil.copyfile(draft, part)
        part.replace(out)
    return count


def _print_until_settled(page: Page, out: Path) -> int:
    """Print, write the page numbers into the contents, and print again until they are right."""
    targets = page.evaluate("() => [...document.querySelectorAll('[data-of]')].map((place) => place.dataset.of)")
    written: dict[str, int] = {}
    for _ in range(MAX_PRINTS):
        _print(page, out)
        count, numbers = page_numbers(out)
        wanted = {target: numbers[target] for target in targets if target in numbers}
        if wanted == written:
            return count
        page.evaluate(NUMBER, wanted)
        written = wanted
    raise PrintingError("the page numbers in the contents do not settle")


def _print(page: Page, out: Path) -> None:
    page.pdf(path=str(out), prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def page_numbers(pdf: Path) -> tuple[int, dict[str, int]]:
    """Where the destinations of a PDF's internal links are.

    Parameters
    ----------
    pdf : Path

    Returns
    -------
    tuple of int and dict
        The number of pages, and the page of each named destination, from 1.
    """
    from pypdf import PdfReader

    reader = PdfReader(pdf)
    places = reader.named_destinations
    return len(reader.pages), {
        unquote(name).lstrip("/"): reader.get_destination_page_number(place) + 1 for name, place in places.items()
    }


def link_from_landing_page(site: Path, landing: str, pdf: Path) -> bool:
    """Copy the PDF into the site and link it where the landing page has the comment `<!-- book-pdf -->`.

    Parameters
    ----------
    site : Path
        The folder of the built site.
    landing : str
        The name of the document, `book/index`.
    pdf : Path

    Returns
    -------
    bool
        Whether the page has such a place.
    """
    shutil.copyfile(pdf, site / pdf.name)
    page = site / f"{landing}.html"
    text = page.read_text(encoding="utf-8")
    address = "../" * landing.count("/") + quote(pdf.name)
    size = max(1, round(pdf.stat().st_size / 2**20))
    link = f'<p class="book-pdf"><a class="reference internal" href="{address}">The book as a PDF ({size} MB)</a></p>'
    changed, times = LINK.subn(MARK + link, text)
    if times:
        page.write_text(changed, encoding="utf-8")
    return bool(times)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    import yaml

    parser = argparse.ArgumentParser(prog="python -m companion.book.printing", description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, required=True, help="folder of the built site")
    parser.add_argument("--out", type=Path, required=True, help="the PDF to write")
    parser.add_argument("--source", type=Path, default=Path(), help="folder of _toc.yml and _config.yml")
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="documents or folders to leave out")
    arguments = parser.parse_args(argv)
    try:
        config = yaml.safe_load((arguments.source / "_config.yml").read_text(encoding="utf-8"))
        skipped = tuple(f"{name.rstrip('/')}/" for name in arguments.skip)
        pages = [entry for entry in entries(arguments.source / "_toc.yml") if not f"{entry.name}/".startswith(skipped)]
        book = joined(arguments.site, pages, config["title"], config["author"], Path(config["logo"]).name)
        count = write_pdf(book, arguments.site, arguments.out)
        linked = link_from_landing_page(arguments.site, pages[0].name, arguments.out)
    except (PrintingError, NoBrowser, OSError) as error:
        print(f"printing: {error}", file=sys.stderr)
        return 1
    print(f"The book: {arguments.out}, {count} pages")
    if not linked:
        print(f"{pages[0].name} has no comment {MARK} to be followed by a link", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
