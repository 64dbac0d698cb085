"""Run by `make test-colab` in an environment with Colab's versions: the first cell of a notebook as Colab runs it.

The repository is a local one that git finds under a public address, so that pip does what it would do on Colab. The
package stays installed: the notebooks run with it afterwards.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import v4

CHECKOUT = Path(os.environ["COMPANION_CHECKOUT"])
URL = "https://github.com/example/spectral-lora"
NAME = "spectral-lora-companion"


def installed():
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {entry["name"].lower(): entry["version"] for entry in json.loads(listing.stdout)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A public repository with the files of this checkout, repointed and tagged."""
    folder = tmp_path_factory.mktemp("repository")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    tools = os.environ["COMPANION_PYTHON"]
    subprocess.run([tools, "-m", "companion.book.repository", "set", URL], cwd=folder, check=True)
    subprocess.run([tools, "-m", "companion.book.notebooks", "stamp"], cwd=folder, check=True)
    version = re.search(r'^version = "(.+)"$', (folder / "pyproject.toml").read_text("utf-8"), re.MULTILINE).group(1)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "test"], ["tag", f"v{version}"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture
def colab(tmp_path, repository, monkeypatch):
    """Kernels think that they run on Colab, and git finds the repository under its public address."""
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text("import google.colab\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", URL)
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-qy", NAME], check=True)


def first_cell(folder):
    notebook = json.loads((folder / "book" / "marchenko-pastur.ipynb").read_text("utf-8"))
    return "".join(next(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"))


def run(source, folder):
    nb = v4.new_notebook(cells=[v4.new_code_cell(source)])
    NotebookClient(nb, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(output.get("text", "") for output in nb.cells[0].outputs)


def test_elsewhere_the_first_cell_does_nothing(tmp_path, repository):
    assert "git+" in first_cell(repository)
    before = installed()
    assert run(first_cell(repository), tmp_path) == ""
    assert installed() == before


def test_without_a_url_the_first_cell_installs_the_uploaded_wheel(tmp_path, colab):
    source = first_cell(CHECKOUT)
    assert "make wheel" in source and "git+" not in source and "http" not in source
    wheel = next((CHECKOUT / "build" / "wheel").glob("*.whl"))
    assert wheel.name in source
    before = installed()
    run(source.replace("/content/", f"{wheel.parent}/"), tmp_path)
    after = installed()
    assert NAME in after
    assert {name: version for name, version in after.items() if name in before} == before


def test_a_tag_that_is_missing_is_named(tmp_path, colab, repository):
    source = re.sub(r"@v[\d.]+", "@v99.0", first_cell(repository))
    try:
        said = run(source, tmp_path)
    except CellExecutionError as error:
        said = str(error)
    assert "v99.0" in said
    assert NAME not in installed()


# The last one: the notebooks run with what it leaves behind.
def test_with_a_url_the_first_cell_installs_the_tag_and_touches_nothing_else_also_twice(tmp_path, colab, repository):
    before = installed()
    assert NAME not in before
    run(first_cell(repository), tmp_path)
    after = installed()
    assert {name: version for name, version in after.items() if name in before} == before
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in listing.splitlines() if line.startswith(NAME)]
    tagged = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    assert line.endswith(tagged.stdout.strip())
    run(first_cell(repository), tmp_path)
    assert installed() == after
