"""Attention to columns that stay the same: their keys and values are used where they lie, and take part in no gradient.

    P, S   columns that stay, and new ones behind them      H, K   query heads, and the heads of keys and values
    R, D   rows, head size                                  G      query heads that share a head of keys, H = G K

    softmax(q [k_P; k] / sqrt(D)) [v_P; v]  =  p_P v_P + p v        with [p_P, p] the softmax

Transformers' own way writes both parts behind each other in every block and pass, once for each query head that shares
them, and computes the gradient of all.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from .models import Model

NAME = "rrome_kept_columns"  # among the attention functions of transformers
Pair = tuple[torch.Tensor, torch.Tensor]


@contextlib.contextmanager
def attending_to(model: Model, kept: Sequence[Pair]) -> Iterator[DynamicCache]:
    """Inside, one forward pass of new columns, given this cache, attends to the `kept` ones too, which are not copied.

    `kept` holds a layer's keys and values, (R, K, P, D) each. Families that bring an attention of their own, and weights
    in half precision, whose scores torch keeps in float32, get a cache that joins both parts.
    """
    lm, cache = model.lm, DynamicCache()
    apart = bool(kept) and torch.finfo(kept[0][0].dtype).bits >= 32 and _can_choose(lm)
    for keys, values in kept:
        layer = _Apart() if apart else DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    if not apart:
        yield cache
        return
    lm.set_attn_implementation(NAME)
    try:
        yield cache
    finally:
        lm.set_attn_implementation("sdpa")


def _can_choose(lm: PreTrainedModel) -> bool:
    """Whether the family calls the attention function that its configuration names, which is now torch's own."""
    return lm.config._attn_implementation == "sdpa" and lm._can_set_attn_implementation()


class _Apart(DynamicLayer):
    """Keys and values of one layer that hands on new ones beside the kept ones, (kept, new) each."""

    def update(self, key_states, value_states, *_args, **_kwargs):
        return (self.keys, key_states), (self.values, value_states)


def attention_to_both(
    _module, query: torch.Tensor, key: Pair, value: Pair, attention_mask: torch.Tensor, scaling=None, **_options
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (R, H, S, D) to key and value, (kept, new) each; returns (R, S, H, D), and no weights.

    `attention_mask` (R, 1, S, P + S) is added to the scores; keyword arguments as transformers gives them.
    """
    kept_keys, keys = key  # (R, K, P, D), (R, K, S, D)
    kept_values, values = value
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    grouped = scaled.reshape(*keys.shape[:2], -1, query.shape[-1])  # (R, K, G S, D)
    scores = torch.cat([grouped @ kept_keys.mT, grouped @ keys.mT], dim=-1)  # (R, K, G S, P + S)
    masked = scores.unflatten(2, (-1, query.shape[2])) + attention_mask[:, :, None]  # (R, K, G, S, P + S)
    on_kept, on_new = masked.softmax(-1).flatten(2, 3).split([kept_keys.shape[2], keys.shape[2]], dim=-1)
    read = on_kept @ kept_values + on_new @ values  # (R, K, G S, D)
    return read.reshape(*query.shape[:3], -1).transpose(1, 2), None


AttentionInterface.register(NAME, attention_to_both)
AttentionMaskInterface.register(NAME, eager_mask)
