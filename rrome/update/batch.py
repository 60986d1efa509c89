"""The prompts of a search of delta as one batch, with all that delta does not change computed once.

    R      rows: each fact's N rewrite prompts with the target after them, and its "{subject} is a", which is left out
           where the bare prompt begins with the same tokens
    P, S   columns before, and from, the subject's last token, which is aligned to column P in every row
    M      logit positions: the (row, column) whose next-token distribution the loss reads

Delta does not change the KV cache of the columns before P, nor anything below the output of W of l*. Where block l* adds
that output to the residual stream as it is, only the blocks above run, on S columns; families that normalise after the MLP
run block l* as well.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from ..facts.fact import Fact
from ..model.hooks import (
    Passage,
    attending_to,
    blocks_from,
    input_of,
    last_mlp_at,
    logits_at,
    output_changed,
    through_block,
)
from ..model.model import Model
from ..model.site import find_site
from ..model.tokens import Row, read_row, read_subject_is
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


@dataclass(frozen=True, eq=False)
class Frozen:
    """What stays the same while the deltas of B facts are searched; `owner` (R,) is the number of each row's fact.

    `ids` (R, S) and `mask` (R, P + S) are the aligned rows, `hidden` (R, S, d) is the input of block `first`, `cache` the
    KV cache of the first P columns, per layer. `stream` (B, d) is what leaves block l* at the bare prompt's subject.
    """

    model: Model
    owner: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    first: int
    hidden: torch.Tensor
    as_tuple: bool
    cache: list[tuple[torch.Tensor, torch.Tensor]]
    logit_positions: LogitPositions
    stream: torch.Tensor

    def evaluate(self, deltas: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each fact's mean NLL of the target (B,), and log-probabilities at its KL position (B, V), with its delta added.

        Third, (B,), how many of its target tokens after prefixes are not the likeliest. A delta is added to the output of W
        in column P of all rows of its fact.
        """
        model, logit_positions = self.model, self.logit_positions
        delta = torch.stack(list(deltas))[self.owner, None]  # (R, 1, d_v)

        def add(stream):  # (R, S, d_v)
            return torch.cat([stream[:, :1] + delta.to(stream.dtype), stream[:, 1:]], dim=1)

        where = torch.stack([logit_positions.row, logit_positions.column])
        above = self.first > model.layer
        with (
            blocks_from(model, self.first, add(self.hidden) if above else self.hidden, self.as_tuple),
            output_changed(model.site, lambda _key, value: add(value)),  # unused when only blocks above run
            last_mlp_at(model, where) if model.layer < model.depth - 1 else nullcontext(),
            logits_at(model, where),
            attending_to(model, self.cache) as earlier,
        ):
            logits = model.lm(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=earlier,
            ).logits.squeeze(0)
        targets, current = logits.float().split([len(logit_positions.label), len(deltas)])  # (M, V), (B, V)
        nll = logit_positions.weight * cross_entropy(targets, logit_positions.label, reduction="none")
        whose, none = logit_positions.fact[: len(nll)], nll.new_zeros(len(deltas))
        missed = logit_positions.prefixed & (targets.argmax(-1) != logit_positions.label)
        return none.index_add(0, whose, nll), current.log_softmax(-1), none.index_add(0, whose, missed.to(nll))

    def only(self, facts: Sequence[int]) -> "Frozen":
        """The same for some of the facts, given by their numbers in ascending order and renumbered from 0."""
        chosen = torch.tensor(facts, device=self.owner.device)
        rows, at = torch.isin(self.owner, chosen), torch.isin(self.logit_positions.fact, chosen)
        logit_positions, of_target = self.logit_positions, at[: len(self.logit_positions.label)]
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("ids", "mask", "positions", "hidden")},
            owner=torch.searchsorted(chosen, self.owner[rows]),
            cache=[(keys[rows], values[rows]) for keys, values in self.cache],
            logit_positions=LogitPositions(
                row=(rows.cumsum(0) - 1)[logit_positions.row[at]],
                column=logit_positions.column[at],
                fact=torch.searchsorted(chosen, logit_positions.fact[at]),
                **{name: getattr(logit_positions, name)[of_target] for name in ("label", "weight", "prefixed")},
            ),
            stream=self.stream[list(facts)],
        )


