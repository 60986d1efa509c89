"""Where a language model is edited: W, the MLP down-projection of one block, and an update of it.

    k   key    (d_k,)  input of W            W  (d_v, d_k), with bias b or none
    v   value  (d_v,)  output of W = W k + b

GPT-2 stores W transposed (Conv1D); `EditSite` hides that, so all other code sees (d_v, d_k). The site is found by the names of
the loaded modules, so a family needs no entry of its own (tests/families.py lists those that are tested).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..facts.fact import Fact
from ..store.disk import RromeError, atomic

# The down-projection's path inside a block: Llama and kin; GPT-2, Starcoder; GPT-J; GPT-NeoX, Bloom, Falcon; Phi; OPT.
DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h", "mlp.fc2", "fc2")

ROWS = 256  # of W that are read at a time
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a weight


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
        """W as a view of the parameter itself, (d_v, d_k)."""
        weight = self.module.weight.detach()
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """b, (d_v,), or None."""
        return None if self.module.bias is None else self.module.bias.detach()

    def value(self, key: torch.Tensor) -> torch.Tensor:
        """W k + b in float32 for one key (d_k,) or several (N, d_k)."""
        value = key.float() @ self.weight.float().T
        return value if self.bias is None else value + self.bias.float()


@dataclass(frozen=True, eq=False)
class RankOneUpdate:
    """Delta = left right^T as factors, `left` (d_v,) and `right` (d_k,), float32.

    `denominator` is u . k_d, `cosine` that of the angle between k_e and k_e^o. Where they are known, `fact` is the fact and
    `origin` the fingerprint of the model and the path of the W that it was made for.
    """

    left: torch.Tensor
    right: torch.Tensor
    rule: str
    subject: str
    denominator: float
    cosine: float
    fact: Fact | None = None
    origin: tuple[str, str] | None = None

    @property
    def norm(self) -> float:
        """||Delta||_F, without forming Delta."""
        return (self.left.cpu().double().norm() * self.right.cpu().double().norm()).item()

    def change(self, second_moment: Any) -> float:
        """||left|| sqrt(right^T C_0 right): by how much W's output changes on ordinary text, as a root mean square."""
        left, right = self.left.cpu().double(), self.right.cpu().double()
        return (left.norm() * (right @ second_moment.matrix @ right).sqrt()).item()

    @property
    def size(self) -> float:
        """The paper's |Delta| = ||Delta||_F / (number of entries of W)."""
        return self.norm / (self.left.numel() * self.right.numel())

    def matrix(self) -> torch.Tensor:
        """Delta, (d_v, d_k), whatever orientation the model stores."""
        return torch.outer(self.left, self.right)

    def add_to(self, site: EditSite) -> None:
        """W <- W + Delta in place; the sum is made in float32 and rounded once where W is bfloat16 or float16."""
        weight = site.weight
        if weight.dtype in (torch.float32, torch.float64):
            weight.addr_(self.left.to(weight), self.right.to(weight))  # without forming Delta
        else:
            left, right = self.left.to(weight.device), self.right.to(weight.device)
            weight.copy_(torch.addr(weight.float(), left, right))

    @property
    def notes(self) -> dict[str, Any]:
        """Rule, subject, denominator, cosine, origin and fact, as JSON."""
        known = {name: getattr(self, name) for name in ("rule", "subject", "denominator", "cosine", "origin")}
        return known | {"fact": self.fact and self.fact.to_record()}

    @classmethod
    def of(cls, left: torch.Tensor, right: torch.Tensor, notes: Mapping[str, Any]) -> "RankOneUpdate":
        """The update that has these factors and notes."""
        fact = Fact.from_record(notes["fact"]) if notes.get("fact") else None
        denominator, cosine = (
            float("nan" if notes[each] is None else notes[each]) for each in ("denominator", "cosine")
        )
        origin = tuple(notes["origin"]) if notes.get("origin") else None
        return cls(left, right, notes["rule"], notes["subject"], denominator, cosine, fact, origin)

    def save(self, path: str | Path) -> None:
        """Write the factors to a safetensors file, the notes into its header."""
        notes = {name: note if isinstance(note, str) else json.dumps(note) for name, note in self.notes.items()}
        with atomic(Path(path)) as scratch:
            save_file({"left": self.left.cpu(), "right": self.right.cpu()}, scratch, metadata=notes)

    @classmethod
    def load(cls, path: str | Path) -> "RankOneUpdate":
        """Read what `save` wrote; RromeError for a file that is something else."""
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata()
                known = {name: json.loads(notes.get(name, "null")) for name in ("fact", "origin")}
                return cls.of(file.get_tensor("left"), file.get_tensor("right"), notes | known)
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise RromeError(f"{path} is not a saved update: {error}") from error


