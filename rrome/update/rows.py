"""The rows of a search of delta as tokens, and the positions in them that the loss reads.

R      rows: each fact's N rewrite prompts with the target after them, and its "{subject} is a", which is left out
       where the bare prompt begins with the same tokens
P, S   columns before, and from, the subject's last token, which is aligned to column P in every row
M      logit positions: the (row, column) whose next-token distribution the loss reads
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..facts.fact import Fact
from ..model.model import Model
from ..model.tokens import Row, read_row, read_subject_is


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


def align(rows: Sequence[Row], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
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
