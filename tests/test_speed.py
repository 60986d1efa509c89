import pytest
import torch
from conftest import CONFIGS, make_model
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, Search, second_moment
from rrome.study import speed
from rrome.update.batch import freeze


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


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [("llama", 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 64), ("gpt2", 4 * 32 * 32, 2 * 32 * 128)],
)
def test_the_floor_counts_every_unavoidable_product_once(family, attention, mlp):
    fact, model = FACTS[0], make_model(CONFIGS[family])
    batch = freeze(model, [fact], PREFIXES)[0]
    tokens, live = batch.mask.sum().item(), batch.mask[:, -batch.ids.shape[1] :].sum().item()
    read = len(PREFIXES) * len(model.tokenizer(" " + fact.target_new)["input_ids"]) + 1
    head, block = 32 * len(model.tokenizer), attention + mlp
    step = live * (block + attention) + read * (mlp + head)  # l* is 1 of 4: a whole block, and the last one's attention
    once = tokens * 2 * block + (tokens - live) * (block + attention)
    assert speed.search_floor(model, batch, 4)[0] == 2 * (7 * step + once)


def test_scaling_measures_each_size_of_each_kind(editor):
    table = speed.scaling(
        editor, FACTS[:2], evaluations=2, leading_words=[0, 3], prefixes=[1], layers=[2], at_once=[1, 2]
    )
    assert table["size"].tolist() == [0, 3, 1, 1, 1, 2]
    assert (table[["seconds", "floor_seconds"]] > 0).all(axis=None)