def blocks_of(lm: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks, in order."""
    depth = lm.config.get_text_config().num_hidden_layers
    for module in lm.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    remedy = "of a pruned model set that, save it and load it again"
    raise RromeError(f"{type(lm).__name__} has no list of {depth} blocks, its config's num_hidden_layers: {remedy}")


def check_blocks(lm: PreTrainedModel, name: str) -> None:
    """RromeError where a block has another number than its place, by which attention finds its part of the KV cache."""
    for place, block in enumerate(blocks_of(lm)):
        if numbers := {getattr(part, "layer_idx", place) for part in block.modules()} - {place, None}:
            remedy = "set num_hidden_layers in its config, save it and load it again"
            raise RromeError(f"block {place} of {name} has the number {numbers.pop()}, as in a pruned model: {remedy}")


def find_site(lm: PreTrainedModel, layer: int) -> EditSite:
    """The edit site of block `layer` (0-based), or RromeError for a layer out of range or an unknown MLP."""
    blocks = blocks_of(lm)
    if not isinstance(layer, Integral) or not 0 <= layer < len(blocks):
        raise RromeError(f"layer {layer!r} is out of range: {type(lm).__name__} has layers 0 to {len(blocks) - 1}")
    names = dict(blocks[layer].named_modules())
    module = next((names[path] for path in DOWN_PROJECTIONS if isinstance(names.get(path), nn.Linear | Conv1D)), None)
    if module is None:
        missing = f"its blocks have no MLP down-projection among {', '.join(DOWN_PROJECTIONS)}"
        raise RromeError(f"{type(lm).__name__} is not supported: {missing}")
    path = next(name for name, candidate in lm.named_modules() if candidate is module)
    if not module.weight.is_floating_point():
        dtype = str(module.weight.dtype).removeprefix("torch.")
        raise RromeError(f"{path} is stored as {dtype}, which cannot be edited: load the model in float32 or bfloat16")
    return EditSite(int(layer), path, blocks[layer], module)


def checksum(weight: torch.Tensor) -> int:
    """A checksum of a matrix, computed on its device, that changes when any one entry changes."""
    total = 0
    for rows in weight.split(ROWS):
        bits = rows.contiguous().view(BITS[weight.element_size()]).flatten().long()
        odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)
        total = (1_000_003 * total + int((bits * odd).sum())) % 2**64
    return total


def weights_fingerprint(lm: PreTrainedModel, samples: int = 1024) -> str:
    """A hash (16 hex digits) of names, shapes, dtype (where it is not float32) and evenly spaced samples of all weights."""
    hasher = hashlib.sha256()
    for name, weight in lm.state_dict().items():
        hasher.update(b"" if weight.dtype == torch.float32 else str(weight.dtype).encode())
        flat = weight.detach().flatten()
        picked = flat[:: max(1, len(flat) // samples)].float().cpu()
        hasher.update(f"{name}{tuple(weight.shape)}".encode() + picked.numpy().tobytes())
    return hasher.hexdigest()[:16]
