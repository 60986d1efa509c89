"""Adapters against plain peft, and back again; and the merged model. peft is the oracle: it knows nothing of this kit.

Over the 25 families of tests/families.py the logits of three edits, which moved them by 0.1 to 3.3, differed from peft's by at
most 2.1e-6.
"""

import copy
import errno
import json
import re
import subprocess
import sys
from dataclasses import replace

import peft
import pytest
import torch
from facts_for_tests import FACTS
from families import FAMILIES, make_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import rrome
from rrome import EditLog, RankOneUpdate, RromeError
from rrome.edit.adapter import save_adapter, save_merged
from rrome.store.disk import cache_dir

# peft 0.21 still asks transformers by the old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(2, 30)[None]
CLOSE = {"rtol": 0, "atol": 1e-5}


def logits(lm) -> torch.Tensor:
    with torch.no_grad():
        return lm(input_ids=IDS.to(lm.device)).logits


def random_updates(model, n: int) -> list[RankOneUpdate]:
    """Updates large enough to be seen in every family, of facts that read badly in a table."""
    generator = torch.Generator().manual_seed(0)
    d_v, d_k = model.site.weight.shape
    lefts = model.site.weight.norm() / d_v * torch.randn(n, d_v, generator=generator)
    rights = 2 * d_k**-0.5 * torch.randn(n, d_k, generator=generator)
    facts = [replace(fact, subject=f"{fact.subject} | a\n<b>") for fact in FACTS[:n]]
    return [
        RankOneUpdate(left, right, "rome", fact.subject, -0.5, 1 / 3, fact)
        for left, right, fact in zip(lefts, rights, facts, strict=True)
    ]


@pytest.fixture
def edited(editor, updates):
    """The editor of each tiny model with three edits in."""
    editor.model.edits.set(updates)
    yield editor
    editor.model.edits.set(())


@pytest.fixture
def adapter(edited, tmp_path):
    edited.save(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_says_what_the_edited_model_says(family, tmp_path):
    model = make_model(FAMILIES[family])
    before, updates = logits(model.lm), random_updates(model, 3)
    for n in (1, 3):
        save_adapter(tmp_path / f"{n}", model, updates[:n], {})
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(model.lm), tmp_path / f"{n}")
        model.edits.set(updates[:n])
        expected, weight = logits(model.lm), model.site.weight.clone()
        model.edits.set(())
        assert (expected - before).abs().max() > 0.05
        torch.testing.assert_close(logits(plain), expected, **CLOSE)
        EditLog(tmp_path / f"{n}").replay(model)
        assert torch.equal(model.site.weight, weight)
        model.edits.set(())
        torch.testing.assert_close(logits(plain.merge_and_unload()), expected, **CLOSE)


