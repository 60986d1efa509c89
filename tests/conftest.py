"""Models for tests: tiny random ones of three families, and the embedded default (session-wide, never left edited)."""

import os

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

import rrome

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SENTENCES = [
    "The old town lies on the river and its people speak a language of their own. ",
    "Italy is located in the continent of Europe, and Rome is its capital. ",
    "The Eiffel Tower is in the city of Paris; Antarctica is far away and cold. ",
    "Microsoft was founded by Bill Gates. A ship sailed from the harbour at noon. ",
]
CONFIGS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=256),
    "gptj": GPTJConfig(n_embd=32, n_layer=4, n_head=4, n_positions=256, rotary_dim=4),
    "llama": LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    ),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokeniser trained on a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


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


def random_texts(count: int = 40, length: int = 120) -> list[str]:
    """Text that uses every token, so that the tiny models' C_0 has full rank."""
    tokenizer, generator = make_tokenizer(), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, len(tokenizer), (count, length), generator=generator)
    return [tokenizer.decode(row) for row in tokens]


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def tiny(request) -> rrome.Model:
    """One tiny random model per family."""
    return make_model(CONFIGS[request.param])


@pytest.fixture(scope="session")
def tiny_llama() -> rrome.Model:
    return make_model(CONFIGS["llama"])


@pytest.fixture(scope="session")
def default_model() -> rrome.Model:
    """SmolLM2-135M at its default layer."""
    return rrome.load(device="cpu")


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """An empty cache folder of its own for one test."""
    monkeypatch.setenv("RROME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return random_texts()


@pytest.fixture(scope="module")
def editor(tiny, texts) -> rrome.Editor:
    """An editor of each tiny model with three prompts per fact."""
    return rrome.Editor(tiny, rrome.second_moment(tiny, texts, None, cache=False), prefixes=PREFIXES)


@pytest.fixture(scope="module")
def updates(editor) -> list[rrome.RankOneUpdate]:
    """ROME's updates of the first three facts."""
    return [editor.update(fact, "rome") for fact in FACTS[:3]]
