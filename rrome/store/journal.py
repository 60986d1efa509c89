"""The journal of a study: one JSON line per result, written as soon as it is there, so that a stopped study goes on."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .disk import RromeError, as_json, cache_dir, digest, explained

TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|Infinity')
WEIGHTS = "weights"  # the setting that tells models apart which differ in a few weights only
AS_JSON = {"NaN": "null", "Infinity": "1e999"}  # which is infinite wherever it is read


def as_line(value: Any) -> str:
    """A value as one line of JSON, which has no NaN (written as null) and no infinity (as 1e999)."""
    text = as_json(value)
    return TEXT_OR_CONSTANT.sub(lambda found: AS_JSON.get(found[0], found[0]), text) + "\n"


def read_journal(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, rows) of a journal, which another process may be writing, without a torn last line; RromeError for none."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RromeError(f"there is no journal at {path} ({error}): run the study that writes it first") from error
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    if not lines:
        raise RromeError(f"the journal {path} has no whole line yet: wait for the study that writes it, or run it")
    try:
        first, *rows = map(json.loads, dict.fromkeys(lines))  # each once, of files that were joined
        if wrong := [row for row in rows if not isinstance(row, dict) or "settings" in row]:
            raise ValueError(f"among its rows is {wrong[0]!r:.80}")
        return first["settings"], rows
    except (ValueError, KeyError, TypeError) as error:
        raise RromeError(f"{path} is damaged ({error}): move it away to start the study anew") from error


def study_path(kind: str, settings: Mapping[str, Any], within: str | Path | None = None) -> Path:
    """The path of the study with these settings: WITHIN/KIND-DIGEST, by default in the folder `studies` of the cache.

    The digest leaves out prefixes, since they follow from their seed, and the sum of all weights, since the fingerprint has
    samples of them; both are compared when the study goes on.
    """
    recipe = {name: value for name, value in settings.items() if name not in ("prefixes", WEIGHTS)}
    return Path(within or cache_dir() / "studies") / f"{kind}-{digest(recipe)}"


def find_study(kind: str, within: str | Path, **known: Any) -> Path:
    """The journal of the one study of a kind in a folder that has the `known` settings; RromeError for none, or several."""
    known = json.loads(as_json(known))
    found: dict[Path, dict[str, Any]] = {}
    others: list[str] = []
    for path in sorted(Path(within).glob(f"{kind}-*")):
        path = path / "edits.jsonl" if path.is_dir() else path
        try:
            with open(path, encoding="utf-8") as file:
                settings = json.loads(file.readline())["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no journal
        if wrong := differences({name: settings.get(name) for name in known}, known):
            others.append(f"{path}: {wrong}")
        else:
            found[path] = settings
    if not found:
        remedy = f"run the notebook that makes it, with stored = False ({'; '.join(others) or 'none'})"
        raise RromeError(f"no {kind} study in {within} has these settings: {remedy}")
    if len(found) > 1:
        apart = differences(*list(found.values())[:2])
        raise RromeError(f"{within} has {len(found)} {kind} studies with these settings: say which ({apart})")
    return next(iter(found))


class Journal(contextlib.AbstractContextManager["Journal"]):
    """An append-only JSON-lines file: the first line holds the settings of the study, each further line one of its `rows`.

    Opening an existing file with other settings raises RromeError that names the difference; a last line torn by a crash is
    cut off. A journal belongs to one process until it is closed or that process ends: use it in a `with` statement.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        wanted = json.loads(as_line(settings))
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise RromeError(f"{self.path} is in use by another run: wait for it, or take another file") from error
            try:
                self._open(wanted)
            except BaseException:
                self.close()
                raise

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the journal."""
        self._lock.release()

    def _open(self, wanted: dict[str, Any]) -> None:
        """Read the rows of a study with the wanted settings, without a torn last line; begin the file when it is empty."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        if not whole:
            self._write({"settings": wanted})
            return
        settings, self.rows = read_journal(self.path)
        if WEIGHTS in wanted:
            settings = {WEIGHTS: wanted[WEIGHTS]} | settings  # older ones have no such sum
        if changes := differences(settings, wanted):
            remedy = "choose another file or move it away"
            raise RromeError(f"{self.path} holds a study with other settings ({changes}): {remedy}")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one result so that it survives a crash right after."""
        with explained(self.path):
            self._write(dict(row))
        self.rows.append(json.loads(as_line(row)))

    def _write(self, line: dict[str, Any]) -> None:
        """Append one line to the disk, wholly or not at all."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(as_line(line))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            raise


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The settings in which two studies differ, and how; empty when they are the same."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return "; ".join(f"{name}: {found.get(name)!r:.80} there, {wanted.get(name)!r:.80} now" for name in names)
