"""The ledger of claims: every predicate decides, every verdict follows from numbers, none can be typed."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4

from companion.book import claims, notebooks, predicates
from companion.book.claims import CORRECTED, FAILS, HOLDS, METADATA_KEY, OPEN, UNTESTABLE, Finding, assess, measured
from companion.book.pairing import read_notebook

BOOK = Path(__file__).parents[1] / "book"
SOURCES = sorted((BOOK / "src").rglob("*.md"))
LEDGER = claims.load()
each_claim = pytest.mark.parametrize("claim", LEDGER.values(), ids=lambda claim: claim.id)
numbers = st.floats(-1e6, 1e6)


def example(value):
    """A measurement from an example of the ledger: a number, several, or values with an error."""
    return measured(**value) if isinstance(value, dict) else measured(value)


def chapter_of(source):
    return notebooks.chapter_name(source).rpartition("/")[2]


def measured_chapters():
    for source in SOURCES:
        nb = read_notebook(notebooks.notebook_of(source, BOOK))
        if claims.records(nb):
            yield pytest.param(nb, chapter_of(source), id=chapter_of(source))


each_chapter = pytest.mark.parametrize(("nb", "chapter"), list(measured_chapters()))


# --- The ledger ------------------------------------------------------------------------------------------------------


def test_ledger_holds_both_drafts():
    drafts = [claim.draft for claim in LEDGER.values()]
    assert set(drafts) == {"P1", "P2"}
    assert len(drafts) >= 90
    assert min(drafts.count("P1"), drafts.count("P2")) >= 30


@each_claim
def test_predicate_tells_a_claim_that_holds_from_one_that_fails(claim):
    verdicts = [Finding(claim, example(value)).verdict for value in (claim.holds_at, claim.fails_at)]
    assert verdicts == [HOLDS, FAILS]


@each_claim
def test_claim_is_complete_plain_text(claim):
    assert re.fullmatch(r"P[12]-[A-Za-z0-9.-]+", claim.id)
    assert claim.place.startswith(claim.draft)
    for text in (claim.statement, claim.measures, claim.printed):
        assert text and text == text.strip()
        assert "$" not in text and "\\" not in text
    assert claim.statement.endswith(".")
    assert (claim.correction == "") == (claim.corrected_test is None)


@each_claim
def test_no_verdict_stands_in_the_ledger(claim):
    text = " ".join(str(value) for value in vars(claim).values())
    assert not any(verdict in text for verdict in (CORRECTED, FAILS, UNTESTABLE))


def test_a_claim_without_a_measurement_is_open_or_says_what_it_needs():
    for claim in LEDGER.values():
        assert Finding(claim).verdict == (UNTESTABLE if claim.needs else OPEN)


def test_the_same_claim_is_not_entered_twice():
    statements = [(claim.place, claim.statement) for claim in LEDGER.values()]
    assert len(set(statements)) == len(statements)


# --- Predicates ------------------------------------------------------------------------------------------------------


@given(numbers, st.floats(0, 1e3), numbers, numbers)
def test_a_bound_decides_unless_it_lies_inside_the_interval(value, error, low, width):
    interval = (value - error, value + error)
    answer = predicates.at_least([interval], low)
    assert answer is (True if low <= interval[0] else False if interval[1] < low else None)
    assert predicates.at_most([interval], low) is not True or answer is not True or interval == (low, low)
    assert predicates.between([interval], (low, low + abs(width))) in (True, False, None)


@given(st.lists(numbers, min_size=1, max_size=5), numbers)
def test_one_value_on_the_wrong_side_is_enough(values, bound):
    assert predicates.at_least([(value, value) for value in values], bound) is all(value >= bound for value in values)
    assert predicates.above([(value, value) for value in values], bound) is all(value > bound for value in values)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6))
def test_order(values):
    points = [(float(value), float(value)) for value in values]
    falls = all(a > b for a, b in zip(values, values[1:], strict=False))
    assert predicates.decreasing(points, 0) is falls
    assert predicates.increasing([(-high, -low) for low, high in points], 0) is falls


def test_order_with_intervals_and_steps():
    assert predicates.increasing([(0, 1), (0.5, 2)], 0) is None
    assert predicates.increasing([(0, 1), (2, 3)], 0.5) is True
    assert predicates.increasing([(0, 1), (2, 3)], 4) is False
    with pytest.raises(ValueError, match="two values or more, got 1"):
        predicates.decreasing([(1, 1)], 0)


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((0.5, 1.5), True), ((-0.5, 1.5), None), ((0.1, 0.9), False), ((-2, -1), False), ((1.3, 2), False)],
)
def test_a_printed_effect_is_reproduced_only_if_no_effect_is_excluded(interval, answer):
    assert predicates.reproduces([interval], {"value": 1.2, "null": 0}) is answer


def test_counts_are_equal_or_not():
    assert predicates.equals([(9, 9)], 9) is True
    assert predicates.equals([(8, 8)], 9) is False
    assert predicates.equals([(8, 10)], 9) is None


def test_every_predicate_can_be_said_in_words():
    assert set(predicates.WORDS) == set(predicates.PREDICATES)


# --- Measurements and verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, [1, math.inf], []])
def test_a_measurement_is_finite(bad):
    with pytest.raises(ValueError, match="needs finite numbers"):
        measured(bad)


@pytest.mark.parametrize("error", [-1, [1, 2, 3], math.nan])
def test_an_error_belongs_to_the_values(error):
    with pytest.raises(ValueError, match="a measurement needs"):
        measured([1, 2], error)


def test_measurements_are_rounded_and_keep_their_intervals():
    assert str(measured([1 / 3, 20000.4], 0.01)) == "0.3333 [0.3233, 0.3433], 20000"
    assert [str(measured(value)) for value in (4, 0, -2.5, 1e-7, 3e9)] == ["4", "0", "-2.5", "1e-07", "3e+09"]


def test_a_correction_needs_its_own_measurement():
    claim = LEDGER["P1-eq5-din"]
    assert assess(claim.id, claim.fails_at).verdict == FAILS
    assert assess(claim.id, claim.fails_at, corrected=[0.97, 0.99]).verdict == CORRECTED
    assert assess(claim.id, claim.fails_at, corrected=[0.97, 0.5]).verdict == FAILS
    assert assess(claim.id, claim.holds_at, corrected=[0.5]).verdict == HOLDS


def test_an_interval_that_allows_both_leaves_a_claim_open():
    assert assess("P2-tab3-qnli", measured(0.6, 1.0)).verdict == OPEN


def test_unknown_claims_and_corrections_are_named():
    with pytest.raises(ValueError, match="no claim 'P3-thm1'"):
        assess("P3-thm1", 1)
    with pytest.raises(ValueError, match="P2-fig3a has no correction"):
        assess("P2-fig3a", 1, corrected=1)


def test_the_box_shows_text_and_table_and_keeps_the_numbers():
    finding = assess("P1-eq5-din", [1.9, 0.5], corrected=[0.97, 0.99])
    data, metadata = claims.survives(finding)._repr_mimebundle_()
    for text in data.values():
        assert "1.9, 0.5" in text and "0.97, 0.99" in text and CORRECTED in text
    assert "id='claim-P1-eq5-din'" in data["text/html"]
    (record,) = json.loads(json.dumps(metadata))[METADATA_KEY]
    assert claims.from_record(record) == finding


# --- Chapters --------------------------------------------------------------------------------------------------------


@each_chapter
def test_chapter_measures_its_claims_and_its_verdicts_follow(nb, chapter):
    assert claims.check(nb, chapter) == []


def test_every_written_chapter_measures_all_its_claims():
    for source in SOURCES:
        nb = read_notebook(notebooks.notebook_of(source, BOOK))
        assert claims.check(nb, chapter_of(source)) == []


@each_chapter
def test_flipping_a_measured_value_flips_the_verdict_and_is_noticed(nb, chapter):
    for number, record in enumerate(claims.records(nb)):
        claim = LEDGER[record["id"]]
        flipped = claim.holds_at if record["verdict"] != HOLDS else claim.fails_at
        other = Finding(claim, example(flipped))
        assert other.verdict != record["verdict"]
        broken = copy.deepcopy(nb)
        claims.records(broken)[number]["printed"] = claims.as_record(other)["printed"]
        assert any(record["id"] in problem for problem in claims.check(broken, chapter))


@each_chapter
def test_the_shown_verdict_is_the_computed_one(nb, chapter):
    (output,) = [
        output for cell in nb.cells for output in cell.get("outputs", []) if METADATA_KEY in output.get("metadata", {})
    ]
    findings = [claims.from_record(record) for record in output.metadata[METADATA_KEY]]
    assert output.data["text/plain"] == repr(claims.survives(*findings))
    assert output.data["text/html"] == claims.survives(*findings)._repr_html_()


@each_chapter
def test_the_box_is_compared_by_the_notebook_tests(nb, chapter):
    (cell,) = [cell for cell in nb.cells if "claims.survives(" in cell.source]
    assert "nbval-check-output" in cell.metadata["tags"]


def test_check_finds_what_is_missing_repeated_and_elsewhere():
    ids = [claim.id for claim in LEDGER.values() if claim.chapter == "marchenko-pastur"]
    found = [claims.as_record(assess(name, LEDGER[name].holds_at)) for name in (*ids[1:], ids[1], "P1-eq7")]
    output = v4.new_output("display_data", data={}, metadata={METADATA_KEY: [*found, {"id": "P9-x", "verdict": HOLDS}]})
    nb = v4.new_notebook(cells=[v4.new_code_cell("", outputs=[output])])
    assert claims.check(nb, "marchenko-pastur") == [
        "P9-x is not in the ledger",
        f"{ids[1]} is measured twice",
        f"{ids[0]} belongs to this chapter but is not measured",
        "P1-eq7 belongs to the chapter 'k-star-printed'",
    ]


def test_ledger_takes_its_measurements_from_the_notebooks():
    books = [read_notebook(notebooks.notebook_of(source, BOOK)) for source in SOURCES]
    findings = claims.ledger(books)
    assert [finding.claim.id for finding in findings] == list(LEDGER)
    assert {finding.claim.id for finding in findings if finding.printed} == {
        record["id"] for nb in books for record in claims.records(nb)
    }
    assert all(finding.printed is None for finding in claims.ledger([]))
