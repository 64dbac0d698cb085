"""The checks find what they look for: a good page passes them all, and every way of breaking it is reported."""

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import check_axe
import check_keyboard
import check_links
import check_movable
import check_print
import check_rendering
import pytest
import site_files
from check_rendering import OpenPage
from playwright.sync_api import Browser

PICTURE = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/%3E"
# Goes into an article of the site: a formula, a figure made by a cell, something folded.
GOOD = f"""
<script>window.MathJax = {{"options": {{"enableMenu": false}}}}</script>
<script defer src="STATIC/mathjax/tex-svg-full.js"></script>
<p>A formula: <span class="math notranslate nohighlight">\\(x^2\\)</span>.</p>
<div class="cell_output"><figure><img src="{PICTURE}" alt="A square"><figcaption>One square.</figcaption></figure></div>
<details class="hide"><summary>Show the answer</summary><p>The answer is forty-two, and it is folded.</p></details>
<p id="place">See <a href="#place">this place</a>.</p>
<link rel="stylesheet" href="STATIC/movable/movable.css">
<div class="movable" data-figure="spectrum"><em>Here the site has a figure.</em></div>
<script defer src="STATIC/uplot/uPlot.iife.min.js"></script>
<script defer src="STATIC/movable/spiked-law.js"></script>
<script defer src="STATIC/movable/movable.js"></script>
<script defer src="STATIC/movable/spectrum.js"></script>
"""
CAPTION = "<figcaption>One square.</figcaption>"
PLACE = '<p id="place">'
CLOSE = "</article>"
PANEL = "document.querySelector('.movable-panel')"


def later(action: str) -> str:
    """The end of an article with a script that acts when the page is complete."""
    return f"<script>addEventListener('load', () => {{ {action}; }})</script>{CLOSE}"


def swallow(event: str, condition: str) -> str:
    """The end of an article with a script that keeps some events from everybody else."""
    handler = f"(event) => {{ if ({condition}) event.stopImmediatePropagation(); }}"
    return f"<script>addEventListener('{event}', {handler}, true)</script>{CLOSE}"


