"""Findings as notebooks keep them, and what is checked of every notebook that has some."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from nbformat import NotebookNode, v4

from companion.book.claims.finding import Finding
from companion.book.claims.printed import claim_of, load
from companion.book.claims.measurement import Measurement, rounded

METADATA_KEY = "companion_claims"
COMPARED = "nbval-check-output"


def as_record(finding: Finding) -> dict:
    """A finding as plain data, as a notebook keeps it: numbers as shown, the verdict from the exact ones."""
    parts = {name: part for name in ("printed", "corrected") if (part := getattr(finding, name))}
    kept = {
        name: {key: tuple(map(rounded, numbers)) for key, numbers in asdict(part).items()}
        for name, part in parts.items()
    }
    pending = {"pending": True} if finding.pending else {}
    return {"id": finding.claim.id, "verdict": finding.verdict, **pending, **kept}


def from_record(record: Mapping[str, object]) -> Finding:
    """A finding from what a notebook keeps; the verdict is computed anew."""
    parts = {
        name: Measurement(**{key: tuple(values) for key, values in record[name].items()})
        for name in ("printed", "corrected")
        if name in record
    }
    return Finding(claim_of(record["id"]), **parts, pending=record.get("pending", False))


def records(nb: NotebookNode) -> list[dict]:
    """What the outputs of a notebook keep about claims, in order."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    return [record for output in outputs for record in output.get("metadata", {}).get(METADATA_KEY, [])]


def check(nb: NotebookNode, chapter: str) -> list[str]:
    """What is wrong with the claims of a chapter's notebook, one sentence each.

    Parameters
    ----------
    nb : NotebookNode
        The notebook with outputs.
    chapter : str
        File name of the chapter, without extension.

    Returns
    -------
    list of str
        Claims of another chapter, missing and repeated ones, verdicts that do not follow from the numbers (rounding
        included), measurements that are typed, and boxes that the tests of the notebooks do not compare.
    """
    found = records(nb)
    ids = [record["id"] for record in found]
    expected = [claim.id for claim in load().values() if claim.chapter == chapter and not claim.needs]
    problems = [f"{name} is not in the ledger" for name in ids if name not in load()]
    problems += [f"{name} is measured twice" for name in sorted(set(ids)) if ids.count(name) > 1]
    problems += [f"{name} belongs to this chapter but is not measured" for name in expected if name not in ids]
    for record in found:
        if record["id"] in load():
            problems += _check_record(record, chapter)
    for number, cell in enumerate(nb.cells, start=1):
        if records(v4.new_notebook(cells=[cell])):
            problems += [f"cell {number} {problem}" for problem in _check_cell(cell)]
    return problems


def _check_record(record: Mapping[str, object], chapter: str) -> list[str]:
    name, problems = record["id"], []
    try:
        finding = from_record(record)
    except (TypeError, ValueError) as error:
        return [f"{name}: {error}"]
    if finding.claim.chapter != chapter:
        problems.append(f"{name} belongs to the chapter {finding.claim.chapter!r}")
    if finding.printed is None and not finding.claim.needs and not finding.pending:
        problems.append(f"{name} is shown but not measured")
    if finding.verdict != record["verdict"]:
        problems.append(f"{name}: {finding.verdict!r} follows from the numbers, not {record['verdict']!r}")
    return problems


def _check_cell(cell: NotebookNode) -> list[str]:
    problems = [] if COMPARED in cell.metadata.get("tags", []) else [f"shows claims but has no tag {COMPARED!r}"]
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
    for call in ast.walk(ast.parse(source)):
        name = isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {"assess": 1, "measured": 0, "recorded": 0}.get(name)
        if given is None:
            continue
        for value in [*call.args[given:], *(keyword.value for keyword in call.keywords)]:
            names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            if not names - {"claims", "measured", "recorded", "PENDING"}:
                problems.append(f"types a measurement: {ast.unparse(value)}")
    return problems


def ledger(notebooks: Iterable[NotebookNode]) -> list[Finding]:
    """Every claim of the ledger in its order, with what the given notebooks measured."""
    found = {record["id"]: from_record(record) for nb in notebooks for record in records(nb)}
    return [found.get(claim.id, Finding(claim)) for claim in load().values()]
