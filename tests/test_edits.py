import pytest
import torch
from facts_for_tests import PREFIXES

from rrome import Editor, RromeError


@pytest.fixture
def edits(tiny):
    yield tiny.edits
    tiny.edits.set(())


def test_states_are_the_same_bit_for_bit_however_they_are_reached(tiny, edits, updates):
    original, states = tiny.site.weight.clone(), {}
    for n in range(4):
        edits.set(updates[:n])
        states[n] = tiny.site.weight.clone()
    for n in (2, 0, 3, 1, 1):
        edits.set(updates[:n])
        assert torch.equal(tiny.site.weight, states[n]) and edits.updates == tuple(updates[:n])
    edits.set(())
    assert torch.equal(tiny.site.weight, original) and len(edits) == 0


def test_distance_is_the_norm_of_all_that_changed(tiny, edits, updates):
    original = tiny.site.weight.clone()
    assert edits.distance == edits.size == 0
    for update in updates:
        edits.put(update)
    expected = (tiny.site.weight - original).norm().item()
    assert edits.distance == pytest.approx(expected, rel=1e-6)
    assert edits.size == pytest.approx(expected / original.numel(), rel=1e-6)


def test_two_editors_of_a_model_know_of_each_other(editor, edits, updates):
    other = Editor(editor.model, editor.second_moment, prefixes=PREFIXES)
    editor.apply(updates[0])
    other.apply(updates[1])
    editor.revert(updates[0])
    assert other.applied_updates == (updates[1],)
    other.revert()
    with pytest.raises(RromeError, match="nothing to revert"):
        editor.revert()


def test_a_bad_update_changes_nothing(tiny, edits, updates):
    before = tiny.site.weight.clone()
    broken = type(updates[0])(updates[0].left * torch.nan, updates[0].right, "rome", "Italy", 1.0, 1.0)
    with pytest.raises(RromeError, match="'Italy' under 'rome' holds NaN"):
        edits.set([updates[1], broken])
    assert torch.equal(tiny.site.weight, before) and not edits.updates


def test_another_layer_has_edits_of_its_own(tiny, edits, updates):
    edits.put(updates[0])
    assert tiny.at_layer(tiny.layer) is tiny and not tiny.at_layer(2).edits.updates
