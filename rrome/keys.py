"""Keys: what W reads at the subject's last token.

    k(x)    (d_k,)  input of W at position i of prompt x
    k_e     (d_k,)  mean of k(x) over all templates: the averaged key
    k_e^o   (d_k,)  k of the bare prompt alone: the original key

Keys at l* depend only on what lies below W of l*, so editing that W never changes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import RromeError
from .facts import Fact
from .hooks import input_of
from .models import Model
from .prompts import Row, read_row

BATCH_TOKENS = 4096  # padded tokens in one forward pass


@dataclass(frozen=True, eq=False)
class Keys:
    """The two keys of a fact: `all` (N, d_k), one per template with the bare prompt first, in float32."""

    all: torch.Tensor

    @property
    def average(self) -> torch.Tensor:
        """k_e, (d_k,)."""
        return self.all.mean(0)

    @property
    def original(self) -> torch.Tensor:
        """k_e^o, (d_k,)."""
        return self.all[0]

    @property
    def cosine(self) -> float:
        """The cosine of the angle between k_e and k_e^o."""
        return torch.cosine_similarity(self.average, self.original, dim=0).item()


def capture_inputs(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """The inputs of W for right-padded tokens `ids` (B, T): keys (B, T, d_k), float32; no layer above W is run.

    Attention is causal, so padding on the right cannot reach the tokens before it and needs no mask.
    """
    return input_of(model, model.site.module, input_ids=ids, use_cache=False).float()


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Token lists as one tensor (B, T), filled up on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad).to(device)


def batches(items: Sequence, length: Callable[[Any], int], tokens: int = BATCH_TOKENS) -> Iterator[list]:
    """Items sorted by length, longest first, in batches of about `tokens` padded tokens."""
    start = 0
    while start < len(items):
        size = max(1, tokens // max(1, length(items[start])))
        yield list(items[start : start + size])
        start += size


def row_keys(model: Model, rows: Sequence[Row]) -> torch.Tensor:
    """k at the subject's last token of each row, (N, d_k)."""
    ids = pad_right([row.ids[: row.subject + 1] for row in rows], model.tokenizer.pad_token_id, model.device)
    positions = torch.tensor([row.subject for row in rows], device=model.device)
    return capture_inputs(model, ids)[torch.arange(len(rows), device=model.device), positions]  # (N, d_k)


def fact_keys(model: Model, fact: Fact, templates: Sequence[str], leading: str | None = None) -> Keys:
    """The keys of a fact under the templates (bare prompt first); RromeError when the model yields NaN."""
    keys = Keys(row_keys(model, [read_row(model, fact, template, leading=leading) for template in templates]))
    if not keys.all.isfinite().all():
        raise RromeError(
            f"the keys of {fact.rewrite!r} hold NaN or infinity at layer {model.layer}: check the model's weights"
        )
    return keys
