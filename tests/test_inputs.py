"""Inputs and settings of other people's code that must not change a number silently."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from facts_for_tests import FACTS

import rrome
from rrome import Fact, RromeError
from rrome.store import cache_dir

MEASURED = [fact for fact in FACTS if fact.target_true]
PROMPT = "The mother tongue of Albert's uncle is the same as that of {}"


@pytest.mark.parametrize("subject", ["Albert Einstein ", " Albert Einstein", "\tAlbert Einstein\u00a0\n"])
def test_white_space_around_a_subject_changes_nothing(editor, subject):
    plain, spaced = (Fact(PROMPT, text, "Japanese") for text in ("Albert Einstein", subject))
    assert spaced == plain
    assert torch.equal(editor.update(spaced, "r-rome").matrix(), editor.update(plain, "r-rome").matrix())


@pytest.mark.parametrize(
    "setting",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"return_dict_in_generate": True},
        {"temperature": 0.1, "top_p": 0.5},
        {"bad_words_ids": [[5], [6], [7]]},
    ],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("top_k", [1, 5])
def test_a_models_own_generation_settings_change_no_text_and_are_put_back(tiny, setting, top_k):
    expected = rrome.generate(tiny, ["The old town", "A ship"], 12, top_k=top_k)
    own = tiny.lm.generation_config
    before = own.to_dict()
    try:
        for name, value in setting.items():
            setattr(own, name, value)
        assert rrome.generate(tiny, ["The old town", "A ship"], 12, top_k=top_k) == expected
        assert tiny.lm.generation_config is own and all(getattr(own, name) == value for name, value in setting.items())
        with pytest.raises(RromeError):
            rrome.generate(tiny, ["The old town"] * 2, 10**6, top_k=top_k)
        assert tiny.lm.generation_config is own
    finally:
        for name in setting:
            setattr(own, name, before.get(name))


@pytest.mark.parametrize(
    "prompt, reason", [("The town " * 200, "longer than .* reads"), ("", "empty"), (" \n", "empty")]
)
def test_a_generation_prompt_that_cannot_be_continued_is_refused_before_any_search(
    editor, tmp_path, monkeypatch, prompt, reason
):
    monkeypatch.setattr("rrome.edit.editor.find_values", lambda *_: pytest.fail("searched"))
    fact = replace(MEASURED[0], generation=(prompt,))
    with pytest.raises(RromeError, match=f"{fact.subject}.*{reason}"):
        rrome.single_edits(editor, [fact], tmp_path / "study.jsonl")


def test_torchs_global_settings_change_no_update_and_stay(editor):
    expected = editor.update(FACTS[0], "rome")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            made = editor.update(FACTS[0], "rome")
            assert not torch.is_grad_enabled()
        assert torch.equal(made.left, expected.left) and torch.equal(made.right, expected.right)
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = editor.update(FACTS[0], "rome")
        nll = rrome.measure.target_nll(editor.model, ["The old town"], ["river"], [made])
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(made.left, expected.left) and torch.equal(made.right, expected.right)
    assert torch.equal(nll, rrome.measure.target_nll(editor.model, ["The old town"], ["river"], [expected]))


def test_the_cache_folder_is_expanded_and_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("RROME_CACHE", "~/rr")
    assert cache_dir() == Path.home() / "rr"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RROME_CACHE", "mine")
    assert cache_dir() == tmp_path / "mine"


def test_what_a_caller_says_about_a_study_cannot_hide_its_settings(editor, tmp_path):
    with pytest.raises(RromeError, match="must not name settings of the study itself: rename facts"):
        rrome.single_edits(editor, MEASURED[:1], within=tmp_path, about={"facts": "mine"})
    with pytest.raises(RromeError, match="rename rule"):
        rrome.sequential_edits(editor, MEASURED[:1], within=tmp_path, about={"rule": "x"})
    assert not list(tmp_path.iterdir())


def test_a_guarded_editor_and_an_unguarded_one_have_studies_of_their_own(editor, tmp_path):
    few = {"rules": ["p-rome"], "measures": rrome.study.Measures(n_generated=0), "within": tmp_path}
    guarded = rrome.Editor(editor.model, editor.second_moment, editor.prefixes, max_amplification=1e9)
    for one in (editor, guarded):
        rrome.single_edits(one, MEASURED[:1], **few)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_iterators_are_as_good_as_lists_and_single_texts_are_refused(editor, tmp_path):
    from_iterator = rrome.Editor(editor.model, editor.second_moment, iter(editor.prefixes))
    assert from_iterator.prefixes == editor.prefixes
    table = rrome.single_edits(editor, iter(MEASURED[:1]), tmp_path / "a.jsonl", rules=["p-rome"])
    assert set(table["rule"]) == {"unedited", "p-rome"}
    with pytest.raises(RromeError, match="list of prompts, not the single text 'Rome'"):
        rrome.generate(editor.model, "Rome", 3)
    assert rrome.generate(editor.model, [], 3) == [] and rrome.generate(editor.model, ["Rome"], 0) == [""]
    with pytest.raises(RromeError, match="seed: 0 there, 99 now"):
        rrome.study.read_single_edits(tmp_path / "a.jsonl", seed=99)


def test_a_number_of_numpy_is_a_case_id(tmp_path):
    assert Fact("{} is", "Italy", "Rome", case_id=np.int64(3)).to_record()["case_id"] == 3


def test_training_mode_and_autocast_are_refused_where_they_would_change_numbers_unseen(editor, tiny, texts):
    tiny.lm.train()
    try:
        with pytest.raises(RromeError, match="training mode.*eval"):
            editor.update(FACTS[0], "rome")
    finally:
        tiny.lm.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for work in (
            lambda: editor.update(FACTS[0], "rome"),
            lambda: rrome.second_moment(tiny, texts, None, cache=False),
            lambda: rrome.measure.perplexity(tiny, texts),
        ):
            with pytest.raises(RromeError, match="autocast"):
                work()


def test_one_text_is_one_text_for_perplexity_too(tiny, texts):
    assert rrome.measure.perplexity(tiny, texts[0]) == rrome.measure.perplexity(tiny, texts[:1])


def test_no_tokens_to_choose_from_are_refused_not_taken_for_one(tiny):
    with pytest.raises(RromeError, match="top_k"):
        rrome.generate(tiny, ["The old"], 4, top_k=0)


def test_settings_that_turn_the_search_around_are_refused():
    for wrong in ({"clamp": -1.0}, {"learning_rate": -0.5}, {"clamp": np.nan}):
        with pytest.raises(RromeError, match="learning rate"):
            rrome.Search(**wrong)


def test_no_facts_are_no_solutions(editor):
    assert editor.solve_all([]) == []


def test_a_layer_of_numpy_is_a_layer(tiny):
    assert type(tiny.at_layer(np.int64(2)).layer) is int


def test_two_rules_of_one_name_are_refused_and_remembered_keys_are_settings_of_a_study(editor, tmp_path):
    holding, other = (editor.remembering("memit-seq", facts) for facts in (FACTS[1:3], FACTS[2:4]))
    with pytest.raises(RromeError, match="two different rules"):
        editor.updates(FACTS[0], ["memit-seq", holding])
    with pytest.raises(RromeError, match="memit-seq remembers keys of earlier edits"):
        rrome.sequential_edits(editor, MEASURED[:1], tmp_path / "run", rule=holding)
    study = partial(rrome.single_edits, editor, MEASURED[:1], tmp_path / "rows.jsonl")
    sizes = study(rules=[holding])["delta_frobenius"]
    assert study(rules=[holding])["delta_frobenius"].equals(sizes)
    with pytest.raises(RromeError, match="remembered"):
        study(rules=[other])


def test_a_method_that_can_write_nothing_here_is_refused(tiny, editor):
    moment = replace(editor.second_moment, matrix=editor.second_moment.matrix * 1e6)
    with pytest.raises(RromeError, match="no direction.*scaled"):
        rrome.Editor(tiny, moment, prefixes=editor.prefixes).update(FACTS[0], "alphaedit")


def test_a_prompt_too_long_with_its_prefixes_is_refused_before_any_edit(editor, tmp_path):
    long = replace(MEASURED[0], prompt="a " * 240 + "{} is in")
    for study in (
        lambda: rrome.single_edits(editor, [MEASURED[1], long], tmp_path / "rows.jsonl", rules=["rome"]),
        lambda: rrome.sequential_edits(editor, [MEASURED[1], long], tmp_path / "run"),
    ):
        with pytest.raises(RromeError, match="too long"):
            study()
    assert not list(tmp_path.iterdir())


def test_a_run_of_failed_edits_has_its_columns(tiny, editor, tmp_path):
    guarded = rrome.Editor(tiny, editor.second_moment, editor.prefixes, max_amplification=1e-9)
    edits = rrome.sequential_edits(guarded, MEASURED[:2], tmp_path).edits
    assert edits["error"].notna().all() and edits[["delta", "delta_frobenius", "denominator"]].isna().all(axis=None)
