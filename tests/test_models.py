import copy
import sys
import time

import pytest
import torch
from accelerate import dispatch_model
from conftest import make_tokenizer
from facts_for_tests import FACTS, PREFIXES

import rrome
from rrome import RromeError
from rrome.model.model import weights_fingerprint
from rrome.store.disk import read_yaml
from rrome.update.value import Search, find_value


def test_the_default_loads_at_its_layer_frozen_and_in_float32(default_model):
    assert default_model.layer == 9 and default_model.depth == 30
    assert default_model.site.weight.shape == (576, 1536)
    assert default_model.site.weight.dtype == torch.float32
    assert not default_model.lm.training
    assert not any(parameter.requires_grad for parameter in default_model.lm.parameters())


def test_loading_again_gives_the_same_weights_fast(default_model):
    started = time.perf_counter()
    again = rrome.load("smollm2-135m", layer=4, device="cpu")
    assert time.perf_counter() - started < 30
    assert again.fingerprint == default_model.fingerprint
    assert again.layer == 4


def test_a_folder_loads_with_a_default_and_an_explicit_layer(tiny, tmp_path):
    tiny.lm.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = rrome.load(tmp_path, device="cpu")
    assert loaded.layer == 4 // 3
    assert loaded.fingerprint == tiny.fingerprint
    assert rrome.load(str(tmp_path), device="cpu", layer=2).layer == 2
    with pytest.raises(RromeError, match="layer 7 is out of range"):
        rrome.load(tmp_path, layer=7)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(RromeError, match=f"{tmp_path.name} is not a model"):
        rrome.load(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RromeError, match="unknown model 'smolm2'.*smollm2-135m.*gpt2-xl"):
        rrome.load("smolm2")


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


@pytest.mark.parametrize(
    ("name", "layer", "search"),
    [
        ("gpt2-medium", 8, Search(clamp=3.0)),
        ("gpt2-large", 12, Search()),
        ("gpt2-xl", 17, Search()),
        ("gpt-j-6b", 5, Search()),
        ("llama-2-7b", 5, Search(evaluations=25, weight_decay=1e-3)),
    ],
)
def test_the_published_settings_are_those_of_the_paper(name, layer, search):
    entry = read_yaml("models.yaml")[name]
    assert entry["layer"] == layer and Search(**entry.get("search", {})) == search


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({"name": "gpt2-xl"}, ("openai-community/gpt2-xl", "main")),
        ({"name": "gpt2-xl", "revision": "abc123"}, ("openai-community/gpt2-xl", "abc123")),
        ({"name": "someone/some-model"}, ("someone/some-model", None)),
    ],
)
def test_the_hub_is_asked_for_the_revision_and_its_absence_explained(monkeypatch, arguments, asked):
    seen = []

    def offline(source, revision=None, **_):
        seen.append((source, revision))
        raise OSError("no connection")

    monkeypatch.setattr(sys.modules["rrome.model.load"].AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(RromeError, match="needs a network or an earlier download; no connection"):
        rrome.load(**arguments)
    assert seen == [asked]


def test_a_folder_loads_alike_on_one_device_and_on_those_there_are(tiny_llama, tmp_path):
    tiny_llama.lm.save_pretrained(tmp_path)
    tiny_llama.tokenizer.save_pretrained(tmp_path)
    loaded = rrome.load(tmp_path, device="auto", dtype=torch.float32)
    assert loaded.fingerprint == tiny_llama.fingerprint
    assert rrome.load(tmp_path, device="cpu", dtype=torch.bfloat16).site.weight.dtype == torch.bfloat16


def test_an_accelerator_that_torch_was_built_for_but_is_not_there_is_not_used(tiny_llama, tmp_path, monkeypatch):
    tiny_llama.lm.save_pretrained(tmp_path)
    tiny_llama.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else "cuda"
    )
    assert rrome.load(tmp_path).device.type == "cpu"


def test_a_model_that_accelerate_spread_is_searched_like_any_other(tiny_llama):
    lm = copy.deepcopy(tiny_llama.lm)
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    parts += [f"model.layers.{number}" for number in range(4)]
    lm = dispatch_model(lm, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    forward = vars(lm.model.layers[0])["forward"]
    spread = rrome.wrap(lm, tiny_llama.tokenizer, 1)
    assert torch.equal(find_value(spread, FACTS[0], PREFIXES).delta, find_value(tiny_llama, FACTS[0], PREFIXES).delta)
    assert vars(lm.model.layers[0])["forward"] is forward


def test_the_current_accelerator_is_named_with_its_number(tmp_path, monkeypatch):
    """transformers reads weights in threads, to which the number that is current in this one means nothing."""
    devices = []

    def from_pretrained(*_, device_map, **__):
        devices.append(device_map[""])
        raise OSError("far enough")

    make_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    monkeypatch.setattr(sys.modules["rrome.model.load"].AutoModelForCausalLM, "from_pretrained", from_pretrained)
    for device in (None, "cuda", "cuda:1", "cpu"):
        with pytest.raises(RromeError, match="far enough"):
            rrome.load(tmp_path, device=device)
    assert devices == [torch.device("cuda:3"), torch.device("cuda:3"), "cuda:1", "cpu"]
