"""Where the book lives in public: one URL in `pyproject.toml`, and what follows from it.

    python -m companion.book.repository show
    python -m companion.book.repository set https://github.com/OWNER/NAME
    python -m companion.book.repository unset

From the URL follow the badge and the first code cell of every notebook and the buttons of the site. All of them point
at the tag that is named like the package version, so that a notebook meets the package it was written for.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

PYPROJECT = Path("pyproject.toml")
KEY = "Repository"
GITHUB = re.compile(
    r"(?i:https://github\.com)/(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<name>[A-Za-z0-9._-]+?)(?:\.git)?/?", re.ASCII
)
TABLE = re.compile(r"\s*\[\s*project\s*\.\s*urls\s*\]\s*(#.*)?")
ENTRY = re.compile(rf"""\s*(["']?){KEY}\1\s*=""")
COLAB = "https://colab.research.google.com"
EXTRA = "chapters"  # what a chapter needs and Colab may lack


@dataclass(frozen=True)
class Repository:
    """The public home of the book.

    Attributes
    ----------
    package : str
        Name of the distribution.
    version : str
        Version of the package.
    url : str or None
        `https://github.com/OWNER/NAME`, or None while there is none.
    """

    package: str
    version: str
    url: str | None

    @property
    def tag(self) -> str:
        """The tag that holds this version."""
        return f"v{self.version}"

    @property
    def wheel(self) -> str:
        """File name of the wheel that `make wheel` builds."""
        return f"{re.sub(r'[-_.]+', '_', self.package)}-{self.version}-py3-none-any.whl"

    def colab(self, path: str) -> str | None:
        """Address that opens a notebook of the repository in Colab."""
        return self.url and f"{COLAB}/github/{self.url.removeprefix('https://github.com/')}/blob/{self.tag}/{path}"

    def badge(self, path: str) -> str | None:
        """The badge of a notebook as Markdown, with a picture from the book's own files."""
        up = "../" * (path.count("/") - 1)
        return self.url and f"[![Open in Colab]({up}_static/open-in-colab.svg)]({self.colab(path)})"

    def first_cell(self) -> str:
        """Source of the first code cell: installs the package on Colab and does nothing elsewhere."""
        if self.url:
            comment = "On Colab, installs this book's package and leaves what is there alone. Does nothing elsewhere."
            source = f"git+{self.url}@{self.tag}"
        else:
            comment = "On Colab: run `make wheel` at home, upload build/wheel/*.whl (folder icon, left), run this cell."
            source = f"file:///content/{self.wheel}"
        lines = [f"# {comment}", "import sys", 'if "google.colab" in sys.modules:']
        return "\n".join([*lines, f'    %pip install -q "{self.package}[{EXTRA}] @ {source}"'])


def read(pyproject: Path = PYPROJECT) -> Repository:
    """What `pyproject.toml` says.

    Raises
    ------
    ValueError
        If the URL in it is not of the form that `checked` accepts.
    """
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    url = project.get("urls", {}).get(KEY)
    return Repository(project["name"], project["version"], checked(url) if url else None)


def checked(url: str) -> str:
    """The URL in its plain form, without `.git` and without a slash at the end.

    Raises
    ------
    ValueError
        If it is not the address of a repository on GitHub, the only host whose notebooks Colab opens.
    """
    match = GITHUB.fullmatch(url.strip())
    if match is None or match["name"] in (".", "..") or match["name"].lower().endswith(".git"):
        raise ValueError(f"the repository URL must be https://github.com/OWNER/NAME, got {url!r}")
    return f"https://github.com/{match['owner']}/{match['name']}"


def write(url: str | None, pyproject: Path = PYPROJECT) -> None:
    """Set the URL in `pyproject.toml`, or remove it; nothing else in the file changes.

    Raises
    ------
    ValueError
        If the URL is not accepted, or the file has no table `[project.urls]` in which the URL can stand on one line.
    """
    home = None if url is None else checked(url)
    text = pyproject.read_bytes().decode("utf-8")  # as bytes, so that line ends stay what they are
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines, start=1) if TABLE.fullmatch(line.rstrip())), None)
    if start is None:
        raise ValueError(f"{pyproject} has no table [project.urls]")
    end = next((number for number in range(start, len(lines)) if lines[number].lstrip().startswith("[")), len(lines))
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    new = [*lines[:start], *(line for line in lines[start:end] if not ENTRY.match(line)), *lines[end:]]
    if home:
        new[start - 1] = new[start - 1].rstrip("\r\n") + newline
        new.insert(start, f'{KEY} = "{home}"{newline}')
    if not _differ_in_url_only(text, "".join(new), home):
        raise ValueError(f"{pyproject}: write {KEY} on one line of the table [project.urls], in no other way")
    temporary = pyproject.with_name(pyproject.name + ".tmp")
    temporary.write_bytes("".join(new).encode())
    temporary.replace(pyproject)


def _differ_in_url_only(old: str, new: str, home: str | None) -> bool:
    try:
        before, after = tomllib.loads(old), tomllib.loads(new)
        before["project"]["urls"].pop(KEY, None)
        return after["project"]["urls"].pop(KEY, None) == home and after == before
    except (tomllib.TOMLDecodeError, KeyError):
        return False


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m companion.book.repository`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m companion.book.repository", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="print the URL")
    commands.add_parser("set", help="point everything at another repository").add_argument("url")
    commands.add_parser("unset", help="remove the URL")
    options = parser.parse_args(arguments)
    try:
        if options.command != "show":
            write(getattr(options, "url", None))
        print(read().url or "no repository URL is set")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
