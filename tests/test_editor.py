import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import RULES, Editor, RankOneUpdate, RromeError

NAMED = ["rome", "r-rome", "p-rome"]


@pytest.fixture(scope="module")
def updates(editor):
    return [editor.update(fact, rule) for fact, rule in zip(FACTS, NAMED, strict=False)]


@pytest.fixture(autouse=True)
def weights_come_back(editor):
    """Whatever a test does, the session's model must leave it unedited."""
    before = editor.model.site.weight.clone()
    yield
    assert torch.equal(editor.model.site.weight, before)


def test_computing_an_update_changes_nothing(editor):
    before = {name: tensor.clone() for name, tensor in editor.model.lm.state_dict().items()}
    editor.updates(FACTS[0], list(RULES))
    assert all(torch.equal(before[name], tensor) for name, tensor in editor.model.lm.state_dict().items())


def test_applied_adds_delta_and_takes_it_back_bit_for_bit(editor, updates):
    before = editor.model.site.weight.clone()
    with pytest.raises(RuntimeError), editor.applied(updates[0]):  # after an error too
        difference = editor.model.site.weight - before
        assert (difference - updates[0].matrix()).norm() <= 1e-3 * updates[0].norm
        raise RuntimeError
    assert torch.equal(editor.model.site.weight, before) and not editor.applied_updates


def test_the_edit_is_seen_by_the_model(editor, updates):
    ids = torch.tensor([editor.model.tokenizer(FACTS[0].rewrite)["input_ids"]])
    before = editor.model.lm(input_ids=ids).logits
    with editor.applied(updates[0]):
        assert not torch.allclose(editor.model.lm(input_ids=ids).logits, before, atol=1e-3)
    assert torch.equal(editor.model.lm(input_ids=ids).logits, before)


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 1, 2), (1, 2, 0)])
def test_updates_come_out_in_any_order(editor, updates, order):
    edits, weight = editor.model.edits, editor.model.site.weight
    edits.set(updates)
    for n, out in enumerate(order, 1):
        editor.revert(updates[out])
        left, found = tuple(updates[place] for place in range(3) if place not in order[:n]), weight.clone()
        assert editor.applied_updates == left
        edits.set(())
        edits.set(left)
        assert torch.equal(weight, found)


def test_the_same_update_can_be_applied_twice(editor, updates):
    editor.apply(updates[0])
    once = editor.model.site.weight.clone()
    editor.apply(updates[0])
    editor.revert()
    assert torch.equal(editor.model.site.weight, once)
    editor.revert()


def test_reverting_what_is_not_applied_is_an_error(editor, updates):
    with pytest.raises(RromeError, match="nothing to revert"):
        editor.revert()
    with editor.applied(updates[0]), pytest.raises(RromeError, match="is not applied"):
        editor.revert(updates[1])


def test_an_update_of_another_shape_is_refused(editor):
    wide = RankOneUpdate(torch.ones(3), torch.ones(5), "rome", "Rome", 1.0, 1.0)
    with pytest.raises(RromeError, match="Rome.*another model"):
        editor.apply(wide)


def test_sequential_edits_search_in_the_edited_model(editor, updates):
    alone = editor.value(FACTS[1])
    with editor.applied(updates[0]):
        after = editor.value(FACTS[1])
    assert not torch.equal(alone.base, after.base)
    assert torch.equal(editor.value(FACTS[1]).delta, alone.delta)


def test_the_same_seed_gives_the_same_delta_twice(tiny, editor):
    first, again = (Editor(tiny, editor.second_moment, seed=7) for _ in range(2))
    assert first.prefixes == again.prefixes and len(first.prefixes) == 21
    assert torch.equal(first.update(FACTS[0], "rome").matrix(), again.update(FACTS[0], "rome").matrix())
    assert Editor(tiny, editor.second_moment, seed=8).prefixes != first.prefixes


def test_an_unknown_rule_is_refused_before_the_search(editor, monkeypatch):
    monkeypatch.setattr("rrome.edit.editor.find_values", lambda *_: pytest.fail("searched"))
    with pytest.raises(RromeError, match="unknown rule 'r_rome'"):
        editor.update(FACTS[0], "r_rome")


def test_a_disabling_edit_can_be_refused_before_the_search_or_warned_of(tiny, editor, monkeypatch):
    ahead = editor.preflight(FACTS[0]).amplification
    limit = (ahead["rome"] + ahead["p-rome"]) / 2
    allowed, refused = sorted(("rome", "p-rome"), key=ahead.get)
    guarded = Editor(tiny, editor.second_moment, PREFIXES, max_amplification=limit)
    assert guarded.update(FACTS[0], allowed).norm > 0
    warned = Editor(tiny, editor.second_moment, PREFIXES, max_amplification=limit, on_excess="warn")
    with pytest.warns(UserWarning, match="Italy is located.*likely to disable"):
        warned.update(FACTS[0], refused)
    monkeypatch.setattr("rrome.edit.editor.find_values", lambda *_: pytest.fail("searched"))
    with pytest.raises(RromeError, match=f"Italy is located.* under '{refused}' is likely to disable the model"):
        guarded.update(FACTS[0], refused)
    with pytest.raises(RromeError, match="'refuse' or 'warn'"):
        Editor(tiny, editor.second_moment, PREFIXES, on_excess="ignore")
