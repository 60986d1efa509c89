"""Keys: the input of W at the subject's last token.

    k(x)    (d_k,)  input of W at position i of prompt x
    k_e     (d_k,)  mean of k(x) over all templates: the averaged key
    k_e^o   (d_k,)  k of the bare prompt alone: the original key

Keys at l* depend only on the weights below W of l*, so editing that W does not change them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from ..facts.fact import Fact
from ..model.hooks import attending_to, input_of
from ..model.model import Model
from ..model.tokens import BATCH_TOKENS, Row, batches, pad_right, read_row
from ..store.disk import RromeError, bar

SHARED_START_TOKENS = 512  # padded tokens in one forward pass after a shared start, which needs little padding
PASS = 64  # the fixed cost of a forward pass, in tokens


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


def row_keys(model: Model, rows: Sequence[Row], *, progress: bool | None = False) -> torch.Tensor:
    """k at the subject's last token of each row, (N, d_k), in few batches.

    A start that many rows share, such as a prefix, is computed once: the rest of each row attends to its KV cache.
    """
    reads = [row.upto_subject for row in rows]
    groups = _by_shared_start(reads)
    work = [
        (start, batch)
        for start, rests in groups.items()
        for batch in batches(rests, len, SHARED_START_TOKENS if start else BATCH_TOKENS)
    ]
    found: dict[tuple[int, ...], torch.Tensor] = {}
    for start, batch in bar(work, desc="keys", unit="batch", show=progress):
        inputs = _inputs_after(model, start, batch)  # (B, T, d_k)
        found |= {start + rest: inputs[number, len(rest) - 1].clone() for number, rest in enumerate(batch)}
    return torch.stack([found[read] for read in reads])


def _by_shared_start(reads: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """The rests of distinct reads, longest read first, by the start whose sharing saves most tokens; () where none does."""
    distinct = sorted(set(reads), key=lambda read: (-len(read), read))
    shared = Counter(read[:end] for read in distinct for end in range(1, len(read)))
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for read in distinct:
        saved = [0.0] + [end - (end + PASS) / shared[read[:end]] for end in range(1, len(read))]
        end = saved.index(max(saved))
        groups.setdefault(read[:end], []).append(read[end:])
    return groups


def _inputs_after(model: Model, start: tuple[int, ...], rests: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """The inputs of W for rows of tokens after the same P tokens `start`: keys (B, T, d_k), float32."""
    ids = pad_right(rests, model.pad, model.device)  # (B, T)
    if not start:
        return capture_inputs(model, ids)
    cache, site = DynamicCache(), model.site.module
    input_of(model, site, input_ids=torch.tensor([start], device=model.device), past_key_values=cache)
    lower: list[Any] = cache.layers[: model.layer + 1]
    cached = [tuple(states.expand(len(ids), -1, -1, -1) for states in (layer.keys, layer.values)) for layer in lower]
    places = torch.arange(len(start) + ids.shape[1], device=model.device).expand(len(ids), -1)  # (B, P + T)
    inputs = {"attention_mask": torch.ones_like(places), "position_ids": places[:, len(start) :]}
    with attending_to(model, cached) as kv_cache:
        return input_of(model, site, input_ids=ids, **inputs, past_key_values=kv_cache).float()


def facts_keys(
    model: Model,
    facts: Sequence[Fact],
    templates: Sequence[str],
    leading: str | None = None,
    *,
    progress: bool | None = False,
) -> list[Keys]:
    """The keys of each fact under the templates (bare prompt first), in few batches; RromeError when the model yields NaN."""
    rows = [read_row(model, fact, template, leading=leading) for fact in facts for template in templates]
    every = row_keys(model, rows, progress=progress).split(len(templates)) if rows else []  # (N, d_k) each
    for fact, keys in zip(facts, every, strict=True):
        if not keys.isfinite().all():
            where = f"at layer {model.layer}: check the model's weights"
            raise RromeError(f"the keys of {fact.rewrite!r} hold NaN or infinity {where}")
    return [Keys(keys) for keys in every]
