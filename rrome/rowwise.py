"""Many edits in one batch: each row carries its own update, and the weights stay as they are.

W' k = W k + left (right . k)       so a hook that adds left_b (right_b . k) to row b's output of W is the edit
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from .hooks import output_changed
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
