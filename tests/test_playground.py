import re
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import RULES, Editor, RromeError, second_moment
from rrome.measure.scores import perplexity, target_nll
from rrome.study import playground, probe

FACT = replace(
    FACTS[0], paraphrases=("Rome. Italy lies in",), neighbourhood=("Paris is in",), generation=("The old <town>",)
)
ROWS = ["verdict", "‖Δ‖ (Frobenius)", "p(new answer)", "p(true answer)", "ES", "PS", "NS", "perplexity"]


@pytest.fixture(scope="module")
def editor(tiny_llama, texts):
    """One family: the form knows nothing of any."""
    return Editor(tiny_llama, second_moment(tiny_llama, texts, None, cache=False), prefixes=PREFIXES)


@pytest.fixture
def form(editor):
    yield playground(editor, [FACT, FACTS[1]], n_generated=4)
    editor.model.edits.set(())


def go(form, **values):
    """The page after these values are put into the fields and the button is pressed."""
    *fields, button, page = form.children
    for name, value in values.items():
        next(field for field in fields if field.description == name).value = value
    button.click()
    return page.value


def tables(page):
    """The tables on a page, numbers as numbers; the page is well-formed but for control characters a model may generate."""
    printable = re.sub(r"[\x00-\x08\x0b-\x1f]|&nbsp;", "", page)
    found = []
    for table in ElementTree.fromstring(f"<page>{printable}</page>").iter("table"):
        head, *rows = [[cell.text for cell in row] for row in table.iter("tr")]
        frame = pd.DataFrame([row[1:] for row in rows], [row[0] for row in rows], head[1:])
        found.append(frame.map(lambda text: float(text) if re.fullmatch(r"[-+.e\d]+", text) else text))
    return found


@pytest.fixture
def searches(monkeypatch):
    """The searches made from now on."""
    made, search = [], Editor.solve_all
    monkeypatch.setattr(Editor, "solve_all", lambda self, facts: made.append(facts[0]) or search(self, facts))
    return made


def test_preflight_makes_no_search_and_its_verdict_follows_the_amplification(form, editor, searches, monkeypatch):
    (table,) = tables(go(form, step="preflight"))
    ahead = editor.preflight(FACT)
    assert table["amplification"].to_dict() == pytest.approx(ahead.amplification, rel=0.01) and not searches
    assert table["denominator"].to_dict() == pytest.approx(ahead.denominator, rel=0.01)
    one_key = min(ahead.amplification["r-rome"], ahead.amplification["p-rome"])
    wild = replace(ahead, amplification=dict.fromkeys(RULES, one_key) | {"rome": 6 * one_key, "aoa": 4 * one_key})
    monkeypatch.setattr(Editor, "preflight", lambda self, fact: wild)
    likely = tables(go(form))[0]["the edit is"].str.startswith("likely")
    assert list(likely[likely].index) == ["rome"]


def test_edits_are_applied_listed_and_undone_bit_for_bit(form, editor):
    before = editor.model.site.weight.clone()
    assert "model: 1<" in go(form, step="edit") and not torch.equal(editor.model.site.weight, before)
    after_one = editor.model.site.weight.clone()
    page = go(form, example=FACTS[1], rule="p-rome")  # the other example stands in the fields now
    assert "model: 2<" in page and f"{FACT.rewrite} → Antarctica under r-rome" in page
    assert f"{FACTS[1].rewrite} → {FACTS[1].target_new} under p-rome" in page
    go(form, step="undo last")
    assert torch.equal(editor.model.site.weight, after_one)
    assert "model: 0<" in go(form, step="undo all") and torch.equal(editor.model.site.weight, before)
    assert "Not done" in go(form, step="undo last")


