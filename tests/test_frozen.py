"""The search skips what delta cannot change; families that build their blocks otherwise must come out right too."""

import pytest
import transformers
from conftest import make_model
from facts_for_tests import FACTS, PREFIXES

from rrome import Fact, Search, naive
from rrome.update.batch import freeze
from rrome.update.value import find_value, find_values

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "gemma2": (transformers.Gemma2Config(**GROUPED, sliding_window=8), False),  # normalises after the MLP
    "gemma3": (transformers.Gemma3TextConfig(**GROUPED, sliding_window=8), False),
    "olmo2": (transformers.Olmo2Config(**(SIZES | {"num_key_value_heads": 2})), False),
    "neox": (transformers.GPTNeoXConfig(**SIZES), True),  # attention and MLP side by side
    "phi": (transformers.PhiConfig(**SIZES), True),
    "bloom": (transformers.BloomConfig(hidden_size=32, n_layer=4, n_head=4), True),  # the MLP adds its residual itself
}


@pytest.mark.parametrize(
    ("layer", "fact"), [(1, FACTS[1]), (2, FACTS[1]), (3, FACTS[3])]
)  # the last ends in its subject
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_naive_search(family, layer, fact):
    model = make_model(FAMILIES[family][0], layer)
    value = find_value(model, fact, PREFIXES, Search(evaluations=6))
    _, delta, losses = naive.value(model, fact, PREFIXES, evaluations=6)
    assert value.losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_block_l_is_skipped_where_it_adds_the_value_to_the_stream(family):
    config, adds = FAMILIES[family]
    assert freeze(make_model(config, 1), FACTS[:1], PREFIXES)[0].first == (2 if adds else 1)


def test_facts_searched_together_end_as_if_alone(tiny):
    facts = [*FACTS, Fact("{} is", "I", "Rome")]
    alone = [find_value(tiny, fact, PREFIXES) for fact in facts]
    middle = sorted(value.losses[-1] for value in alone)[len(alone) // 2]
    search = Search(stop_loss=middle + 0.01)  # some stop early, at evaluations of their own
    alone = [find_value(tiny, fact, PREFIXES, search) for fact in facts]
    assert len({value.steps for value in alone}) > 1
    for one, other in zip(alone, find_values(tiny, facts, PREFIXES, search), strict=True):
        assert one.steps == other.steps
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert (one.delta - other.delta).norm() <= 1e-4 * one.delta.norm()
        assert (one.keys.all - other.keys.all).norm() <= 1e-4 * one.keys.all.norm()


def test_the_row_of_the_kl_term_is_left_out_where_the_bare_prompt_begins_with_it(tiny):
    italy, tower = FACTS[0], FACTS[1]
    assert len(freeze(tiny, [italy], PREFIXES)[0].ids) == len(PREFIXES)
    assert len(freeze(tiny, [tower], PREFIXES)[0].ids) == len(PREFIXES) + 1


def test_a_prompt_that_ends_with_its_subject_keeps_its_own_places(tiny):
    fact = Fact("{}", "Italy", "Rome")
    value = find_value(tiny, fact, PREFIXES, Search(evaluations=6))
    _, delta, _ = naive.value(tiny, fact, PREFIXES, evaluations=6)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()
