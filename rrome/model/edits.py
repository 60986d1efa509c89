"""The updates that are in W now, in order, and one record of the edited layers of a language model.

An edited W is the original W plus a list of updates. Subtracting an update would leave rounding errors, so W is always made
by adding updates to the original in the same order: bit for bit the same each time.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from ..store.disk import RromeError, digest
from .site import BITS, ROWS, EditSite, RankOneUpdate, blocks_of, checksum, find_site, weights_fingerprint


class Edits:
    """The updates in one W, whose original is copied before the first update and dropped with the last.

    Every method that changes W raises RromeError when W is not the original plus these updates.
    """

    def __init__(self, site: EditSite, fingerprint: str, original: torch.Tensor | None = None):
        self._site, self._fingerprint = site, fingerprint
        self._original = original
        self.layer = site.layer
        self.updates: tuple[RankOneUpdate, ...] = ()  # in the order in which they were put in
        self._checksum = checksum(site.weight)

    def __len__(self) -> int:
        return len(self.updates)

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
    def state(self) -> tuple[str, int]:
        """The path of W and a checksum of its entries."""
        return self._site.path, self._checksum

    def verify(self) -> None:
        """RromeError when W is not the original plus the recorded updates."""
        if checksum(self._site.weight) != self._checksum:
            what = (
                f"W of layer {self.layer} ({self._site.path}) is not its original plus the {len(self)} recorded updates"
            )
            remedy = "undo that, or wrap it again, rrome.wrap(model.lm, ...), with no edit in it, and make C_0 anew"
            raise RromeError(f"{what}: something else has changed it; {remedy}")

    def put(self, update: RankOneUpdate) -> None:
        """W <- W + Delta."""
        self.set([*self.updates, update])

    def take_out(self, update: RankOneUpdate | None = None) -> None:
        """Remove one update, by default the last: W becomes the original plus all the others."""
        if not self.updates:
            raise RromeError("nothing to revert: no update is applied")
        update = update or self.updates[-1]
        matches = [number for number, applied in enumerate(self.updates) if _same(applied, update)]
        if not matches:
            which = f"the update of {update.subject!r} under {update.rule!r}"
            raise RromeError(f"{which} is not applied: nothing to revert")
        self.set(self.updates[: matches[-1]] + self.updates[matches[-1] + 1 :])

    def set(self, updates: Sequence[RankOneUpdate]) -> None:
        """W becomes the original plus exactly these updates; RromeError as in `check`, before anything is changed."""
        self.verify()
        before, there = self.updates, len(self)  # in W already, so that only those after them are added
        if len(updates) < there or not all(map(_same, before, updates)):
            there = 0
        for update in updates[there:]:
            self.check(update)
        if self._original is None and updates:
            self._original = self._site.weight.clone()
        try:
            self._add(updates, there)
        except BaseException:  # an interrupt, or no memory: W is again what it was
            self._add(before, 0)
            raise
        finally:
            self._original = self._original if self.updates else None
        self._checksum = checksum(self._site.weight)

    def _add(self, updates: Sequence[RankOneUpdate], there: int) -> None:
        """W becomes the original plus these updates, of which the first `there` are in it."""
        if self._original is not None and not there:
            self._site.weight.copy_(self._original)
        for update in updates[there:]:
            update.add_to(self._site)
        self.updates = tuple(updates)

    def check_origin(self, update: RankOneUpdate) -> None:
        """RromeError for an update that was made for another W."""
        if update.origin and update.origin != (self._fingerprint, self._site.path):
            what = f"{update.subject!r} was made for {update.origin[1]} of model {update.origin[0]}"
            remedy = "make it anew, or, if you mean it, apply dataclasses.replace(update, origin=None)"
            raise RromeError(f"the update of {what}, not for {self._site.path} of {self._fingerprint}: {remedy}")

    def check(self, update: RankOneUpdate) -> None:
        """RromeError for an update of another W or shape, with NaN or infinity, or too large for W's dtype."""
        if not isinstance(update, RankOneUpdate):
            raise RromeError(f"what is put into W is an update, with factors left and right, not {update!r:.80}")
        self.check_origin(update)
        weight, left, right = self._site.weight, update.left, update.right
        if (left.shape, right.shape) != (weight.shape[:1], weight.shape[1:]):
            what = f"the update of {update.subject!r} has shape {tuple(left.shape + right.shape)}"
            raise RromeError(f"{what}, W at {self._site.path} is {tuple(weight.shape)}: it belongs to another model")
        if not (left.isfinite().all() and right.isfinite().all()):
            which = f"the update of {update.subject!r} under {update.rule!r}"
            raise RromeError(f"{which} holds NaN or infinity: not applied")
        if left.abs().max().item() * right.abs().max().item() > torch.finfo(weight.dtype).max / 2:
            remedy = "load the model in float32 or bfloat16"
            raise RromeError(f"the update of {update.subject!r} overflows {weight.dtype}, the dtype of W: {remedy}")


