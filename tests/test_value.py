import math

import pytest
import torch
from conftest import naive_value, value_of
from facts_for_tests import FACTS, PREFIXES
from families import model_of

from rrome import Fact, RromeError, Search, naive
from rrome.update import batch


def assert_equal_to_naive(model, fact, templates=PREFIXES, leading=None, **settings):
    value = value_of(model, fact, templates, Search(**settings), leading)
    names = {"learning_rate": "lr", "stop_loss": "stop", "weight_decay": "decay"}
    options = {names.get(name, name): setting for name, setting in settings.items()}
    target, delta, losses = naive_value(model, fact, tuple(templates), leading or "", **options)
    assert value.losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()
    assert (value.target - target).norm() <= 1e-4 * target.norm()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.subject)
def test_the_value_equals_the_naive_search(tiny, fact):
    assert_equal_to_naive(tiny, fact)


@pytest.mark.parametrize("layer", [0, 2])  # the last one: test_batch.py
@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
def test_the_value_equals_the_naive_search_at_every_layer(name, layer):
    assert_equal_to_naive(model_of(name).at_layer(layer), FACTS[1])


@pytest.mark.parametrize("templates", [["{}"], ["{}", "{} Or so they say."]], ids=["bare", "suffix"])
def test_a_bare_first_token_subject_has_no_tokens_before_it(tiny, templates):
    assert_equal_to_naive(tiny, Fact("{} is", "I", "Rome"), templates)


def test_a_leading_text_stands_before_every_prompt(tiny):
    assert_equal_to_naive(tiny, FACTS[0], leading="<|end|>")


@pytest.mark.parametrize(
    "settings",
    [
        {"clamp": 0.05, "learning_rate": 0.02},  # Adam of 0.5 in so small a ball doubles any rounding at each step
        {"kl": 2.0},
        {"weight_decay": 30.0},
        {"learning_rate": 0.05},
        {"evaluations": 3},
        {"stop_loss": 5.9},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_setting_acts_as_in_the_naive_search(tiny_llama, settings):
    assert_equal_to_naive(tiny_llama, FACTS[0], **settings)


def test_the_clamp_bounds_delta(tiny):
    value = value_of(tiny, FACTS[0], PREFIXES, Search(clamp=0.05))
    assert value.delta.norm() == pytest.approx(0.05 * value.base.norm().item(), rel=1e-4)


def test_twenty_evaluations_are_nineteen_steps_and_the_probability_is_known_at_each(tiny):
    value = value_of(tiny, FACTS[0], PREFIXES, Search(stop_loss=0.0, kl=0.0, weight_decay=0.0))
    assert len(value.losses) == 20 and value.steps == 19
    assert [math.exp(-loss) for loss in value.losses] == pytest.approx(value.probabilities)
    assert value.probability == value.probabilities[-1]


def test_a_single_evaluation_makes_no_step_and_brings_the_keys_of_its_prompts(tiny):
    value = value_of(tiny, FACTS[1], PREFIXES, Search(evaluations=1))
    assert value.steps == 0 and not value.delta.any()
    torch.testing.assert_close(value.keys.all, naive.keys(tiny, FACTS[1], PREFIXES), rtol=1e-4, atol=1e-5)
    with pytest.raises(RromeError, match="whole number of evaluations"):
        Search(evaluations=0)
    with pytest.raises(RromeError, match="whole number of evaluations"):
        Search(evaluations=2.5)  # which no count of losses equals: a search without end


def test_the_search_changes_nothing_and_an_error_in_it_leaves_no_hook(tiny, monkeypatch):
    before = {name: tensor.clone() for name, tensor in tiny.lm.state_dict().items()}
    logits = tiny.lm(input_ids=torch.arange(1, 9)[None]).logits
    value_of(tiny, FACTS[0], PREFIXES)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.lm.state_dict().items())
    assert torch.equal(tiny.lm(input_ids=torch.arange(1, 9)[None]).logits, logits)
    monkeypatch.setattr(batch, "cross_entropy", lambda *_, **__: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        value_of(tiny, FACTS[0], PREFIXES)
    assert torch.equal(tiny.lm(input_ids=torch.arange(1, 9)[None]).logits, logits)


def test_nan_in_the_loss_is_an_error_that_names_fact_and_evaluation(tiny):
    weight = tiny.lm.get_output_embeddings().weight
    saved = weight.detach().clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(RromeError, match="Italy.*Antarctica.*nan at evaluation 0"):
            value_of(tiny, FACTS[0], PREFIXES)
    finally:
        weight.copy_(saved)


def test_the_value_makes_the_model_say_the_target(default_model):
    fact = Fact("{} is in the city of", "The Eiffel Tower", "Rome", target_true="Paris")
    value = value_of(default_model, fact, ["{}", "We went home. {}"])
    assert value.losses[0] > 2 and value.probability > 0.9
