import pytest
import torch
from facts_for_tests import FACTS

from rrome import generate
from rrome.measure.scores import below_kept, rowwise, shared_below
from rrome.model.site import blocks_of

PROMPTS = ["Italy is located in the continent of", "The old town lies on", "A ship"]


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


def test_blocks_below_run_once_for_each_distinct_row(editor):
    model = editor.model
    update = editor.update(FACTS[0], "p-rome")
    ids = model.tokenizer(PROMPTS[:1] * 3, return_tensors="pt").input_ids
    with rowwise(model, [None, update, None]):
        plain = model.lm(input_ids=ids, use_cache=False).logits
    seen, handle = counted(model)
    with shared_below(model, ids), rowwise(model, [None, update, None]):
        torch.testing.assert_close(model.lm(input_ids=ids, use_cache=False).logits, plain, rtol=1e-4, atol=1e-4)
    handle.remove()
    assert seen == [1, 3]  # the second call passes its input through
    torch.testing.assert_close(model.lm(input_ids=ids).logits[0], plain[0], rtol=1e-4, atol=1e-4)


def counted(model):
    """A list to which the first block appends how many rows it is given, and the hook to take out again."""
    seen = []
    first = blocks_of(model.lm)[0]
    return seen, first.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(args[0])), with_kwargs=True)


def read(model, ids):
    """Logits as the measures read them."""
    with shared_below(model, ids):
        return model.lm(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("limit, rows", [(2**20, [3, 3, 3, 1, 3]), (0, [3, 3, 3, 3, 3, 3])])  # every other 3: passed on
def test_rows_that_come_again_are_not_run_below_again_whatever_the_edit(editor, limit, rows):
    model, update = editor.model, editor.update(FACTS[0], "p-rome")
    ids = model.tokenizer([*PROMPTS, "It is Rome"], return_tensors="pt", padding=True, padding_side="right").input_ids
    plain = [model.lm(input_ids=ids).logits]
    with editor.applied(update):
        plain.append(model.lm(input_ids=ids).logits)
    with below_kept(limit):
        seen, handle = counted(model)
        first = read(model, ids[:3])
        with editor.applied(update):
            again, more = read(model, ids[:3]), read(model, ids[1:])
        handle.remove()
    assert seen == rows
    for ours, expected in ((first, plain[0][:3]), (again, plain[1][:3]), (more, plain[1][1:])):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_what_was_kept_is_gone_afterwards_and_belongs_to_one_layer(editor):
    model = editor.model
    ids = model.tokenizer(PROMPTS[:2], return_tensors="pt", padding=True, padding_side="right").input_ids
    plain = model.lm(input_ids=ids).logits
    other = model.at_layer(model.layer + 1)
    with below_kept():
        for one in (model, other, model):
            torch.testing.assert_close(read(one, ids), plain, rtol=1e-4, atol=1e-4)
    seen, handle = counted(model)
    read(model, ids)
    handle.remove()
    assert len(seen) == 1  # one ordinary pass: nothing is shared, nothing was kept
