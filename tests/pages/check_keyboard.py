"""Can a reader without a mouse reach and use everything, and see where the focus is?

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

from playwright.sync_api import Page

# Stops of the Tab key beyond the known ones before the round counts as endless.
SPARE_STOPS = 30

STILL = r"""() => {
  const still = document.createElement("style");
  still.textContent = "*, *::before, *::after { transition: none !important; animation: none !important; }";
  document.head.append(still);
}"""

# Collects what should be reached, with its look while it has no focus.
COLLECT = r"""() => {
  const wanted = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]";
  const stops = [...document.querySelectorAll(wanted)].filter((element) => {
    if (element.tabIndex < 0 || element.disabled || element.closest("[inert]")) return false;
    if (element.type === "radio" && !element.checked) return false;
    return element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  });
  const parts = (element) => [element, ...element.querySelectorAll("*")].slice(0, 4);
  const look = (element) => parts(element).map((part) => {
    const style = getComputedStyle(part);
    return ["outlineStyle", "outlineWidth", "outlineColor", "boxShadow", "backgroundColor", "borderColor",
            "textDecorationLine", "textDecorationThickness"].map((name) => style[name]).join(" ");
  }).join(" ");
  const large = (element) => parts(element).some(
    (part) => part.getBoundingClientRect().width > 1 && part.getBoundingClientRect().height > 1);
  const label = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 120);
  window.scrollTo(0, 0);
  const before = stops.map((element) => (element.getBoundingClientRect().bottom <= 0 ? "outside" : look(element)));
  window.keyboardCheck = { stops, look, large, label, before, reached: new Set() };
  return stops.length;
}"""

# Blurring is not enough: the next Tab would go on from the place that had the focus.
TO_TOP = r"""() => {
  const start = document.createElement("span");
  start.tabIndex = -1;
  document.body.prepend(start);
  start.focus();
  start.remove();
}"""

# What the last press of the Tab key has done: null at the end of the page, else the problems of this stop.
STEP = r"""() => {
  const { stops, look, large, label, before, reached } = window.keyboardCheck;
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const index = stops.indexOf(element);
  if (reached.has(element)) return { trapped: label(element), problems: [] };
  reached.add(element);
  const problems = [];
  let opacity = 1;
  for (let up = element; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
  if (!element.checkVisibility({ visibilityProperty: true }) || opacity < 0.5 || !large(element))
    problems.push(`the focus is on something invisible: ${label(element)}`);
  else if (index >= 0 && look(element) === before[index])
    problems.push(`the focus cannot be seen: ${label(element)}`);
  return { trapped: null, problems };
}"""

MISSED = r"""() => {
  const { stops, label, reached } = window.keyboardCheck;
  return stops.filter((element) => !reached.has(element)).map((element) => `not reached: ${label(element)}`);
}"""

FOLDS = "article summary, article button.toggle-button"
IS_OPEN = "(fold) => fold.closest('details')?.open ?? fold.getAttribute('aria-expanded') === 'true'"


def tab_problems(page: Page) -> list[str]:
    """Press Tab from the top of the page to its end.

    Parameters
    ----------
    page : Page
        Its focus is moved.

    Returns
    -------
    list of str
        What is not reached, what holds the focus, and stops at which the focus cannot be seen.
    """
    problems: list[str] = []
    page.evaluate(STILL)
    page.evaluate(TO_TOP)
    stops = page.evaluate(COLLECT)
    for _ in range(stops + SPARE_STOPS):
        page.keyboard.press("Tab")
        stop = page.evaluate(STEP)
        if stop is None:  # unless a script takes the focus back
            page.wait_for_timeout(50)
            stop = page.evaluate(STEP)
        if stop is None:
            break
        if stop["trapped"]:
            problems.append(f"the Tab key comes back before the end of the page to {stop['trapped']}")
            break
        problems += stop["problems"]
    else:
        problems.append("the Tab key never comes to the end of the page")
    return problems + page.evaluate(MISSED)


def fold_problems(page: Page) -> list[str]:
    """Whatever is folded must open with Enter and close with Space."""
    problems = []
    for fold in page.query_selector_all(FOLDS):
        for key in ("Enter", "Space"):
            before = fold.evaluate(IS_OPEN)
            fold.focus()
            page.keyboard.press(key)
            if fold.evaluate(IS_OPEN) == before:
                words = fold.evaluate("(fold) => fold.parentElement.textContent.trim().slice(0, 80)")
                problems.append(f"{key} neither opens nor closes: {words}")
    return problems


def skip_link_problems(page: Page) -> list[str]:
    """The first stop of the Tab key must be a visible link past the menus, and it must lead there."""
    page.evaluate(STILL)
    page.evaluate(TO_TOP)
    page.keyboard.press("Tab")
    target = page.evaluate(
        "() => { const a = document.activeElement; const box = a.getBoundingClientRect();"
        " return a.matches('.skip-link a') && box.top >= 0 && box.height > 0 ? a.getAttribute('href') : null; }"
    )
    if target is None:
        return ["the first stop is not a visible link to the main content"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = "(target) => document.querySelector(target)?.contains(document.activeElement) ?? false"
    return [] if page.evaluate(inside, target) else [f"the link past the menus does not lead to {target}"]
