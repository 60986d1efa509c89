import copy

import pytest
import torch
from accelerate import dispatch_model
from conftest import value_of
from facts_for_tests import FACTS, PREFIXES
from families import make_tokenizer
from transformers import PreTrainedTokenizerFast

import rrome
from rrome import RromeError
from rrome.model.site import weights_fingerprint


def test_the_fingerprint_sees_one_changed_weight_matrix(tiny):
    before = weights_fingerprint(tiny.lm)
    assert before == tiny.fingerprint
    weight = tiny.site.weight
    saved = weight.clone()
    weight.add_(1e-3)
    changed = weights_fingerprint(tiny.lm)
    weight.copy_(saved)
    assert changed != before == weights_fingerprint(tiny.lm)


def test_at_layer_shares_the_weights(tiny):
    other = tiny.at_layer(2)
    assert other.layer == 2 and other.lm is tiny.lm


def test_a_tokenizer_without_offsets_is_refused(tiny):
    class Slow:
        is_fast = False

    with pytest.raises(RromeError, match="character offsets"):
        rrome.wrap(tiny.lm, Slow(), 1)


def test_generation_is_seeded_and_leaves_the_random_state_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = rrome.generate(tiny, ["The old town", "Italy is"], 8, seed=3)
    assert torch.rand(1) == expected
    assert first == rrome.generate(tiny, ["The old town", "Italy is"], 8, seed=3)
    assert first != rrome.generate(tiny, ["The old town", "Italy is"], 8, seed=4)


def test_a_prompt_is_continued_alike_alone_and_in_a_batch(default_model):
    prompts = ["Italy is located in the continent of", "Paris"]
    together = rrome.generate(default_model, prompts, 8, top_k=1)
    assert together == [rrome.generate(default_model, [prompt], 8, top_k=1)[0] for prompt in prompts]
    assert "Europe" in together[0]


def test_a_model_that_accelerate_spread_is_searched_like_any_other(tiny_llama):
    lm = copy.deepcopy(tiny_llama.lm)
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    parts += [f"model.layers.{number}" for number in range(4)]
    lm = dispatch_model(lm, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    forward = vars(lm.model.layers[0])["forward"]
    spread = rrome.wrap(lm, tiny_llama.tokenizer, 1)
    assert torch.equal(value_of(spread, FACTS[0], PREFIXES).delta, value_of(tiny_llama, FACTS[0], PREFIXES).delta)
    assert vars(lm.model.layers[0])["forward"] is forward


def test_a_tokenizer_without_special_tokens_is_left_without_them(tiny):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    model = rrome.wrap(tiny.lm, tokenizer, 1)
    prompts = ["The old town", "A"]
    assert rrome.generate(model, prompts, 5, top_k=1) == rrome.generate(tiny, prompts, 5, top_k=1)
    assert tokenizer.pad_token is None and not tokenizer.all_special_tokens
