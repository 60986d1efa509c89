"""Small tokenisers of the kinds that language models come with, trained on the spot; and GPT-2's own where it is at hand."""

import json
from pathlib import Path

import pytest
from conftest import SENTENCES
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SIGNS = ["<unk>", "<s>", "</s>"]
CHECKOUT = Path(__file__).parents[1]
GPT2 = next(
    (
        folder
        for folder in (CHECKOUT / "shared/data/gpt2_bpe", CHECKOUT.parent / "shared/data/gpt2_bpe")
        if folder.exists()
    ),
    None,
)


def _wrapped(backend: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
        kept = [] if backend.post_processor is None else [backend.post_processor]
        backend.post_processor = processors.Sequence([*kept, template])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(bos: bool, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2 (trimmed offsets), Llama 3 and Qwen: spaces are part of the word that follows, all text is bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SIGNS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return _wrapped(backend, bos)


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


def fallback_bpe(bos: bool, split: bool, dummy: bool = True) -> PreTrainedTokenizerFast:
    """Llama 2, Mistral and Gemma: "▁" for spaces, bytes for letters that are not in the vocabulary."""

    def rebuilt(backend):
        parts = json.loads(backend.to_str())["model"]
        vocabulary = parts["vocab"] | {byte: len(parts["vocab"]) + n for n, byte in enumerate(BYTES)}
        merges = [tuple(pair) for pair in parts["merges"]]
        return models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)

    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SIGNS, show_progress=False)
    return _with_bytes(models.BPE(unk_token="<unk>"), split, dummy, trainer, rebuilt, bos)


def unigram(bos: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's other model, with "▁" for spaces."""

    def rebuilt(backend):
        parts = json.loads(backend.to_str())["model"]
        pieces = [tuple(piece) for piece in parts["vocab"]] + [(byte, -20.0) for byte in BYTES]
        return models.Unigram(pieces, parts["unk_id"], True)

    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SIGNS, unk_token="<unk>", show_progress=False)
    return _with_bytes(models.Unigram(), True, True, trainer, rebuilt, bos)


def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2's own vocabulary; skips the test where its files are not at hand."""
    if GPT2 is None:
        pytest.skip("GPT-2's vocabulary is not at hand")
    return GPT2TokenizerFast(str(GPT2 / "encoder.json"), str(GPT2 / "vocab.bpe"))


TOKENISERS = {
    "byte-level": lambda: byte_level(False),
    "byte-level, trimmed offsets": lambda: byte_level(False, trim_offsets=True),
    "byte-level, BOS": lambda: byte_level(True),
    "metaspace BPE": lambda: fallback_bpe(False, split=True),
    "metaspace BPE, BOS": lambda: fallback_bpe(True, split=True),
    "Llama 2": lambda: fallback_bpe(True, split=False),
    "Gemma": lambda: fallback_bpe(True, split=False, dummy=False),
    "unigram": lambda: unigram(False),
    "unigram, BOS": lambda: unigram(True),
    "GPT-2": gpt2,
}
