"""Attention to kept columns is the model's own attention; whatever cannot take part is given both parts joined."""

import pytest
import torch
import transformers
from conftest import make_model

from rrome.model.hooks import attending_to

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
OF_TRANSFORMERS = {
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4),
    "neox": transformers.GPTNeoXConfig(**SIZES),
    "opt": transformers.OPTConfig(
        hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32
    ),
    "llama": transformers.LlamaConfig(**GROUPED),
    "mistral": transformers.MistralConfig(**GROUPED, sliding_window=4),
    "qwen3": transformers.Qwen3Config(**GROUPED),
    "gemma3": transformers.Gemma3TextConfig(**GROUPED, sliding_window=4),
    "phi": transformers.PhiConfig(**SIZES),
}
OF_THEIR_OWN = {
    "gptj": transformers.GPTJConfig(n_embd=32, n_layer=3, n_head=4, rotary_dim=4),
    "bloom": transformers.BloomConfig(hidden_size=32, n_layer=3, n_head=4),
    "falcon": transformers.FalconConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
    "gemma2": transformers.Gemma2Config(**GROUPED, sliding_window=4),  # cuts its scores off, which torch's cannot
}
BEFORE = 5


def rows_of(model):
    """Two rows of 9 tokens, the second padded by two on its left: (ids, mask, positions), (2, 9) each."""
    ids = torch.randint(1, len(model.tokenizer), (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def kept_columns(model, ids, mask, positions):
    """Keys and values of the first columns, per layer."""
    early = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    cache = transformers.DynamicCache()
    model.lm(**{name: tensor[:, :BEFORE] for name, tensor in early.items()}, past_key_values=cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def later_logits(model, kept, ids, mask, positions):
    with attending_to(model, kept) as cache:
        given = {"input_ids": ids[:, BEFORE:], "attention_mask": mask, "position_ids": positions[:, BEFORE:]}
        return model.lm(**given, past_key_values=cache).logits


@pytest.mark.parametrize("family", OF_TRANSFORMERS | OF_THEIR_OWN)
def test_new_columns_read_what_they_read_in_one_pass_over_all(family):
    model = make_model((OF_TRANSFORMERS | OF_THEIR_OWN)[family])
    rows = ids, mask, positions = rows_of(model)
    with torch.no_grad():
        expected = model.lm(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        logits = later_logits(model, kept_columns(model, *rows), *rows)
    torch.testing.assert_close(logits, expected[:, BEFORE:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", OF_TRANSFORMERS | OF_THEIR_OWN)
def test_only_attention_that_transformers_dispatches_is_replaced_and_only_inside(family):
    model = make_model((OF_TRANSFORMERS | OF_THEIR_OWN)[family])
    own = model.lm.config._attn_implementation
    kept = kept_columns(model, *rows_of(model))
    with pytest.raises(KeyboardInterrupt), attending_to(model, kept):
        assert (model.lm.config._attn_implementation != own) == (family in OF_TRANSFORMERS)
        raise KeyboardInterrupt
    assert model.lm.config._attn_implementation == own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_torch_s_attention_whose_scores_are_float32(dtype, tiny_llama):
    kept = [(keys.to(dtype), values.to(dtype)) for keys, values in kept_columns(tiny_llama, *rows_of(tiny_llama))]
    with attending_to(tiny_llama, kept):
        assert tiny_llama.lm.config._attn_implementation == "sdpa"


def test_kept_columns_are_not_copied_and_stay_as_they_are(tiny_llama):
    rows = rows_of(tiny_llama)
    kept = kept_columns(tiny_llama, *rows)
    before = [(keys.clone(), values.clone()) for keys, values in kept]
    with attending_to(tiny_llama, kept) as cache:
        assert all(layer.keys is keys for layer, (keys, _) in zip(cache.layers, kept, strict=True))
    later_logits(tiny_llama, kept, *rows)
    torch.testing.assert_close(kept, before, rtol=0, atol=0)


def test_without_kept_columns_nothing_is_replaced(tiny_llama):
    with attending_to(tiny_llama, []) as cache:
        assert not cache.layers and tiny_llama.lm.config._attn_implementation == "sdpa"
