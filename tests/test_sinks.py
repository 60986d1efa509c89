import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, naive, second_moment
from rrome.study.beyond import leading_edits, sink_survey, vocabulary_sample


def test_norms_of_the_survey_are_those_of_full_passes(tiny):
    survey = sink_survey(tiny, ["<|end|>", "e", "no single token"], "Italy").set_index("token")
    assert list(survey.index) == ["", "<|end|>", "e"]
    ids = tiny.tokenizer("Italy")["input_ids"]
    alone = naive.run(tiny, ids, len(ids) - 1)[1].norm().item()
    assert survey.loc["", "norm_behind"] == pytest.approx(alone, rel=1e-4)
    (token,) = tiny.tokenizer("e")["input_ids"]
    assert survey.loc["e", "norm_leading"] == pytest.approx(naive.run(tiny, [token], 0)[1].norm().item(), rel=1e-4)
    behind = naive.run(tiny, [token, *ids], len(ids))[1].norm().item()
    assert survey.loc["e", "norm_behind"] == pytest.approx(behind, rel=1e-4)


def test_the_vocabulary_sample_is_seeded_and_has_the_special_tokens(tiny):
    sample = vocabulary_sample(tiny, 20, seed=1)
    assert sample[0] == "<|end|>" and len(set(sample)) == len(sample) <= 21
    assert sample == vocabulary_sample(tiny, 20, seed=1) != vocabulary_sample(tiny, 20, seed=2)


def test_edits_with_a_leading_token_are_those_of_an_editor_with_it(tiny, texts):
    from dataclasses import replace

    editor = Editor(tiny, second_moment(tiny, texts, None, cache=False), PREFIXES)
    fact = replace(FACTS[0], target_true="Paris")
    before = tiny.site.weight.clone()
    table = leading_edits(editor, [fact], ["", "<|end|>"]).set_index(["leading", "rule"])
    assert torch.equal(tiny.site.weight, before) and len(table) == 6
    for token in ("", "<|end|>"):
        led = Editor(tiny, editor.second_moment, PREFIXES, leading=token or None)
        assert table.loc[(token, "rome"), "delta_frobenius"] == pytest.approx(led.update(fact, "rome").norm, rel=1e-5)
        assert table.loc[(token, "rome"), "norm_original"] == pytest.approx(led.keys(fact).original.norm().item())
