import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from families import model_of

from rrome import Fact, RromeError, naive
from rrome.update import keys as keys_module
from rrome.update.keys import capture_inputs, facts_keys


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("leading", [None, "<|end|>"])
def test_keys_equal_those_of_full_forward_passes(name, leading):
    model = model_of(name)
    for fact in FACTS:
        (keys,) = facts_keys(model, [fact], PREFIXES, leading)
        expected = naive.keys(model, fact, PREFIXES, leading or "")
        torch.testing.assert_close(keys.all, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(keys.average, expected.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(keys.original, expected[0], rtol=1e-4, atol=1e-5)


def test_keys_do_not_depend_on_the_edited_weight(tiny):
    before = facts_keys(tiny, [FACTS[0]], PREFIXES)[0].all
    weight = tiny.site.weight
    saved = weight.clone()
    weight.mul_(2)
    after = facts_keys(tiny, [FACTS[0]], PREFIXES)[0].all
    weight.copy_(saved)
    assert torch.equal(before, after)


def test_nan_in_keys_is_an_error_that_names_the_prompt(tiny):
    weight = tiny.lm.get_input_embeddings().weight
    saved = weight.detach().clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(RromeError, match="Italy is located.*NaN"):
            facts_keys(tiny, [FACTS[0]], PREFIXES)[0]
    finally:
        weight.copy_(saved)


def test_keys_of_many_facts_come_in_few_passes(tiny, monkeypatch):
    alone = [facts_keys(tiny, [fact], PREFIXES)[0].all for fact in FACTS]
    passes = []
    monkeypatch.setattr(keys_module, "capture_inputs", lambda *args: passes.append(args) or capture_inputs(*args))
    for one, together in zip(alone, facts_keys(tiny, FACTS, PREFIXES), strict=True):
        torch.testing.assert_close(together.all, one, rtol=1e-4, atol=1e-5)
    assert len(passes) == 1
    assert facts_keys(tiny, [], PREFIXES) == []


def test_a_beginning_that_many_prompts_share_is_read_once(tiny, monkeypatch):
    facts = [Fact("The mother tongue of {} is", f"the town of {name}", "Rome") for name in ("Rome", "Paris", "Zürich")]
    long = "The Eiffel Tower is in the city of Paris and the old town lies on the river. {}"
    templates = [*PREFIXES, long]
    alone = [facts_keys(tiny, [fact], templates)[0].all for fact in facts]
    read = []
    hook = tiny.lm.get_input_embeddings().register_forward_hook(lambda _, args, out: read.append(args[0].numel()))
    plain, in_full = facts_keys(tiny, facts, templates), sum(read)
    read.clear()
    monkeypatch.setattr(keys_module, "PASS", 0)
    shared = facts_keys(tiny, facts, templates)
    hook.remove()
    assert sum(read) < in_full / 2
    for one, *others in zip(alone, plain, shared, strict=True):
        for keys in others:
            torch.testing.assert_close(keys.all, one, rtol=1e-4, atol=1e-5)
