"""Many edits in one batch: each row carries its own update, and the weights stay as they are.

W' k = W k + left (right . k)       so a hook that adds left_b (right_b . k) to row b's output of W is the edit
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from .hooks import blocks_from, output_changed, through_block
from .models import Model
from .rules import RankOneUpdate


@contextlib.contextmanager
def rowwise(model: Model, updates: Sequence[RankOneUpdate | None]) -> Iterator[None]:
    """Inside, row b of a batch of len(updates) rows is computed as if updates[b] were in W; None leaves it unedited."""
    d_v, d_k = model.site.weight.shape
    left = torch.stack([torch.zeros(d_v) if update is None else update.left.cpu() for update in updates]).to(
        model.device
    )
    right = torch.stack([torch.zeros(d_k) if update is None else update.right.cpu() for update in updates]).to(
        model.device
    )

    def edit(key, value):  # (B, T, d_k), (B, T, d_v)
        amount = torch.einsum("btk,bk->bt", key.float(), right)  # right_b . k
        return value + (amount[:, :, None] * left[:, None, :]).to(value.dtype)

    with output_changed(model.site, edit):
        yield


@contextlib.contextmanager
def shared_below(model: Model, ids: torch.Tensor) -> Iterator[None]:
    """Inside, a cache-free forward pass of `ids` (B, T) computes what lies below l* once for each distinct row."""
    distinct, which = ids.unique(dim=0, return_inverse=True)
    if len(distinct) == len(ids):
        yield
        return
    seen = through_block(model, input_ids=distinct, use_cache=False)
    with blocks_from(model, model.layer, seen.entering[which], seen.as_tuple):
        yield
