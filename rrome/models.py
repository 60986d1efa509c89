"""Load a causal language model together with its tokeniser, its edit site and what identifies it."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from . import gguf
from .data_files import read_yaml
from .devices import available
from .edits import Edits
from .errors import RromeError
from .sites import EditSite, blocks_of, find_site

logger = logging.getLogger(__name__)
DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True, eq=False)
class Model:
    """A causal LM with the place where it is edited.

    `lm` and `tokenizer` are transformers objects, `site` is the down-projection W of layer l*, `fingerprint` a hash of
    the weights as they were loaded, `origin` where they came from, `published` search settings that the paper used, and
    `edits` what has been put into W since.
    """

    name: str
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    site: EditSite
    fingerprint: str
    origin: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    edits: Edits = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "edits", Edits(self.site))

    @property
    def converted(self) -> bool:
        """Whether it comes from a GGUF file, so that the folder it was read from is this machine's own."""
        return bool(self.origin.get("sha256"))

    @property
    def address(self) -> str:
        """What another machine loads the same model by."""
        return self.name if self.converted else str(self.lm.name_or_path or self.name)

    @property
    def layer(self) -> int:
        """l*, 0-based."""
        return self.site.layer

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(blocks_of(self.lm))

    @property
    def context(self) -> int:
        """The number of tokens that the model reads at most."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 2**31

    @property
    def device(self) -> torch.device:
        """Where W lives; tokens are sent there."""
        return self.site.weight.device

    def at_layer(self, layer: int) -> "Model":
        """The same live model (shared weights) edited at another layer."""
        return self if layer == self.layer else replace(self, site=find_site(self.lm, layer))


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    layer: int | None = None,
    revision: str | None = None,
) -> Model:
    """Load a model by short name (rrome/data/models.yaml), hub id, folder or GGUF file.

    `device` defaults to an accelerator when torch sees one; "auto" spreads a large model over all of them. `layer` (l*,
    0-based) defaults to the published or measured one and else to a third of the depth, `revision` (of a hub id) to the
    one in models.yaml. With `dtype` torch.bfloat16 or torch.float16, weights and activations are stored in it; keys,
    values, losses and Delta are float32 and C_0 is float64, because u = C_0^-1 k and the sums over tokens amplify
    rounding errors that a single forward pass does not.

    Raises RromeError for an unknown name, a folder that is not a model, an unsupported architecture, a layer out of
    range, a device that is not there, or a model that does not fit.
    """
    entry = read_yaml("models.yaml").get(str(name), {})
    source = _source(name, entry)
    lm, tokenizer = _from_pretrained(source, dtype, _numbered(available(device)), revision or entry.get("revision"))
    origin = {
        "source": entry.get("requirement") or entry.get("hub") or str(name),
        "sha256": _source_hash(source),
        "revision": _revision(lm),
    }
    if layer is None:
        layer = entry.get("layer", len(blocks_of(lm)) // 3)
    return wrap(lm, tokenizer, layer, name=str(name), origin=origin, published=entry.get("search", {}))


def outline(name: str | Path = DEFAULT_MODEL, *, layer: int | None = None, dtype: torch.dtype = torch.float32) -> Model:
    """A model as `load` gives it, without weights: its tokenizer, and every shape on torch's meta device.

    Only the configuration and the tokenizer are read, so nothing large is downloaded. Raises RromeError as `load` does.
    """
    entry = read_yaml("models.yaml").get(str(name), {})
    source, pinned = _source(name, entry), {"revision": entry["revision"]} if "revision" in entry else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
        config = AutoConfig.from_pretrained(source, **pinned)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise RromeError(_no_model(source, error)) from error
    if layer is None:
        layer = entry.get("layer", len(blocks_of(lm)) // 3)
    return Model(str(name), lm, tokenizer, find_site(lm, layer), "no weights", published=entry.get("search", {}))


def wrap(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    *,
    name: str = "unnamed",
    origin: dict[str, Any] | None = None,
    published: dict[str, Any] | None = None,
) -> Model:
    """A Model around a transformers model and tokeniser that are already in memory; freezes it in evaluation mode."""
    if not getattr(tokenizer, "is_fast", False):
        raise RromeError(f"the tokenizer of {name} gives no character offsets: load it with AutoTokenizer (a fast one)")
    ids = tokenizer("A text")["input_ids"]
    if ids[-1] in tokenizer.all_special_ids:
        end = tokenizer.convert_ids_to_tokens(ids[-1])
        raise RromeError(f"the tokenizer of {name} ends every text with {end}: load it with add_eos_token=False")
    site = find_site(lm, layer)
    lm.eval().requires_grad_(False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Model(name, lm, tokenizer, site, weights_fingerprint(lm), origin or {}, published or {})


def weights_fingerprint(lm: PreTrainedModel, samples: int = 1024) -> str:
    """A hash (16 hex digits) of names, shapes and evenly spaced samples of all weights: fast even for large models."""
    hasher = hashlib.sha256()
    for name, weight in lm.state_dict().items():
        flat = weight.detach().flatten()
        picked = flat[:: max(1, len(flat) // samples)].float().cpu()
        hasher.update(f"{name}{tuple(weight.shape)}".encode() + picked.numpy().tobytes())
    return hasher.hexdigest()[:16]


@torch.no_grad()
def generate(model: Model, prompts: Sequence[str], n_tokens: int = 60, *, top_k: int = 5, seed: int = 0) -> list[str]:
    """Continue each prompt by `n_tokens` tokens, all prompts in one batch; returns the continuations alone.

    The end-of-text token is suppressed, so that texts of different edits have the same length and can be compared.

    `top_k` = 1 is greedy; otherwise sampling among the k likeliest tokens, from `seed`, which leaves torch's global
    random state as it was.
    """
    batch = model.tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left").to(model.device)
    sampling = (
        {"do_sample": True, "top_k": top_k, "top_p": 1.0, "temperature": 1.0} if top_k > 1 else {"do_sample": False}
    )
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        tokens = model.lm.generate(  # type: ignore[operator]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            pad_token_id=model.tokenizer.pad_token_id,
            **sampling,
        )
    new_tokens = tokens[:, batch.input_ids.shape[1] :]  # (B, n_tokens)
    return model.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)


def _numbered(device: str | torch.device) -> str | torch.device:
    """A device with its number: transformers' loading threads do not know which accelerator is the current one here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator and str(device) == accelerator.type:
        return torch.device(accelerator.type, torch.accelerator.current_device_index())
    return device


