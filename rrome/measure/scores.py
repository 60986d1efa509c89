"""The probability of a target after a prompt, and perplexity; each row of a batch may have its own update.

W' k = W k + left (right . k)       so a hook that adds left_b (right_b . k) to row b's output of W is the edit

No edit changes what lies below W of l*: it is computed once for equal rows of a batch, and only once in `below_kept`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

import torch

from ..facts.fact import Fact
from ..model.hooks import blocks_from, logits_at, output_changed, through_block
from ..model.model import Model
from ..model.tokens import batches, pad_right, with_target
from ..store.disk import RromeError
from ..update.rules import RankOneUpdate
from .metrics import mean

KEPT_BYTES = 256 * 2**20
WINDOW = 512  # tokens
TOO_SHORT = "the text is too short for a perplexity: give at least two tokens"
_kept: ContextVar["_Kept | None"] = ContextVar("_kept", default=None)  # of the innermost `below_kept`


@contextlib.contextmanager
def rowwise(model: Model, updates: Sequence[RankOneUpdate | None]) -> Iterator[None]:
    """Inside, row b of a batch of len(updates) rows is computed as if updates[b] were in W; None leaves it unedited.

    RromeError for an update that was made for another model or layer.
    """
    for update in filter(None, updates):
        model.edits.check_origin(update)
    d_v, d_k = model.site.weight.shape
    none = torch.zeros(d_v, dtype=torch.float32), torch.zeros(d_k, dtype=torch.float32)
    factors = [none if update is None else (update.left.cpu(), update.right.cpu()) for update in updates]
    left, right = (torch.stack(each).to(model.device) for each in zip(*factors, strict=True))  # (B, d_v), (B, d_k)

    def edit(key, value):  # (B, T, d_k), (B, T, d_v)
        amount = torch.einsum("btk,bk->bt", key.float(), right)  # right_b . k
        return value + (amount[:, :, None] * left[:, None, :]).to(value.dtype)

    with output_changed(model.site, edit):
        yield


@contextlib.contextmanager
def shared_below(model: Model, ids: torch.Tensor) -> Iterator[None]:
    """Inside, a cache-free forward pass of `ids` (B, T) computes what lies below l* once for each distinct row."""
    distinct, which = ids.unique(dim=0, return_inverse=True)
    kept = _kept.get() or _Kept(0)
    if not kept.limit and len(distinct) == len(ids):
        yield
        return
    entering, as_tuple = kept.entering(model, distinct)
    with blocks_from(model, model.layer, entering[which], as_tuple):
        yield


@contextlib.contextmanager
def below_kept(limit: int = KEPT_BYTES) -> Iterator[None]:
    """Inside, what enters block l* for a row is kept, up to `limit` bytes, and not computed again when the row comes again.

    For one model whose W alone is changed inside, as in a run of edits: prompts that are measured again and again.
    """
    token = _kept.set(_Kept(limit))
    try:
        yield
    finally:
        _kept.reset(token)


class _Kept:
    """What entered block l*, (T, d) per row of tokens, by model, layer and row with its padding."""

    def __init__(self, limit: int):
        self.limit = self.left = limit
        self.as_tuple = False
        self.states: dict[tuple, torch.Tensor] = {}

    def entering(self, model: Model, rows: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """What enters block l* for token rows (B, T), as (B, T, d), and whether the family's blocks return tuples."""
        keys = [(id(model.lm), model.layer, *row) for row in rows.tolist()]
        new = [n for n, key in enumerate(keys) if key not in self.states]
        made: dict[tuple, torch.Tensor] = {}
        if new:
            seen = through_block(model, input_ids=rows[new], use_cache=False)
            made, self.as_tuple = {keys[n]: state for n, state in zip(new, seen.entering, strict=True)}, seen.as_tuple
        stacked = torch.stack([(made if key in made else self.states)[key] for key in keys])
        for key, state in made.items():
            if (size := state.numel() * state.element_size()) <= self.left:
                self.left -= size
                self.states[key] = state.clone()  # not a view of its whole batch
        return stacked, self.as_tuple


@torch.no_grad()
def target_nll(
    model: Model,
    prompts: Sequence[str],
    targets: Sequence[str],
    updates: Sequence[RankOneUpdate | None] | None = None,
    separators: str | Sequence[str] = " ",
) -> torch.Tensor:
    """Mean negative log-likelihood per token (nats) of each target after its prompt, (B,) float32 on the CPU.

    Between them stands a separator, one for all or one each; all tokens of the target count. With `updates`, row b is
    measured as if updates[b] were in W. exp(-nll) is the probability that the metrics compare.
    """
    if isinstance(prompts, str) or isinstance(targets, str):
        raise RromeError(
            f"prompts and targets are lists of the same length, not one text: {prompts!r:.80}, {targets!r:.80}"
        )
    separators = [separators] * len(prompts) if isinstance(separators, str) else separators
    pairs = [with_target(model, *row) for row in zip(prompts, targets, separators, strict=True)]
    updates = updates or [None] * len(pairs)
    nll = torch.zeros(len(pairs), dtype=torch.float32)
    rows = _shared_rows([ids[:-1] for ids, _ in pairs], updates)
    for batch in batches(rows, lambda row: len(row[0])):
        served = [(row, n) for row, (_, members) in enumerate(batch) for n in members]
        edited = [updates[members[0]] for _, members in batch]
        nll[[n for _, n in served]] = _batch_nll(
            model, [ids for ids, _ in batch], [(row, *pairs[n]) for row, n in served], edited
        )
    return nll


