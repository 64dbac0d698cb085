"""Do the figures that readers move move, by the keyboard alone, and do they say what they show?

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

from check_print import SETTLE
from playwright.sync_api import Locator, Page

# A figure says what it shows after 250 milliseconds. This timer starts later, in the same page, and so ends later,
# however slow the computer is.
SAID = "() => new Promise((done) => setTimeout(done, 260))"
PICTURE = "(panel) => [...panel.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()"
# Does every canvas hold colours, and can it be seen?
SEEN = """(panel) => [...panel.querySelectorAll("canvas")].every((canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return canvas.checkVisibility({ visibilityProperty: true }) && data.some((value) => value > 0);
})"""
LABELLED = """(panel) => [...panel.querySelectorAll("input, select")].filter((control) =>
  control.labels.length !== 1 || !control.labels[0].textContent.trim()).map((control) => control.id)"""
UNSAID = """(panel) => [...panel.querySelectorAll("input[type=range]")].filter((slider) => {
  const shown = panel.querySelector(`output[for="${slider.id}"]`);
  const hint = document.getElementById(slider.getAttribute("aria-describedby"));
  return !shown?.checkVisibility() || !shown.value || slider.getAttribute("aria-valuetext") !== shown.value
    || !hint?.textContent.trim();
}).map((slider) => slider.id)"""
# Neither the panel nor its words fit a page that has no such figure.
SCRIPTS = "() => [...document.querySelectorAll('script[src*=movable], script[src*=uplot]')].map((script) => script.src)"


def movable_problems(page: Page) -> list[str]:
    """Everything wrong with the figures of a page.

    Parameters
    ----------
    page : Page
        Its figures are moved and put back.

    Returns
    -------
    list of str
    """
    places = page.locator("article .movable").all()
    if not places:
        return [f"a script that is not needed: {script}" for script in page.evaluate(SCRIPTS)]
    problems = []
    for place in places:
        name = place.get_attribute("data-figure")
        panel = place.locator(".movable-panel")
        if panel.count() != 1:
            problems.append(f"{name}: there is no figure to move")
            continue
        checks = (_says, _looks, _moves, _turns, _prints)
        problems += [f"{name}: {problem}" for check in checks for problem in check(page, panel)]
    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    return problems


def _says(page: Page, panel: Locator) -> list[str]:
    """Labels, values and the sentence, as a screen reader has them."""
    problems = [f"a control without a label: {control}" for control in panel.evaluate(LABELLED)]
    problems += [f"a slider that does not show or say its value: {slider}" for slider in panel.evaluate(UNSAID)]
    summary = panel.locator(".movable-summary")
    if summary.get_attribute("aria-live") != "polite":
        problems.append("what the figure shows is not announced")
    if len(summary.inner_text().split()) < 20:
        problems.append("the figure does not say what it shows")
    return problems


def _looks(page: Page, panel: Locator) -> list[str]:
    """Both themes draw something, and not the same."""
    problems, pictures = [], []
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        page.evaluate(SETTLE)
        pictures.append(panel.evaluate(PICTURE))
        if not panel.evaluate(SEEN):
            problems.append(f"the picture cannot be seen in the {theme} theme")
    page.evaluate("() => { document.documentElement.dataset.theme = 'light'; }")
    page.evaluate(SETTLE)
    return problems + (["the picture does not follow the theme"] if pictures[0] == pictures[1] else [])


def _moves(page: Page, panel: Locator) -> list[str]:
    """Every control changes the picture from the keyboard; what depends on it changes too, up to the ends."""
    problems = []
    for control in panel.locator("input, select").all():
        name, slides = control.get_attribute("id"), control.get_attribute("type") == "range"
        keys = ("ArrowRight", "Home", "End") if slides else ("Space",)
        keys = keys if control.evaluate("(control) => control.tagName") == "INPUT" else ("ArrowDown",)
        for key in keys:
            before = _state(panel)
            control.press(key)
            page.evaluate(SAID)
            picture, words = _state(panel)
            if picture == before[0]:
                problems.append(f"{key} on {name} does not change the picture")
            if slides and words == before[1]:
                problems.append(f"{key} on {name} does not change the words")
            problems += [f"{key} on {name} gives {bad}" for bad in ("NaN", "Infinity", "undefined") if bad in words]
        problems += _reset(page, panel, f"after {name}")
    return problems


def _turns(page: Page, panel: Locator) -> list[str]:
    """Every named position leads somewhere, and Reset leads back."""
    problems, start = [], _state(panel)
    for button in panel.locator("button:not(:last-child)").all():
        button.press("Enter")
        page.evaluate(SAID)
        if _state(panel) == start:
            problems.append(f"the button {button.inner_text()!r} changes nothing")
        problems += _reset(page, panel, f"after {button.inner_text()!r}")
        if _state(panel) != start:
            problems.append(f"Reset after {button.inner_text()!r} does not lead back")
    return problems


def _reset(page: Page, panel: Locator, when: str) -> list[str]:
    panel.locator("button:last-child").press("Enter")
    page.evaluate(SAID)
    return [] if panel.locator("button:last-child").inner_text() == "Reset" else [f"there is no Reset {when}"]


def _prints(page: Page, panel: Locator) -> list[str]:
    """On paper the words of the chapter stand where the figure was."""
    words = panel.locator("xpath=preceding-sibling::*")
    on_screen = panel.is_visible() and not any(word.is_visible() for word in words.all())
    page.emulate_media(media="print")
    page.evaluate(SETTLE)
    on_paper = not panel.is_visible() and words.count() > 0 and all(word.is_visible() for word in words.all())
    page.emulate_media(media="screen")
    page.evaluate(SETTLE)
    problems = [] if on_screen else ["the words for paper are on the screen"]
    return problems + ([] if on_paper else ["the figure is on paper, or nothing is"])


def _state(panel: Locator) -> tuple[str, str]:
    """The picture, and all that is said."""
    return panel.evaluate(PICTURE), panel.locator(".movable-words").inner_text()
