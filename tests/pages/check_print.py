"""What a page looks like on paper.

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

import io
import unicodedata

from playwright.sync_api import Page
from pypdf import PdfReader

# The width of an A4 page between margins of 1 cm, in CSS pixels.
PAPER = {"width": 718, "height": 1047}
MARGIN = {side: "1cm" for side in ("top", "right", "bottom", "left")}
SETTLE = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

PROBLEMS = r"""() => {
  const problems = [];
  const words = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 120);
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    && element.getClientRects().length > 0;

  const menus = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .search-button__wrapper, "
    + ".prev-next-footer, #pst-back-to-top, .skip-link, button, summary, .headerlink";
  for (const menu of document.querySelectorAll(menus))
    if (shown(menu)) problems.push(`printed but of no use on paper: ${words(menu)}`);

  for (const part of document.querySelectorAll("article :is(p, pre, li, img, td, mjx-container)"))
    if (!part.closest("summary, .movable-panel") && !shown(part)) problems.push(`not printed: ${words(part)}`);

  const right = document.documentElement.clientWidth + 1;
  for (const part of document.querySelectorAll("article *")) {
    if (part.closest("mjx-assistive-mml, svg svg, svg g, button, summary") || !shown(part)) continue;
    if (part.getBoundingClientRect().right > right) problems.push(`cut off by the edge of the paper: ${words(part)}`);
    else if (getComputedStyle(part).overflowX !== "visible" && part.tagName !== "svg"
             && part.scrollWidth > part.clientWidth + 4 && getComputedStyle(part).display !== "inline")
      problems.push(`cut off by ${part.scrollWidth - part.clientWidth} pixels: ${words(part)}`);
  }

  const light = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return alpha === 0 ? 1 : (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
  };
  for (const ground of [document.documentElement, document.body, document.querySelector("article")])
    if (light(getComputedStyle(ground).backgroundColor) < 0.95) problems.push(`dark paper: ${ground.tagName}`);
  for (const text of document.querySelectorAll("article > section p, article figcaption"))
    if (light(getComputedStyle(text).color) > 0.5) { problems.push(`pale text: ${words(text)}`); break; }
  return problems;
}"""

# The beginning of the last paragraph of the page and of each solution, without formulas.
SAMPLES = r"""() => {
  const last = (selector) => [...document.querySelectorAll(selector)].map((block) => [...block.querySelectorAll("p")]
    .map((p) => [...p.childNodes].find((node) => node.nodeType === 3 && node.data.trim().length > 20)?.data)
    .filter(Boolean).at(-1)).filter(Boolean);
  return [...last("article"), ...last("article .solution")].map((text) => text.trim().slice(0, 40));
}"""


def print_problems(page: Page) -> list[str]:
    """Menus on paper, folded or cut text, and dark paper, also for a reader of the dark theme.

    Parameters
    ----------
    page : Page
        Left as it was.

    Returns
    -------
    list of str
    """
    before = page.viewport_size
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    page.evaluate(SETTLE)
    problems = page.evaluate(PROBLEMS)
    page.emulate_media(media="screen")
    page.evaluate(SETTLE)
    if page.evaluate("() => document.documentElement.dataset.theme") != "dark":
        problems.append("printing changes the theme for good")
    page.evaluate("() => { document.documentElement.dataset.theme = 'light'; }")
    if before:
        page.set_viewport_size(before)
    return problems


def pdf_problems(page: Page) -> list[str]:
    """Blank sheets and text that is missing when the page is really printed.

    Parameters
    ----------
    page : Page
        Left as it was.

    Returns
    -------
    list of str
    """
    samples = page.evaluate(SAMPLES)
    # Without formulas and figures, whose lines take the reader of the PDF most of its time.
    plain = page.add_style_tag(content="mjx-container > svg, img { visibility: hidden; }")
    reader = PdfReader(io.BytesIO(page.pdf(format="A4", margin=MARGIN, print_background=True)))
    plain.evaluate("(style) => style.remove()")
    texts = [squeezed(sheet.extract_text()) for sheet in reader.pages]
    whole = "".join(texts)
    problems = [f"sheet {number} is blank" for number, text in enumerate(texts, 1) if not text]
    return problems + [f"not on paper: {sample}" for sample in samples if squeezed(sample) not in whole]


def squeezed(text: str) -> str:
    """Text without spaces and ligatures, to be compared with the text of a PDF."""
    return "".join(unicodedata.normalize("NFKC", text).split())