def _source(name: str | Path, entry: dict[str, Any]) -> str | Path:
    """What transformers loads: a folder or a hub id."""
    if "wheel" in entry:
        return gguf.converted_folder(gguf.wheel_file(entry))
    if Path(name).suffix == ".gguf":
        return gguf.converted_folder(Path(name))
    if not entry and not Path(name).exists() and "/" not in str(name):
        raise RromeError(_no_model(name, "it is no short name, no folder and no owner/name of a hub"))
    return entry.get("hub", name)


def _from_pretrained(
    source: str | Path, dtype: torch.dtype, device: str | torch.device, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, read straight onto its device so that there is only ever one copy, and its tokeniser."""
    pinned = {} if revision is None else {"revision": revision}
    device_map = "auto" if device == "auto" else {"": device}
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
        lm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map, **pinned)
    except (OSError, ValueError, KeyError) as error:
        raise RromeError(_no_model(source, error)) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if any(parameter.is_meta for parameter in lm.parameters()):
        raise RromeError(f"{source} does not fit into the memory here: take dtype=torch.bfloat16 or a smaller model")
    return lm, tokenizer


def _no_model(source: str | Path, error: Exception | str) -> str:
    known = ", ".join(read_yaml("models.yaml"))
    if Path(source).exists():
        return f"the folder {source} is not a model that transformers can load (config, weights and tokenizer): {error}"
    return (
        f"unknown model {str(source)!r}: give a short name ({known}), a folder, or a hub id; a hub id needs a network "
        f"or an earlier download; {str(error).splitlines()[0]}"
    )


def _source_hash(source: str | Path) -> str | None:
    return gguf.source_sha256(Path(source)) if Path(source).is_dir() else None


def _revision(lm: PreTrainedModel) -> str | None:
    return getattr(lm.config, "_commit_hash", None)