def test_only_the_edited_module_is_touched_where_other_layers_have_like_names(tmp_path):
    model = make_model(LlamaConfig(**FAMILIES["llama"].to_dict() | {"num_hidden_layers": 12, "layer_types": None}))
    save_adapter(tmp_path / "a", model, random_updates(model, 2), {})
    plain = peft.PeftModel.from_pretrained(model.lm, tmp_path / "a")
    touched = [name for name, module in plain.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert touched == ["base_model.model.model.layers.1.mlp.down_proj"]
    assert plain.base_model.get_submodule("model.model.layers.1.mlp.down_proj").scaling == {"default": 1.0}


def test_an_adapter_is_a_log_that_brings_w_back_bit_for_bit(edited, updates, adapter):
    weight, model = edited.model.site.weight.clone(), edited.model
    model.edits.set(())
    log = EditLog(adapter)
    log.replay(model)
    assert torch.equal(model.site.weight, weight)
    for n, update in enumerate(updates, 1):
        found = log.update(n)
        assert torch.equal(found.left, update.left) and torch.equal(found.right, update.right)
        assert found.notes == update.notes and found.fact == FACTS[n - 1]
    log.replay(model, 1)
    assert model.edits.updates == (log.update(1),)


def test_a_log_comes_back_with_every_row_also_of_edits_that_failed(tiny, updates, tmp_path):
    with EditLog(tmp_path / "log", tiny, {"second_moment": "c_0 of Rome"}) as log:
        log.append(updates[0], FACTS[0], perplexity=40.5)
        log.append(None, FACTS[1], error="NaN")
        log.append(updates[2], FACTS[2])
    log.export(tiny, tmp_path / "adapter")
    log.export(tiny, tmp_path / "first", 1)
    EditLog(tmp_path / "adapter").export(tiny, tmp_path / "again")
    for name, n in {"adapter": 3, "again": 3, "first": 1}.items():
        back = EditLog(tmp_path / name)
        assert back.settings["second_moment"] == "c_0 of Rome" and len(back) == n
        for row, found in zip(log.rows, back.rows, strict=False):
            assert {key: found[key] for key in row if key not in ("file", "sha256")}.items() <= row.items()
        log.replay(tiny, n)
        weight = tiny.site.weight.clone()
        tiny.edits.set(())
        back.replay(tiny, n)
        assert torch.equal(tiny.site.weight, weight)
    tiny.edits.set(())


def test_updates_that_stay_on_disk_are_saved_with_their_facts(edited, updates, tmp_path):
    with EditLog(tmp_path / "log", edited.model) as log:
        log.append(updates[1], FACTS[1])
    log.replay(edited.model)
    edited.save(tmp_path / "adapter")
    assert EditLog(tmp_path / "adapter").update(1).notes == updates[1].notes


def test_the_card_says_what_was_edited_and_the_hub_can_read_it(edited, adapter):
    card, model = ModelCard.load(adapter / "README.md"), edited.model
    assert card.data.base_model == model.name and card.data.library_name == "peft" and "rome" in card.data.tags
    for text in (
        model.fingerprint,
        f"layer {model.layer}",
        edited.second_moment.key,
        rrome.__version__,
        "3 edited facts",
    ):
        assert text in card.text
    assert f"{edited.second_moment.count} tokens" in card.text
    for fact, update in zip(FACTS, model.edits.updates, strict=False):
        line = next(line for line in card.text.splitlines() if f" {fact.subject} " in line and "|" in line)
        assert fact.prompt in line and fact.target_new in line and f"{update.size:.4g}" in line and "rome" in line


def test_texts_of_facts_stay_in_their_cells(tiny_llama, tmp_path):
    save_adapter(tmp_path / "a", tiny_llama, random_updates(tiny_llama, 1), {})
    (line,) = re.findall(r"^\|.*Italy.*$", (tmp_path / "a" / "README.md").read_text(), flags=re.MULTILINE)
    assert r"Italy \| a \<b>" in line and len(re.findall(r"(?<!\\)\|", line)) == 9


PROCESS = """
import sys, torch
{snippet}
assert "rrome" not in sys.modules
for name, lm in {{"adapter": model, "merged": AutoModelForCausalLM.from_pretrained("merged")}}.items():
    torch.save(lm.eval()(input_ids=torch.arange(2, 30)[None]).logits.detach(), name + ".pt")
"""


def test_the_cards_lines_run_in_another_process_without_this_kit(tmp_path):
    made = make_model(FAMILIES["gpt2"])
    made.lm.save_pretrained(tmp_path / "base")
    made.tokenizer.save_pretrained(tmp_path / "base")
    model = rrome.load(tmp_path / "base", layer=1, device="cpu")
    model.edits.set(random_updates(model, 3))
    save_adapter(tmp_path / "adapter", model, model.edits.updates, {})
    rrome.edit.adapter.save_merged(tmp_path / "merged", model)
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "adapter/README.md").read_text(), flags=re.DOTALL)
    assert len(snippet.split("\n\n")) == 2 and len([line for line in snippet.splitlines() if line]) == 4
    subprocess.run([sys.executable, "-c", PROCESS.format(snippet=snippet)], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "adapter.pt"), logits(model.lm), **CLOSE)
    torch.testing.assert_close(
        torch.load(tmp_path / "merged.pt"), logits(model.lm), **CLOSE
    )  # threads of another process


def test_the_merged_model_is_an_ordinary_one(edited, tmp_path):
    edited.save_merged(tmp_path / "merged")
    again = rrome.load(tmp_path / "merged", layer=edited.model.layer, device="cpu")
    assert torch.equal(again.site.weight, edited.model.site.weight) and not again.edits.updates
    assert torch.equal(logits(again.lm), logits(edited.model.lm))
    assert again.tokenizer("Rome is")["input_ids"] == edited.model.tokenizer("Rome is")["input_ids"]
    assert ModelCard.load(tmp_path / "merged/README.md").data.library_name == "transformers"


def test_the_default_model_merges_into_a_folder_that_does_not_call_itself_quantised(default_model, tmp_path):
    default_model.edits.set(random_updates(default_model, 1))
    try:
        rrome.edit.adapter.save_merged(tmp_path / "merged", default_model)
        expected = logits(default_model.lm)
    finally:
        default_model.edits.set(())
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(lm), expected) and not hasattr(lm.config, "quantization_config")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == default_model.tokenizer.eos_token


def test_half_precision_keeps_float32_factors_and_comes_back_bit_for_bit(tiny_llama, tmp_path):
    model = rrome.wrap(copy.deepcopy(tiny_llama.lm).bfloat16(), tiny_llama.tokenizer, 1)
    updates = random_updates(model, 2)
    model.edits.set(updates)
    weight = model.site.weight.clone()
    save_adapter(tmp_path / "a", model, updates, {})
    model.edits.set(())
    EditLog(tmp_path / "a").replay(model)
    assert torch.equal(model.site.weight, weight)
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_llama.lm).bfloat16(), tmp_path / "a")
    factors = [weight for name, weight in plain.named_parameters() if "lora" in name]
    assert len(factors) == 2 and {factor.dtype for factor in factors} == {torch.float32}


