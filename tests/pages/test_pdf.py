"""The printed book, which `make pdf` puts into the site."""

import re
from pathlib import Path

import check_print
import pytest
import site_files
from check_links import parsed
from pypdf import PdfReader
from pypdf.generic import Destination

NAME = "spectral-theory-of-lora.pdf"
# A page without a picture has less in it.
FEW_BYTES = 2500


@pytest.fixture(scope="module")
def book(site: Path) -> PdfReader:
    """The PDF in the site."""
    if not (site / NAME).is_file():
        pytest.fail("the site has no PDF: `make pdf` makes it")
    return PdfReader(site / NAME)


def test_linked_if_and_only_if_there(site: Path) -> None:
    """The landing page links the PDF if and only if the site has it."""
    landing = site / re.search(r"url=([^\"']+)", (site / "index.html").read_text(encoding="utf-8")).group(1)
    links = [link for link in parsed(landing).select("article a[href]") if link["href"].endswith(NAME)]
    assert len(links) == (site / NAME).is_file()


def test_every_page_of_the_site_is_in_the_book(site: Path, book: PdfReader) -> None:
    """The outline has the title of every page, on the page of the PDF where it stands."""
    tops = [entry for entry in book.outline if isinstance(entry, Destination)]
    outline = {check_print.squeezed(str(entry["/Title"])): entry for entry in tops}
    for page in site_files.reading_pages(site):
        heading = parsed(site / page).select_one("article h1")
        for useless in heading.select(".headerlink"):
            useless.extract()
        title = check_print.squeezed(heading.get_text())
        assert title in outline, f"{page}: {title} is not in {list(outline)}"
        number = book.get_destination_page_number(outline[title])
        assert title in check_print.squeezed(book.pages[number].extract_text()), f"{title} is not on page {number + 1}"


def test_no_page_is_blank(book: PdfReader) -> None:
    """Every page has something on it beside its number."""
    small = [n for n, page in enumerate(book.pages, 1) if len(page.get_contents().get_data()) < FEW_BYTES]
    assert [n for n in small if not book.pages[n - 1].extract_text().strip().removeprefix(str(n)).strip()] == []


def test_links_lead_somewhere(book: PdfReader) -> None:
    """Every link inside the book has a target in the book, and none leads to a file of the computer that made it."""
    known = set(book.named_destinations)
    problems = []
    for number, page in enumerate(book.pages, 1):
        for annotation in page.get("/Annots") or []:
            link = annotation.get_object()
            action = link.get("/A", {}).get_object() if "/A" in link else {}
            name, address = link.get("/Dest"), action.get("/URI", "")
            if isinstance(name, str) and name not in known:
                problems.append(f"page {number}: no target {name}")
            if address and not address.startswith(("https:", "mailto:")):
                problems.append(f"page {number}: a link to {address}")
    assert problems == []
    assert len(known) > 10


def test_title_and_contents(book: PdfReader) -> None:
    """The book begins with its title and a table of contents with page numbers."""
    assert book.metadata and book.metadata.title
    assert check_print.squeezed(book.metadata.title) in check_print.squeezed(book.pages[0].extract_text())
    assert "Contents" in book.pages[1].extract_text()
    assert re.search(r"Bibliography\s*\d+", "".join(page.extract_text() for page in book.pages[1:6]))
    assert "/MarkInfo" in book.trailer["/Root"]  # with the structure that screen readers need
