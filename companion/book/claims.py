"""The ledger of printed claims: what each draft states, how it is tested, and the verdict a measurement gives.

The claims stand in `claims.toml`, each with the test that decides it, apart from the chapters. A chapter hands its
measured values to `survives`; verdicts are computed from them here and nowhere typed.
"""

from __future__ import annotations

import ast
import html
import math
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from numbers import Real

from nbformat import NotebookNode, v4

from companion.book.predicates import PREDICATES, WORDS

HOLDS, CORRECTED, FAILS = "holds", "holds with correction", "fails as printed"
UNTESTABLE, OPEN = "not testable here", "open"
VERDICTS = (HOLDS, CORRECTED, FAILS, UNTESTABLE, OPEN)
DIGITS = 4  # as shown, and as a notebook keeps them
EXACT_DIGITS = 9  # as compared with a bound when a chapter runs: all that rounding errors leave alone
METADATA_KEY = "companion_claims"
COMPARED = "nbval-check-output"
WIDTH = 88


@dataclass(frozen=True)
class Claim:
    """One printed claim.

    Attributes
    ----------
    id : str
        Draft and place: `P2-thm4.2`.
    place : str
        Where it is printed, in words.
    statement, printed : str
        What is claimed, and the printed value or formula.
    measures : str
        What is measured to decide it.
    test : mapping
        Name and parameter of one predicate of `companion.book.predicates`.
    chapter : str
        The chapter that measures it.
    holds_at, fails_at : float or sequence of float
        A measurement for which the claim holds, and one for which it fails: what the tests feed the predicate. A
        chapter measures at least as many values.
    correction : str
        What holds instead, if it can be said in a sentence.
    corrected_test : mapping
        The predicate that decides the correction, on its own measurement.
    needs : str
        What a test would need that cannot be had here; a claim with this and without a measurement is not testable.
    note : str
        A remark for the ledger.
    """

    id: str
    place: str
    statement: str
    printed: str
    measures: str
    test: Mapping[str, object]
    chapter: str
    holds_at: object
    fails_at: object
    correction: str = ""
    corrected_test: Mapping[str, object] | None = None
    needs: str = ""
    note: str = ""

    @property
    def draft(self) -> str:
        """`P1` or `P2`."""
        return self.id.partition("-")[0]

    @property
    def criterion(self) -> str:
        """The test in words: what a measurement must be for the claim to hold."""
        return _words(self.test)

    @property
    def least(self) -> int:
        """How many values a measurement of this claim has at least."""
        example = self.holds_at["values"] if isinstance(self.holds_at, Mapping) else self.holds_at
        return len(example) if isinstance(example, Sequence) else 1


@dataclass(frozen=True)
class Measurement:
    """What a chapter measured for a claim: values, each with an interval that holds it; shown with four digits.

    Attributes
    ----------
    values : tuple of float
        One number or several.
    low, high : tuple of float
        Ends of the interval around each; equal to the values where no error is stated.

    Raises
    ------
    ValueError
        If there is no value, or a value is not finite or not inside its interval.
    """

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not len(self.values) == len(self.low) == len(self.high):
            raise ValueError(f"a measurement needs values, each with an interval, got {asdict(self)}")
        for value, low, high in zip(self.values, self.low, self.high, strict=True):
            if not -math.inf < low <= value <= high < math.inf:
                raise ValueError(f"a value lies in its interval, got {value!r} and [{low!r}, {high!r}]")

    def __str__(self) -> str:
        """The values as a reader sees them: four digits, intervals in brackets."""
        return ", ".join(map(_range, self.values, self.low, self.high))

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """The intervals as pairs, which is what predicates take."""
        return list(zip(self.low, self.high, strict=True))


