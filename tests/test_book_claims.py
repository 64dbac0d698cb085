"""The ledger of claims: every predicate decides, every verdict follows from numbers, none can be typed."""

import copy
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4

from companion.book import claims, notebooks, predicates
from companion.book.claims import CORRECTED, FAILS, HOLDS, METADATA_KEY, OPEN, UNTESTABLE, Finding, assess, measured, stored
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


def edges(test):
    """A value inside and one outside of what a correction's predicate asks for."""
    ((name, parameter),) = test.items()
    low, high = {
        "between": lambda bounds: tuple(bounds),
        "equals": lambda value: (value, value),
        "at_least": lambda bound: (bound, math.inf),
        "at_most": lambda bound: (-math.inf, bound),
    }[name](parameter)
    inside = (low + high) / 2 if math.isfinite(low + high) else low if math.isfinite(low) else high
    return inside, (high + 1 if math.isfinite(high) else low - 1)


@pytest.mark.parametrize("claim", [claim for claim in LEDGER.values() if claim.correction], ids=lambda claim: claim.id)
def test_predicate_of_a_correction_decides(claim):
    failed = example(claim.fails_at)
    corrections = [measured([value] * claim.least) for value in edges(claim.corrected_test)]
    assert [Finding(claim, failed, other).verdict for other in corrections] == [CORRECTED, FAILS]
    assert Finding(claim, example(claim.holds_at), corrections[1]).verdict == HOLDS


@each_claim
def test_examples_have_the_shape_of_a_measurement(claim):
    assert len(example(claim.holds_at).values) == len(example(claim.fails_at).values) == claim.least


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
    high = low + abs(width)
    other = predicates.at_most([interval], high)
    assert other is (True if interval[1] <= high else False if interval[0] > high else None)
    both = False if False in (answer, other) else True if answer and other else None
    assert predicates.between([interval], (low, high)) is both


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
    [((0.5, 1.5), True), ((-0.5, 1.5), None), ((0.1, 0.9), False), ((-2, -1), False), ((1.3, 2), True),
     ((0, 2), None), ((-3, 1.1), False)],
)  # fmt: skip
def test_a_printed_effect_is_reproduced_only_if_no_effect_is_excluded(interval, answer):
    assert predicates.reproduces([interval], {"value": 1.2, "null": 0}) is answer
    mirrored = [(-interval[1], -interval[0])]
    assert predicates.reproduces(mirrored, {"value": -1.2, "null": 0}) is answer


@pytest.mark.parametrize("name", sorted(set(predicates.PREDICATES) - {"increasing", "decreasing"}))
def test_no_value_decides_nothing(name):
    parameter = {"between": (0, 1), "reproduces": {"value": 1, "null": 0}}.get(name, 1)
    with pytest.raises(ValueError, match="needs a value"):
        predicates.PREDICATES[name]([], parameter)


def test_counts_are_equal_or_not():
    assert predicates.equals([(9, 9)], 9) is True
    assert predicates.equals([(8, 8)], 9) is False
    assert predicates.equals([(8, 10)], 9) is None


def test_every_predicate_can_be_said_in_words():
    assert set(predicates.WORDS) == set(predicates.PREDICATES)


# --- Measurements and verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [math.nan, [1, math.inf], [], "12", ["1", "2"], True, [1, None], None, {1: 2}, {3, 4}, 1j, np.ones((2, 2)),
     pd.DataFrame({0: [1.0], 1: [2.0]}), pd.Series([1.0, None]), np.array(["3"]), np.array([])],
    ids=repr,
)  # fmt: skip
def test_a_measurement_is_finite(bad):
    with pytest.raises(ValueError, match="needs finite numbers"):
        measured(bad)


@pytest.mark.parametrize(
    "given",
    [[1, 2.5], (1, 2.5), np.array([1, 2.5]), np.array([1, 2.5], dtype=np.float32), pd.Series([1, 2.5], index=[7, 3]),
     [np.float64(1), np.array(2.5)], pd.Series([1, 2.5], dtype=object), pd.Series([1, 2.5], dtype="Float64")],
    ids=repr,
)  # fmt: skip
def test_arrays_and_series_are_measurements(given):
    assert measured(given) == measured([1.0, 2.5])
    assert measured([0, 0], given).high == (1, 2.5)


@pytest.mark.parametrize("given", [3, np.int64(3), np.float32(3), np.array(3.0), np.array([3]), range(3, 4)], ids=repr)
def test_one_number_is_a_measurement(given):
    assert measured(given) == measured(3.0)


@pytest.mark.parametrize("error", [-1, [1, 2, 3], math.nan])
def test_an_error_belongs_to_the_values(error):
    with pytest.raises(ValueError, match="a measurement needs"):
        measured([1, 2], error)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [((), (), ()), ((1.0,), (1.0, 1.0), (1.0,)), ((1.9,), (1.0,), (1.0,)), ((1.0,), (2.0,), (0.0,)),
     ((math.nan,), (0.0,), (1.0,)), ((0.0,), (-math.inf,), (1.0,))],
)  # fmt: skip
def test_a_value_lies_in_its_interval(value, low, high):
    with pytest.raises(ValueError, match="interval"):
        claims.Measurement(value, low, high)


