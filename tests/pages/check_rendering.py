"""What a browser makes of a page: requests, messages, formulas, pictures and width.

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response

DESKTOP = {"width": 1280, "height": 900}
# Resolves once MathJax has typeset the page, at once on a page without formulas.
TYPESET = "async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }"

FORMULAS = r"""() => {
  const problems = [];
  const formulas = [...document.querySelectorAll("article .math")];
  for (const formula of formulas) {
    const made = formula.querySelectorAll("mjx-container");
    if (made.length !== 1 || made[0].querySelectorAll("svg").length < 1)
      problems.push(`not typeset: ${formula.textContent.trim().slice(0, 100)}`);
  }
  for (const bad of document.querySelectorAll(
      'mjx-merror, [data-mml-node="merror"], [data-mjx-error], mjx-assistive-mml [mathcolor="red"]'))
    problems.push(`an error in a formula: ${bad.getAttribute("data-mjx-error") ?? bad.textContent.slice(0, 100)}`);
  for (const made of document.querySelectorAll("article mjx-container")) {
    if (!made.querySelector("mjx-assistive-mml math")) problems.push("a formula that no screen reader can read");
    const box = made.querySelector("svg")?.getBoundingClientRect();
    if (made.checkVisibility() && !(box?.width > 0 && box?.height > 0)) problems.push("a formula without size");
  }
  return problems;
}"""

PICTURES = r"""() => {
  const problems = [];
  const name = (picture) => (picture.getAttribute("src") ?? "").slice(0, 100);
  for (const picture of document.querySelectorAll("article img, article object, article embed")) {
    if (picture.tagName !== "IMG") { problems.push(`not an <img>: ${picture.outerHTML.slice(0, 100)}`); continue; }
    if (!picture.complete || !picture.naturalWidth) problems.push(`a picture that does not load: ${name(picture)}`);
    const alt = (picture.getAttribute("alt") ?? "").trim();
    if (!alt) problems.push(`a picture without alternative text: ${name(picture)}`);
    else if (alt === picture.getAttribute("src") || /\.(svg|png|jpe?g|gif|webp)$/i.test(alt))
      problems.push(`a picture with its file name for a text: ${name(picture)}`);
  }
  for (const picture of document.querySelectorAll("article .cell_output img")) {
    const caption = picture.closest("figure")?.querySelector("figcaption")?.textContent.trim();
    if (!caption) problems.push(`a figure without a caption: ${name(picture)}`);
  }
  return problems;
}"""

# Whatever is wider than the window although nothing around it scrolls or cuts it off.
WIDE = r"""() => {
  const width = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth <= window.innerWidth) return [];
  const held = (element) => {
    for (let up = element.parentElement; up && up !== document.body; up = up.parentElement)
      if (getComputedStyle(up).overflowX !== "visible") return true;
    return false;
  };
  const wide = [...document.querySelectorAll("body *")].filter(
    (element) => element.checkVisibility() && element.getBoundingClientRect().right > width + 1 && !held(element));
  const words = wide.slice(0, 3).map((element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 100)).join(" | ");
  return [`${document.scrollingElement.scrollWidth} pixels wide in a window of ${window.innerWidth}: ${words}`];
}"""

UNFOLD = r"""() => {
  for (const details of document.querySelectorAll("article details")) details.open = true;
  for (const button of document.querySelectorAll("article .toggle-button-hidden")) button.click();
}"""


@dataclass
class OpenPage:
    """A page in the browser and what it has said and asked for since it was opened."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, base: str, path: str, theme: str = "light", width: int = 1280) -> Iterator[OpenPage]:
    """Open a page as a reader who has chosen a theme and nothing else, and wait until it is complete.

    The browser itself reaches no other host, so that nothing has to stand between it and the site.

    Parameters
    ----------
    browser : Browser
    base : str
        The address of the site; whatever does not start with it counts as another host.
    path : str
        The page below it.
    theme : {"light", "dark"}
        The theme the reader has chosen before.
    width : int
        Of the window, in pixels.

    Yields
    ------
    OpenPage
    """
    result = OpenPage(_context(browser, theme, width).new_page(), base)
    _listen(result)
    try:
        result.page.goto(base + path, wait_until="load")
        result.page.evaluate(TYPESET)
        yield result
    finally:
        result.page.close()


@functools.cache
def _context(browser: Browser, theme: str, width: int) -> BrowserContext:
    """Pages of one context share what was fetched; it is closed with the browser."""
    context = browser.new_context(viewport={**DESKTOP, "width": width}, reduced_motion="reduce")
    context.add_init_script(
        f"localStorage.clear(); localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');"
    )
    return context


def _is_local(url: str, base: str) -> bool:
    return url.startswith((base, "data:", "blob:", "about:"))


def _listen(result: OpenPage) -> None:
    def request(request: Request) -> None:
        result.requests.append(request.url)

    def response(response: Response) -> None:
        if response.status >= 400:
            result.failures.append(f"{response.status} for {response.url}")

    def failed(request: Request) -> None:
        result.failures.append(f"{request.failure} for {request.url}")

    def message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            result.messages.append(f"{message.type} in the console: {message.text[:300]}")

    result.page.on("request", request)
    result.page.on("response", response)
    result.page.on("requestfailed", failed)
    result.page.on("console", message)
    result.page.on("pageerror", lambda error: result.messages.append(f"an error in a script: {error}"))


def foreign_requests(result: OpenPage) -> list[str]:
    """Requests to other hosts."""
    return [f"asked another host: {url}" for url in result.requests if not _is_local(url, result.base)]


def request_problems(result: OpenPage) -> list[str]:
    """Requests to other hosts and requests without an answer."""
    return foreign_requests(result) + [f"no answer: {failure}" for failure in result.failures]


def message_problems(result: OpenPage) -> list[str]:
    """Errors and warnings in the console and errors in scripts."""
    return list(result.messages)


def formula_problems(page: Page) -> list[str]:
    """Formulas that MathJax has not typeset, or with an error."""
    return page.evaluate(FORMULAS)


def picture_problems(page: Page) -> list[str]:
    """Pictures that do not load, without alternative text, or made by a cell and without a caption."""
    return page.evaluate(PICTURES)


def width_problems(page: Page, width: int) -> list[str]:
    """Does the page scroll sideways in a window of `width` pixels, with everything unfolded?"""
    before = page.viewport_size or DESKTOP
    page.set_viewport_size({**before, "width": width})
    page.evaluate(UNFOLD)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    problems = page.evaluate(WIDE)
    page.set_viewport_size(before)
    return problems
