"""Checks of a built site in Chromium; not part of the package tests.

The site is the folder in the environment variable COMPANION_SITE, `_build/html` if it is unset. Without a site or a
browser the checks fail: they are never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import site_files
from check_rendering import OpenPage, opened
from playwright.sync_api import Browser

from companion.book.browser import NoBrowser, chromium

ROOT = Path(os.environ.get("COMPANION_SITE") or Path(__file__).parents[2] / "_build" / "html").resolve()
PAGES = {
    "any_page": site_files.all_pages,
    "shown_page": site_files.shown_pages,
    "reading_page": site_files.reading_pages,
}
NO_SITE = f"there is no built site in {ROOT}: run `make book`, or name its folder in COMPANION_SITE"


def pytest_configure() -> None:
    """Stop at once without a site."""
    if not (ROOT / "index.html").is_file():
        raise pytest.UsageError(NO_SITE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes `any_page`, `shown_page` or `reading_page` for every such page of the site."""
    for name, pages in PAGES.items():
        if name in metafunc.fixturenames:
            marked = [pytest.param(page, marks=pytest.mark.xdist_group(page)) for page in pages(ROOT)]
            metafunc.parametrize(name, marked, scope="session")


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    return ROOT


@pytest.fixture(scope="session")
def base(site: Path) -> Iterator[str]:
    """The address of the served site."""
    with site_files.serve(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    try:
        with chromium() as started:
            yield started
    except NoBrowser as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def shown(browser: Browser, base: str, reading_page: str) -> Iterator[OpenPage]:
    """A page in the browser, shared by the tests of this page in the order in which they are written."""
    with opened(browser, base, reading_page) as result:
        yield result
