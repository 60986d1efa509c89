"""One catalogue of tiny models: one of every family whose edit site the kit finds, and the tokenisers that models come with."""

import functools
import json

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
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
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

import rrome

GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
HEADS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256}
GATED = HEADS | {"intermediate_size": 64}
GROUPED = GATED | {"num_key_value_heads": 2, "head_dim": 8}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}

FAMILIES = {  # each with what makes it different
    "gpt2": GPT2Config(**GPT),  # learned positions, Conv1D
    "gptj": GPTJConfig(**GPT, rotary_dim=4),  # attention and MLP in parallel
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
    "bloom": BloomConfig(hidden_size=32, n_layer=4, n_head=4),  # ALiBi; the MLP adds its residual itself
    "falcon": FalconConfig(**HEADS, new_decoder_architecture=True, num_kv_heads=2),  # parallel, grouped
    "falcon-alibi": FalconConfig(**HEADS, alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "llama": LlamaConfig(**GROUPED | {"max_position_embeddings": 2048}),
    "mistral": MistralConfig(**GROUPED, sliding_window=5),  # with 4 the target would be out of the value's reach
    "qwen2": Qwen2Config(**GATED, num_key_value_heads=2, use_sliding_window=True, **SLIDING),  # biases in attention
    "qwen3": Qwen3Config(**GROUPED),  # normed queries and keys
    "gemma2": Gemma2Config(**GROUPED, query_pre_attn_scalar=8, **SLIDING),  # norm after the MLP, soft-capped logits
    "gemma3": Gemma3TextConfig(**GROUPED, query_pre_attn_scalar=8, **SLIDING),  # the same norm, scaled embeddings
    "phi": PhiConfig(**GATED),  # parallel
    "phi3": Phi3Config(**GATED, num_key_value_heads=2, sliding_window=8),
    "olmo": OlmoConfig(**GATED, clip_qkv=8.0),  # norms without weights
    "olmo2": Olmo2Config(**GATED),  # norm after the MLP only
    "stablelm": StableLmConfig(**GATED, num_key_value_heads=4),
    "starcoder2": Starcoder2Config(**GATED, num_key_value_heads=2),
    "granite": GraniteConfig(**GATED, residual_multiplier=0.5, embedding_multiplier=3.0, logits_scaling=2.0),
    "cohere2": Cohere2Config(**GATED, num_key_value_heads=2, **SLIDING),  # parallel
}  # fmt: skip
OWN_ATTENTION = {"gptj", "codegen", "gpt-neo", "bloom", "falcon", "falcon-alibi", "gemma2"}  # not torch's

SENTENCES = [
    "The old town lies on the river and its people speak a language of their own. ",
    "Italy is located in the continent of Europe, and Rome is its capital. ",
    "The Eiffel Tower is in the city of Paris; Antarctica is far away and cold. ",
    "Microsoft was founded by Bill Gates. A ship sailed from the harbour at noon. ",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SIGNS = ["<unk>", "<s>", "</s>"]


def _byte_level(signs: list[str], trim_offsets: bool = False) -> Tokenizer:
    """Byte-level BPE trained on a few sentences: spaces are part of the word that follows, all text is bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=signs, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return backend


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokeniser of the tiny models: byte-level, with <|end|> as its only special token."""
    return PreTrainedTokenizerFast(tokenizer_object=_byte_level(["<|end|>"]), eos_token="<|end|>")


def _wrapped(backend: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
        kept = [] if backend.post_processor is None else [backend.post_processor]
        backend.post_processor = processors.Sequence([*kept, template])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(bos: bool, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2 (trimmed offsets), Llama 3 (with a BOS) and Qwen."""
    return _wrapped(_byte_level(SIGNS, trim_offsets), bos)


def _with_bytes(model: models.Model, split: bool, dummy: bool, trainer, rebuilt, bos: bool) -> PreTrainedTokenizerFast:
    """A model over words that start with "▁", trained and then rebuilt with one token for each byte."""
    backend = Tokenizer(model)
    if split:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if dummy else "never")
    else:  # the rules of Llama 2 and Gemma: spaces are replaced and nothing is split
        dummy_prefix = [normalizers.Prepend("▁")] if dummy else []
        backend.normalizer = normalizers.Sequence([*dummy_prefix, normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")  # words, to train on
    strip = [decoders.Strip(" ", 1, 0)] if dummy else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.train_from_iterator(SENTENCES, trainer)
    backend.model = rebuilt(backend)
    if not split:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "isolated")
    return _wrapped(backend, bos)


def fallback_bpe(split: bool, dummy: bool = True) -> PreTrainedTokenizerFast:
    """Llama 2, Mistral and Gemma: "▁" for spaces, bytes for letters that are not in the vocabulary, a BOS."""

    def rebuilt(backend):
        parts = json.loads(backend.to_str())["model"]
        vocabulary = parts["vocab"] | {byte: len(parts["vocab"]) + n for n, byte in enumerate(BYTES)}
        merges = [tuple(pair) for pair in parts["merges"]]
        return models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)

    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SIGNS, show_progress=False)
    return _with_bytes(models.BPE(unk_token="<unk>"), split, dummy, trainer, rebuilt, bos=True)


def unigram(bos: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's other model, with "▁" for spaces."""

    def rebuilt(backend):
        parts = json.loads(backend.to_str())["model"]
        pieces = [tuple(piece) for piece in parts["vocab"]] + [(byte, -20.0) for byte in BYTES]
        return models.Unigram(pieces, parts["unk_id"], True)

    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SIGNS, unk_token="<unk>", show_progress=False)
    return _with_bytes(models.Unigram(), True, True, trainer, rebuilt, bos)


TOKENISERS = {
    "byte-level": lambda: byte_level(False),
    "byte-level, trimmed offsets": lambda: byte_level(False, trim_offsets=True),
    "byte-level, BOS": lambda: byte_level(True),
    "metaspace BPE": lambda: fallback_bpe(split=True),
    "Llama 2": lambda: fallback_bpe(split=False),
    "Gemma": lambda: fallback_bpe(split=False, dummy=False),
    "unigram": lambda: unigram(False),
}


def make_model(config: PretrainedConfig, layer: int = 1, seed: int = 0, tokenizer=None) -> rrome.Model:
    """A random model of a family with weights large enough that keys differ from prompt to prompt."""
    tokenizer = tokenizer or make_tokenizer()
    config = type(config).from_dict(
        {**config.to_dict(), "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    )
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return rrome.wrap(lm, tokenizer, layer, name=f"tiny-{config.model_type}")


@functools.cache
def model_of(name: str) -> rrome.Model:
    """The tiny model of a family, one for all tests: leave it unedited."""
    return make_model(FAMILIES[name])


def random_texts(count: int = 40, length: int = 120) -> list[str]:
    """Text that uses every token, so that the tiny models' C_0 has full rank."""
    tokenizer, generator = make_tokenizer(), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, len(tokenizer), (count, length), generator=generator)
    return [tokenizer.decode(row) for row in tokens]
