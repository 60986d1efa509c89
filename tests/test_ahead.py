import pytest
from facts_for_tests import FACTS

from rrome import RULES, Fact, RromeError, study
from rrome.model import tokens as prompts


def test_preflights_are_one_row_per_fact(editor):
    table = study.preflights(editor, FACTS)
    assert list(table["subject"]) == [fact.subject for fact in FACTS]
    assert (table[[f"amplification_{rule}" for rule in RULES]] > 0).all(axis=None)
    assert table["position"].iloc[0] == prompts.read_row(editor.model, FACTS[0]).subject


def test_strata_are_seeded_and_told_apart_by_position(tiny):
    facts = [Fact("{} is", name, "Rome", "Paris") for name in ("I", "A", "Bill Gates", "The old town", "O")]
    ordinary, first = study.strata(tiny, facts, 2, 2, seed=1)
    assert {fact.subject for fact in ordinary} == {"Bill Gates", "The old town"}
    assert {fact.subject for fact in first} <= {"I", "A", "O"} and len(first) == 2
    assert (ordinary, first) == study.strata(tiny, facts, 2, 2, seed=1)
    with pytest.raises(RromeError, match="9 ordinary facts asked, the 5 facts hold 2"):
        study.strata(tiny, facts, 9, 1)