def test_what_is_shown_is_what_the_models_before_and_after_do(form, editor):
    def measured():
        nll = target_nll(editor.model, [FACT.rewrite] * 2, [FACT.target_new, FACT.target_true])
        return [*nll.neg().exp().tolist(), perplexity(editor.model, [probe()])]

    weight, before = editor.model.site.weight.clone(), measured()
    _, compared, _ = tables(go(form, step="compare", rule="oao"))
    assert list(compared) == ["before", "rome", "r-rome", "p-rome", "oao"]
    assert torch.equal(editor.model.site.weight, weight)
    _, numbers, texts = tables(go(form, step="edit"))
    (update,) = editor.applied_updates
    assert [name.split(":")[0] for name in numbers.index] == ROWS
    shown = numbers.loc[["p(new answer)", "p(true answer)", "perplexity"]]
    assert list(shown["before"]) == pytest.approx(before, rel=0.01)
    assert list(shown["oao"]) == pytest.approx(measured(), rel=0.01)
    assert numbers.loc["‖Δ‖ (Frobenius)", "oao"] == pytest.approx(update.norm, rel=0.01)
    assert list(texts.index) == [FACT.rewrite, *FACT.generation]
    editor.model.edits.set(())
    assert torch.allclose(update.matrix(), editor.update(FACT, "oao").matrix(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "p_new, times, verdict",
    [
        (0.9, 1.9, "the fact is in, the model is whole"),
        (0.4, 1.9, "the fact is not in, the model is whole"),
        (0.9, 2.1, "the fact is in, the model is broken"),
    ],
)
def test_the_verdict_is_about_the_answer_and_the_perplexity(form, monkeypatch, p_new, times, verdict):
    def said(editor, fact, updates, *others, **options):
        rows = {
            "prompt": fact.rewrite,
            "text": "",
            "entropy_tokens": 1.0,
            "perplexity": [9.0, *[9.0 * times] * len(updates)],
        }
        return pd.DataFrame(rows)

    monkeypatch.setattr("rrome.study.examples.what_it_says", said)
    monkeypatch.setattr(
        "rrome.study.examples.target_nll", lambda model, prompts, *a: torch.full((len(prompts),), p_new).log().neg()
    )
    _, numbers, _ = tables(go(form, step="compare"))
    assert set(numbers.loc["verdict", ["rome", "r-rome", "p-rome"]]) == {verdict}


def test_only_another_fact_or_another_model_needs_a_new_search(form, searches):
    for rule in RULES:
        go(form, rule=rule, step="compare")
    go(form, paraphrases="The continent of Italy is", step="edit")
    assert len(searches) == 1
    go(form)  # the model is another one now
    assert len(searches) == 2


WRONG = [
    ("prompt", "no hole", "{}"),
    ("subject", " ", "subject"),
    ("target_new", "", "target_new"),
    ("target_true", "Antarctica", "nothing to edit"),
]


@pytest.mark.parametrize("field, text, said", WRONG)
def test_a_fact_that_is_none_is_explained_on_the_page(form, field, text, said):
    page = go(form, step="edit", **{field: text})
    assert "<strong>Not done</strong>" in page and said in page and "model: 0<" in page


def test_an_error_of_the_search_is_its_sentence_and_any_other_is_not_hidden(form, monkeypatch, caplog):
    def fail(self, facts):
        raise error

    monkeypatch.setattr(Editor, "solve_all", fail)
    error = RromeError("the subject <i>cannot</i> be located")
    page = go(form, step="edit")
    assert "the subject &lt;i&gt;cannot&lt;/i&gt; be located" in page and "model: 0<" in page
    error = MemoryError()
    page = go(form)
    assert "MemoryError" in caplog.text
    assert "Stopped" in page and "cannot" not in page and "model: 0<" in page


def test_a_fact_without_a_true_answer_can_be_edited(form):
    _, numbers, _ = tables(go(form, step="edit", target_true=" "))
    assert list(numbers.index) == [*ROWS[:3], "perplexity"]


@pytest.mark.parametrize("field", ["prompt", "subject", "target_new", "generation"])
def test_what_was_typed_is_escaped(form, field):
    page = go(form, step="edit", **{field: "<b>bold</b> {}" if field == "prompt" else "<b>bold</b>"})
    assert "Not done" not in page and "<b>" not in page and "&lt;b&gt;bold" in page


def test_what_was_generated_is_escaped_and_keeps_its_lines(form, monkeypatch):
    monkeypatch.setattr(
        "rrome.study.examples.generate", lambda model, prompts, *a, **k: ["one <i>\ntwo</i>"] * len(prompts)
    )
    page = go(form, step="compare")
    assert "<i>" not in page and "one &lt;i&gt;\ntwo" in page


def test_every_input_has_a_label_and_every_table_headers(form):
    assert all(widget.description for widget in form.children[:-1])
    page = go(form, step="compare")
    assert page.count("<caption") == 3 and page.count('class="col_heading') == 4 + 2 * 4


def test_a_form_of_an_editor_alone_is_empty(editor):
    form = playground(editor, n_generated=1)
    assert "Not done" in go(form)
    page = go(form, step="compare", prompt="{} is in", subject="Rome", target_new="Paris")
    assert "perplexity" in page


def test_an_examples_separator_is_the_edits(editor, searches):
    go(playground(editor, [replace(FACT, separator="")], n_generated=2), step="compare")
    assert [fact.separator for fact in searches] == [""]
