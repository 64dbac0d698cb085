"""Notebooks that the tests ran are kept for the book, if all their cells passed."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat import v4

INSTALLED = Path(__file__).parent / "installed"


def save(path, *sources, old="0"):
    cells = [v4.new_code_cell(source, execution_count=n) for n, source in enumerate(sources, start=1)]
    cells[-1].outputs = [v4.new_output("execute_result", {"text/plain": old}, execution_count=len(cells))]
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("Text"), *cells]), path)


def test_only_a_notebook_whose_cells_all_passed_is_kept_and_with_new_outputs(tmp_path):
    save(tmp_path / "good.ipynb", "x = 20", "print('said')\nx + 1")
    save(tmp_path / "fails.ipynb", "x = 1", "x / 0")
    save(tmp_path / "differs.ipynb", "1", "# NBVAL_CHECK_OUTPUT\n2", old="3")
    options = ["-q", "-p", "no:cacheprovider", "-p", "keep_notebooks", "--nbval-lax", "--nbval-current-env", "-n", "2", "--dist", "loadscope"]
    environment = os.environ | {"PYTHONPATH": str(INSTALLED), "KEPT_NOTEBOOKS": str(tmp_path / "kept")}
    subprocess.run([sys.executable, "-m", "pytest", ".", "--rootdir", ".", *options], cwd=tmp_path, env=environment, check=False)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["good.ipynb"]
    kept = nbformat.read(tmp_path / "kept" / "good.ipynb", 4)
    stream, result = kept.cells[2].outputs
    assert (stream.text, result.data["text/plain"], result.execution_count) == ("said\n", "21", 2)
    assert [cell.source for cell in kept.cells] == ["Text", "x = 20", "print('said')\nx + 1"]
