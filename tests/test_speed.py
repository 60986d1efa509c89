import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, Search, second_moment, speed
from rrome.frozen import freeze


@pytest.fixture(scope="module")
def editor(tiny, texts):
    moment = second_moment(tiny, texts, None, cache=False)
    return Editor(tiny, moment, prefixes=PREFIXES, search=Search(evaluations=4))


def test_the_comparison_holds_the_kit_to_the_naive_solver(editor):
    table = speed.against_naive(editor, FACTS[0])
    assert list(table.columns) == speed.COLUMNS
    assert list(table["what"]) == ["search of v_e", "one edit, rome", "one edit, all 8 rules"]
    assert (table["relative_error"] < 1e-4).all()
    assert (table["ratio"] == table["seconds_naive"] / table["seconds_ours"]).all()


def test_stages_leave_the_model_as_it_was(editor):
    before = editor.model.site.weight.clone()
    table = speed.stages(editor, FACTS[0])
    assert (table["seconds"] > 0).all()
    assert table.set_index("what")["of_search"]["search of v_e"] == 1
    assert torch.equal(editor.model.site.weight, before)


def test_the_floor_counts_every_unavoidable_product_once(tiny_llama):
    fact, widths = FACTS[0], {"model": 32, "mlp": 64, "attention": 2 * 32 * 32 + 2 * 32 * 16}
    batch = freeze(tiny_llama, [fact], PREFIXES)[0]
    tokens, live = batch.mask.sum().item(), batch.mask[:, -batch.ids.shape[1] :].sum().item()
    read = len(PREFIXES) * len(tiny_llama.tokenizer(" " + fact.target_new)["input_ids"]) + 1
    mlp, head = 3 * widths["model"] * widths["mlp"], 32 * len(tiny_llama.tokenizer)
    block = widths["attention"] + mlp  # l* is 1 of 4 blocks: one block whole above it, and the last one's attention
    step = live * (block + widths["attention"]) + read * (mlp + head)
    once = tokens * 2 * block + (tokens - live) * (block + widths["attention"])
    assert speed.search_floor(tiny_llama, batch, 4)[0] == 2 * (7 * step + once)


def test_scaling_measures_each_size_of_each_kind(editor):
    table = speed.scaling(
        editor, FACTS[:2], evaluations=2, leading_words=[0, 3], prefixes=[1], layers=[2], at_once=[1, 2]
    )
    assert table["size"].tolist() == [0, 3, 1, 1, 1, 2]
    assert (table[["seconds", "floor_seconds"]] > 0).all(axis=None)
