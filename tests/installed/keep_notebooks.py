"""pytest plugin: notebooks that nbval ran from start to end are written, with their new outputs, to $KEPT_NOTEBOOKS.

`make test-notebooks` gives them to `make book`, which then need not run the same chapters again.
"""

import os
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

_left: Counter[IPyNbFile] = Counter()  # cells of each notebook that have not passed yet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the cells."""
    _left.update(item.parent for item in items if isinstance(item, IPyNbCell))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Put the outputs of a cell that passed into the notebook; after its last cell, write it."""
    outcome = yield
    if not isinstance(item, IPyNbCell) or call.when != "call" or not outcome.get_result().passed:
        return
    item.cell.outputs = item.test_outputs
    for output in item.cell.outputs:
        if output.output_type == "execute_result":  # numbered anew, as the committed cells are
            output.execution_count = item.cell.execution_count
    _left[item.parent] -= 1
    if not _left[item.parent]:
        path = Path(os.environ["KEPT_NOTEBOOKS"], Path(item.parent.fspath).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        nbformat.write(item.parent.nb, temporary)
        temporary.replace(path)