def _shared_rows(
    reads: Sequence[list[int]], updates: Sequence[RankOneUpdate | None]
) -> list[tuple[list[int], list[int]]]:
    """The rows (tokens, which of `reads` they serve) to read, longest first and equal tokens side by side.

    Attention is causal: a longer row of the same update serves whatever begins it, as a prompt alone begins the same
    prompt with a part of its target.
    """
    groups: dict[int, int] = {}  # a number for each update
    keys = [(read, groups.setdefault(id(update), len(groups))) for read, update in zip(reads, updates, strict=True)]
    rows: list[tuple[list[int], list[int]]] = []
    begun: dict[tuple[tuple[int, ...], int], list[int]] = {}  # every beginning of a row, and the row's members
    for n in sorted(range(len(reads)), key=lambda n: (-len(reads[n]), keys[n])):
        read, group = keys[n]
        members = begun.get((tuple(read), group))
        if members is None:
            rows.append((read, members := []))
            begun |= {(tuple(read[:end]), group): members for end in range(1, len(read) + 1)}
        members.append(n)
    return rows


def _batch_nll(model: Model, rows: Sequence[list[int]], pairs, updates) -> torch.Tensor:
    """Mean NLL of each pair (row, ids, n_target), whose target is read from the batch's row."""
    ids = pad_right(rows, model.pad, model.device)
    positions = [
        (row, len(tokens) - back - 1, tokens[-back], pair)
        for pair, (row, tokens, n_target) in enumerate(pairs)
        for back in range(n_target, 0, -1)
    ]
    row, column, token, pair = torch.tensor(positions, device=model.device).T  # (M,) each
    with shared_below(model, ids), rowwise(model, updates), logits_at(model, torch.stack([row, column])):
        log_probs = model.lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # (M, V)
    nll = -log_probs.gather(1, token[:, None]).squeeze(1)
    total = nll.new_zeros(len(pairs)).index_add(0, pair, nll)
    return (total / torch.tensor([n for _, _, n in pairs], device=model.device)).cpu()


def _text_nll(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of all tokens but the first, (B, T - 1), for rows of tokens (B, T)."""
    logits = model.lm(input_ids=tokens, use_cache=False).logits[:, :-1].float()  # (B, T - 1, V)
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return nll.view(len(tokens), -1)


@torch.no_grad()
def perplexity(model: Model, texts: Sequence[str], n_tokens: int = 8192) -> float:
    """exp(mean NLL per token) over the first `n_tokens` tokens of the texts, in windows of 512 that each start afresh."""
    windows, window = [], min(WINDOW, model.context)
    for text in [texts] if isinstance(texts, str) else texts:
        ids = model.encode(text)
        windows += [ids[start : start + window] for start in range(0, len(ids), window)]
        if sum(map(len, windows)) >= n_tokens:
            break
    total, count = 0.0, 0
    for ids in windows:
        if len(read := ids[: n_tokens - count + 1]) > 1:
            total += _text_nll(model, torch.tensor([read], device=model.device)).sum().item()
            count += len(read) - 1
    if not count:
        raise RromeError(TOO_SHORT)
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


@torch.no_grad()
def row_perplexities(model: Model, text: str, updates: Sequence[RankOneUpdate | None]) -> list[float]:
    """exp(mean NLL per token) of one text (cut to a window) under each update, all in one batch."""
    ids = model.encode(text)[: min(WINDOW, model.context)]
    if len(ids) < 2:
        raise RromeError(TOO_SHORT)
    tokens = torch.tensor([ids] * len(updates), device=model.device)  # (B, T)
    with shared_below(model, tokens), rowwise(model, updates):
        return _text_nll(model, tokens).cpu().double().mean(1).exp().tolist()


def fact_probabilities(
    model: Model,
    fact: Fact,
    updates: Mapping[str, RankOneUpdate | None],
    more: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(p(new), p(true)) at every prompt of a fact under each named update (None: unedited), all in one batch.

    Returns {name: {"rewrite" | "paraphrase" | "neighbourhood" | a kind in `more`: pairs}}. Raises RromeError for a fact
    without a true answer.
    """
    kinds: dict[str, Sequence[str]] = {"rewrite": (fact.rewrite,), "paraphrase": fact.paraphrases}
    kinds |= {"neighbourhood": fact.neighbourhood, **(more or {})}
    rows = [(name, kind, prompt) for name in updates for kind, prompts in kinds.items() for prompt in prompts]
    prompts = [prompt for _, _, prompt in rows]
    targets = [fact.target_new] * len(rows) + [fact.answer] * len(rows)
    edited = [updates[name] for name, _, _ in rows] * 2
    probabilities = torch.exp(-target_nll(model, prompts * 2, targets, edited, fact.separator))
    pairs: dict = {name: {kind: [] for kind in kinds} for name in updates}
    for (name, kind, _), new, true in zip(rows, *probabilities.view(2, -1).tolist(), strict=True):
        pairs[name][kind].append((new, true))
    return pairs


def retained(model: Model, facts: Sequence[Fact]) -> float:
    """The share of facts whose rewrite prompt still prefers the new target to the true one; NaN for no facts."""
    prompts = [fact.rewrite for fact in facts for _ in range(2)]
    targets = [target for fact in facts for target in (fact.target_new, fact.answer)]
    separators = [fact.separator for fact in facts for _ in range(2)]
    nll = target_nll(model, prompts, targets, separators=separators).view(len(facts), 2)
    return mean((nll[:, 0] < nll[:, 1]).double().tolist())
