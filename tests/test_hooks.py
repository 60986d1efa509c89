"""Attention to cached keys and values is the model's own attention; whatever cannot take part is given both parts joined."""

import pytest
import torch
from families import OWN_ATTENTION, model_of
from transformers import DynamicCache

from rrome.model.hooks import attending_to

BEFORE = 5  # tokens in the cache


def rows_of(model):
    """Two rows of 9 tokens, the second padded by two on its left: (ids, mask, positions), (2, 9) each."""
    ids = torch.randint(1, len(model.tokenizer), (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def cached(model, ids, mask, positions):
    """Keys and values of the first tokens, per layer."""
    early = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    cache = DynamicCache()
    model.lm(**{name: tensor[:, :BEFORE] for name, tensor in early.items()}, past_key_values=cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def later_logits(model, kv_cache, ids, mask, positions):
    with attending_to(model, kv_cache) as cache:
        given = {"input_ids": ids[:, BEFORE:], "attention_mask": mask, "position_ids": positions[:, BEFORE:]}
        return model.lm(**given, past_key_values=cache).logits


def test_new_tokens_read_what_they_read_in_one_pass_over_all(family):
    rows = ids, mask, positions = rows_of(family)
    with torch.no_grad():
        expected = family.lm(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        logits = later_logits(family, cached(family, *rows), *rows)
    torch.testing.assert_close(logits, expected[:, BEFORE:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", *sorted(OWN_ATTENTION)])
def test_only_attention_that_transformers_dispatches_is_replaced_and_only_inside(name):
    model = model_of(name)
    own = model.lm.config._attn_implementation
    kv_cache = cached(model, *rows_of(model))
    with pytest.raises(KeyboardInterrupt), attending_to(model, kv_cache):
        assert (model.lm.config._attn_implementation == own) == (name in OWN_ATTENTION)
        raise KeyboardInterrupt
    assert model.lm.config._attn_implementation == own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_torch_s_attention_whose_scores_are_float32(dtype, tiny_llama):
    kv_cache = [(keys.to(dtype), values.to(dtype)) for keys, values in cached(tiny_llama, *rows_of(tiny_llama))]
    with attending_to(tiny_llama, kv_cache):
        assert tiny_llama.lm.config._attn_implementation == "sdpa"


def test_cached_tensors_are_not_copied_and_stay_as_they_are(tiny_llama):
    rows = rows_of(tiny_llama)
    kv_cache = cached(tiny_llama, *rows)
    before = [(keys.clone(), values.clone()) for keys, values in kv_cache]
    with attending_to(tiny_llama, kv_cache) as cache:
        assert all(layer.keys is keys for layer, (keys, _) in zip(cache.layers, kv_cache, strict=True))
    later_logits(tiny_llama, kv_cache, *rows)
    torch.testing.assert_close(kv_cache, before, rtol=0, atol=0)


def test_without_a_cache_nothing_is_replaced(tiny_llama):
    with attending_to(tiny_llama, []) as cache:
        assert not cache.layers and tiny_llama.lm.config._attn_implementation == "sdpa"
