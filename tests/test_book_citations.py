"""The citations of the two drafts: the data are sound, and the page of the bibliography says what they say."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CITATIONS = tomllib.loads((ROOT / "companion" / "book" / "citations.toml").read_text("utf-8"))["citation"]
PAGE = (ROOT / "book" / "reference" / "bibliography.md").read_text("utf-8")
BIBLIOGRAPHY = (ROOT / "book" / "references.bib").read_text("utf-8")
ENTRIES = dict(re.findall(r"^@\w+\{([^,\s]+),\n(.*?)^\}", BIBLIOGRAPHY, re.MULTILINE | re.DOTALL))

DRAFTS = ("P1", "P2")
FIELDS = ["draft", "place", "cited_as", "cited_for", "problem", "finding", "right", "confirmed"]
SOUND = "none"
PROBLEMS = {"wrong work", "wrong details", "does not say so", "not listed", "never cited"}
MEMORY = "from memory"
CONFIRMED = {
    "public bibliography files",
    "proceedings or publisher page",
    "its abstract",
    "public pages or code on the work",
    "a short calculation",
    "the draft itself",
    MEMORY,
}


def of(draft, problems=frozenset({SOUND, *PROBLEMS})):
    return [citation for citation in CITATIONS if citation["draft"] == draft and citation["problem"] in problems]


def row(citation):
    """What the page prints for a citation with a problem."""
    mark = " †" if MEMORY in citation["confirmed"] else ""
    right = f"{{cite:t}}`{','.join(citation['right'])}`" if citation["right"] else "–"
    cited = f"**{citation['cited_as']}** {citation['cited_for']}"
    finding = f"*{citation['problem'].capitalize()}.* {citation['finding']}{mark}"
    return f"| {citation['place']} | {cited} | {finding} | {right} |"


def rows(section):
    """The body of the table below a heading of the page."""
    _, _, text = PAGE.partition(f"\n### {section}\n")
    lines = [line for line in re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines() if line[:1] == "|"]
    assert lines[1:2] == ["|---|---|---|---|"]
    return lines[2:]


def name(citation):
    return f"{citation['draft']} {citation['place']} {citation['cited_as']}"


@pytest.mark.parametrize("citation", CITATIONS, ids=name)
def test_citation_is_complete_and_its_values_are_allowed(citation):
    assert list(citation) == FIELDS
    assert citation["draft"] in DRAFTS
    assert citation["problem"] in {SOUND, *PROBLEMS}
    assert citation["finding"].endswith(".")
    assert set(citation["confirmed"].split("; ")) <= CONFIRMED
    texts = [citation[field] for field in FIELDS if field != "right"]
    assert all(text == text.strip() != "" and "|" not in text and "\n" not in text for text in texts)


@pytest.mark.parametrize("citation", CITATIONS, ids=name)
def test_correct_works_are_in_the_bibliography(citation):
    right = citation["right"] + re.findall(r"\{cite:[pt]\}`([^`]*)`", citation["finding"])
    assert [key for key in right if key not in ENTRIES] == []
    assert len(set(right)) == len(right)
    assert citation["right"] or citation["problem"] in PROBLEMS


def test_no_citation_stands_twice():
    count = Counter((c["draft"], c["place"], c["cited_as"], c["cited_for"]) for c in CITATIONS)
    assert [key for key, times in count.items() if times > 1] == []


@pytest.mark.parametrize("draft, section", [("P1", "The first draft, P1"), ("P2", "The second draft, P2")])
def test_page_holds_every_citation_with_a_problem_and_nothing_else(draft, section):
    assert rows(section) == [row(citation) for citation in of(draft, PROBLEMS)]


def test_page_has_no_other_table():
    table = [line for line in PAGE.splitlines() if line[:1] == "|"]
    assert len(table) == len(DRAFTS) * 2 + sum(len(of(draft, PROBLEMS)) for draft in DRAFTS)


def test_page_counts_right():
    checked = [f"{len(of(draft))} citations of {draft}" for draft in DRAFTS]
    problems = [f"{len(of(draft, PROBLEMS))}" for draft in DRAFTS]
    assert f"We checked {' and '.join(checked)}; {' and '.join(problems)} of them have a problem." in PAGE


def test_page_explains_every_problem():
    assert set(re.findall(r"^(.+)\n: ", PAGE, re.MULTILINE)) == {problem.capitalize() for problem in PROBLEMS}


def test_keys_of_the_bibliography_are_unique():
    keys = re.findall(r"^@\w+\{([^,\s]+),", BIBLIOGRAPHY, re.MULTILINE)
    assert len(set(keys)) == len(keys) == len(ENTRIES)


@pytest.mark.parametrize("key", ENTRIES)
def test_entry_of_the_bibliography_is_complete(key):
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", ENTRIES[key], re.MULTILINE))
    assert {"author", "title", "year"} <= set(fields)
    assert re.fullmatch(r"\d{4}", fields["year"])
    doi = fields.get("doi", "10.1000/none")
    assert re.fullmatch(r"10\.\d{4,5}/[^\s{}]+", doi)
    assert fields.get("url", "https://").startswith("https://")
    assert ENTRIES[key].count("\n") == len(fields)
