"""One record of edits per language model, wherever it is reached from; nothing of an edited model is taken for clean."""

import copy
from dataclasses import replace

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, make_model

import rrome
from rrome import EditLog, Editor, RromeError, second_moment

MEASURED = [fact for fact in FACTS if fact.target_true]


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    """A tiny model of its own for one test."""
    return make_model(FAMILIES[request.param])


@pytest.fixture
def editor(model, texts):
    return editor_of(model, texts)


def editor_of(model, texts):
    return Editor(model, second_moment(model, texts, None, cache=False), prefixes=PREFIXES)


def test_an_edit_is_seen_through_every_handle_of_the_model(model, editor):
    update = editor.update(FACTS[0], "rome")
    before = rrome.wrap(model.lm, model.tokenizer, 1)
    editor.apply(update)
    other = rrome.wrap(model.lm, model.tokenizer, 1)
    for handle in (model, before, model.at_layer(2).at_layer(1), other):
        assert handle.edits.updates == (update,) and handle.edits.distance > 0
    assert other.fingerprint == model.fingerprint and len(model.at_layer(2).edits) == 0
    other.edits.take_out(update)
    assert len(model.edits) == 0 and model.edits.distance == 0


def test_undoing_through_one_handle_leaves_the_edits_of_another(model, editor):
    first, second = (editor.update(fact, "r-rome") for fact in FACTS[:2])
    editor.apply(first)
    alone = model.site.weight.clone()
    other = rrome.wrap(model.lm, model.tokenizer, 1)
    other.edits.put(second)
    other.edits.take_out()
    assert torch.equal(model.site.weight, alone) and model.edits.updates == (first,)


def test_a_copy_of_an_edited_model_has_a_record_of_its_own(model, editor):
    editor.apply(editor.update(FACTS[0], "rome"))
    copied = rrome.wrap(copy.deepcopy(model.lm), model.tokenizer, 1)
    copied.edits.take_out()
    assert len(model.edits) == 1 and len(copied.edits) == 0
    assert not torch.equal(model.site.weight, copied.site.weight)


def test_c_0_of_a_model_edited_below_is_neither_cached_nor_taken_for_the_clean_one(model, editor, texts, no_cache):
    upper = model.at_layer(2)
    clean = second_moment(upper, texts, 3000)
    with editor.applied(editor.update(FACTS[0], "rome")):
        edited = second_moment(upper, texts, 3000)
        assert not torch.allclose(edited.matrix, clean.matrix) and edited.fingerprint != clean.fingerprint
        with pytest.raises(RromeError, match="revert what was edited in a layer below"):
            Editor(upper, clean, prefixes=PREFIXES)
        assert Editor(upper, edited, prefixes=PREFIXES).keys(FACTS[0])
    assert torch.equal(second_moment(upper, texts, 3000).matrix, clean.matrix)
    with pytest.raises(RromeError, match="this second moment belongs to model"):
        Editor(upper, edited, prefixes=PREFIXES)
    assert len(list((no_cache / "second_moments").glob("*"))) == 1


def test_an_edit_above_changes_no_key_so_c_0_stays(model, editor, texts):
    upper = editor_of(model.at_layer(2), texts)
    with upper.applied(upper.update(FACTS[0], "r-rome")):
        assert torch.equal(second_moment(model, texts, None, cache=False).matrix, editor.second_moment.matrix)


@pytest.mark.parametrize("run", [rrome.single_edits, rrome.sequential_edits])
def test_a_study_of_a_model_edited_at_another_layer_is_refused(model, editor, texts, tmp_path, run):
    other = editor_of(model.at_layer(2), texts)
    other.apply(other.update(FACTS[0], "r-rome"))
    with pytest.raises(RromeError, match="edited already in layer 2: revert that, or load it anew, before"):
        run(editor, MEASURED[:1], tmp_path / "study")
    with pytest.raises(RromeError, match="edited already in layer 2"):
        EditLog(tmp_path / "log", model, {})
    other.revert()
    with EditLog(tmp_path / "log", model, {}) as log:
        log.append(editor.update(FACTS[0], "rome"), FACTS[0])
    other.apply(other.update(FACTS[0], "r-rome"))
    with pytest.raises(RromeError, match="edited already in layer 2"):
        EditLog(tmp_path / "log").replay(model)


