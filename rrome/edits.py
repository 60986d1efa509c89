"""What is now in W: the updates put in, in their order, and W as it was before the first of them.

A state is the original W plus a list of updates. Subtracting an update would leave rounding errors, so every state is
made by adding updates to the original, always in the same order: bit for bit the same each time.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .errors import RromeError
from .sites import EditSite

ROWS = 1024  # of W that are compared at a time


class Update(Protocol):
    """A change of W as factors, `left` (d_v,) and `right` (d_k,); rules.RankOneUpdate is one."""

    @property
    def left(self) -> torch.Tensor: ...

    @property
    def right(self) -> torch.Tensor: ...

    @property
    def rule(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def notes(self) -> dict[str, Any]:
        """What is known of it besides the factors, as JSON."""
        ...

    def add_to(self, site: EditSite) -> None:
        """W <- W + left right^T."""


class Edits:
    """The updates in one W; the original is copied once, when the first update comes, and dropped with the last."""

    def __init__(self, site: EditSite):
        self._site = site
        self._original: torch.Tensor | None = None
        self._updates: list[Update] = []

    def __len__(self) -> int:
        return len(self._updates)

    @property
    def updates(self) -> tuple[Update, ...]:
        """What is in W now, in the order in which it was put in."""
        return tuple(self._updates)

    @property
    def distance(self) -> float:
        """||W - W original||_F, exactly 0 for the unedited model."""
        if self._original is None:
            return 0.0
        pairs = zip(self._site.weight.split(ROWS), self._original.split(ROWS), strict=True)
        return math.hypot(*((now.float() - before.float()).norm().item() for now, before in pairs))

    @property
    def size(self) -> float:
        """The paper's cumulative |Delta| = ||W - W original||_F / (number of entries of W)."""
        return self.distance / self._site.weight.numel()

    def put(self, update: Update) -> None:
        """W <- W + Delta; RromeError for an update of another shape or with NaN, before anything is changed."""
        self._check(update)
        self._add(update)

    def _add(self, update: Update) -> None:
        if self._original is None:
            self._original = self._site.weight.clone()
        update.add_to(self._site)
        self._updates.append(update)

    def take_out(self, update: Update | None = None) -> None:
        """Remove one update, by default the last: W becomes the original plus all the others."""
        if not self._updates:
            raise RromeError("nothing to revert: no update is applied")
        update = update or self._updates[-1]
        places = [place for place, applied in enumerate(self._updates) if applied == update]
        if not places:
            raise RromeError(
                f"the update of {update.subject!r} under {update.rule!r} is not applied: nothing to revert"
            )
        self.set(self._updates[: places[-1]] + self._updates[places[-1] + 1 :])

    def set(self, updates: Sequence[Update]) -> None:
        """W becomes the original plus exactly these updates; only new ones are added when the rest is there already."""
        for update in updates:
            self._check(update)
        there = len(self._updates)
        if self._original is not None and self._updates != list(updates[:there]):
            self._site.weight.copy_(self._original)
            self._updates, there = [], 0
        for update in updates[there:]:
            self._add(update)
        if not updates:
            self._original = None

    def _check(self, update: Update) -> None:
        weight, left, right = self._site.weight, update.left, update.right  # a stored update reads its file for each
        if (left.shape, right.shape) != (weight.shape[:1], weight.shape[1:]):
            raise RromeError(
                f"the update of {update.subject!r} has shape {tuple(left.shape + right.shape)}, "
                f"W at {self._site.path} is {tuple(weight.shape)}: it belongs to another model"
            )
        if not (left.isfinite().all() and right.isfinite().all()):
            raise RromeError(
                f"the update of {update.subject!r} under {update.rule!r} holds NaN or infinity: not applied"
            )
