"""What a model says: the probability of a target after a prompt, and how well it predicts running text."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from .errors import RromeError
from .hooks import vocabulary_at
from .keys import pad_right
from .models import Model
from .prompts import with_target
from .rowwise import rowwise
from .rules import RankOneUpdate

BATCH_TOKENS = 4096  # padded tokens in one forward pass
WINDOW = 512


@torch.no_grad()
def target_nll(
    model: Model,
    prompts: Sequence[str],
    targets: Sequence[str],
    updates: Sequence[RankOneUpdate | None] | None = None,
) -> torch.Tensor:
    """Mean negative log-likelihood per token (nats) of each target after its prompt, (B,) float32 on the CPU.

    The target follows after one space; all its tokens count. With `updates`, row b is measured as if updates[b] were
    in W. exp(-nll) is the probability that the metrics compare.
    """
    rows = [with_target(model, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n][0]))
    nll = torch.zeros(len(rows))
    while order:
        size = max(1, BATCH_TOKENS // len(rows[order[0]][0]))
        batch, order = order[:size], order[size:]
        picked = None if updates is None else [updates[n] for n in batch]
        nll[batch] = _batch_nll(model, [rows[n] for n in batch], picked)
    return nll


def _batch_nll(model: Model, rows: Sequence[tuple[list[int], int]], updates) -> torch.Tensor:
    ids = pad_right([ids[:-1] for ids, _ in rows], model.tokenizer.pad_token_id, model.device)
    places = [(b, len(ids) - back - 1, ids[-back]) for b, (ids, n) in enumerate(rows) for back in range(n, 0, -1)]
    where = torch.tensor(places, device=model.device).T  # (3, M): row, column, token
    with rowwise(model, updates or [None] * len(rows)), vocabulary_at(model, where[:2]):
        log_probs = model.lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # (M, V)
    nll = -log_probs.gather(1, where[2][:, None]).squeeze(1)
    total = torch.zeros(len(rows), device=model.device).index_add(0, where[0], nll)
    return (total / torch.tensor([n for _, n in rows], device=model.device)).cpu()


@torch.no_grad()
def perplexity(model: Model, texts: Sequence[str], n_tokens: int = 8192, *, progress: bool | None = False) -> float:
    """exp(mean NLL per token) over the first `n_tokens` tokens of the texts, in windows of 512 that each start afresh."""
    windows, window = [], min(WINDOW, model.context)
    for text in texts:
        ids = model.tokenizer(text, verbose=False)["input_ids"]
        windows += [ids[start : start + window] for start in range(0, len(ids), window)]
        if sum(map(len, windows)) >= n_tokens:
            break
    total = count = 0
    hidden = None if progress is None else not progress
    for ids in tqdm([ids for ids in windows if len(ids) > 1], desc="perplexity", disable=hidden):
        tokens = torch.tensor([ids[: n_tokens - count + 1]], device=model.device)
        if tokens.shape[1] < 2:
            break
        log_probs = model.lm(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(-1)  # (T - 1, V)
        total -= log_probs.gather(1, tokens[0, 1:, None]).sum().item()
        count += tokens.shape[1] - 1
    if not count:
        raise RromeError("the text is too short for a perplexity: give at least two tokens")
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
