import pytest
import torch
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, RromeError, naive, second_moment
from rrome.measure.scores import perplexity, target_nll


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


def test_a_row_with_an_update_is_measured_as_edited(tiny, texts):
    editor = Editor(tiny, second_moment(tiny, texts, None, cache=False), prefixes=PREFIXES)
    update = editor.update(FACTS[0], "p-rome")
    pair = ([FACTS[0].rewrite] * 2, ["Antarctica"] * 2)
    before, after = target_nll(tiny, *pair, [None, update])
    with editor.applied(update):
        torch.testing.assert_close(target_nll(tiny, *pair)[0], after, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(target_nll(tiny, *pair)[0], before)
    assert after < before


def test_a_prompt_is_read_once_for_targets_that_begin_alike(tiny, texts):
    editor = Editor(tiny, second_moment(tiny, texts, None, cache=False), prefixes=PREFIXES)
    update = editor.update(FACTS[0], "p-rome")
    prompt, long = "The old town lies on the", "river and its people"
    ids = tiny.tokenizer(f"{prompt} {long}")["input_ids"]
    targets = [long, tiny.tokenizer.decode(ids[len(tiny.tokenizer(prompt)["input_ids"])]).strip(), "Rome"]
    seen = []
    hook = tiny.lm.get_input_embeddings().register_forward_hook(lambda _, args, out: seen.append(args[0].shape))
    together = target_nll(tiny, [prompt] * 6, targets * 2, [None] * 3 + [update] * 3).view(2, 3)
    hook.remove()
    assert max(rows for rows, _ in seen) == 2  # one for each edition
    for edition, row in zip([None, update], together, strict=True):
        alone = [target_nll(tiny, [prompt], [target], [edition]).item() for target in targets]
        assert row.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-4)


def test_perplexity_is_that_of_every_token_but_the_first(tiny):
    text = "The old town lies on the river and its people speak a language of their own."
    ids = tiny.tokenizer(text)["input_ids"]
    log_probs = naive.run(tiny, ids, 0)[0].log_softmax(-1)
    nll = [-log_probs[at - 1, ids[at]] for at in range(1, len(ids))]
    assert perplexity(tiny, [text]) == pytest.approx(torch.stack(nll).mean().exp().item(), rel=1e-4)
    assert perplexity(tiny, [text], 5) == pytest.approx(torch.stack(nll[:5]).mean().exp().item(), rel=1e-4)


def test_an_empty_target_and_an_empty_text_are_refused(tiny):
    with pytest.raises(RromeError, match="no tokens of its own"):
        target_nll(tiny, [""], [""])
    with pytest.raises(RromeError, match="too short"):
        perplexity(tiny, [])
