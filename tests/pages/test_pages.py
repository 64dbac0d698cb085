"""Every page of the built site, in the files and in Chromium; the tests of a page share one window in this order."""

from pathlib import Path

import check_axe
import check_keyboard
import check_links
import check_movable
import check_print
import check_rendering
import pytest
from check_rendering import OpenPage
from playwright.sync_api import Browser


def report(problems: list[str]) -> None:
    """Fail with all problems, if there are any."""
    if problems:
        pytest.fail("\n".join([f"{len(problems)} problems", *problems[:40]]), pytrace=False)


def test_links_and_text(site: Path, any_page: str) -> None:
    """Links lead somewhere, ids are unique, nothing is fetched from elsewhere, no markup is left in the text."""
    checks = (check_links.link_problems, check_links.source_problems, check_links.id_problems)
    report([problem for check in (*checks, check_links.text_problems) for problem in check(site, any_page)])


def test_stylesheets(site: Path) -> None:
    """No stylesheet fetches anything from another host."""
    report(check_links.stylesheet_problems(site))


def test_loads_alone(browser: Browser, base: str, shown_page: str) -> None:
    """No other host is asked, everything asked for is there, and no script complains; in dark."""
    with check_rendering.opened(browser, base, shown_page, theme="dark") as result:
        report(check_rendering.request_problems(result) + check_rendering.message_problems(result))


def test_shows_everything(shown: OpenPage) -> None:
    """Formulas are typeset, pictures load and have texts and captions; in light."""
    report(
        check_rendering.request_problems(shown)
        + check_rendering.message_problems(shown)
        + check_rendering.formula_problems(shown.page)
        + check_rendering.picture_problems(shown.page)
    )


def test_keyboard(shown: OpenPage) -> None:
    """Everything can be reached and unfolded with the keyboard, and the focus is always visible."""
    report(
        check_keyboard.skip_link_problems(shown.page)
        + check_keyboard.fold_problems(shown.page)
        + check_keyboard.tab_problems(shown.page)
    )


def test_movable(shown: OpenPage) -> None:
    """Figures that readers move do so by the keyboard alone, in both themes, and give way to words on paper."""
    report(check_movable.movable_problems(shown.page) + check_rendering.message_problems(shown))


def test_print(shown: OpenPage) -> None:
    """On paper the page is light and complete, without menus, and nothing is cut off."""
    report(check_print.print_problems(shown.page) + check_print.pdf_problems(shown.page))


@pytest.mark.parametrize("width", [390, 320])
def test_narrow(shown: OpenPage, width: int) -> None:
    """On a narrow screen the page does not scroll sideways."""
    report(check_rendering.width_problems(shown.page, width))


def test_axe(shown: OpenPage) -> None:
    """No violation of a rule of axe, in light and dark, wide and narrow."""
    check_axe.prepare(shown.page)
    report(
        check_axe.axe_problems(shown.page, "light", 1280)
        + check_axe.axe_problems(shown.page, "dark", 1280)
        + check_axe.axe_problems(shown.page, "light", 390)
    )


def test_opened_as_a_file(browser: Browser, site: Path, reading_page: str) -> None:
    """The formulas and pictures also show when the file is opened without a server."""
    with check_rendering.opened(browser, site.as_uri() + "/", reading_page) as result:
        report(
            check_rendering.foreign_requests(result)
            + check_rendering.formula_problems(result.page)
            + check_rendering.picture_problems(result.page)
        )
