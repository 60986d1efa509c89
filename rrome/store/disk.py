"""The error type, the package's data files, and files in the cache that are made once and never half written.

A cache entry's name holds a hash of everything that it was made from, so a changed input makes another file.
It is written under a temporary name in the same folder and renamed when complete.
"""

import bz2
import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging


class RromeError(ValueError):
    """An input that cannot be used; the message names the offending thing and the remedy."""


def read_yaml(name: str) -> Any:
    """The parsed content of `rrome/data/<name>`."""
    return yaml.safe_load(resources.files("rrome").joinpath("data", name).read_text(encoding="utf-8"))


def read_records(path: Path, texts: Sequence[str] = ()) -> list[Any]:
    """The values in a JSON file, one list or one a line, with texts in the fields `texts`; RromeError names file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
        records = json.loads(text) if text.lstrip().startswith("[") else _json_lines(text)
    except (ValueError, OSError) as error:
        raise RromeError(f"{path} cannot be read ({error}): give a JSON list or one record a line, as UTF-8") from error
    if not records:
        raise RromeError(f"{path} holds no records: a JSON list or one record a line was expected")
    for number, record in enumerate(records if texts else ()):
        if not isinstance(record, dict) or not all(isinstance(record.get(field), str) for field in texts):
            raise RromeError(f"{path}, record {number}: a JSON object with texts in {', '.join(texts)} was expected")
    return records


def _json_lines(text: str) -> list[Any]:
    """One value a line; only "\\n" ends a line, for JSON may hold the other line separators of Unicode as they are."""
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return values


def data_records(name: str) -> list[Any]:
    """The values, one a line, of the compressed data file `rrome/data/<name>`."""
    packed = resources.files("rrome").joinpath("data", name).read_bytes()
    return _json_lines(bz2.decompress(packed).decode())


def cache_dir() -> Path:
    """The user's cache folder for rrome, or `$RROME_CACHE` when that is set; an absolute path."""
    return Path(os.environ.get("RROME_CACHE") or platformdirs.user_cache_dir("rrome")).expanduser().absolute()


def as_json(value: Any, **options: Any) -> str:
    """A value as JSON, in which numbers and arrays of NumPy are ordinary ones; RromeError for what has no such form."""
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda array: array.tolist(), **options)
    except (AttributeError, TypeError, ValueError) as error:
        remedy = "give texts, numbers, None, and lists and dictionaries (with texts as keys) of these"
        raise RromeError(f"a setting or result cannot be written as JSON ({error}): {remedy}") from error


def digest(*parts: object) -> str:
    """A short content hash (16 hex digits) of parts that JSON can hold, equal on every machine; RromeError for others."""
    return hashlib.sha256(as_json(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` (file or folder) that becomes `target` on success and vanishes on failure."""
    target = Path(target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch) / target.name
            yield new
            if new.is_dir() and target.exists():  # damaged, or just written by another process
                shutil.rmtree(target)
            os.replace(new, target)


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Inside, a failure to write becomes a RromeError that names the file and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        problem, remedy = f"cannot write {target} ({error})", "choose a folder that you can write to"
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            problem, remedy = f"no disk space left to write {target}", "free some, or choose a roomier folder"
        raise RromeError(f"{problem}: {remedy} (RROME_CACHE for the cache)") from error


def bar(*args: Any, show: bool | None = None, **kwargs: Any) -> tqdm:
    """A tqdm bar; `show` None means where somebody can watch it: a terminal or a Jupyter kernel."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(*args, disable=not (watched if show is None else show), **kwargs)


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
