"""The prompts of a search of delta as one batch, with all that delta does not change computed once.

R      rows: each fact's N rewrite prompts with the target after them, and its "{subject} is a", which is left out
       where the bare prompt begins with the same tokens
P, S   columns before, and from, the subject's last token, which is aligned to column P in every row
M      logit positions of targets: the (row, column) whose next-token distribution the loss reads
W_b    what stands for W in the rows of fact b: one fact may be searched in several edited models at once

Delta does not change the KV cache of the columns before P, nor anything below the output of W of l*. Where block l* adds
that output to the residual stream as it is, only the blocks above run, on S columns; families that normalise after the MLP
run block l* as well. What lies below W is read once for equal rows, whatever their W_b.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from transformers import DynamicCache

from ..facts.fact import Fact
from ..model import hooks
from ..model.hooks import Passage, blocks_from, input_of, output_changed, through_block
from ..model.model import Model
from ..model.site import find_site
from ..model.tokens import Row, read_row
from .keys import Keys


@dataclass(frozen=True, eq=False)
class LogitPositions:
    """`row`, `column` from P on, and `fact` of each logit position, (M + B,): M of targets, then B of the KL term.

    `label` (M,) are the target tokens, `weight` (M,) their weights in the mean over a target's tokens, then over rows;
    `prefixed` (M,): whether the prompt has a prefix, or the fact has no prompt with one.
    """

    row: torch.Tensor
    column: torch.Tensor
    fact: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    prefixed: torch.Tensor


def search_rows(
    model: Model, facts: Sequence[Fact], templates: Sequence[str], leading: str | None
) -> tuple[list[Row], list[int], LogitPositions]:
    """The rows of all facts, the number of each row's fact, and the logit positions."""
    rows: list[Row] = []
    owner: list[int] = []
    targets: list[tuple] = []  # (row, column, fact, label, weight, prefixed)
    kl: list[tuple[int, int, int]] = []  # (row, column, fact)
    for number, fact in enumerate(facts):
        start = len(rows)
        for template in templates:
            row = read_row(model, fact, template, target=fact.target_new, leading=leading)
            last = len(row.ids) - 1 - row.subject  # the column of the last target token, which is not read
            about = 1 / row.n_target / len(templates), len(rows) > start or len(templates) == 1
            for column, token in zip(range(last - row.n_target, last), row.ids[-row.n_target :], strict=True):
                targets.append((len(rows), column, number, token, *about))
            rows.append(row)
        bare = rows[start]
        subject_is = read_row(model, Fact("{} is a", fact.subject, fact.target_new), leading=leading)
        first_target_at_subject = len(bare.ids) - bare.n_target == bare.subject + 1  # the position of the KL term
        shared = not first_target_at_subject and subject_is.upto_subject == bare.upto_subject
        kl.append((start if shared else len(rows), 0, number))
        rows += [] if shared else [subject_is]
        owner += [number] * (len(rows) - start)
    at_row, at_column, of_fact = torch.tensor([target[:3] for target in targets] + kl, device=model.device).T
    *_, labels, weights, prefixed = zip(*targets, strict=True)
    weight = torch.tensor(weights, device=model.device, dtype=torch.float32)
    label, after_prefix = (torch.tensor(each, device=model.device) for each in (labels, prefixed))
    return rows, owner, LogitPositions(at_row, at_column, of_fact, label, weight, after_prefix)