def test_rounding_flatters_no_verdict():
    finding = assess("P2-lemF.1", 0.100004)
    assert str(finding.printed) == "0.1" and finding.verdict == FAILS
    assert assess("P2-lemF.1", 0.1 + 1e-15).verdict == HOLDS
    assert claims.check(box(finding), "tucker")[-1] == f"P2-lemF.1: {HOLDS!r} follows from the numbers, not {FAILS!r}"


def test_measurements_are_rounded_and_keep_their_intervals():
    assert str(measured([1 / 3, 20000.4], 0.01)) == "0.333 [0.323, 0.343], 20000"
    assert [str(measured(value)) for value in (4, 0, -2.5, 1e-7, 3e9)] == ["4", "0", "-2.5", "1e-07", "3e+09"]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [(0.06784, 0.00427, "0.0678 [0.0636, 0.0721]"), (0.5, 0.05, "0.500 [0.450, 0.550]"), (1.2345, 0.5, "1.23 [0.73, 1.73]"),
     (12.34, 0.006, "12.34 [12.33, 12.35]"), (23456, 1234, "23500 [22200, 24700]"), (0.001, 0.05, "0.001 [-0.049, 0.051]"),
     (-0.0001, 0.25, "0.00 [-0.25, 0.25]"), (3.21e-7, 1.2e-8, "3.21e-07 [3.09e-07, 3.33e-07]"), (4, 0, "4"),
     (0.99999, 0.02, "1.000 [0.980, 1.020]"), (98.5, 7.5, "98.5 [91.0, 106.0]"), (5, 1e-12, "5")],
)  # fmt: skip
def test_a_value_has_the_digits_that_its_error_allows(value, error, shown):
    measurement = measured(value, error)
    assert str(measurement) == shown
    kept = claims.as_record(assess("P2-tab3-qnli", measurement))
    assert str(claims.from_record(kept).printed) == shown


def test_a_correction_needs_its_own_measurement():
    claim = LEDGER["P1-eq5-din"]
    assert assess(claim.id, claim.fails_at).verdict == FAILS
    assert assess(claim.id, claim.fails_at, corrected=[0.97, 0.99, 1]).verdict == CORRECTED
    assert assess(claim.id, claim.fails_at, corrected=[0.97, 0.99, 0.5]).verdict == FAILS
    assert assess(claim.id, claim.fails_at, corrected=measured([0.97, 0.99, 1], 0.2)).verdict == FAILS
    assert assess(claim.id, claim.holds_at, corrected=[0.5, 0.5, 0.5]).verdict == HOLDS


def test_a_claim_about_several_cases_is_not_decided_by_one():
    for few in ({"printed": 1.0}, {"printed": [1.9, 0.5, 0.2], "corrected": [1.0, 1.0]}):
        with pytest.raises(ValueError, match="P1-eq5-din is about 3 values or more, got [12]"):
            assess("P1-eq5-din", **few)


def test_a_claim_cannot_be_left_open_by_handing_over_nothing():
    with pytest.raises(ValueError, match="P2-lemF.1 can be tested here, but nothing was measured"):
        assess("P2-lemF.1", None)
    assert assess("P2-tab3-full", None).verdict == UNTESTABLE


@pytest.mark.parametrize("missing", [(np.nan,), ([],), ([1.0, np.nan],), (1.0, np.nan), (np.array([np.nan, 2.0]),), (None,)])
def test_a_run_that_is_not_recorded_leaves_a_claim_open_and_says_so(missing):
    finding = assess("P2-sec6.3-glue", claims.recorded(*missing))
    assert finding.verdict == OPEN and finding.pending and "not measured yet" in str(claims.account(finding))
    record = claims.as_record(finding)
    assert claims.from_record(record) == finding and stored._check_record(record, "spectral-lora-on-glue") == []
    del record["pending"]
    assert stored._check_record(record, "spectral-lora-on-glue") == ["P2-sec6.3-glue is shown but not measured"]
    assert claims.recorded([0.5, 0.25], 0.1) == claims.measured([0.5, 0.25], 0.1)


def test_pending_cannot_be_typed():
    for source in ("claims.PENDING", "PENDING", "claims.recorded(None)", "claims.recorded([])"):
        cell = v4.new_code_cell(f"claims.survives(claims.assess('P2-sec6.3-glue', {source}))", metadata={"tags": [claims.COMPARED]})
        assert any("types a measurement" in problem for problem in stored._check_cell(cell)), source


def test_symbols_keep_their_case_at_the_start_of_a_sentence():
    starts = {claims.account(Finding(LEDGER[name]))[0][0] for name in ("P1-thm1-proof", "P2-sec6.2-t")}
    assert starts == {"τ", "t"}


