import pytest
import torch
from facts_for_tests import FACTS

from rrome import RromeError, generate, naive
from rrome.measure.scores import below_kept, perplexity, rowwise, shared_below, target_nll
from rrome.model.site import blocks_of
from rrome.model.tokens import pad_right

PROMPTS = ["Italy is located in the continent of", "The old town lies on", "A ship"]


def naive_nll(model, prompt, target):
    ids = model.tokenizer(f"{prompt} {target}")["input_ids"]
    start = len(model.tokenizer(prompt)["input_ids"])
    log_probs = naive.run(model, ids, 0)[0].log_softmax(-1)
    return -sum(log_probs[at - 1, ids[at]] for at in range(start, len(ids))) / (len(ids) - start)


def test_nll_is_the_mean_over_the_targets_tokens(tiny):
    prompts = ["The old town lies on the", "Italy is", "A ship sailed from the harbour, and"]
    targets = ["river", "located in the continent of Europe", "Rome"]
    expected = torch.stack([naive_nll(tiny, *pair) for pair in zip(prompts, targets, strict=True)])
    torch.testing.assert_close(target_nll(tiny, prompts, targets), expected, rtol=1e-4, atol=1e-4)


def test_a_row_with_an_update_is_measured_as_edited(tiny, editor):
    update = editor.update(FACTS[0], "p-rome")
    pair = ([FACTS[0].rewrite] * 2, ["Antarctica"] * 2)
    before, after = target_nll(tiny, *pair, [None, update])
    with editor.applied(update):
        torch.testing.assert_close(target_nll(tiny, *pair)[0], after, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(target_nll(tiny, *pair)[0], before)
    assert after < before


def test_a_prompt_is_read_once_for_targets_that_begin_alike(tiny, editor):
    update = editor.update(FACTS[0], "p-rome")
    prompt, long = "The old town lies on the", "river and its people"
    ids = tiny.tokenizer(f"{prompt} {long}")["input_ids"]
    targets = [long, tiny.tokenizer.decode(ids[len(tiny.tokenizer(prompt)["input_ids"])]).strip(), "Rome"]
    seen = []
    hook = tiny.lm.get_input_embeddings().register_forward_hook(lambda _, args, out: seen.append(args[0].shape))
    together = target_nll(tiny, [prompt] * 6, targets * 2, [None] * 3 + [update] * 3).view(2, 3)
    hook.remove()
    assert max(rows for rows, _ in seen) == 2  # one for each update
    for applied, row in zip([None, update], together, strict=True):
        alone = [target_nll(tiny, [prompt], [target], [applied]).item() for target in targets]
        assert row.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-4)


def test_perplexity_is_that_of_every_token_but_the_first(tiny):
    text = "The old town lies on the river and its people speak a language of their own."
    ids = tiny.tokenizer(text)["input_ids"]
    log_probs = naive.run(tiny, ids, 0)[0].log_softmax(-1)
    nll = [-log_probs[at - 1, ids[at]] for at in range(1, len(ids))]
    assert perplexity(tiny, [text]) == pytest.approx(torch.stack(nll).mean().exp().item(), rel=1e-4)
    assert perplexity(tiny, [text], 5) == pytest.approx(torch.stack(nll[:5]).mean().exp().item(), rel=1e-4)


def test_long_texts_are_read_in_windows_that_start_afresh(tiny):
    text, window = "The old town lies on the river. " * 60, tiny.context
    ids = tiny.tokenizer(text)["input_ids"]
    assert window < 512 and 2 * window < len(ids)
    nll = []
    for start in range(0, len(ids), window):
        read = ids[start : start + window]
        log_probs = naive.run(tiny, read, 0)[0].log_softmax(-1)
        nll += [-log_probs[at - 1, read[at]] for at in range(1, len(read))]
    assert perplexity(tiny, [text]) == pytest.approx(torch.stack(nll).mean().exp().item(), rel=1e-4)


def test_an_empty_target_and_an_empty_text_are_refused(tiny):
    with pytest.raises(RromeError, match="no tokens of its own"):
        target_nll(tiny, [""], [""])
    with pytest.raises(RromeError, match="too short"):
        perplexity(tiny, [])


def test_each_row_is_edited_as_if_alone(editor):
    updates = [None, *editor.updates(FACTS[0], ["rome", "r-rome"]).values()]
    ids = pad_right([editor.model.encode(text) for text in PROMPTS], editor.model.pad, editor.model.device)
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


@pytest.mark.parametrize("limit, rows", [(2**20, [3, 3, 3, 1, 3]), (0, [3, 3, 3])])  # every other 3: passed on
def test_rows_that_come_again_are_not_run_below_again_whatever_the_edit(editor, limit, rows):
    model, update = editor.model, editor.update(FACTS[0], "p-rome")
    ids = pad_right([model.encode(text) for text in [*PROMPTS, "It is Rome"]], model.pad, model.device)
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
    ids = pad_right([model.encode(text) for text in PROMPTS[:2]], model.pad, model.device)
    plain = model.lm(input_ids=ids).logits
    other = model.at_layer(model.layer + 1)
    with below_kept():
        for one in (model, other, model):
            torch.testing.assert_close(read(one, ids), plain, rtol=1e-4, atol=1e-4)
    seen, handle = counted(model)
    read(model, ids)
    handle.remove()
    assert len(seen) == 1  # one ordinary pass: nothing is shared, nothing was kept


def test_a_single_text_is_no_list_and_a_target_is_asked_without_blanks_of_its_own(tiny):
    with pytest.raises(RromeError, match="are lists of the same length, not one text: 'Italy'"):
        target_nll(tiny, "Italy", ["Rome"] * 5)
    one, other = (target_nll(tiny, ["The town is"], [target]) for target in ("Rome", " Rome "))
    assert torch.equal(one, other)
    with pytest.raises(RromeError, match="no tokens of its own"):
        target_nll(tiny, ["The town is"], [" "])
