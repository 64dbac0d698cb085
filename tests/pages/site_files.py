"""The files of a built site, and a server for them."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Pages the site needs that no chapter is the source of.
TOOLS = ("search.html", "genindex.html")


def all_pages(root: Path) -> list[str]:
    """Every page of the site as a path below `root`, without the theme's own files in `_static`."""
    pages = (path.relative_to(root).as_posix() for path in root.rglob("*.html"))
    return sorted(page for page in pages if not page.startswith(("_static/", "_sources/", "_downloads/")))


def is_redirect(root: Path, page: str) -> bool:
    """Whether a page only sends the reader to another one."""
    return bool(re.search(r'http-equiv="refresh"', (root / page).read_text(encoding="utf-8"), re.IGNORECASE))


def shown_pages(root: Path) -> list[str]:
    """The pages a reader can look at: all but redirections."""
    return [page for page in all_pages(root) if not is_redirect(root, page)]


def reading_pages(root: Path) -> list[str]:
    """The pages with text to read: without redirections, the search and the index."""
    return [page for page in shown_pages(root) if page not in TOOLS]


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing when a page is closed before it has got everything."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a folder on a free port of this computer.

    Parameters
    ----------
    root : Path
        The folder.

    Yields
    ------
    str
        The address of the folder, ending in a slash.
    """
    with _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
