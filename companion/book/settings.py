"""Light and full settings of a chapter, chosen by the environment variable `BOOK_MODE`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace

MODES = ("light", "full")


def book_mode() -> str:
    """The mode chapters run in: the value of `BOOK_MODE`, `"light"` if it is unset or empty.

    Raises
    ------
    ValueError
        If the variable holds anything but `light` or `full`.
    """
    mode = os.environ.get("BOOK_MODE") or "light"
    if mode not in MODES:
        raise ValueError(f"the environment variable BOOK_MODE is {mode!r}; accepted are {' and '.join(MODES)}")
    return mode


def settings(light: Mapping[str, object], full: Mapping[str, object]) -> SimpleNamespace:
    """Pick the light or the full values of a chapter's settings.

    Parameters
    ----------
    light, full : mapping
        Name and value of each setting; both must have the same names, so that both modes run the same code.

    Returns
    -------
    SimpleNamespace
        The chosen values as attributes.

    Raises
    ------
    ValueError
        If the names differ, or `BOOK_MODE` holds an unknown value.

    Examples
    --------
    >>> run = settings(light=dict(draws=20), full=dict(draws=1000))
    >>> run.draws
    20
    """
    if set(light) != set(full):
        differing = ", ".join(sorted(set(light) ^ set(full)))
        raise ValueError(f"light and full settings must have the same names; only one of them has {differing}")
    return SimpleNamespace(**(full if book_mode() == "full" else light))
