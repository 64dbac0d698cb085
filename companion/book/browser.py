"""Find a Chromium that runs, or install one: the page checks and the printed book both need it.

    python -m companion.book.browser          say which browser is used, installing one where that is possible
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

VARIABLE = "CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
INSTALL_SECONDS = 600
# No host but this computer is resolved, and no proxy is asked to: a page that asks another host gets no answer.
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", "--no-proxy-server"]
ADVICE = (
    "No Chromium that starts was found. Install one with `python -m playwright install --with-deps chromium` "
    "or with the package manager of the system (Debian: `apt-get install chromium`), or name the program of a "
    f"Chromium or Chrome in the environment variable {VARIABLE}."
)


class NoBrowser(RuntimeError):
    """No Chromium could be started or installed; the message says what to do."""


def candidates() -> list[str | None]:
    """The browsers to try, in this order.

    Returns
    -------
    list of str or None
        The program named by the environment variable `CHROMIUM` alone if it is set; else playwright's own browser,
        written None, and the Chromiums and Chromes on the path.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return [named]
    return [None, *(path for path in map(shutil.which, NAMES) if path)]


@contextmanager
def chromium(install: bool = True) -> Iterator[Browser]:
    """Start a headless Chromium that reaches no other host, and stop it at the end.

    Parameters
    ----------
    install : bool
        Whether to install a browser if none starts.

    Yields
    ------
    Browser
        The browser of playwright's synchronous interface.

    Raises
    ------
    NoBrowser
        If none starts and none can be installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise NoBrowser('playwright is missing: install the package with `pip install -e ".[all]"`') from error
    with sync_playwright() as playwright:
        browser = start(playwright, install=install)
        try:
            yield browser
        finally:
            browser.close()


def start(playwright: Playwright, install: bool = True) -> Browser:
    """Start the first browser that runs, after an installation if none does; see `chromium`."""
    failures: list[str] = []
    browser = _first_that_starts(playwright, failures)
    if browser is None and install and not os.environ.get(VARIABLE):
        for command in _installers():
            if _run(command, failures):
                browser = _first_that_starts(playwright, failures)
            if browser is not None:
                break
    if browser is None:
        raise NoBrowser("\n".join([ADVICE, *failures]))
    return browser


def _first_that_starts(playwright: Playwright, failures: list[str]) -> Browser | None:
    from playwright.sync_api import Error

    # Chromium's sandbox refuses to run for root, as in most containers; the pages shown are our own.
    arguments = [*OFFLINE, "--no-sandbox"] if _is_root() else OFFLINE
    for program in candidates():
        try:
            return playwright.chromium.launch(executable_path=program, args=arguments)
        except Error as error:
            lines = [line.strip("╔═╗║╚╝ ") for line in str(error).splitlines()]
            failures.append(f"- {program or 'the browser of playwright'}: " + " ".join(filter(None, lines))[:300])
    return None


def _installers() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "playwright", "install", "chromium"]
    if _is_root() and shutil.which("apt-get"):
        packages = "chromium fonts-dejavu-core fonts-liberation"  # with fonts as wide as those of most readers
        yield ["sh", "-c", f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages}"]


def _run(command: list[str], failures: list[str]) -> bool:
    print("installing a browser:", " ".join(command), file=sys.stderr, flush=True)
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        failures.append(f"- {' '.join(command)}: {error}")
        return False
    if result.returncode:
        lines = (result.stdout + result.stderr).strip().splitlines()
        failures.append(f"- {' '.join(command)}: {next((line for line in lines if 'rror' in line), '')[:300]}")
    return result.returncode == 0


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def main() -> int:
    """Say which browser the checks and the printed book use."""
    try:
        with chromium() as browser:
            print(f"Chromium {browser.version}")
    except NoBrowser as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
