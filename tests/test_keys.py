import naive
import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import RromeError
from rrome import keys as keys_module
from rrome.keys import capture_inputs, fact_keys, facts_keys


@pytest.mark.parametrize("leading", [None, "<|end|>"])
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.subject)
def test_keys_equal_those_of_full_forward_passes(tiny, fact, leading):
    keys = fact_keys(tiny, fact, PREFIXES, leading)
    expected = naive.keys(tiny, fact, PREFIXES, leading or "")
    torch.testing.assert_close(keys.all, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(keys.average, expected.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(keys.original, expected[0], rtol=1e-4, atol=1e-5)


def test_keys_do_not_depend_on_the_edited_weight(tiny):
    before = fact_keys(tiny, FACTS[0], PREFIXES).all
    weight = tiny.site.weight
    saved = weight.clone()
    weight.mul_(2)
    after = fact_keys(tiny, FACTS[0], PREFIXES).all
    weight.copy_(saved)
    assert torch.equal(before, after)


def test_nan_in_keys_is_an_error_that_names_the_prompt(tiny):
    weight = tiny.lm.get_input_embeddings().weight
    saved = weight.detach().clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(RromeError, match="Italy is located.*NaN"):
            fact_keys(tiny, FACTS[0], PREFIXES)
    finally:
        weight.copy_(saved)


def test_keys_of_many_facts_come_in_few_passes(tiny, monkeypatch):
    alone = [fact_keys(tiny, fact, PREFIXES).all for fact in FACTS]
    passes = []
    monkeypatch.setattr(keys_module, "capture_inputs", lambda *args: passes.append(args) or capture_inputs(*args))
    for one, together in zip(alone, facts_keys(tiny, FACTS, PREFIXES), strict=True):
        torch.testing.assert_close(together.all, one, rtol=1e-4, atol=1e-5)
    assert len(passes) == 1
    assert facts_keys(tiny, [], PREFIXES) == []
