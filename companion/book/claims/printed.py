"""The claims as `claims.toml` has them, and the verdicts there are."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from companion.book.predicates import PREDICATES, WORDS

HOLDS, CORRECTED, FAILS = "holds", "holds with correction", "fails as printed"
UNTESTABLE, OPEN = "not testable here", "open"
VERDICTS = (HOLDS, CORRECTED, FAILS, UNTESTABLE, OPEN)


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
        return words(self.test)

    @property
    def least(self) -> int:
        """How many values a measurement of this claim has at least."""
        example = self.holds_at["values"] if isinstance(self.holds_at, Mapping) else self.holds_at
        return len(example) if isinstance(example, Sequence) else 1


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


def claim_of(claim_id: str) -> Claim:
    if claim_id not in load():
        raise ValueError(f"the ledger has no claim {claim_id!r}; ids look like {next(iter(load()))!r}")
    return load()[claim_id]


def words(test: Mapping[str, object]) -> str:
    (name, parameter), = test.items()
    return WORDS[name](parameter)