def _same(one: RankOneUpdate, other: RankOneUpdate) -> bool:
    """Whether two updates change W alike, as two copies read from disk do."""
    return one is other or (torch.equal(one.left, other.left) and torch.equal(one.right, other.right))


@dataclass(eq=False)
class Record:
    """One language model's fingerprint when it was loaded, the edits of each W, by its path, and sums of the other weights."""

    lm: PreTrainedModel = field(repr=False)
    fingerprint: str = ""
    edits: dict[str, Edits] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict, repr=False)
    mark: str = ""  # of all weights as they were loaded, of which the fingerprint reads samples

    @property
    def edited(self) -> list[Edits]:
        """The edits of every W that is not as it was loaded."""
        return [edits for edits in self.edits.values() if len(edits)]

    def verify(self, up_to: int | None = None) -> None:
        """RromeError for a W of the layers up to one, or of any, or another weight, that something else has changed.

        It takes a pass over memory: torch does not count changes through `.data`.
        """
        for edits in self.edits.values():
            if up_to is None or edits.layer <= up_to:
                edits.verify()
        if changed := sorted(name for name, _ in self.sums.items() ^ _sums(self).items()):
            what = f"the weights {', '.join(dict.fromkeys(changed[:3]))} were changed after the model was wrapped"
            raise RromeError(f"{what}: wrap it again, rrome.wrap(model.lm, ...), with no edit in it, and make C_0 anew")

    def refuse_edits(self, purpose: str, but: Edits | None = None) -> None:
        """RromeError, which names the purpose, when a W (but the one of `but`) is not as it was loaded."""
        self.verify()
        if layers := [str(edits.layer) for edits in self.edited if edits is not but]:
            what = f"the model is edited already in layer {', '.join(layers)}"
            raise RromeError(f"{what}: revert that, or load it anew, before {purpose}")


def record_of(lm: PreTrainedModel) -> Record:
    """The one record of a language model, however often it is wrapped; made anew while no W is edited."""
    record = vars(lm).setdefault("rrome_record", Record(lm))
    if not record.edited:
        record.fingerprint = weights_fingerprint(lm)
        for layer in range(len(blocks_of(lm))):
            with contextlib.suppress(RromeError):  # mixed blocks: this one has no edit site
                site = find_site(lm, layer)
                record.edits[site.path] = Edits(site, record.fingerprint)
        record.sums = _sums(record)
        record.mark = digest(record.sums, [edits.state for edits in record.edits.values()])
    return record


def _sums(record: Record) -> dict[str, int]:
    """The sum of the bits of every weight that is no W: it changes when one entry does, and takes one pass over memory.

    8 bytes are read at a time where a tensor's divide by 8: 30 times as fast as one by one.
    """
    sums = {}
    for name, weight in record.lm.named_parameters():
        if name.removesuffix(".weight") not in record.edits:
            flat, size = weight.detach().flatten(), weight.element_size()
            whole = flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0
            sums[name] = int(flat.view(torch.int64 if whole else BITS[size]).sum())
    return sums
