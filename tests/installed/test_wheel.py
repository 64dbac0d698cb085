"""Run by `make test-notebooks` in an empty folder: the package under test is the built wheel, and it is complete."""

import os
import sys
from pathlib import Path

from nbclient import NotebookClient
from nbformat import v4

import companion

CHECKOUT = Path(os.environ["COMPANION_CHECKOUT"])
SITE = CHECKOUT / "build" / "wheel-site"


def files_of(package: Path) -> set[str]:
    return {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(".tmp")
    }


def test_package_is_the_wheel():
    assert Path(companion.__file__).parent == SITE / "companion"


def test_kernels_import_the_wheel():
    cell = v4.new_code_cell("import companion; print(companion.__file__)")
    nb = NotebookClient(v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    assert Path(nb.cells[0].outputs[0].text.strip()).parent == SITE / "companion"


def test_checkout_is_not_importable():
    assert str(CHECKOUT) not in sys.path


def test_wheel_holds_every_file_of_the_package():
    assert files_of(SITE / "companion") == files_of(CHECKOUT / "companion")
