from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import naive_value
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, RromeError, naive, second_moment
from rrome.measure.scores import fact_probabilities
from rrome.study.beyond import leading_edits, sink_survey, text_sizes, vocabulary_sample
from rrome.update.rules import RULES

SIZES = [10, 500, 2000]  # the tiny models have d_k = 64 or 128


@pytest.fixture(scope="module")
def table(editor, texts) -> pd.DataFrame:
    return text_sizes(editor, FACTS[:2], texts, SIZES)


def test_each_row_is_the_edit_with_c_0_from_so_many_tokens(editor, texts, table):
    fact, model = FACTS[1], editor.model
    value = naive_value(model, fact)[0]
    for n in SIZES[1:]:
        c_0 = second_moment(model, texts, n, cache=False).matrix
        for rule in ("rome", "r-rome", "p-rome"):
            expected = naive.delta_matrix(model, fact, PREFIXES, c_0, RULES[rule], "", value)
            (row,) = table.query("tokens == @n and fact == 1 and rule == @rule").to_dict("records")
            assert row["delta_frobenius"] == pytest.approx(expected.norm().item(), rel=1e-3)
            assert (row["subject"], row["seconds"] > 0) == (fact.subject, True)


def test_edits_are_measured_with_the_update_of_their_size(editor, texts, table):
    fact, rule = FACTS[0], "r-rome"
    smaller = Editor(editor.model, second_moment(editor.model, texts, 500, cache=False), PREFIXES)
    ((new, true),) = fact_probabilities(editor.model, fact, {rule: smaller.update(fact, rule)})[rule]["rewrite"]
    (row,) = table.query("tokens == 500 and fact == 0 and rule == @rule").to_dict("records")
    assert row["ES"] == float(new > true)


def test_the_direction_settles(editor, texts, table):
    assert (table.loc[table["tokens"].eq(2000), "cosine"] > 0.999999).all()
    directions = [
        second_moment(editor.model, texts, n, cache=False).solve(editor.keys(FACTS[0]).average) for n in SIZES[1:]
    ]
    expected = torch.cosine_similarity(*directions, dim=0).item()
    assert table.query("tokens == 500 and fact == 0")["cosine"].tolist() == pytest.approx([expected] * 3, rel=1e-5)
    assert expected < 0.9999


def test_too_few_tokens_are_a_row_with_the_reason(editor, table):
    refused = table[table["refused"].notna()]
    d_k = editor.model.site.weight.shape[1]
    assert refused["tokens"].tolist() == [10] and f"d_k = {d_k}" in refused["refused"].item()
    assert refused["delta_frobenius"].isna().all()


def test_the_largest_size_must_have_a_c_0(editor, texts):
    with pytest.raises(RromeError, match="text is too short"):
        text_sizes(editor, FACTS[:1], texts, [500, 10**9])


def test_norms_of_the_survey_are_those_of_full_passes(tiny):
    survey = sink_survey(tiny, ["<|end|>", "e", "no single token"], "Italy").set_index("token")
    assert list(survey.index) == ["", "<|end|>", "e"]
    ids = tiny.tokenizer("Italy")["input_ids"]
    alone = naive.run(tiny, ids, len(ids) - 1)[1].norm().item()
    assert survey.loc["", "norm_after"] == pytest.approx(alone, rel=1e-4)
    (token,) = tiny.tokenizer("e")["input_ids"]
    assert survey.loc["e", "norm_leading"] == pytest.approx(naive.run(tiny, [token], 0)[1].norm().item(), rel=1e-4)
    behind = naive.run(tiny, [token, *ids], len(ids))[1].norm().item()
    assert survey.loc["e", "norm_after"] == pytest.approx(behind, rel=1e-4)


def test_the_vocabulary_sample_is_seeded_and_has_the_special_tokens(tiny):
    sample = vocabulary_sample(tiny, 20, seed=1)
    assert sample[0] == "<|end|>" and len(set(sample)) == len(sample) <= 21
    assert sample == vocabulary_sample(tiny, 20, seed=1) != vocabulary_sample(tiny, 20, seed=2)


def test_edits_with_a_leading_token_are_those_of_an_editor_with_it(tiny, editor):
    fact = replace(FACTS[0], target_true="Paris")
    before = tiny.site.weight.clone()
    table = leading_edits(editor, [fact], ["", "<|end|>"]).set_index(["leading", "rule"])
    assert torch.equal(tiny.site.weight, before) and len(table) == 6
    for token in ("", "<|end|>"):
        led = Editor(tiny, editor.second_moment, PREFIXES, leading=token or None)
        assert table.loc[(token, "rome"), "delta_frobenius"] == pytest.approx(led.update(fact, "rome").norm, rel=1e-5)
        assert table.loc[(token, "rome"), "norm_original"] == pytest.approx(led.keys(fact).original.norm().item())
