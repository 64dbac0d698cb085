"""A claim with its measurement, and the verdict computed from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from companion.book.claims.printed import CORRECTED, FAILS, HOLDS, OPEN, UNTESTABLE, Claim, claim_of
from companion.book.claims.measurement import PENDING, Measurement, measured
from companion.book.predicates import PREDICATES


@dataclass(frozen=True)
class Finding:
    """A claim with its measurement and the verdict computed from it.

    Attributes
    ----------
    claim : Claim
        The claim.
    printed, corrected : Measurement or None
        What was measured for the statement as printed and for its correction.
    pending : bool
        The chapter looked for runs in the records and found some missing.

    Raises
    ------
    ValueError
        If a measurement has fewer values than the claim is about, or the claim has no correction to be measured.
    """

    claim: Claim
    printed: Measurement | None = None
    corrected: Measurement | None = None
    pending: bool = False

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


def assess(claim_id: str, printed: object, corrected: object = None) -> Finding:
    """Turn what was measured for one claim into a finding with a verdict.

    Parameters
    ----------
    claim_id : str
        Id in the ledger.
    printed : float, sequence of float, Measurement or PENDING
        What was measured for the statement as it is printed; None only for a claim that cannot be tested here.
        ``PENDING``, from `recorded`, leaves the claim open.
    corrected : float, sequence of float or Measurement, optional
        What was measured for its correction.

    Raises
    ------
    ValueError
        If the ledger has no such claim, nothing was measured, there are fewer values than the claim is about, or the
        claim has no correction to be measured.
    """
    claim = claim_of(claim_id)
    if printed is PENDING:
        return Finding(claim, pending=True)
    if printed is None and not claim.needs:
        raise ValueError(f"{claim_id} can be tested here, but nothing was measured")
    return Finding(claim, _as_measurement(printed), None if corrected is PENDING else _as_measurement(corrected))


def _decide(test: Mapping[str, object], measurement: Measurement) -> bool | None:
    (name, parameter), = test.items()
    return PREDICATES[name](measurement.intervals, parameter)


def _as_measurement(value: object) -> Measurement | None:
    return value if value is None or isinstance(value, Measurement) else measured(value)
