"""Where a language model is edited: W, the MLP down-projection of one block, and which updates are in it now.

    k   key    (d_k,)  input of W            W  (d_v, d_k), with bias b or none
    v   value  (d_v,)  output of W = W k + b

GPT-2 stores W transposed (Conv1D); `EditSite` hides that, so the rest of the kit only sees (d_v, d_k). The site is found in
the tree of modules that is loaded, so a family needs no entry of its own (tests/families.py lists those that are tested).

An edited W is the original W plus a list of updates. Subtracting an update would leave rounding errors, so every state is
made by adding updates to the original, always in the same order: bit for bit the same each time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..store.disk import RromeError

# The down-projection's path inside a block: Llama and kin; GPT-2, Starcoder; GPT-J; GPT-NeoX, Bloom, Falcon; Phi; OPT.
DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h", "mlp.fc2", "fc2")


@dataclass(frozen=True)
class EditSite:
    """The down-projection of one block: `module` computes v = W k + b, `path` is its dotted name in the model."""

    layer: int
    path: str
    block: nn.Module
    module: nn.Linear | Conv1D

    @property
    def transposed(self) -> bool:
        """True when the module stores W as (d_k, d_v)."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> torch.Tensor:
        """W as a view of the live parameter, (d_v, d_k)."""
        weight = self.module.weight.detach()
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """b, (d_v,), or None."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()

    def value(self, key: torch.Tensor) -> torch.Tensor:
        """W k + b in float32 for one key (d_k,) or several (N, d_k)."""
        value = key.float() @ self.weight.float().T
        return value if self.bias is None else value + self.bias.float()


def blocks_of(lm: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks, in order."""
    depth = lm.config.get_text_config().num_hidden_layers
    for module in lm.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise RromeError(f"{type(lm).__name__} is not supported: it has no list of {depth} blocks (its num_hidden_layers)")


def find_site(lm: PreTrainedModel, layer: int) -> EditSite:
    """The edit site of block `layer` (0-based), or RromeError for a layer out of range or an unknown MLP."""
    blocks = blocks_of(lm)
    if not isinstance(layer, int) or not 0 <= layer < len(blocks):
        raise RromeError(f"layer {layer!r} is out of range: {type(lm).__name__} has layers 0 to {len(blocks) - 1}")
    names = dict(blocks[layer].named_modules())
    path = next((path for path in DOWN_PROJECTIONS if isinstance(names.get(path), (nn.Linear, Conv1D))), None)
    if path is None:
        looked_for = ", ".join(DOWN_PROJECTIONS)
        raise RromeError(
            f"{type(lm).__name__} is not supported: its blocks have no MLP down-projection among {looked_for}"
        )
    module = names[path]
    if not module.weight.is_floating_point():
        raise RromeError(
            f"{path} of {type(lm).__name__} is stored as {str(module.weight.dtype).removeprefix('torch.')}, "
            f"which cannot be edited: load the model in float32, bfloat16 or float16"
        )
    full_path = next(name for name, candidate in lm.named_modules() if candidate is module)
    return EditSite(layer=layer, path=full_path, block=blocks[layer], module=module)


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
        places = [place for place, applied in enumerate(self._updates) if _same(applied, update)]
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
        kept = len(updates) >= there and all(map(_same, self._updates, updates))
        if self._original is not None and not kept:
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


def _same(one: Update, other: Update) -> bool:
    """Whether two updates change W alike: one read from disk twice does."""
    return one is other or (torch.equal(one.left, other.left) and torch.equal(one.right, other.right))