def test_nothing_to_save_is_said(editor, tmp_path):
    for save in (editor.save, editor.save_merged):
        with pytest.raises(RromeError, match="no edit to save in .*/a: apply an update first"):
            save(tmp_path / "a")
    with EditLog(tmp_path / "log", editor.model) as log:
        log.append(None, FACTS[0], error="NaN")
    with pytest.raises(RromeError, match="no edit to save"):
        log.export(editor.model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_holds_something_is_left_alone(edited, adapter, tmp_path):
    before = (adapter / "README.md").read_text()
    (tmp_path / "file").write_text("mine")
    for taken in (adapter, tmp_path / "file"):
        for save in (edited.save, edited.save_merged):
            with pytest.raises(RromeError, match=f"{taken} exists and is not empty: choose another folder"):
                save(taken)
    assert (adapter / "README.md").read_text() == before and (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    edited.save(tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").exists()


@pytest.mark.parametrize("step", ["save_file", "as_line", "_config", "_write_card"])
def test_a_crash_leaves_nothing_half_written(edited, tmp_path, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"rrome.edit.adapter.{step}", full)
    with pytest.raises(RromeError, match="no disk space left"):
        edited.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_adapters_of_other_make_or_another_model_are_refused_with_the_remedy(edited, adapter, tmp_path):
    model = edited.model
    with pytest.raises(RromeError, match=f"layer 1 there, 2 here.: load {model.name}, layer 1"):
        EditLog(adapter).replay(model.at_layer(2))
    other = make_model(model.lm.config, seed=1)
    with pytest.raises(RromeError, match=f"another model .model {model.fingerprint} there, {other.fingerprint} here"):
        EditLog(adapter).replay(other)
    with pytest.raises(RromeError, match="is an adapter, which is complete: open it without a model"):
        EditLog(adapter, model)
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(model.lm), adapter)
    plain.save_pretrained(tmp_path / "by_peft", save_embedding_layers=False)
    with pytest.raises(
        RromeError, match=r"by_peft was not made by this kit \(it has no edits.jsonl\): load it with peft"
    ):
        EditLog(tmp_path / "by_peft")


def test_an_adapter_that_was_changed_afterwards_is_refused(edited, adapter):
    weights, lines = adapter / "adapter_model.safetensors", adapter / "edits.jsonl"
    whole = lines.read_text()
    lines.write_text(whole[:-5])
    with pytest.raises(RromeError, match="not the one that edits.jsonl beside it describes: restore both"):
        EditLog(adapter).replay(edited.model)
    lines.write_text(whole)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RromeError, match="not the one that edits.jsonl beside it describes: restore both"):
        EditLog(adapter).replay(edited.model)
    weights.unlink()
    with pytest.raises(RromeError, match="adapter_model.safetensors is missing"):
        EditLog(adapter).replay(edited.model)
    assert len(edited.model.edits) == 3


def test_the_config_is_peft_s_own(edited, adapter):
    written = json.loads((adapter / "adapter_config.json").read_text())
    assert written == {**peft.LoraConfig.from_pretrained(adapter).to_dict(), "target_modules": [edited.model.site.path]}
    assert written["r"] == written["lora_alpha"] == 3 and not written["use_rslora"]
    assert written["fan_in_fan_out"] == edited.model.site.transposed


def test_an_adapter_of_the_default_model_names_no_folder_of_this_machine(default_model, tmp_path):
    save_adapter(tmp_path / "a", default_model, random_updates(default_model, 1), {})
    written = "".join(file.read_text() for file in (tmp_path / "a").iterdir() if file.suffix != ".safetensors")
    assert f'"{default_model.name}"' in written
    assert str(cache_dir()) not in written


@pytest.mark.parametrize("fault", ["changed", "lost"])
def test_a_merged_model_is_read_back_before_it_appears(tiny_llama, tmp_path, monkeypatch, fault):
    model, save = tiny_llama, type(tiny_llama.lm).save_pretrained

    def faulty(lm, folder):
        save(lm, folder)
        tensors = load_file(folder / "model.safetensors")
        name = f"{model.site.path}.weight"
        changed = {} if fault == "lost" else {name: tensors[name] + 1}
        save_file(
            {key: tensor for key, tensor in tensors.items() if key != name} | changed, folder / "model.safetensors"
        )

    monkeypatch.setattr(type(model.lm), "save_pretrained", faulty)
    model.edits.put(random_updates(model, 1)[0])
    with pytest.raises(RromeError, match=r"mlp\.down_proj"):
        save_merged(tmp_path / "merged", model)
    model.edits.take_out()
    assert not (tmp_path / "merged").exists()
