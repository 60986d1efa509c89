"""What speed is compared with: an edit as public code makes it, all its prompts in one padded batch.

Each evaluation is one pass of the whole model forward and back; nothing is kept from one to the next.

    R, T   rows: the N rewrite prompts with their target, and "{subject} is a"; columns, padded on the right
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import naive
from ..facts.fact import Fact
from ..model.hooks import output_changed
from ..model.model import Model
from ..model.tokens import pad_right

Found = tuple[torch.Tensor, torch.Tensor, list[float]]


def _reader(model: Model, rows: Sequence[Sequence[int]], at: Sequence[int]) -> Callable:
    """read(delta): logits (R, T, V), keys (R, d_k) and values (R, d_v) `at` a column of each row, with delta added there."""
    row, column = torch.arange(len(rows), device=model.device), torch.tensor(at, device=model.device)
    ids = pad_right(rows, model.tokenizer.pad_token_id, model.device)  # (R, T)
    lengths = torch.tensor([len(each) for each in rows], device=model.device)
    mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()

    def read(delta: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        seen: dict[str, torch.Tensor] = {}

        def change(key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:  # (R, T, d_k), (R, T, d_v)
            seen.update(key=key[row, column].detach(), value=value[row, column].detach())
            return value if delta is None else value.index_put((row, column), value[row, column] + delta)

        with output_changed(model.site, change):
            logits = model.lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits, seen["key"], seen["value"]

    return read


@torch.no_grad()
def batched_keys(model: Model, fact: Fact, templates: Sequence[str], leading: str = "") -> torch.Tensor:
    """The keys of the N prompts, (N, d_k)."""
    ids, at, _ = zip(*naive.prompts(model, fact, templates, leading), strict=True)
    return _reader(model, ids, at)()[1]


def batched_value(model: Model, fact: Fact, templates: Sequence[str], leading: str = "", **settings: Any) -> Found:
    """v_e (d_v,), delta (d_v,) and the losses, with the settings of `naive.value`, whose search it is."""
    ids, at, targets = zip(*naive.prompts(model, fact, templates, leading), strict=True)
    kl_ids, kl_at = naive.kl_prompt(model, fact, leading)
    read = _reader(model, [*ids, kl_ids], [*at, kl_at])
    of_targets = [
        (row, len(ids[row]) - len(target) + n, token, 1 / len(target) / len(targets))
        for row, target in enumerate(targets)
        for n, token in enumerate(target)
    ]
    *places, weights = zip(*of_targets, strict=True)
    row, column, token = torch.tensor(places, device=model.device)  # (M,) each
    weight = torch.tensor(weights, device=model.device)

    def evaluate(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = read(delta)[0]
        picked = logits[row, column].log_softmax(-1).gather(1, token[:, None]).squeeze(1)  # (M,)
        return -(weight * picked).sum(), logits[-1:, kl_at].log_softmax(-1)

    with torch.no_grad():
        v_0 = read()[2][0].clone()
    return naive.descend(v_0, evaluate, **settings)
