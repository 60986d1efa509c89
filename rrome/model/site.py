"""Where a language model is edited: W, the MLP down-projection of one block.

    k   key    (d_k,)  input of W            W  (d_v, d_k), with bias b or none
    v   value  (d_v,)  output of W = W k + b

GPT-2 stores W transposed (Conv1D); `EditSite` hides that, so all other code sees (d_v, d_k). The site is found by the names of
the loaded modules, so a family needs no entry of its own (tests/families.py lists those that are tested).
"""

import hashlib
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..store.disk import RromeError

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
    raise RromeError(
        f"{type(lm).__name__} is not supported: it has no list of {depth} blocks, its config's "
        "num_hidden_layers: of a pruned model set that, save it and load it again"
    )


def check_blocks(lm: PreTrainedModel, name: str) -> None:
    """RromeError where a block has another number than its place, by which attention finds its part of the KV cache."""
    for place, block in enumerate(blocks_of(lm)):
        numbers = {getattr(part, "layer_idx", place) for part in block.modules()} - {place, None}
        if numbers:
            remedy = "set num_hidden_layers in its config, save it and load it again"
            raise RromeError(f"block {place} of {name} has the number {numbers.pop()}, as in a pruned model: {remedy}")


def find_site(lm: PreTrainedModel, layer: int) -> EditSite:
    """The edit site of block `layer` (0-based), or RromeError for a layer out of range or an unknown MLP."""
    blocks = blocks_of(lm)
    if not isinstance(layer, Integral) or not 0 <= layer < len(blocks):
        raise RromeError(f"layer {layer!r} is out of range: {type(lm).__name__} has layers 0 to {len(blocks) - 1}")
    names = dict(blocks[layer].named_modules())
    path = next((path for path in DOWN_PROJECTIONS if isinstance(names.get(path), (nn.Linear, Conv1D))), None)
    if path is None:
        missing = f"its blocks have no MLP down-projection among {', '.join(DOWN_PROJECTIONS)}"
        raise RromeError(f"{type(lm).__name__} is not supported: {missing}")
    module = names[path]
    if not module.weight.is_floating_point():
        dtype = str(module.weight.dtype).removeprefix("torch.")
        remedy = "load the model in float32, bfloat16 or float16"
        raise RromeError(f"{path} of {type(lm).__name__} is stored as {dtype}, which cannot be edited: {remedy}")
    full_path = next(name for name, candidate in lm.named_modules() if candidate is module)
    return EditSite(layer=int(layer), path=full_path, block=blocks[layer], module=module)


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
