import re
from dataclasses import replace
from xml.etree import ElementTree

import ipywidgets
import pandas as pd
import pytest
import torch
from facts_for_tests import FACTS

from rrome import RULES, Editor, RromeError
from rrome.measure.scores import perplexity, target_nll
from rrome.study.playground import Playground

FACT = replace(
    FACTS[0], paraphrases=("Rome. Italy lies in",), neighbourhood=("Paris is in",), generation=("The old <town>",)
)
PROBE = "The old town lies on the river."


@pytest.fixture
def playground(editor):
    yield Playground(editor, probe=PROBE, examples=[FACT, FACTS[1]], n_generated=4)
    editor.model.edits.set(())


def press(playground, label):
    def buttons(box):
        for child in getattr(box, "children", ()):
            yield from [child] if isinstance(child, ipywidgets.Button) else buttons(child)

    next(button for button in buttons(playground.app) if button.description == label).click()


def tables(playground):
    """The tables on the page, numbers as numbers; the page is well-formed but for control characters a model may say."""
    printable = re.sub(r"[\x00-\x08\x0b-\x1f]", "", playground.result.value)
    page = ElementTree.fromstring(f"<page>{printable}</page>")
    found = []
    for table in page.iter("table"):
        head, *rows = [[cell.text for cell in row] for row in table.iter("tr")]
        frame = pd.DataFrame([row[1:] for row in rows], [row[0] for row in rows], head[1:])
        found.append(frame.map(lambda text: float(text) if re.fullmatch(r"[-+.e\d]+", text) else text))
    return found


@pytest.fixture
def searches(monkeypatch):
    """The searches made from now on."""
    made, search = [], Editor.values
    monkeypatch.setattr(Editor, "values", lambda self, facts: made.append(facts) or search(self, facts))
    return made


def test_the_first_example_stands_in_the_fields_and_another_can_be_picked(playground):
    assert playground.fact == FACT
    playground.example.value = FACTS[1]
    assert playground.fact == FACTS[1]


def test_preflight_names_every_rule_and_changes_nothing(playground, editor):
    before = editor.model.site.weight.clone()
    press(playground, "Preflight")
    (table,) = tables(playground)
    ahead = editor.preflight(FACT)
    assert list(table.index) == list(RULES)
    assert table["amplification"].to_dict() == pytest.approx(ahead.amplification, rel=0.01)
    assert table["denominator"].to_dict() == pytest.approx(ahead.denominator, rel=0.01)
    assert f"cosine of the two keys is {ahead.cosine:.2f}" in playground.result.value
    assert torch.equal(editor.model.site.weight, before)


def test_the_verdict_follows_the_amplification(playground, monkeypatch):
    ahead = playground.editor.preflight(FACT)
    one_key = min(ahead.amplification["r-rome"], ahead.amplification["p-rome"])
    wild = replace(ahead, amplification=dict.fromkeys(RULES, one_key) | {"rome": 6 * one_key, "aoa": 4 * one_key})
    monkeypatch.setattr(Editor, "preflight", lambda self, fact: wild)
    for rule, words in (("rome", "likely to disable the model"), ("aoa", "of an ordinary size")):
        playground.rule.value = rule
        playground.preflight()
        assert f"Under {rule} the edit is <strong>{words}" in playground.result.value
    likely = tables(playground)[0]["the edit is"].str.startswith("likely")
    assert list(likely[likely].index) == ["rome"]


def test_edits_are_applied_counted_and_undone_bit_for_bit(playground, editor):
    before = editor.model.site.weight.clone()
    press(playground, "Edit")
    assert "1 edit in the model" in playground.state.value and not torch.equal(editor.model.site.weight, before)
    after_one = editor.model.site.weight.clone()
    assert "Italy is located in the continent of → Antarctica under r-rome" in playground.state.value
    playground.fill(FACTS[1], "p-rome")
    press(playground, "Edit")
    assert "2 edits in the model" in playground.state.value and "p-rome" in playground.state.value
    press(playground, "Undo last")
    assert torch.equal(editor.model.site.weight, after_one)
    press(playground, "Undo all")
    assert "0 edits in the model" in playground.state.value and torch.equal(editor.model.site.weight, before)


def test_what_is_shown_is_what_the_models_before_and_after_do(playground, editor):
    def measured():
        nll = target_nll(editor.model, [FACT.rewrite] * 2, [FACT.target_new, FACT.target_true])
        return [*nll.neg().exp().tolist(), perplexity(editor.model, [PROBE])]

    before = measured()
    playground.edit()
    numbers, words = tables(playground)
    (update,) = editor.applied_updates
    assert list(numbers.index) == ["‖Δ‖ (Frobenius)", "p(new answer)", "p(true answer)", "ES", "PS", "NS", "perplexity"]
    shown = numbers.loc[["p(new answer)", "p(true answer)", "perplexity"]]
    assert list(shown["before"]) == pytest.approx(before, rel=0.01)
    assert list(shown["after"]) == pytest.approx(measured(), rel=0.01)
    assert numbers.loc["‖Δ‖ (Frobenius)", "after"] == pytest.approx(update.norm, rel=0.01)
    assert list(words.index) == [FACT.rewrite, *FACT.generation] and list(words) == ["before", "after"]
    editor.model.edits.set(())
    assert torch.allclose(update.matrix(), editor.update(FACT, "r-rome").matrix(), rtol=1e-4, atol=1e-7)


