"""Make Matplotlib's SVG smaller without a visible change, so that notebooks stay small."""

from __future__ import annotations

import re

_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NEEDLESS_SPACE = re.compile(
    r" (?=[<>]|/>)|(?<=>) "  # around tags
    r"|(?<=[:;]) "  # in styles
    r"|(?<=[\d.]) (?=[LQCz]\b|[MLQC] )|(?<=[MLQCz]) (?=[-\d\"M])|(?<=\d) (?=\")"  # in paths
)


def compact(svg: str) -> str:
    """The same picture in fewer characters, about half as many in a notebook.

    Comments, metadata and line breaks go; coordinates keep two decimals (of a point), numbers below 1, such as scales,
    four significant digits. Attributes get single quotes, which JSON stores without a backslash. A picture with text
    that is not drawn as paths is left alone.

    Parameters
    ----------
    svg : str
        An SVG document as Matplotlib writes it.

    Returns
    -------
    str
    """
    drawn = _DROPPED.sub("", svg)  # a comment may hold an apostrophe: every text is repeated in one
    if "<text" in drawn or "'" in drawn:
        return svg
    svg = re.sub(r"\s+", " ", _LONG_NUMBER.sub(_shorten, drawn))
    svg = _NEEDLESS_SPACE.sub("", svg).strip().replace('"', "'")
    return re.sub(r"<g id='\w[\w.]*'", "<g", svg).replace("DejaVuSans-", "D-")  # groups are named, but never used


def _shorten(match: re.Match[str]) -> str:
    value = float(match.group())
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.4g}"
