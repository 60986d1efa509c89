"""The log of a sequential run: every update as factors on disk, from which each state of the model can be made again.

    FOLDER/edits.jsonl           settings, then one line per edit: rule, fact, sizes before and after, what was measured
    FOLDER/00001.safetensors     left (d_v,) and right (d_k,) of edit 1: d_v + d_k floats per edit, and its notes

An adapter that the kit made (see adapter) has all factors in one file instead. Factors are read memory-mapped, so that
a log of thousands of edits takes little memory. The model after n edits is the original W plus the first n updates.

Factors are written before their line; after a crash in between, the next run writes them again.
"""

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..facts.fact import Fact
from ..model.model import Model
from ..store.disk import RromeError, file_sha256
from ..store.journal import Journal, read_journal
from ..update.rules import RankOneUpdate
from .adapter import LINES, WEIGHTS, check_adapter, read_updates, save_adapter


class EditLog(contextlib.AbstractContextManager["EditLog"]):
    """An append-only log of edits. With a model it is open for writing, by one process at a time; without one, for reading.

    `rows` has one record per edit, whose `edit` counts from 1. Opening a log of another model, layer or other settings raises
    RromeError that names the difference. Use a writable log in a `with` statement.
    """

    def __init__(self, folder: str | Path, model: Model | None = None, settings: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        check_adapter(self.folder, writing=model is not None)
        self._journal: Journal | None = None
        if model is None:
            self.settings, self.rows = read_journal(self.folder / LINES)
        else:
            model.record.refuse_edits("a log of edits in this one", but=model.edits)
            self.settings = {"model": model.fingerprint, "layer": model.layer, **(settings or {})}
            self._edits = model.edits
            self._journal = Journal(self.folder / LINES, self.settings)
            self.rows = self._journal.rows
        if [row.get("edit") for row in self.rows] != list(range(1, len(self) + 1)):
            raise RromeError(f"{self.folder / LINES} does not count its edits 1, 2, 3, ...: restore it")

    def __exit__(self, *_exception: object) -> None:
        if self._journal:
            self._journal.close()

    def __len__(self) -> int:
        return len(self.rows)

    def store(self, update: RankOneUpdate) -> RankOneUpdate:
        """Write the next edit's factors and return them memory-mapped; RromeError for what cannot be put into the model."""
        self._writable()
        self._edits.check(update)
        update.save(self._next_file)
        return RankOneUpdate.load(self._next_file)

    @property
    def _next_file(self) -> Path:
        return self.folder / f"{len(self) + 1:05}.safetensors"

    def append(self, update: RankOneUpdate | None, fact: Fact, *, stored: bool = False, **measured: Any) -> None:
        """Record one edit, a failed one (None) too; `stored` says that `store` has written its factors already."""
        journal = self._writable()
        failed = dict.fromkeys(("rule", "file", "sha256"))
        row: dict[str, Any] = {"edit": len(self) + 1, "subject": fact.subject} | failed
        if update is not None:
            if update.fact and (update.fact.rewrite, update.fact.target_new) != (fact.rewrite, fact.target_new):
                raise RromeError(f"{update.fact.rewrite!r} was logged as an update of {fact.rewrite!r}: give its fact")
            if not stored:
                self.store(update)
            row |= {"rule": update.rule, "file": self._next_file.name, "sha256": file_sha256(self._next_file)}
        journal.append(row | measured | {"fact": fact.to_record()})

    def _writable(self) -> Journal:
        if self._journal is None:
            raise RromeError(f"the log {self.folder} is open for reading: pass the model to write to it")
        return self._journal

    def update(self, edit: int) -> RankOneUpdate | None:
        """The update of edit 1, 2, ...; None for one that failed. RromeError when its file is missing or was changed."""
        if not 1 <= edit <= len(self):
            raise RromeError(f"the log {self.folder} has edits 1 to {len(self)}, not {edit}")
        row = self.rows[edit - 1]
        if row["file"] is None:
            return None
        if row["file"] == WEIGHTS:
            return self._shared[edit - 1]
        file = self.folder / row["file"]
        if not file.exists() or file_sha256(file) != row["sha256"]:
            raise RromeError(f"{file}, the update of edit {edit}, is missing or damaged: restore it from a copy")
        return RankOneUpdate.load(file)

    @functools.cached_property
    def _shared(self) -> list[RankOneUpdate | None]:
        """The updates of an adapter, read and checked once."""
        return read_updates(self.folder, self.rows)

    def replay(self, model: Model, n: int | None = None) -> None:
        """Bring W, whatever is in it, to its state after the first n edits (None: all), bit for bit; n = 0: unedited."""
        model.edits.set([update for update in self._first(model, n) if update is not None])

    def export(self, model: Model, folder: str | Path, n: int | None = None) -> None:
        """Write the first n edits (None: all) of `model` as an adapter; `EditLog(folder)` reads every row back."""
        updates = self._first(model, n)
        save_adapter(folder, model, updates, self.settings, self.rows[: len(updates)])

    def _first(self, model: Model, n: int | None) -> list[RankOneUpdate | None]:
        """The updates of the first n edits, or RromeError when the log has fewer or is of another model."""
        n = len(self) if n is None else n
        if not 0 <= n <= len(self):
            raise RromeError(f"the log {self.folder} has {len(self)} edits: cannot replay {n}")
        for name, value in {"model": model.fingerprint, "layer": model.layer}.items():
            if self.settings[name] != value:
                source = self.settings.get("base", {}).get("source", "the model that was edited")
                what = f"the log {self.folder} is of another model ({name} {self.settings[name]} there, {value} here)"
                raise RromeError(f"{what}: load {source}, layer {self.settings['layer']}")
        model.record.refuse_edits("edits of this log are put in", but=model.edits)
        return [self.update(edit) for edit in range(1, n + 1)]
