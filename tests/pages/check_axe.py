"""The accessibility rules of axe-core, on a page as it is shown.

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

import functools
from importlib.resources import files

from check_keyboard import STILL
from check_print import SETTLE
from playwright.sync_api import Page

# (rule, selector, reason) of what may stay; empty as long as the page can be repaired instead.
ALLOWED: tuple[tuple[str, str, str], ...] = ()

# axe needs a minute for a chapter if it looks at each of thousands of coloured words of code and parts of formulas.
# Words of the same class in the same surroundings look alike: the first is judged, the others become plain text.
# The inside of a formula, outlines of glyphs and MathML, holds nothing that axe judges; the formula itself stays.
THIN = r"""() => {
  const seen = new Set();
  for (const word of [...document.querySelectorAll("article .highlight pre span[class]")]) {
    const around = word.closest(".cell_input, .cell_output, .admonition, details")?.className ?? "";
    const kind = `${word.className} in ${around}`;
    if (seen.has(kind)) word.replaceWith(...word.childNodes);
    seen.add(kind);
  }
  for (const span of [...document.querySelectorAll("article .highlight pre span:not([class])")])
    if (!span.id) span.replaceWith(...span.childNodes);
  for (const formula of document.querySelectorAll("mjx-container > svg, mjx-assistive-mml > math"))
    formula.replaceChildren();
}"""

# preload=false: axe would fetch the stylesheets again, one of them from a wrong address.
RUN = "() => axe.run(document, { preload: false, resultTypes: ['violations'] })"


@functools.cache
def axe_source() -> str:
    """The script of axe-core."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def axe_version(page: Page) -> str:
    """The version of axe-core that is used."""
    page.evaluate(axe_source())
    return page.evaluate("() => axe.version")


def prepare(page: Page) -> None:
    """Load axe, let colours change at once and thin out the page; it is of no use for anything else afterwards."""
    page.evaluate(axe_source())
    page.evaluate(STILL)
    page.evaluate(THIN)


def axe_problems(page: Page, theme: str, width: int) -> list[str]:
    """Violations of the rules of axe.

    Parameters
    ----------
    page : Page
        As `prepare` left it.
    theme : {"light", "dark"}
        The theme to judge; set by the attribute that the theme's own button sets.
    width : int
        The width of the window in pixels.

    Returns
    -------
    list of str
        One for each element and rule.
    """
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(SETTLE)
    violations = page.evaluate(RUN)["violations"]
    return [
        f"{violation['id']} ({theme}, {width} pixels): {' '.join(map(str, node['target']))}: "
        f"{' '.join(node['failureSummary'].split())[:240]}"
        for violation in violations
        for node in violation["nodes"]
        if not _is_allowed(page, violation["id"], node["target"])
    ]


def _is_allowed(page: Page, rule: str, target: list[str]) -> bool:
    matches = "([target, selector]) => document.querySelector(target)?.matches(selector) ?? false"
    return any(
        allowed == rule and len(target) == 1 and page.evaluate(matches, [target[0], selector])
        for allowed, selector, _ in ALLOWED
    )
