from dataclasses import replace

import ipywidgets
import pytest
import torch
from facts_for_tests import FACTS

from rrome import RULES, Editor
from rrome.playground import Playground

FACT = replace(
    FACTS[0], paraphrases=("Rome. Italy lies in",), neighbourhood=("Paris is in",), generation=("The old <town>",)
)


@pytest.fixture
def playground(editor):
    yield Playground(editor, probe="The old town lies on the river.", examples=[FACT, FACTS[1]], n_generated=4)
    editor.model.edits.set(())


def press(playground, label):
    def buttons(box):
        for child in getattr(box, "children", ()):
            yield from [child] if isinstance(child, ipywidgets.Button) else buttons(child)

    next(button for button in buttons(playground.app) if button.description == label).click()


def test_the_first_example_stands_in_the_fields_and_another_can_be_picked(playground):
    assert playground.fact == FACT
    playground.example.value = FACTS[1]
    assert playground.fact == FACTS[1]


def test_preflight_names_every_rule_and_changes_nothing(playground, editor):
    before = editor.model.site.weight.clone()
    press(playground, "Preflight")
    assert all(f"<td>{rule}</td>" in playground.result.value for rule in RULES)
    assert "cosine" in playground.result.value and torch.equal(editor.model.site.weight, before)


def test_edits_are_applied_counted_and_undone_bit_for_bit(playground, editor):
    before = editor.model.site.weight.clone()
    press(playground, "Edit")
    assert "1 edit in the model" in playground.state.value and not torch.equal(editor.model.site.weight, before)
    after_one = editor.model.site.weight.clone()
    for measure in ("p(new answer)", "p(true answer)", "ES", "PS", "NS", "perplexity"):
        assert f"<td>{measure}</td>" in playground.result.value
    playground.fill(FACTS[1], "p-rome")
    press(playground, "Edit")
    assert "2 edits in the model" in playground.state.value and "p-rome" in playground.state.value
    press(playground, "Undo last")
    assert torch.equal(editor.model.site.weight, after_one)
    press(playground, "Undo all")
    assert "0 edits in the model" in playground.state.value and torch.equal(editor.model.site.weight, before)


def test_what_is_shown_is_what_the_update_does(playground, editor):
    playground.edit()
    (shown,) = editor.applied_updates
    editor.model.edits.set(())
    assert torch.allclose(shown.matrix(), editor.update(FACT, "r-rome").matrix(), rtol=1e-4, atol=1e-7)


def test_another_rule_on_the_same_model_needs_no_new_search(playground, monkeypatch):
    searches = []
    search = Editor.values
    monkeypatch.setattr(Editor, "values", lambda self, facts: searches.append(facts) or search(self, facts))
    for rule in ("rome", "r-rome"):
        playground.rule.value = rule
        playground.edit()
        playground.undo_all()
    assert len(searches) == 1
    playground.edit()
    playground.edit()  # the model is another one now
    assert len(searches) == 2


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
    assert playground.message.value.startswith("<strong>Not done:</strong>") and said in playground.message.value
    assert "0 edits" in playground.state.value


def test_nothing_to_undo_is_said(playground):
    press(playground, "Undo last")
    assert "nothing to revert" in playground.message.value


def test_a_fact_without_a_true_answer_can_be_edited(playground):
    playground.fill(replace(FACTS[2], target_true=None))
    playground.edit()
    assert "p(new answer)" in playground.result.value and "p(true answer)" not in playground.result.value
    assert "1 edit in" in playground.state.value


def test_what_was_typed_is_escaped(playground):
    playground.fields["generation"].value = "<b>bold</b>"
    playground.edit()
    assert "<b>bold" not in playground.result.value and "&lt;b&gt;bold" in playground.result.value
