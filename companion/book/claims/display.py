"""The box *What survives* of a chapter, as text and as a table."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence

from companion.book.claims.finding import Finding
from companion.book.claims.printed import VERDICTS, words
from companion.book.claims.stored import METADATA_KEY, as_record

WIDTH = 88


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
        lines.append(f"Instead, {claim.correction}: {seen}; holds if {words(claim.corrected_test)}")
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