@dataclass(frozen=True)
class Finding:
    """A claim with its measurement and the verdict computed from it.

    Attributes
    ----------
    claim : Claim
        The claim.
    printed, corrected : Measurement or None
        What was measured for the statement as printed and for its correction.

    Raises
    ------
    ValueError
        If a measurement has fewer values than the claim is about, or the claim has no correction to be measured.
    """

    claim: Claim
    printed: Measurement | None = None
    corrected: Measurement | None = None

    def __post_init__(self) -> None:
        name, least = self.claim.id, self.claim.least
        for measurement in filter(None, (self.printed, self.corrected)):
            if len(measurement.values) < least:
                raise ValueError(f"{name} is about {least} values or more, got {len(measurement.values)}")
        if self.corrected is not None and self.claim.corrected_test is None:
            raise ValueError(f"{name} has no correction in the ledger, but one was measured")

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`.

        Unresolved claims are open: measured, but the interval holds values for and against.
        """
        if self.printed is None:
            return UNTESTABLE if self.claim.needs else OPEN
        answer = _decide(self.claim.test, self.printed)
        if answer is None:
            return OPEN
        if answer:
            return HOLDS
        if self.corrected is None or self.claim.corrected_test is None:
            return FAILS
        return CORRECTED if _decide(self.claim.corrected_test, self.corrected) else FAILS


def _decide(test: Mapping[str, object], measurement: Measurement) -> bool | None:
    (name, parameter), = test.items()
    return PREDICATES[name](measurement.intervals, parameter)


def _words(test: Mapping[str, object]) -> str:
    (name, parameter), = test.items()
    return WORDS[name](parameter)


def _round(number: float, digits: int = DIGITS) -> float:
    return float(f"{number:.{digits}g}")


def _number(value: float) -> str:
    """Four digits, without an exponent where that is readable."""
    value = _round(value)
    return f"{value:.{DIGITS}g}" if value and not 1e-4 <= abs(value) < 1e6 else f"{value:.10f}".rstrip("0").rstrip(".")


def _range(value: float, low: float, high: float) -> str:
    shown, start, end = map(_number, (value, low, high))
    return shown if shown == start == end else f"{shown} [{start}, {end}]"


def measured(values: float | Sequence[float], error: float | Sequence[float] | None = None) -> Measurement:
    """A measurement, for `assess`.

    Parameters
    ----------
    values : float or sequence of float
        What was measured: a number, a list, an array of one dimension, a series.
    error : float or sequence of float, optional
        Half the width of the interval around each value; none is stated by default.

    Returns
    -------
    Measurement
        Values and intervals.

    Raises
    ------
    ValueError
        If there is no value, something is not a finite number, an error is negative, or the numbers of values and
        errors differ.
    """
    numbers, errors = _numbers(values), [0.0] if error is None else _numbers(error)
    if not numbers or errors is None:
        raise ValueError(f"a measurement needs finite numbers, got {values!r} with error {error!r}")
    errors = errors * len(numbers) if len(errors) == 1 else errors
    if len(errors) != len(numbers) or min(errors) < 0:
        raise ValueError(f"a measurement needs one error >= 0 for all values or for each, got {error!r} for {values!r}")
    ends = [[value + sign * width for value, width in zip(numbers, errors, strict=True)] for sign in (0, -1, 1)]
    return Measurement(*(tuple(_round(number, EXACT_DIGITS) for number in end) for end in ends))


def _numbers(values: object) -> list[float] | None:
    """One number or several as floats; None if something in them is not a finite number."""
    plain = _plain(values)
    several = [_plain(value) for value in plain] if isinstance(plain, list | tuple | range) else [plain]
    if all(isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in several):
        return [float(value) for value in several]
    return None


def _plain(value: object) -> object:
    """Arrays, series, tensors and their scalars as Python lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


@cache
def load() -> dict[str, Claim]:
    """All claims by id, in the order of the ledger.

    Raises
    ------
    ValueError
        If the ledger names a predicate that does not exist, a chapter that is not planned, or an id twice.
    """
    table = tomllib.loads(files("companion.book").joinpath("claims.toml").read_text("utf-8"))
    claims: dict[str, Claim] = {}
    for entry in table["claim"]:
        claim = Claim(**entry)
        for test in filter(None, (claim.test, claim.corrected_test)):
            if len(test) != 1 or not set(test) <= set(PREDICATES):
                raise ValueError(f"{claim.id}: a test is one of {', '.join(PREDICATES)}, got {dict(test)}")
        if claim.chapter not in table["chapters"]:
            raise ValueError(f"{claim.id}: chapter {claim.chapter!r} is not in [chapters]")
        if claim.id in claims:
            raise ValueError(f"{claim.id} stands twice in the ledger")
        claims[claim.id] = claim
    return claims


@cache
def chapters() -> dict[str, str]:
    """Titles of the chapters that test claims, planned ones included, by file name."""
    return tomllib.loads(files("companion.book").joinpath("claims.toml").read_text("utf-8"))["chapters"]


def assess(claim_id: str, printed: object, corrected: object = None) -> Finding:
    """Turn what was measured for one claim into a finding with a verdict.

    Parameters
    ----------
    claim_id : str
        Id in the ledger.
    printed : float, sequence of float or Measurement
        What was measured for the statement as it is printed; None only for a claim that cannot be tested here.
    corrected : float, sequence of float or Measurement, optional
        What was measured for its correction.

    Raises
    ------
    ValueError
        If the ledger has no such claim, nothing was measured, there are fewer values than the claim is about, or the
        claim has no correction to be measured.
    """
    claim = _claim(claim_id)
    if printed is None and not claim.needs:
        raise ValueError(f"{claim_id} can be tested here, but nothing was measured")
    return Finding(claim, _as_measurement(printed), _as_measurement(corrected))


def _claim(claim_id: str) -> Claim:
    if claim_id not in load():
        raise ValueError(f"the ledger has no claim {claim_id!r}; ids look like {next(iter(load()))!r}")
    return load()[claim_id]


def _as_measurement(value: object) -> Measurement | None:
    return value if value is None or isinstance(value, Measurement) else measured(value)


def survives(*findings: Finding) -> Survival:
    """The box *What survives* of a chapter: show it as the last value of a cell.

    Parameters
    ----------
    *findings : Finding
        Made with `assess`, one for each claim.
    """
    return Survival(findings)


class Survival:
    """Findings of a chapter, shown as a table; the notebook keeps the numbers in the metadata of the output."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)

    def __repr__(self) -> str:
        return "\n\n".join(_as_text(finding) for finding in self.findings)

    def _repr_html_(self) -> str:
        rows = "\n".join(_as_row(finding) for finding in self.findings)
        head = "".join(f"<th scope='col'>{name}</th>" for name in ("Claim", "Measured", "Verdict"))
        return f"<table class='claims'>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        records = [as_record(finding) for finding in self.findings]
        return {"text/plain": repr(self), "text/html": self._repr_html_()}, {METADATA_KEY: records}


def _as_text(finding: Finding) -> str:
    claim = finding.claim
    wrap = textwrap.TextWrapper(WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines = [f"Printed: {claim.printed}", *account(finding), f"Verdict: {finding.verdict}"]
    return "\n".join([textwrap.fill(f"{claim.place}. {claim.statement}", WIDTH), *map(wrap.fill, lines)])


def account(finding: Finding) -> list[str]:
    """What is measured, what came out and what it must be for the claim to hold, one sentence for each test."""
    claim = finding.claim
    lines = [f"{claim.measures}: {finding.printed or 'not measured yet'}; holds if {claim.criterion}"]
    if claim.correction:
        seen = finding.corrected or "not measured yet"
        lines.append(f"Instead, {claim.correction}: {seen}; holds if {_words(claim.corrected_test)}")
    if finding.printed is None and claim.needs:
        lines.append(f"It would take {claim.needs}.")
    return [line[0].upper() + line[1:] if re.match("[a-z]{2}", line) else line for line in lines]  # not ρ, t, τ


def _as_row(finding: Finding) -> str:
    claim, escape = finding.claim, html.escape
    what = f"<p><b>{escape(claim.place)}.</b> {escape(claim.statement)}</p>"
    what += f"\n<p><i>Printed:</i> {escape(claim.printed)}</p>"
    seen = "\n".join(f"<p>{escape(line)}</p>" for line in account(finding))
    badge = f"<span class='verdict verdict-{VERDICTS.index(finding.verdict)}'>{finding.verdict}</span>"
    cells = "\n".join(f"<td>{cell}</td>" for cell in (what, seen, badge))
    return f"<tr id='{anchor(claim.id)}'>\n{cells}\n</tr>"


def anchor(claim_id: str) -> str:
    """The fragment under which a chapter's page shows a claim."""
    return f"claim-{claim_id}"


def as_record(finding: Finding) -> dict:
    """A finding as plain data, as a notebook keeps it: numbers as shown, the verdict from the exact ones."""
    parts = {name: part for name in ("printed", "corrected") if (part := getattr(finding, name))}
    kept = {
        name: {key: tuple(map(_round, numbers)) for key, numbers in asdict(part).items()}
        for name, part in parts.items()
    }
    return {"id": finding.claim.id, "verdict": finding.verdict, **kept}


def from_record(record: Mapping[str, object]) -> Finding:
    """A finding from what a notebook keeps; the verdict is computed anew."""
    parts = {
        name: Measurement(**{key: tuple(values) for key, values in record[name].items()})
        for name in ("printed", "corrected")
        if name in record
    }
    return Finding(_claim(record["id"]), **parts)


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
    if finding.printed is None and not finding.claim.needs:
        problems.append(f"{name} is shown but not measured")
    if finding.verdict != record["verdict"]:
        problems.append(f"{name}: {finding.verdict!r} follows from the numbers, not {record['verdict']!r}")
    return problems


def _check_cell(cell: NotebookNode) -> list[str]:
    problems = [] if COMPARED in cell.metadata.get("tags", []) else [f"shows claims but has no tag {COMPARED!r}"]
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
    for call in ast.walk(ast.parse(source)):
        name = isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {"assess": 1, "measured": 0}.get(name)
        if given is None:
            continue
        for value in [*call.args[given:], *(keyword.value for keyword in call.keywords)]:
            names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            if not names - {"claims", "measured"}:
                problems.append(f"types a measurement: {ast.unparse(value)}")
    return problems


def ledger(notebooks: Iterable[NotebookNode]) -> list[Finding]:
    """Every claim of the ledger in its order, with what the given notebooks measured."""
    found = {record["id"]: from_record(record) for nb in notebooks for record in records(nb)}
    return [found.get(claim.id, Finding(claim)) for claim in load().values()]
