"""Many edits in one batch: each row carries its own update, and the weights stay as they are.

W' k = W k + left (right . k)       so a hook that adds left_b (right_b . k) to row b's output of W is the edit

What lies below W of l* no edit changes: it is run once for equal rows of a batch, and once for all in `below_kept`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch

from .hooks import blocks_from, output_changed, through_block
from .models import Model
from .rules import RankOneUpdate

KEPT_BYTES = 256 * 2**20
_kept: ContextVar["_Kept | None"] = ContextVar("_kept", default=None)  # of the innermost `below_kept`


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
    kept = _kept.get()
    if kept is None and len(distinct) == len(ids):
        yield
        return
    entering, as_tuple = _entering(model, distinct) if kept is None else kept.entering(model, distinct)
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


def _entering(model: Model, rows: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """What enters block l* for token rows (B, T), as (B, T, d), and whether the family's blocks return tuples."""
    seen = through_block(model, input_ids=rows, use_cache=False)
    return seen.entering, seen.as_tuple


class _Kept:
    """What entered block l*, (T, d) per row of tokens, by model, layer and row with its padding."""

    def __init__(self, limit: int):
        self.left, self.as_tuple = limit, False
        self.states: dict[tuple, torch.Tensor] = {}

    def entering(self, model: Model, rows: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """As `_entering`, which is asked for new rows only."""
        keys = [(id(model.lm), model.layer, *row) for row in rows.tolist()]
        new = [n for n, key in enumerate(keys) if key not in self.states]
        made: dict[tuple, torch.Tensor] = {}
        if new:
            states, self.as_tuple = _entering(model, rows[new])
            made = {keys[n]: state for n, state in zip(new, states, strict=True)}
        stacked = torch.stack([made[key] if key in made else self.states[key] for key in keys])
        for key, state in made.items():
            if (size := state.numel() * state.element_size()) <= self.left:
                self.left -= size
                self.states[key] = state.clone()  # not a view of its whole batch
        return stacked, self.as_tuple
