import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, generate, second_moment
from rrome.rowwise import rowwise

PROMPTS = ["Italy is located in the continent of", "The old town lies on", "A ship"]


@pytest.fixture(scope="module")
def editor(tiny, texts):
    return Editor(tiny, second_moment(tiny, texts, None, cache=False), prefixes=PREFIXES)


def test_each_row_is_edited_as_if_alone(editor):
    updates = [None, *editor.updates(FACTS[0], ["rome", "r-rome"]).values()]
    ids = editor.model.tokenizer(PROMPTS, return_tensors="pt", padding=True).input_ids
    with rowwise(editor.model, updates):
        together = editor.model.lm(input_ids=ids).logits
    alone = [editor.model.lm(input_ids=ids[:1]).logits]
    for row, update in enumerate(updates[1:], start=1):
        with editor.applied(update):
            alone.append(editor.model.lm(input_ids=ids[row : row + 1]).logits)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[1], editor.model.lm(input_ids=ids[1:2]).logits[0], atol=1e-2)


def test_generation_from_rows_equals_generation_from_edited_weights(editor):
    update = editor.update(FACTS[0], "p-rome")
    with rowwise(editor.model, [update] * 3):
        rows = generate(editor.model, PROMPTS, 6, top_k=1)
    with editor.applied(update):
        assert rows == generate(editor.model, PROMPTS, 6, top_k=1)
