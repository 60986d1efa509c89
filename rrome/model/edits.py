"""What is in W now: the updates put in, in their order, and one record of all edited layers of a language model.

An edited W is the original W plus a list of updates. Subtracting an update would leave rounding errors, so every state is
made by adding updates to the original, always in the same order: bit for bit the same each time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from ..store.disk import RromeError
from .site import EditSite, blocks_of, find_site

ROWS = 256  # of W that are compared at a time


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
    """The updates in one W. The original is copied when the first update comes, and dropped with the last.

    A W that is not its original plus these updates was changed by something else: every change refuses it (RromeError).
    """

    def __init__(self, site: EditSite):
        self._site = site
        self._original: torch.Tensor | None = None
        self._updates: list[Update] = []
        self._checksum = checksum(site.weight)
        self.adopted = False  # whether W was once taken as it was, whatever had changed it

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

    @property
    def layer(self) -> int:
        """The layer of this W."""
        return self._site.layer

    @property
    def state(self) -> tuple[str, int]:
        """Which W this is, and a checksum of what it holds."""
        return self._site.path, self._checksum

    def verify(self) -> None:
        """RromeError when W is not the original plus the recorded updates."""
        if checksum(self._site.weight) != self._checksum:
            raise RromeError(
                f"W of layer {self._site.layer} ({self._site.path}) is not its original plus the {len(self)} recorded "
                "updates: something else has changed it; undo that, or take it as it is with model.edits.adopt()"
            )

    def adopt(self) -> None:
        """Take W as it is now for the original: what was put in before can no longer be taken out."""
        self._original, self._updates = None, []
        self._checksum, self.adopted = checksum(self._site.weight), True

    def put(self, update: Update) -> None:
        """W <- W + Delta; RromeError for an update of another shape or with NaN, before anything is changed."""
        self.set([*self._updates, update])

    def take_out(self, update: Update | None = None) -> None:
        """Remove one update, by default the last: W becomes the original plus all the others."""
        if not self._updates:
            raise RromeError("nothing to revert: no update is applied")
        update = update or self._updates[-1]
        matches = [number for number, applied in enumerate(self._updates) if _same(applied, update)]
        if not matches:
            raise RromeError(
                f"the update of {update.subject!r} under {update.rule!r} is not applied: nothing to revert"
            )
        self.set(self._updates[: matches[-1]] + self._updates[matches[-1] + 1 :])

    def set(self, updates: Sequence[Update]) -> None:
        """W becomes the original plus exactly these updates; only new ones are added when the rest is there already."""
        self.verify()
        there = len(self._updates)
        begins = len(updates) >= there and all(map(_same, self._updates, updates))
        for update in updates[there if begins else 0 :]:
            self._check(update)
        if self._original is None and updates:
            self._original = self._site.weight.clone()
        if self._original is not None and not begins:
            self._site.weight.copy_(self._original)
            self._updates, there = [], 0
        for update in updates[there:]:
            update.add_to(self._site)
            self._updates.append(update)
        if not updates:
            self._original = None
        self._checksum = checksum(self._site.weight)

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


def _same(one: Update, other: Update) -> bool:
    """Whether two updates change W alike: one read from disk twice does."""
    return one is other or (torch.equal(one.left, other.left) and torch.equal(one.right, other.right))


def checksum(weight: torch.Tensor) -> int:
    """A number of all entries of a matrix and where they stand, made on its device: changing any one entry changes it."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    total = 0
    for rows in weight.split(ROWS):
        bits = rows.contiguous().view(integers).flatten().long()
        odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)
        total = (1_000_003 * total + int((bits * odd).sum())) % 2**64
    return total


@dataclass(eq=False)
class Record:
    """All that has been edited in one language model: its fingerprint as it was loaded, and the edits of each W, by path."""

    fingerprint: str
    edits: dict[str, Edits]

    @property
    def edited(self) -> list[Edits]:
        """The edits of every W that is not as it was loaded."""
        return [edits for edits in self.edits.values() if len(edits) or edits.adopted]

    def verify(self) -> None:
        """RromeError for a W that was changed by something else (see Edits)."""
        for edits in self.edits.values():
            edits.verify()

    def refuse_edits(self, purpose: str, but: Edits | None = None) -> None:
        """RromeError, which names the purpose, when a W (but the one of `but`) is not as it was loaded."""
        self.verify()
        if layers := [str(edits.layer) for edits in self.edited if edits is not but]:
            raise RromeError(f"the model is edited already in layer {', '.join(layers)}: revert that before {purpose}")


def record_of(lm: PreTrainedModel, fingerprint: Callable[[PreTrainedModel], str]) -> Record:
    """The one record of a language model, which goes with it wherever it is wrapped; made when there is none.

    While no W is edited, wrapping the model again takes its weights as they are then.
    """
    record = vars(lm).setdefault("rrome_record", Record("", {}))
    if not record.edited:
        sites = [site for site in map(partial(_site_or_none, lm), range(len(blocks_of(lm)))) if site]
        record.fingerprint = fingerprint(lm)
        record.edits.update({site.path: Edits(site) for site in sites})
    return record


def _site_or_none(lm: PreTrainedModel, layer: int) -> EditSite | None:
    """The edit site of a block; None where a block has none, as in a model of mixed blocks."""
    try:
        return find_site(lm, layer)
    except RromeError:
        return None
