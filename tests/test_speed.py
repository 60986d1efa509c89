import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from families import make_model
from peak_bytes import PeakBytes
from transformers import GPT2Config, LlamaConfig

from rrome import Editor, RromeError, Search, load, second_moment
from rrome.facts import factbook_prose
from rrome.measure.scores import fact_probabilities
from rrome.study import speed
from rrome.update import RULES
from rrome.update.batch import freeze

WIDE = {
    "llama": LlamaConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
    "gpt2": GPT2Config(n_embd=256, n_layer=4, n_head=4, n_positions=256),
}


@pytest.fixture(scope="module")
def editor(tiny, texts):
    moment = second_moment(tiny, texts, None, cache=False)
    return Editor(tiny, moment, prefixes=PREFIXES, search=Search(evaluations=4))


def test_stages_leave_the_model_as_it_was(editor):
    before = editor.model.site.weight.clone()
    table = speed.stages(editor, FACTS[0])
    assert (table["seconds"] > 0).all()
    assert table.set_index("what")["of_search"]["search of v_e"] == 1
    assert torch.equal(editor.model.site.weight, before)


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [("llama", 4 * 256 * 256, 3 * 256 * 1024), ("gpt2", 4 * 256 * 256, 2 * 256 * 1024)],
)
def test_flops_are_those_that_a_search_cannot_avoid(family, attention, mlp):
    """Counted by hand; attention's own products and what is read twice before the search are the five percent."""
    fact, model, prompts = FACTS[0], make_model(WIDE[family]), ["{}"] * 8
    batch = freeze(model, [fact], prompts)[0]
    tokens, live = batch.mask.sum().item(), batch.mask[:, -batch.ids.shape[1] :].sum().item()
    read = len(prompts) * len(model.tokenizer(" " + fact.target_new)["input_ids"]) + 1
    head, block = 256 * len(model.tokenizer), attention + mlp
    step = live * (block + attention) + read * (mlp + head)  # l* is 1 of 4: a whole block, and the last one's attention
    once = tokens * 2 * block + (tokens - live) * (block + attention)
    by_hand = 2 * (39 * step + once)
    fixed, each = speed.search_flops(model, [fact], prompts)
    assert by_hand < fixed + 19.5 * each < 1.05 * by_hand
    assert 2 * once < fixed < 1.1 * 2 * once and 4 * step < each < 1.05 * 4 * step


def test_scaling_measures_each_case_per_fact(editor):
    model, templates = editor.model, editor.prefixes
    cases = [
        ("words", 3, model, FACTS[:1], templates, "and " * 3),
        ("facts", 2, model.at_layer(2), FACTS[:2], ["{}"], None),
    ]
    table = speed.scaling(cases, Search(evaluations=2))
    assert table["size"].tolist() == [3, 2]
    assert (table[["seconds", "floor_seconds"]] > 0).all(axis=None)


def test_what_comes_once_is_priced_at_its_own_number_of_rows(tiny_llama, monkeypatch):
    """Many rows make fast products, so one rate for all would put the floor above what a search takes."""
    asked = []
    monkeypatch.setattr(speed, "product_rate", lambda products: asked.append(products) or len(asked))
    once, step = speed.search_flops(tiny_llama, FACTS[:1], PREFIXES)
    floor = speed.search_floor(tiny_llama, FACTS[:1], PREFIXES, 3)
    assert floor == once / 1 + 2.5 * step / 2
    whole, above = ({rows for _, rows in products} for products in asked)
    batch = freeze(tiny_llama, FACTS[:1], PREFIXES)[0]
    assert whole == {int(batch.mask.sum())} and above == {batch.ids.numel(), len(batch.logit_positions.row)}


def test_an_edit_makes_no_second_copy_of_the_model(texts):
    model = make_model(WIDE["llama"])
    editor = Editor(model, second_moment(model, texts, None, cache=False), PREFIXES, search=Search(evaluations=4))
    weights = list(model.lm.parameters())
    size = sum(weight.nbytes for weight in weights)
    with PeakBytes() as copied:
        _ = [weight.clone() for weight in weights]
    assert copied.peak >= size
    with PeakBytes() as edited:
        updates = editor.updates(FACTS[0], list(RULES))
        fact_probabilities(model, FACTS[0], updates)
        with editor.applied(updates["rome"]):
            fact_probabilities(model, FACTS[0], {"now": None})
    assert model.site.weight.nbytes < edited.peak < size / 2


def test_memory_is_measured_in_a_process_of_its_own(saved, no_cache):
    model = load(saved, device="cpu")
    texts = factbook_prose("second-moment")
    editor = Editor(model, second_moment(model, texts, 1000), PREFIXES, search=Search(evaluations=2))
    large = bytearray(500 * 2**20)  # in this process; the other one must not count it, nor hide the edit behind it
    table = speed.edit_memory(editor, FACTS[0], sequences=[3]).set_index("what")
    del large
    assert list(table.index[2:]) == ["one edit under 8 rules, measured", "3 sequences in lockstep"]
    assert table["megabytes"].iloc[0] == pytest.approx(model.lm.num_parameters() * 4 / 1e6)
    assert (table["megabytes"] > 0).all() and table["megabytes"].max() < 250 and table["of_model"].iloc[0] == 1


def test_memory_of_a_model_that_cannot_be_loaded_again_is_an_error(editor):
    with pytest.raises(RromeError, match="unknown model 'tiny-"):
        speed.edit_memory(editor, FACTS[0])