def test_an_interval_that_allows_both_leaves_a_claim_open():
    assert assess("P2-tab3-qnli", measured(0.6, 1.0)).verdict == OPEN


def test_unknown_claims_and_corrections_are_named():
    with pytest.raises(ValueError, match="no claim 'P3-thm1'"):
        assess("P3-thm1", 1)
    with pytest.raises(ValueError, match="P2-fig3a has no correction"):
        assess("P2-fig3a", 1, corrected=1)


def test_the_box_shows_text_and_table_and_keeps_the_numbers():
    finding = assess("P1-eq5-din", [1.9, 0.5, 1 / 3], corrected=[0.97, 0.99, 1])
    data, metadata = claims.survives(finding)._repr_mimebundle_()
    for text in data.values():
        assert "1.9, 0.5, 0.3333" in text and "0.97, 0.99" in text and CORRECTED in text
    assert "id='claim-P1-eq5-din'" in data["text/html"]
    (record,) = json.loads(json.dumps(metadata))[METADATA_KEY]
    again = claims.from_record(record)
    assert claims.as_record(again) == claims.as_record(finding)
    assert repr(claims.survives(again)) == data["text/plain"]


def test_the_box_escapes_what_it_shows():
    strange = dataclasses.replace(LEDGER["P2-lemF.1"], statement="a < b & 'c'.", printed="<script>")
    text = claims.survives(Finding(strange, measured(1)))._repr_html_()
    assert "a &lt; b &amp; &#x27;c&#x27;." in text and "&lt;script&gt;" in text and "<script" not in text


def box(*findings, source="", tags=("nbval-check-output",)):
    """A notebook with one cell that shows findings."""
    kept = {METADATA_KEY: [claims.as_record(finding) for finding in findings]}
    output = v4.new_output("display_data", data={}, metadata=kept)
    return v4.new_notebook(cells=[v4.new_code_cell(source, outputs=[output], metadata={"tags": list(tags)})])


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
    nb = box()
    nb.cells[0].outputs[0].metadata[METADATA_KEY] = [*found, {"id": "P9-x", "verdict": HOLDS}]
    assert claims.check(nb, "marchenko-pastur") == [
        "P9-x is not in the ledger",
        f"{ids[1]} is measured twice",
        f"{ids[0]} belongs to this chapter but is not measured",
        "P1-eq7 belongs to the chapter 'k-star-printed'",
    ]


def problems_of(nb, name):
    return [problem for problem in claims.check(nb, LEDGER[name].chapter) if "but is not measured" not in problem]


def test_check_refuses_a_box_that_is_not_compared():
    name = "P2-lemF.1"
    finding = assess(name, LEDGER[name].fails_at)
    assert problems_of(box(finding), name) == []
    assert problems_of(box(finding, tags=[]), name) == ["cell 1 shows claims but has no tag 'nbval-check-output'"]


@pytest.mark.parametrize(
    ("call", "typed"),
    [
        ("claims.assess('P2-lemF.1', error)", None),
        ("claims.assess('P2-lemF.1', claims.measured(100 * gain, half.max()))", None),
        ("claims.assess('P2-lemF.1', [a, b], corrected=c)", None),
        ("claims.assess('P2-lemF.1', 0.97)", "0.97"),
        ("claims.assess('P2-lemF.1', a, corrected=[1, 1])", "[1, 1]"),
        ("assess('P2-lemF.1', printed=-1.5)", "-1.5"),
        ("claims.measured(gain, error=0.01)", "0.01"),
    ],
)
def test_check_refuses_a_typed_measurement(call, typed):
    nb = box(assess("P2-lemF.1", 0.97), source=f"%matplotlib inline\nclaims.survives({call})")
    expected = [f"cell 1 types a measurement: {typed}"] if typed else []
    assert problems_of(nb, "P2-lemF.1") == expected


@pytest.mark.parametrize(
    "part", [None, {"values": [9], "low": [0], "high": [0]}, {"values": [1]}, {"values": [], "low": [], "high": []}]
)
def test_check_names_a_record_that_is_no_measurement(part):
    nb = box(assess("P2-lemF.1", 0.97))
    record = claims.records(nb)[0]
    record.pop("printed") if part is None else record.update(printed=part)
    assert all(problem.startswith("P2-lemF.1") for problem in problems_of(nb, "P2-lemF.1"))
    assert problems_of(nb, "P2-lemF.1") != []


def test_ledger_takes_its_measurements_from_the_notebooks():
    books = [read_notebook(notebooks.notebook_of(source, BOOK)) for source in SOURCES]
    findings = claims.ledger(books)
    assert [finding.claim.id for finding in findings] == list(LEDGER)
    assert {finding.claim.id for finding in findings if finding.printed} == {
        record["id"] for nb in books for record in claims.records(nb) if "printed" in record  # else a run is missing
    }
    assert all(finding.printed is None for finding in claims.ledger([]))