def test_another_rule_on_the_same_model_needs_no_new_search(playground, searches):
    for rule in RULES:
        playground.rule.value = rule
        playground.edit()
        playground.undo_all()
    playground.fields["paraphrases"].value = "The continent of Italy is"  # what is measured is no matter of the search
    playground.edit()
    assert len(searches) == 1
    playground.edit()  # the model is another one now
    assert len(searches) == 2


def test_rules_are_compared_without_touching_the_model_and_the_edit_needs_no_search_then(playground, editor, searches):
    before = editor.model.site.weight.clone()
    playground.rule.value = "oao"
    press(playground, "Compare")
    numbers, _ = tables(playground)
    assert list(numbers) == ["now", "rome", "r-rome", "p-rome", "oao"]
    assert torch.equal(editor.model.site.weight, before) and "0 edits in the model" in playground.state.value
    press(playground, "Edit")
    after = tables(playground)[0]["after"]
    assert list(numbers["oao"]) == pytest.approx(list(after), rel=0.01)
    assert len(searches) == 1


def test_the_page_says_what_it_is_doing_and_how_long_it_took(playground):
    said = []
    playground.message.observe(lambda change: said.append(change["new"]), "value")
    playground.edit()
    assert said[:2] == ["Edit: working …", "Edit: searching the value …"] and said[-1].startswith("Edit: done in ")
    said.clear()
    playground.undo_all()
    playground.edit()
    assert "Edit: searching the value …" not in said


def test_what_is_undone_is_shown_no_more(playground):
    for undo in ("Undo last", "Undo all"):
        press(playground, "Edit")
        assert tables(playground)
        press(playground, undo)
        assert playground.result.value == ""


WRONG = [
    ("prompt", "no hole", "{}"),
    ("subject", " ", "subject"),
    ("target_new", "", "target_new"),
    ("target_true", "Antarctica", "nothing to edit"),
]


@pytest.mark.parametrize("field, text, said", WRONG)
def test_a_fact_that_is_none_is_explained_on_the_page(playground, field, text, said):
    playground.fields[field].value = text
    press(playground, "Edit")
    assert playground.message.value.startswith("Edit: <strong>not done</strong>") and said in playground.message.value
    assert "0 edits" in playground.state.value and playground.result.value == ""


def test_an_error_of_the_search_is_its_sentence_and_any_other_is_not_hidden(playground, monkeypatch):
    def fail(error):
        def values(self, facts):
            raise error

        monkeypatch.setattr(Editor, "values", values)

    fail(RromeError("the subject <i>cannot</i> be located"))
    playground.edit()
    assert "the subject &lt;i&gt;cannot&lt;/i&gt; be located" in playground.message.value
    fail(MemoryError())
    with pytest.raises(MemoryError):
        playground.edit()
    assert "stopped by an error" in playground.message.value and "0 edits" in playground.state.value


def test_nothing_to_undo_is_said(playground):
    press(playground, "Undo last")
    assert "nothing to revert" in playground.message.value


def test_a_fact_without_a_true_answer_can_be_edited(playground):
    playground.fill(replace(FACTS[2], target_true=None))
    playground.edit()
    assert list(tables(playground)[0].index) == ["‖Δ‖ (Frobenius)", "p(new answer)", "perplexity"]
    assert "1 edit in" in playground.state.value


@pytest.mark.parametrize("field", ["prompt", "subject", "target_new", "generation"])
def test_what_was_typed_is_escaped(playground, field):
    playground.fields[field].value = "<b>bold</b> {}" if field == "prompt" else "<b>bold</b>"
    for step in ("Preflight", "Compare", "Edit"):
        press(playground, step)
        page = playground.message.value + playground.state.value + playground.result.value
        assert "not done" not in page and "<b>" not in page
    assert "&lt;b&gt;bold" in page


def test_what_was_generated_is_escaped_and_keeps_its_lines(playground, monkeypatch):
    monkeypatch.setattr(
        "rrome.study.examples.generate", lambda model, prompts, *a, **k: ["one <i>\ntwo</i>"] * len(prompts)
    )
    playground.edit()
    assert "<i>" not in playground.result.value and "one &lt;i&gt;\ntwo" in playground.result.value


def test_every_input_has_a_label_and_every_table_headers(playground):
    inputs = [*playground.fields.values(), playground.example, playground.rule]
    assert all(field.description for field in inputs)
    playground.edit()
    page = playground.result.value
    numbers, words = tables(playground)
    assert page.count("<caption") == 2 and page.count('scope="col"') == 6
    assert page.count('scope="row"') == len(numbers) + len(words)


def test_a_playground_of_an_editor_alone_measures_on_the_studies_text(editor):
    playground = Playground(editor)
    assert len(playground.probe) == 600
    playground.edit()  # nothing is typed yet
    assert "not done" in playground.message.value
