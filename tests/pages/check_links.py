"""What can be seen in the files of a page alone: links, references, ids and markup left in the text.

Every check returns a list of problems in words, empty for a good page.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

# What a browser fetches by itself when it shows a page.
FETCHED = ", ".join(f"{tag}[src]" for tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "input"))
FETCHED += ", object[data]"
FETCHED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
# Markup that the build should have turned into something else.
LEFTOVERS = re.compile(
    r"\$|\\[(\[]|\\[a-zA-Z]{2,}|:::|\?\?|\{(?:glue|eq|ref|numref|doc|cite|prf|math|term|code)\b[^}]*\}|\{\{|(?<!\w)```"
)
# Attributes that name another element of the page.
ID_ATTRIBUTES = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "data-clipboard-target")
CSS_REQUEST = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


@functools.lru_cache(maxsize=64)
def parsed(path: Path) -> BeautifulSoup:
    """A page as a tree; the same object for the same path."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.lru_cache(maxsize=64)
def ids(path: Path) -> Counter[str]:
    """The ids of a page and how often each occurs."""
    return Counter(tag["id"] for tag in parsed(path).select("[id]"))


def link_problems(root: Path, page: str) -> list[str]:
    """Links that lead nowhere: no file, no such id in it, nothing at all, or an outside address without encryption."""
    problems = []
    for tag in parsed(root / page).select("a[href], a:not([href]):not([id])"):
        problem = _link_problem(root, page, tag)
        if problem:
            problems.append(f"{page}: {problem}: {str(tag)[:160]}")
    return problems


def _link_problem(root: Path, page: str, tag: Tag) -> str | None:
    href = (tag.get("href") or "").strip()
    if not href:
        return "a link without a target"
    parts = urlsplit(href)
    if parts.scheme == "mailto":
        return None
    if parts.scheme or parts.netloc:
        return None if parts.scheme == "https" and parts.netloc else "an outside link that is not https"
    return missing_target(root, page, href)


def missing_target(root: Path, page: str, href: str) -> str | None:
    """What is missing at the other end of a link inside the site; None if nothing is."""
    parts = urlsplit(href)
    target = ((root / page).parent / unquote(parts.path)).resolve() if parts.path else (root / page).resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(root.resolve()):
        return f"the target {href} is outside of the site"
    if not target.is_file():
        return f"the file {href} does not exist"
    if parts.fragment and target.suffix == ".html":
        times = ids(target)[unquote(parts.fragment)]
        if times != 1:
            return f"the id in {href} occurs {times} times"
    return None


def source_problems(root: Path, page: str) -> list[str]:
    """Things a page fetches by itself that are missing or that lie on another host."""
    soup = parsed(root / page)
    addresses = [tag.get("src") or tag.get("data") for tag in soup.select(FETCHED)]
    addresses += [tag.get("href") for tag in soup.select("link[href]") if FETCHED_LINKS & set(tag.get("rel", []))]
    addresses += [part.split()[0] for tag in soup.select("[srcset]") for part in tag["srcset"].split(",")]
    addresses += [m.group(1) for tag in soup.select("meta[http-equiv]") for m in _refresh(tag)]
    problems = []
    for address in addresses:
        parts = urlsplit(address or "")
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            problems.append(f"{page}: fetched from another host: {address}")
        elif not address or missing_target(root, page, address):
            problems.append(f"{page}: fetched but missing: {address!r}")
    inline = " ".join(tag.get_text() for tag in soup.select("style")) + " ".join(
        tag["style"] for tag in soup.select("[style]")
    )
    return problems + [f"{page}: fetched from another host: {address}" for address in CSS_REQUEST.findall(inline)]


def _refresh(tag: Tag) -> list[re.Match[str]]:
    match = re.search(r"url=(.+)", tag.get("content", ""), re.IGNORECASE)
    return [match] if match else []


def stylesheet_problems(root: Path) -> list[str]:
    """Stylesheets that fetch something from another host."""
    return [
        f"{path.relative_to(root)}: fetched from another host: {address}"
        for path in sorted(root.rglob("*.css"))
        for address in CSS_REQUEST.findall(path.read_text(encoding="utf-8"))
    ]


def id_problems(root: Path, page: str) -> list[str]:
    """Labels and buttons that name another element by an id that no element has, or several."""
    times = ids(root / page)
    return [
        f"{page}: {attribute} names the id {name!r}, which occurs {times[name]} times"
        for attribute in ID_ATTRIBUTES
        for tag in parsed(root / page).select(f"[{attribute}]")
        for name in tag[attribute].lstrip("#").split()
        if times[name] != 1
    ]


def text_problems(root: Path, page: str) -> list[str]:
    """Markup, failed references and error messages of the build left in the text that readers see."""
    soup = BeautifulSoup((root / page).read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article") or soup
    problems = [f"{page}: an error message of the build: {tag.get_text(' ', strip=True)[:160]}"
                for tag in article.select(".system-message, .problematic")]
    problems += [f"{page}: a reference without a link: {tag.get_text(' ', strip=True)[:160]}"
                 for tag in article.select("span.xref") if tag.find_parent("a") is None]
    for tag in article.select("script, style, pre, code, .math"):
        tag.decompose()
    text = article.get_text()
    for match in LEFTOVERS.finditer(text):
        around = " ".join(text[max(match.start() - 40, 0) : match.end() + 40].split())
        problems.append(f"{page}: {match.group()!r} was left in the text: … {around} …")
    return problems