def test_a_weight_changed_by_hand_is_refused_until_the_model_is_wrapped_again(model, editor, texts, no_cache, tmp_path):
    update = editor.update(FACTS[0], "rome")
    model.site.module.weight.data[3, 5] += 1e-3  # one entry, past torch's version counter
    for change in (lambda: editor.apply(update), lambda: second_moment(model.at_layer(2), texts, 3000)):
        with pytest.raises(RromeError, match="something else has changed it; .*wrap it again"):
            change()
    with pytest.raises(RromeError, match="something else has changed it"):
        rrome.single_edits(editor, MEASURED[:1], tmp_path / "study")
    changed = model.site.weight.clone()
    mark = model.record.mark
    rrome.wrap(model.lm, model.tokenizer, 1)
    assert model.record.mark != mark  # of which no study of the model before goes on
    model.edits.put(replace(update, origin=None))
    assert not torch.equal(model.site.weight, changed)
    model.edits.take_out()
    assert torch.equal(model.site.weight, changed)


def test_another_dtype_is_another_model(model):
    half = rrome.wrap(copy.deepcopy(model.lm).to(torch.bfloat16), model.tokenizer, 1)
    back = rrome.wrap(copy.deepcopy(half.lm).float(), model.tokenizer, 1)
    assert len({model.fingerprint, half.fingerprint, back.fingerprint}) == 3


def test_what_is_not_a_fact_is_refused_by_name(editor):
    with pytest.raises(RromeError, match=r"edits a rrome.Fact, not \{'subject': 'Italy'\}"):
        editor.update({"subject": "Italy"}, "rome")


