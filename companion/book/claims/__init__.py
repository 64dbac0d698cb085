"""The ledger of printed claims: what each draft states, how it is tested, and the verdict a measurement gives.

The claims stand in `claims.toml`, each with the test that decides it, apart from the chapters. A chapter hands its
measured values to `survives`; verdicts are computed from them here and nowhere typed.
"""

from companion.book.claims.display import Survival, account, anchor, survives
from companion.book.claims.finding import Finding, assess
from companion.book.claims.measurement import DIGITS, EXACT_DIGITS, PENDING, Measurement, measured, recorded
from companion.book.claims.printed import CORRECTED, FAILS, HOLDS, OPEN, UNTESTABLE, VERDICTS, Claim, chapters, load
from companion.book.claims.stored import COMPARED, METADATA_KEY, as_record, check, from_record, ledger, records

__all__ = [
    "COMPARED", "CORRECTED", "DIGITS", "EXACT_DIGITS", "FAILS", "HOLDS", "METADATA_KEY", "OPEN", "PENDING", "UNTESTABLE",
    "VERDICTS", "Claim", "Finding", "Measurement", "Survival", "account", "anchor", "as_record", "assess", "chapters", "check",
    "from_record", "ledger", "load", "measured", "recorded", "records", "survives",
]  # fmt: skip
