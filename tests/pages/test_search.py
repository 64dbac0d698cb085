"""The search of the site, used with the keyboard alone."""

from pathlib import Path

import check_links
import check_rendering
import site_files
from playwright.sync_api import Browser, Page

SECONDS = 20_000  # milliseconds


def rare_word(site: Path) -> tuple[str, str]:
    """A long word that stands on one page only, and this page."""
    pages: dict[str, set[str]] = {}
    for page in site_files.reading_pages(site):
        article = check_links.parsed(site / page).select_one("article")
        for paragraph in article.select("p") if article else []:
            for word in paragraph.get_text(" ").split():
                if word.isascii() and word.isalpha() and word.islower() and len(word) > 9:
                    pages.setdefault(word, set()).add(page)
    return min((word, found.pop()) for word, found in pages.items() if len(found) == 1)


def search(page: Page, words: str) -> list[str]:
    """Open the search dialog with its shortcut, type, press Enter, and return the addresses of the results."""
    page.keyboard.press("Control+k")
    page.wait_for_selector(".search-button__wrapper.show input:focus", timeout=SECONDS)
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*", timeout=SECONDS)
    return results(page)


def results(page: Page) -> list[str]:
    """The addresses that the page of the search has found, once it has finished."""
    page.wait_for_function(
        "() => /^(Search finished|Your search did not match)/.test("
        "document.querySelector('#search-results .search-summary')?.textContent ?? '')",
        timeout=SECONDS,
    )
    return page.eval_on_selector_all("#search-results li a", "(links) => links.map((link) => link.href)")


def test_search_finds_the_page(browser: Browser, base: str, site: Path) -> None:
    """A word that stands on one page only leads to this page, which shows it."""
    word, expected = rare_word(site)
    with check_rendering.opened(browser, base, site_files.reading_pages(site)[0]) as result:
        found = search(result.page, word)
        assert [link for link in found if link.startswith(base + expected)], f"{word}: {found}, not {expected}"
        result.page.keyboard.press("Tab")
        result.page.click("#search-results li a")
        result.page.wait_for_load_state("load")
        assert word in result.page.inner_text("article")
        assert not check_rendering.request_problems(result)


def test_search_page_finds_a_name(browser: Browser, base: str) -> None:
    """The page of the search finds a name from a chapter."""
    with check_rendering.opened(browser, base, "search.html?q=Stieltjes") as result:
        assert results(result.page)


def test_search_dialog_closes(browser: Browser, base: str, site: Path) -> None:
    """The dialog opens from its button with Enter and closes with Escape."""
    with check_rendering.opened(browser, base, site_files.reading_pages(site)[0]) as result:
        result.page.focus(".bd-sidebar-primary .search-button__button")
        result.page.keyboard.press("Enter")
        result.page.wait_for_selector(".search-button__wrapper.show input:focus", timeout=SECONDS)
        result.page.keyboard.press("Escape")
        result.page.wait_for_selector(".search-button__wrapper:not(.show)", state="attached", timeout=SECONDS)