def test_edits_of_other_layers_are_neither_dropped_from_an_adapter_nor_hidden_by_a_merged_model(
    model, editor, texts, tmp_path
):
    other = editor_of(model.at_layer(2), texts)
    editor.apply(editor.update(FACTS[0], "r-rome"))
    upper = editor_of(model.at_layer(2), texts)
    upper.apply(upper.update(FACTS[1], "r-rome"))
    with pytest.raises(RromeError, match="edited already in layer 1.*before an adapter of one layer"):
        upper.save(tmp_path / "adapter")
    upper.save_merged(tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert FACTS[0].subject in card and FACTS[1].subject in card
    with pytest.raises(RromeError, match="revert what was edited in a layer below"):
        other.keys(FACTS[2])


def test_an_edit_made_before_a_layer_below_was_changed_by_hand_is_refused_after_it(model, texts):
    upper = editor_of(model.at_layer(2), texts)
    model.site.module.weight.data[0, 0] += 1
    with pytest.raises(RromeError, match="something else has changed it"):
        upper.solve(FACTS[0])


def test_a_weight_changed_after_wrapping_is_named_before_anything_is_cached(model, editor, texts, no_cache):
    embeddings = model.lm.get_input_embeddings().weight
    embeddings.data[3, 5] += 1e-4  # one entry, which the fingerprint's sample need not hold
    with pytest.raises(RromeError, match="were changed after the model was wrapped: wrap it again"):
        second_moment(model, texts, 3000)
    with pytest.raises(RromeError, match="changed after"):
        rrome.single_edits(editor, MEASURED, no_cache / "rows.jsonl")
    assert not list(no_cache.rglob("*.safetensors"))
    again = rrome.wrap(model.lm, model.tokenizer, 1)
    assert second_moment(again, texts, 3000).fingerprint == again.fingerprint


@pytest.mark.parametrize("by_torch", [True, False], ids=["in place", "through data"])  # of which torch counts no change
def test_another_weight_changed_is_refused_by_the_next_edit(model, editor, by_torch):
    editor.update(FACTS[0], "rome")
    other = next(weight for name, weight in model.lm.named_parameters() if "attn" in name)
    if by_torch:
        other.mul_(1.01)
    else:
        other.data.flatten()[3] += 1e-4
    with pytest.raises(RromeError, match="attn.* changed after the model was wrapped"):
        editor.update(FACTS[0], "rome")


def test_an_update_goes_into_the_matrix_it_was_made_for(model, editor, tmp_path):
    update = editor.update(FACTS[0], "r-rome")
    update.save(tmp_path / "update.safetensors")
    for made in (update, rrome.RankOneUpdate.load(tmp_path / "update.safetensors")):
        assert made.origin == (model.fingerprint, model.site.path)
        with pytest.raises(RromeError, match="was made for .* make it anew"):
            model.at_layer(2).edits.put(made)
        model.at_layer(2).edits.put(replace(made, origin=None))
        model.at_layer(2).edits.take_out()
        model.edits.put(made)
        model.edits.take_out()
    lm = copy.deepcopy(model.lm)
    lm.get_input_embeddings().weight.data += 1
    with pytest.raises(RromeError, match="was made for .* make it anew"):
        rrome.wrap(lm, model.tokenizer, 1).edits.put(update)


def test_an_interrupted_change_of_w_is_undone(model, editor):
    first, second = (editor.update(fact, "rome") for fact in FACTS[:2])

    class Interrupted(rrome.RankOneUpdate):
        def add_to(self, site):
            raise KeyboardInterrupt

    for start in ([], [first]):
        model.edits.set(start)
        before = model.site.weight.clone()
        with pytest.raises(KeyboardInterrupt):
            model.edits.set([second, Interrupted(**vars(second))])
        assert model.edits.updates == tuple(start) and torch.equal(model.site.weight, before)
        model.edits.verify()


def test_an_update_of_another_layer_is_neither_measured_nor_logged(model, editor, tmp_path):
    update, other = editor.update(FACTS[0], "rome"), model.at_layer(2)
    with pytest.raises(RromeError, match="was made for"):
        rrome.measure.target_nll(other, ["The old town"], ["river"], [update])
    with EditLog(tmp_path, other) as log, pytest.raises(RromeError, match="was made for"):
        log.append(update, FACTS[0])
    assert len(EditLog(tmp_path)) == 0


def test_c_0_of_a_model_that_differs_in_one_weight_is_not_taken_from_the_cache(model, texts, no_cache):
    rrome.second_moment(model, texts, None)
    changed = copy.deepcopy(model.lm)
    del changed.rrome_record
    weight = changed.get_submodule(model.at_layer(0).site.path).weight
    with torch.no_grad():
        weight[5, 3] = 50.0
    other = rrome.wrap(changed, model.tokenizer, 1, name=model.name)
    assert other.fingerprint == model.fingerprint  # which reads samples
    with pytest.warns(UserWarning, match="differs in a few weights"):
        found = rrome.second_moment(other, texts, None)
    assert torch.equal(found.matrix, rrome.second_moment(other, texts, None, cache=False).matrix)


def test_a_text_ends_where_a_collapsed_model_has_no_probabilities(model, editor):
    update = editor.update(FACTS[0], "rome")
    whole = rrome.generate(model, ["The old"], 5)
    with rrome.measure.rowwise(model, [None, replace(update, left=update.left * torch.nan)]):
        assert rrome.generate(model, ["The old"] * 2, 5)[1] == ""
    assert rrome.generate(model, ["The old"], 5) == whole


def test_an_update_too_large_for_the_dtype_of_w_is_refused_and_w_stays(model, editor):
    update = editor.update(FACTS[0], "p-rome")
    half = rrome.wrap(copy.deepcopy(model.lm).half(), model.tokenizer, 1)
    before = half.site.weight.clone()
    large = replace(update, left=update.left / update.left.norm() * 1e7, origin=None)
    with pytest.raises(RromeError, match=r"overflows torch\.float16.*float32 or bfloat16"):
        half.edits.put(large)
    assert torch.equal(half.site.weight, before) and len(half.edits) == 0


def test_what_is_no_update_is_refused(editor):
    for wrong in (None, editor.updates(FACTS[0], ["rome"])):  # the dictionary of updates, not one of them
        with pytest.raises(RromeError, match="is an update, with factors left and right"):
            editor.apply(wrong)


def test_a_double_precision_model_changes_by_delta_alone(model, editor):
    update = replace(editor.update(FACTS[0], "p-rome"), origin=None)
    double = rrome.wrap(copy.deepcopy(model.lm).double(), model.tokenizer, 1)
    with torch.no_grad():
        double.site.weight.add_(1e-12)  # digits that float32 has not
    double = rrome.wrap(double.lm, model.tokenizer, 1)
    before = double.site.weight.clone()
    double.edits.put(update)
    expected = before + torch.outer(update.left.double(), update.right.double())
    torch.testing.assert_close(double.site.weight, expected, rtol=1e-14, atol=1e-15)


def test_a_study_is_not_continued_on_a_model_that_differs_in_one_weight(model, editor, tmp_path):
    few = {"rules": ["p-rome"], "measures": rrome.study.Measures(n_generated=0)}
    rrome.single_edits(editor, MEASURED[:1], tmp_path / "rows.jsonl", **few)
    changed = copy.deepcopy(model.lm)
    del changed.rrome_record
    changed.get_submodule(model.at_layer(3).site.path).weight.data[5, 3] = 50.0
    other = rrome.wrap(changed, model.tokenizer, 1, name=model.name)
    assert other.fingerprint == model.fingerprint  # which reads samples
    with pytest.raises(RromeError, match="other settings .*weights: "):
        rrome.single_edits(Editor(other, editor.second_moment, PREFIXES), MEASURED[:1], tmp_path / "rows.jsonl", **few)


@pytest.mark.parametrize("config", [True, False])
def test_a_pruned_model_is_refused_with_the_remedy(model, config):
    lm = copy.deepcopy(model.lm)
    del lm.rrome_record
    del rrome.model.site.blocks_of(lm)[1:3]
    if config:
        lm.config.num_hidden_layers = 2
    with pytest.raises(RromeError, match="pruned model.* save it and load it again"):
        rrome.wrap(lm, model.tokenizer, 1)