# What is replaced, by what, and words of the report; the checks by the name of the list.
BROKEN: dict[str, list[tuple[str, str, str]]] = {
    "files": [
        ('href="#place"', 'href="#nowhere"', "occurs 0 times"),
        ('href="#place"', 'href="missing.html"', "does not exist"),
        ('href="#place"', f'href="{"../" * 9}outside.html"', "outside of the site"),
        ('href="#place"', 'href=""', "without a target"),
        ('href="#place"', 'href="http://example.org/"', "not https"),
        (CLOSE, '<p id="place">Again.</p>' + CLOSE, "occurs 2 times"),
        (CLOSE, '<label for="nothing">A</label>' + CLOSE, "names the id 'nothing'"),
        (CLOSE, '<img src="https://example.org/a.png" alt="A">' + CLOSE, "another host"),
        (CLOSE, '<iframe src="//example.org/a"></iframe>' + CLOSE, "another host"),
        (CLOSE, "<style>a { background: url(https://example.org/a.png) }</style>" + CLOSE, "another host"),
        (CLOSE, '<img src="missing.png" alt="A">' + CLOSE, "fetched but missing"),
        (CLOSE, "<p>$$x^2$$</p>" + CLOSE, "left in the text"),
        (CLOSE, "<p>\\(x^2\\)</p>" + CLOSE, "left in the text"),
        (CLOSE, "<p>{glue:text}`number`</p>" + CLOSE, "left in the text"),
        (CLOSE, "<p>By {eq}`name`.</p>" + CLOSE, "left in the text"),
        (CLOSE, "<p>:::{note}</p>" + CLOSE, "left in the text"),
        (CLOSE, "<p>By equation ??.</p>" + CLOSE, "left in the text"),
        (CLOSE, '<span class="xref std">name</span>' + CLOSE, "a reference without a link"),
        (CLOSE, '<div class="system-message">Failed</div>' + CLOSE, "an error message of the build"),
    ],
    "rendering": [
        (CLOSE, '<img src="https://example.org/a.png" alt="A">' + CLOSE, "asked another host"),
        (CLOSE, '<script>fetch("https://example.org/a.json").catch(() => 0)</script>' + CLOSE, "asked another host"),
        (CLOSE, '<script src="missing.js"></script>' + CLOSE, "no answer"),
        (CLOSE, "<script>console.error('bad')</script>" + CLOSE, "error in the console"),
        (CLOSE, "<script>undefinedFunction()</script>" + CLOSE, "an error in a script"),
        ('class="math ', 'class="math mathjax_ignore ', "not typeset"),
        ("x^2", "\\nosuchmacro", "an error in a formula"),
        ("x^2", "x^2^3", "an error in a formula"),
        ('alt="A square"', "", "without alternative text"),
        ('alt="A square"', 'alt="_images/a.svg"', "its file name"),
        (PICTURE, "data:image/png,none", "does not load"),
        (CAPTION, "", "without a caption"),
        (CLOSE, '<div style="width: 700px">wide</div>' + CLOSE, "pixels wide"),
    ],
    "keyboard": [
        (PLACE, '<input aria-label="A" onblur="setTimeout(() => this.focus())">' + PLACE, "the Tab key"),
        (PLACE, '<input aria-label="A" onkeydown="event.preventDefault()">' + PLACE, "the Tab key"),
        (CLOSE, '<style>article a { outline: 0 !important; box-shadow: none !important }</style>' + CLOSE, "seen"),
        (CLOSE, '<div style="opacity: 0"><a href="#place">A</a></div>' + CLOSE, "something invisible"),
        ("<summary>", '<summary onclick="event.preventDefault()">', "neither opens nor closes"),
        ('class="skip-link', 'inert class="skip-link', "main content"),
    ],
    "print": [
        (CLOSE, "<p class='d-print-none'>Not for paper.</p>" + CLOSE, "not printed"),
        (CLOSE, "<div style='width: 900px'>wide</div>" + CLOSE, "cut off by the edge"),
        (CLOSE, "<div style='overflow: hidden'><div style='width: 900px'>wide</div></div>" + CLOSE, "cut off"),
        (CLOSE, "<button>Press</button>" + CLOSE, "of no use on paper"),
        (CLOSE, "<style>@media print { body { background: #111 !important } }</style>" + CLOSE, "dark paper"),
        (CLOSE, "<style>@media print { p { color: #ddd !important } }</style>" + CLOSE, "pale text"),
    ],
    "movable": [
        ("movable/spectrum.js", "movable/movable.js", "no figure"),
        ('class="movable"', 'class="still"', "not needed"),
        (CLOSE, swallow("input", "event.target.type === 'range'"), "does not change the picture"),
        (CLOSE, swallow("click", "event.target.matches('.movable-panel button')"), "changes nothing"),
        (CLOSE, later(f"{PANEL}.querySelector('.movable-summary').removeAttribute('aria-live')"), "not announced"),
        (CLOSE, later(f"{PANEL}.querySelector('label').remove()"), "without a label"),
        (CLOSE, later(f"{PANEL}.querySelector('output').hidden = true"), "does not show"),
        (CLOSE, later("spikedLaw.observed = () => NaN"), "NaN"),
        (CLOSE, "<style>.movable-plot canvas { visibility: hidden }</style>" + CLOSE, "cannot be seen"),
        (CLOSE, "<style>@media print { .movable-panel { display: block !important } }</style>" + CLOSE, "on paper"),
        (CLOSE, "<style>@media print { .movable em { display: none !important } }</style>" + CLOSE, "on paper"),
    ],
    "axe": [
        (CLOSE, '<p style="color: #999">Pale in the light.</p>' + CLOSE, "color-contrast (light"),
        (CLOSE, '<p style="color: #333">Dark in the dark.</p>' + CLOSE, "color-contrast (dark"),
        (CLOSE, "<button></button>" + CLOSE, "button-name"),
        (CLOSE, '<input type="text">' + CLOSE, "label"),
        ('alt="A square"', "", "image-alt"),
        (CLOSE, "<h6>Too deep</h6>" + CLOSE, "heading-order"),
    ],
}


