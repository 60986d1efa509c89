"""The paper's larger models in shape: built from their published configurations on torch's meta device, which has no numbers.

Memory is counted tensor by tensor (see peak_bytes.py) while the kit works on such a model; of a real tiny model nearly the same
comes out. docs/models.md shows the numbers.
"""

import re
from pathlib import Path

import pytest
import torch
from families import FAMILIES, make_model, make_tokenizer
from peak_bytes import PeakBytes
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig

import rrome
from rrome.measure import fact_probabilities, row_perplexities
from rrome.store.disk import read_yaml
from rrome.update import find_values

CONFIGS = {
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "gpt-j-6b": GPTJConfig(vocab_size=50400, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64, n_positions=2048),
    "llama-2-7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096,
    ),
}  # fmt: skip
PARAMETERS = {"gpt2-xl": 1_557_611_200, "gpt-j-6b": 6_050_882_784, "llama-2-7b": 6_738_415_616}  # as published
SHAPES = {"gpt2-xl": (1600, 6400), "gpt-j-6b": (4096, 16384), "llama-2-7b": (4096, 11008)}
TEMPLATES = [
    "{}",
    *["The old town lies on the river and its. {}"] * 20,
]  # prefixes of 10 tokens, the length of sampled ones
PROBE = "The old town lies on the river. " * 18  # 145 tokens, as many as the kit's
FACT = rrome.Fact(
    "{} is located in the continent of", "Italy", "Antarctica", "Europe",
    paraphrases=["The town of Rome. Italy is located in"] * 2, neighbourhood=["Paris is located in the continent of"] * 10,
)  # fmt: skip
DOCS = Path(__file__).parent.parent / "docs" / "models.md"
ROW = re.compile(r"^\| (\S+) \| (\d+) \| (\d+) × (\d+) \| " + r" \| ".join([r"([\d.]+)"] * 6) + r" \|$", re.M)


class OnMeta(PeakBytes):
    """Where the host asks for numbers that are not there, it gets ones: padding is everywhere, all rows are distinct."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        first, name = args[0] if args else None, operation._schema.name
        if not isinstance(first, torch.Tensor) or not first.is_meta:
            return super().__torch_dispatch__(operation, types, args, kwargs)
        if name == "aten::_local_scalar_dense":
            return True
        if name == "aten::unique_dim":
            return first, *[torch.arange(len(first), device="meta")] * 2
        if name == "aten::index" and args[1][0].dtype == torch.bool:
            return first.new_empty(args[1][0].numel(), *first.shape[args[1][0].dim() :])
        if name == "aten::_to_copy" and (device := (kwargs or {}).get("device")) and device.type == "cpu":
            return torch.ones(first.shape, dtype=first.dtype)
        return super().__torch_dispatch__(operation, types, args, kwargs)


def gigabytes(model: rrome.Model, counted=OnMeta) -> list[float]:
    """The most that a search of one fact takes beside the model, and measuring the model unedited and under eight rules."""
    d_v, d_k = model.site.weight.shape
    updates = {f"{n}": rrome.RankOneUpdate(torch.zeros(d_v), torch.zeros(d_k), "", "", 1.0, 1.0) for n in range(8)}
    with counted() as search:
        find_values(model, [FACT], TEMPLATES, rrome.Search(evaluations=2, stop_loss=-1.0))
    with counted() as measuring:
        fact_probabilities(model, FACT, {"unedited": None, **updates})
        row_perplexities(model, PROBE, [None, *updates.values()])
    return [search.peak / 1e9, measuring.peak / 1e9]


def on_meta(config, layer: int, dtype=torch.bfloat16) -> rrome.Model:
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with OnMeta():
        return rrome.wrap(lm, make_tokenizer(), layer)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_models_of_the_paper_have_the_sizes_that_the_docs_say(name):
    model = on_meta(CONFIGS[name], read_yaml("models.yaml")[name]["layer"])
    assert model.lm.num_parameters() == PARAMETERS[name] and tuple(model.site.weight.shape) == SHAPES[name]
    (row,) = (cells for cells in ROW.findall(DOCS.read_text(encoding="utf-8")) if cells[0] == name)
    assert tuple(map(int, row[1:4])) == (model.layer, *SHAPES[name])
    search, measuring = gigabytes(model)
    expected = [
        2e-9 * PARAMETERS[name],
        4e-9 * PARAMETERS[name],
        8e-9 * SHAPES[name][1] ** 2,
        search,
        8 * search,
        measuring,
    ]
    assert list(map(float, row[4:])) == pytest.approx(expected, rel=0.05, abs=0.05)


def test_what_is_counted_on_meta_is_what_a_real_model_takes():
    real = make_model(FAMILIES["llama"])
    search, measuring = gigabytes(on_meta(real.lm.config, 1, torch.float32))
    taken = gigabytes(real, PeakBytes)
    assert taken[0] == pytest.approx(search)
    assert 0.7 * measuring < taken[1] < 1.1 * measuring  # equal rows share what lies below W, where it can be seen