def align(rows: Sequence[Row], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(ids, mask, P) of the rows, (R, P + S) both, padded on both sides: each subject's last token is in column P."""
    before = max(row.subject for row in rows)
    read = [row.ids[:-1] if row.n_target else row.upto_subject for row in rows]
    after = max(len(tokens) - row.subject for tokens, row in zip(read, rows, strict=True))
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    for n, (tokens, row) in enumerate(zip(read, rows, strict=True)):
        start = before - row.subject
        ids[n, start : start + len(tokens)] = torch.tensor(tokens)
        mask[n, start : start + len(tokens)] = 1
    return ids.to(device), mask.to(device), before


@dataclass(frozen=True, eq=False)
class Frozen:
    """What stays the same while the deltas of B facts are searched; `owner` (R,) is the number of each row's fact.

    `ids` (R, S) and `mask` (R, P + S) are the aligned rows, `hidden` (R, S, d) is the input of block `first`, `cache` the
    KV cache of the first P columns, per layer. `value` (R, S, d_v) is the output of W_b, for families that run
    block l*. `stream` (B, d) is what leaves block l* at the bare prompt's subject.
    """

    model: Model
    owner: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    first: int
    hidden: torch.Tensor
    value: torch.Tensor
    as_tuple: bool
    cache: list[tuple[torch.Tensor, torch.Tensor]]
    logit_positions: LogitPositions
    stream: torch.Tensor

    def evaluate(self, deltas: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each fact's mean NLL of the target (B,), and log-probabilities at its KL position (B, V), with its delta added.

        Third, (B,), how many of its target tokens after prefixes are not the likeliest. A delta is added to the output of W
        in column P of all rows of its fact.
        """
        model, read = self.model, self.logit_positions
        delta = torch.stack(list(deltas))[self.owner, None]  # (R, 1, d_v)

        def add(stream):  # (R, S, d_v)
            return torch.cat([stream[:, :1] + delta.to(stream.dtype), stream[:, 1:]], dim=1)

        where, above = torch.stack([read.row, read.column]), self.first > model.layer
        with (
            blocks_from(model, self.first, add(self.hidden) if above else self.hidden, self.as_tuple),
            output_changed(model.site, lambda *_: add(self.value)),  # unused when only blocks above run
            hooks.last_mlp_at(model, where) if model.layer < model.depth - 1 else nullcontext(),
            hooks.logits_at(model, where),
            hooks.attending_to(model, self.cache) as earlier,
        ):
            inputs = {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions}
            logits = model.lm(**inputs, past_key_values=earlier).logits.squeeze(0)
        targets, current = logits.float().split([len(read.label), len(deltas)])  # (M, V), (B, V)
        nll = read.weight * cross_entropy(targets, read.label, reduction="none")
        whose, none = read.fact[: len(nll)], nll.new_zeros(len(deltas))
        missed = read.prefixed & (targets.argmax(-1) != read.label)
        return none.index_add(0, whose, nll), current.log_softmax(-1), none.index_add(0, whose, missed.to(nll))

    def only(self, facts: Sequence[int]) -> "Frozen":
        """The same for some of the facts, given by their numbers in ascending order and renumbered from 0."""
        chosen = torch.tensor(facts, device=self.owner.device)
        read, rows = self.logit_positions, torch.isin(self.owner, chosen)
        at = torch.isin(read.fact, chosen)
        of_target = {name: getattr(read, name)[at[: len(read.label)]] for name in ("label", "weight", "prefixed")}
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("ids", "mask", "positions", "hidden", "value")},
            owner=torch.searchsorted(chosen, self.owner[rows]),
            cache=[(keys[rows], values[rows]) for keys, values in self.cache],
            logit_positions=LogitPositions(
                row=(rows.cumsum(0) - 1)[read.row[at]],
                column=read.column[at],
                fact=torch.searchsorted(chosen, read.fact[at]),
                **of_target,
            ),
            stream=self.stream[list(facts)],
        )


@torch.no_grad()
def freeze(
    model: Model,
    facts: Sequence[Fact],
    templates: Sequence[str],
    leading: str | None = None,
    weights: Sequence[torch.Tensor] | None = None,
) -> tuple[Frozen, list[Keys], torch.Tensor]:
    """Read the prompts of B facts once, with the model as it is: the batch, each fact's keys, and the v_0 (B, d_v).

    `weights` are the W_b, (d_v, d_k) each; None: W as it is.
    """
    rows, owner, logit_positions = search_rows(model, facts, templates, leading)
    read = rows if weights is None else list(dict.fromkeys(rows))
    ids, mask, before = align(read, model.pad, model.device)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}  # (R, P + S)
    cache = DynamicCache()
    seen = through_block(model, **inputs, past_key_values=cache)
    above = _adds_value(model, {name: tensor[:1] for name, tensor in inputs.items()}, seen)
    if weights is not None:
        number = {row: n for n, row in enumerate(read)}
        which = torch.tensor([number[row] for row in rows], device=model.device)  # (R,)
        inputs = {name: tensor[which] for name, tensor in inputs.items()}
        cache.batch_select_indices(which)
        lengths = [owner.count(number) for number in range(len(weights))]  # a fact's rows lie side by side

        def under(key, _value):  # (R, T, d_k)
            return torch.cat([linear(*part, model.site.bias) for part in zip(key.split(lengths), weights, strict=True)])

        with blocks_from(model, model.layer, seen.entering[which], seen.as_tuple), output_changed(model.site, under):
            seen = through_block(model, **inputs)
    starts = [owner.index(number) for number in range(len(facts))]
    batch = Frozen(
        model=model,
        owner=torch.tensor(owner, device=model.device),
        ids=inputs["input_ids"][:, before:],
        mask=inputs["attention_mask"],
        positions=inputs["position_ids"][:, before:],
        first=model.layer + 1 if above else model.layer,
        hidden=(seen.leaving if above else seen.entering)[:, before:],
        value=seen.value[:, before:],
        as_tuple=seen.as_tuple,
        cache=_earlier(model, {name: tensor[:, :before] for name, tensor in inputs.items()}, seen, cache),
        logit_positions=logit_positions,
        stream=seen.leaving[starts, before].float(),
    )
    keys = seen.key[:, before].float()  # (R, d_k)
    return batch, [Keys(keys[n : n + len(templates)]) for n in starts], seen.value[starts, before].float()


def _adds_value(model: Model, first: dict[str, torch.Tensor], seen: Passage) -> bool:
    """Whether block l*, run on the `first` row (1, P + S), adds the output of W as it is: doubled, it is added once more."""
    at_l = blocks_from(model, model.layer, seen.entering[:1], seen.as_tuple)
    with at_l, output_changed(model.site, lambda _key, value: 2 * value):
        twice = through_block(model, **first)
    value = seen.value[:1].float()
    added = (twice.leaving - seen.leaving[:1]).float() - value
    return model.layer + 1 < model.depth and (added.norm() < 0.01 * value.norm()).item()


def _earlier(model: Model, read: dict, seen: Passage, cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of the first P columns in every layer, (R, heads, P, d_head), zero where padded.

    Those up to l* are in `cache`; above it, only these columns are run, up to the last block.
    """
    before = read["input_ids"].shape[1]
    if not before:
        return []
    upper = DynamicCache()
    if model.layer + 1 < model.depth:
        last = find_site(model.lm, model.depth - 1).module
        with blocks_from(model, model.layer + 1, seen.leaving[:, :before], seen.as_tuple):
            input_of(model, last, **read, past_key_values=upper)
    real = read["attention_mask"][:, None, :, None].bool()
    layers: list[Any] = [*cache.layers[: model.layer + 1], *upper.layers[model.layer + 1 :]]
    states = [[layer.keys[:, :, :before], layer.values[:, :, :before]] for layer in layers]
    return [(torch.where(real.to(k.device), k, 0), torch.where(real.to(v.device), v, 0)) for k, v in states]