def files(site: Path, page: str) -> list[str]:
    """All checks of the files."""
    checks = (check_links.link_problems, check_links.source_problems, check_links.id_problems)
    return [problem for check in (*checks, check_links.text_problems) for problem in check(site, page)]


def rendering(result: OpenPage) -> list[str]:
    """All checks of what is shown."""
    return [
        *check_rendering.request_problems(result),
        *check_rendering.message_problems(result),
        *check_rendering.formula_problems(result.page),
        *check_rendering.picture_problems(result.page),
        *check_rendering.width_problems(result.page, 390),
    ]


def keyboard(result: OpenPage) -> list[str]:
    """All checks with the keyboard."""
    checks = (check_keyboard.skip_link_problems, check_keyboard.fold_problems, check_keyboard.tab_problems)
    return [problem for check in checks for problem in check(result.page)]


def movable(result: OpenPage) -> list[str]:
    """All checks of the figures that readers move."""
    return check_movable.movable_problems(result.page)


def paper(result: OpenPage) -> list[str]:
    """All checks of the print."""
    return check_print.print_problems(result.page) + check_print.pdf_problems(result.page)


def axe(result: OpenPage) -> list[str]:
    """The rules of axe in light and dark."""
    check_axe.prepare(result.page)
    return [problem for theme in ("light", "dark") for problem in check_axe.axe_problems(result.page, theme, 1280)]


IN_BROWSER = {"rendering": rendering, "keyboard": keyboard, "movable": movable, "print": paper, "axe": axe}
CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@pytest.fixture(scope="session")
def copy(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the site to put broken pages into."""
    return Path(shutil.copytree(site, tmp_path_factory.mktemp("broken") / "site"))


@pytest.fixture(scope="session")
def pattern(site: Path) -> tuple[str, str]:
    """The name and the text of the smallest page of the site, with our good article in place of its own."""
    name = min(site_files.reading_pages(site), key=lambda page: (site / page).stat().st_size)
    text = (site / name).read_text(encoding="utf-8")
    text = re.sub(r'<a class="[^"]*nav-link[^>]*>.*?</a>', "", text, flags=re.DOTALL)  # to sections left out
    start = text.index(">", text.index('<article class="bd-article"')) + 1
    good = GOOD.replace("STATIC", "../" * name.count("/") + "_static")
    return name, f"{text[:start]}<section><h1>A page</h1>{good}</section>{text[text.index(CLOSE) :]}"


@pytest.fixture(scope="session")
def copied(copy: Path) -> Iterator[str]:
    """The address of the copy."""
    with site_files.serve(copy) as address:
        yield address


Report = Callable[[str, str], list[str]]


@pytest.fixture
def report(copy: Path, copied: str, pattern: tuple[str, str], browser: Browser) -> Report:
    """A function that writes a page beside the one it was made from, and returns what the checks of a kind find."""

    def run(kind: str, text: str) -> list[str]:
        page = str(Path(pattern[0]).with_name(f"broken-{uuid.uuid4().hex}.html"))
        (copy / page).write_text(text, encoding="utf-8")
        if kind == "files":
            return files(copy, page)
        with check_rendering.opened(browser, copied, page) as result:
            return IN_BROWSER[kind](result)

    return run


@pytest.mark.parametrize("kind", BROKEN)
def test_a_good_page_passes(report: Report, pattern: tuple[str, str], kind: str) -> None:
    """Nothing is reported where nothing is broken."""
    assert report(kind, pattern[1]) == []


@pytest.mark.parametrize(("kind", "old", "new", "words"), CASES)
def test_a_broken_page_is_reported(
    report: Report, pattern: tuple[str, str], kind: str, old: str, new: str, words: str
) -> None:
    """The fault is reported in the expected words."""
    assert old in pattern[1]
    before, after = pattern[1].rsplit(old, 1)
    problems = report(kind, before + new + after)
    assert any(words in problem for problem in problems), problems
