"""The search skips what delta cannot change; families that build their blocks otherwise must come out right too."""

import pytest
from conftest import naive_value, value_of
from facts_for_tests import FACTS, PREFIXES
from families import model_of

from rrome import Fact, Search
from rrome.update.batch import freeze
from rrome.update.value import find_values

NORM_AFTER_MLP = ["gemma2", "gemma3", "olmo2"]  # the value does not go into the stream as it is
ADDED = ["gpt2", "gptj", "gpt-neox", "phi", "bloom", "llama"]


@pytest.mark.parametrize(
    ("layer", "fact"), [(2, FACTS[1]), (3, FACTS[3])]
)  # the last layer; one that ends in its subject
@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt-neox", "bloom", "gemma2", "olmo2"])
def test_families_that_build_their_blocks_otherwise_equal_the_naive_search(name, layer, fact):
    model = model_of(name).at_layer(layer)
    value = value_of(model, fact, PREFIXES, Search(evaluations=6))
    _, delta, losses = naive_value(model, fact, evaluations=6)
    assert value.losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()


@pytest.mark.parametrize(("names", "first"), [(ADDED, 2), (NORM_AFTER_MLP, 1)], ids=["added", "norm after the MLP"])
def test_block_l_is_skipped_where_it_adds_the_value_to_the_stream(names, first):
    assert {name: freeze(model_of(name), FACTS[:1], PREFIXES)[0].first for name in names} == dict.fromkeys(names, first)


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "bloom"]
)  # positions learned, rotary, and as biases that follow the mask
def test_facts_searched_together_end_as_if_alone(name):
    model, facts = model_of(name), [*FACTS, Fact("{} is", "I", "Rome")]
    alone = [value_of(model, fact, PREFIXES) for fact in facts]
    middle = sorted(value.losses[-1] for value in alone)[len(alone) // 2]
    search = Search(stop_loss=middle + 0.01)  # some stop early, at evaluations of their own
    alone = [value_of(model, fact, PREFIXES, search) for fact in facts]
    assert len({value.steps for value in alone}) > 1
    for one, other in zip(alone, find_values(model, facts, PREFIXES, search), strict=True):
        assert one.steps == other.steps
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert (one.delta - other.delta).norm() <= 1e-4 * one.delta.norm()
        assert (one.keys.all - other.keys.all).norm() <= 1e-4 * one.keys.all.norm()


def test_the_row_of_the_kl_term_is_left_out_where_the_bare_prompt_begins_with_it(tiny):
    italy, tower = FACTS[0], FACTS[1]
    assert len(freeze(tiny, [italy], PREFIXES)[0].ids) == len(PREFIXES)
    assert len(freeze(tiny, [tower], PREFIXES)[0].ids) == len(PREFIXES) + 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prompt_that_ends_with_its_subject_equals_the_naive_search(name):
    model, fact = model_of(name), Fact("{}", "Italy", "Rome")
    value = value_of(model, fact, PREFIXES, Search(evaluations=6))
    _, delta, _ = naive_value(model, fact, evaluations=6)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()