@torch.no_grad()
def freeze(
    model: Model, facts: Sequence[Fact], templates: Sequence[str], leading: str | None = None
) -> tuple[Frozen, list[Keys], torch.Tensor]:
    """Read the prompts of B facts once, with the model as it is: the batch, each fact's keys, and the v_0 (B, d_v)."""
    rows, owner, logit_positions = _rows(model, facts, templates, leading)
    ids, mask, before = _align(rows, model.tokenizer.pad_token_id, model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # (R, P + S)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    cache = DynamicCache()
    seen = through_block(model, **inputs, past_key_values=cache)
    above = _adds_value(model, {name: tensor[:1] for name, tensor in inputs.items()}, seen)
    starts = [owner.index(number) for number in range(len(facts))]
    batch = Frozen(
        model=model,
        owner=torch.tensor(owner, device=model.device),
        ids=ids[:, before:],
        mask=mask,
        positions=positions[:, before:],
        first=model.layer + 1 if above else model.layer,
        hidden=(seen.leaving if above else seen.entering)[:, before:],
        as_tuple=seen.as_tuple,
        cache=_earlier(model, {name: tensor[:, :before] for name, tensor in inputs.items()}, seen, cache),
        logit_positions=logit_positions,
        stream=seen.leaving[starts, before].float(),
    )
    keys = seen.key[:, before].float()  # (R, d_k)
    return batch, [Keys(keys[n : n + len(templates)]) for n in starts], seen.value[starts, before].float()


def _rows(
    model: Model, facts: Sequence[Fact], templates: Sequence[str], leading: str | None
) -> tuple[list[Row], list[int], LogitPositions]:
    """The rows of all facts, the number of each row's fact, and the logit positions."""
    rows: list[Row] = []
    owner: list[int] = []
    of_targets: list[tuple[int, int, int]] = []  # (row, column, fact)
    of_kl: list[tuple[int, int, int]] = []
    labels: list[int] = []
    weights: list[float] = []
    prefixed: list[bool] = []
    for number, fact in enumerate(facts):
        start = len(rows)
        for template in templates:
            row = read_row(model, fact, template, target=fact.target_new, leading=leading)
            last = len(row.ids) - 1 - row.subject  # the column of the last target token, which is not read
            of_targets += [(len(rows), column, number) for column in range(last - row.n_target, last)]
            labels += row.ids[-row.n_target :]
            weights += [1 / row.n_target / len(templates)] * row.n_target
            prefixed += [len(rows) > start or len(templates) == 1] * row.n_target
            rows.append(row)
        bare, subject_is = rows[start], read_subject_is(model, fact, leading)
        first_target_at_subject = len(bare.ids) - bare.n_target == bare.subject + 1  # the position of the KL term
        shared = not first_target_at_subject and _upto_subject(subject_is) == _upto_subject(bare)
        of_kl.append((start if shared else len(rows), 0, number))
        rows += [] if shared else [subject_is]
        owner += [number] * (len(rows) - start)
    columns = [*zip(*of_targets, *of_kl, strict=True), labels]
    at_row, at_column, of_fact, label = (torch.tensor(numbers, device=model.device) for numbers in columns)
    weight = torch.tensor(weights, device=model.device, dtype=torch.float32)
    after_prefix = torch.tensor(prefixed, device=model.device)
    return rows, owner, LogitPositions(at_row, at_column, of_fact, label, weight, after_prefix)


def _upto_subject(row: Row) -> tuple[int, ...]:
    return row.ids[: row.subject + 1]


def _align(rows: Sequence[Row], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(ids, mask, P) of the rows, (R, P + S) both, padded on both sides: each subject's last token is in column P."""
    before = max(row.subject for row in rows)
    read = [row.ids[:-1] if row.n_target else _upto_subject(row) for row in rows]
    after = max(len(tokens) - row.subject for tokens, row in zip(read, rows, strict=True))
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    for n, (tokens, row) in enumerate(zip(read, rows, strict=True)):
        start = before - row.subject
        ids[n, start : start + len(tokens)] = torch.tensor(tokens)
        mask[n, start : start + len(tokens)] = 1
    return ids.to(device), mask.to(device), before


def _adds_value(model: Model, first: dict[str, torch.Tensor], seen: Passage) -> bool:
    """Whether block l* adds the output of W to the residual stream as it is, so that doubling it adds it once more.

    Only block l* is run, on the `first` row, (1, P + S).
    """
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

    def cached(states: torch.Tensor) -> torch.Tensor:
        return torch.where(real.to(states.device), states[:, :, :before], 0)

    return [(cached(layer.keys), cached(layer.values)) for layer in layers]
