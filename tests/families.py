"""A tiny random model of every family whose edit site the kit finds, each with what makes the family different."""

from transformers import (
    BloomConfig,
    CodeGenConfig,
    Cohere2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
HEADS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256}
GATED = HEADS | {"intermediate_size": 64}
GROUPED = GATED | {"num_key_value_heads": 2, "head_dim": 8}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}

FAMILIES = {
    "gpt2": GPT2Config(**GPT),  # learned positions, Conv1D
    "gpt-j": GPTJConfig(**GPT, rotary_dim=4),  # attention and MLP in parallel
    "gpt-neo": GPTNeoConfig(
        hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=8
    ),
    "gpt-neox": GPTNeoXConfig(**GATED),  # parallel, biases
    "gpt-bigcode": GPTBigCodeConfig(**GPT),  # one head of attention keys for all
    "codegen": CodeGenConfig(**GPT, rotary_dim=4),
    "opt": OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=4, num_attention_heads=4, word_embed_proj_dim=32),
    "opt-350m": OPTConfig(  # norms after the blocks, embeddings narrower than the blocks
        hidden_size=32, ffn_dim=64, num_hidden_layers=4, num_attention_heads=4, word_embed_proj_dim=16,
        do_layer_norm_before=False,
    ),
    "bloom": BloomConfig(hidden_size=32, n_layer=4, n_head=4),  # positions as biases on attention (ALiBi)
    "falcon": FalconConfig(**HEADS, new_decoder_architecture=True, num_kv_heads=2),  # parallel, grouped
    "falcon-alibi": FalconConfig(**HEADS, alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": Qwen2Config(**GATED, num_key_value_heads=2, use_sliding_window=True, **SLIDING),  # biases in attention
    "qwen3": Qwen3Config(**GROUPED),  # normed queries and keys
    "gemma2": Gemma2Config(**GROUPED, query_pre_attn_scalar=8, **SLIDING),  # norm after the MLP, soft-capped logits
    "gemma3": Gemma3TextConfig(**GROUPED, query_pre_attn_scalar=8, **SLIDING),  # scaled embeddings
    "phi": PhiConfig(**GATED),  # parallel
    "phi3": Phi3Config(**GATED, num_key_value_heads=2, sliding_window=8),
    "olmo": OlmoConfig(**GATED, clip_qkv=8.0),  # norms without weights
    "olmo2": Olmo2Config(**GATED),  # norm after the MLP only
    "stablelm": StableLmConfig(**GATED, num_key_value_heads=4),
    "starcoder2": Starcoder2Config(**GATED, num_key_value_heads=2),
    "granite": GraniteConfig(**GATED, residual_multiplier=0.5, embedding_multiplier=3.0, logits_scaling=2.0),
    "cohere2": Cohere2Config(**GATED, num_key_value_heads=2, **SLIDING),  # parallel
}  # fmt: skip
