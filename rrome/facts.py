"""A fact to edit, and CounterFact's record form for reading and writing sets of them.

rewrite prompt          the prompt with the subject filled in: what the edit must change
paraphrase prompts      other words for the same question: what should change with it
neighbourhood prompts   other subjects with the same true answer: what must not change
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from .errors import RromeError

HOLE = "{}"


@dataclass(frozen=True)
class Fact:
    """One edit: afterwards the model should continue `prompt` about `subject` with `target_new`, not `target_true`.

    `prompt` holds exactly one "{}", where the subject goes; surrounding spaces of targets are taken off. The remaining
    fields are for measuring, by name only: ids, and whole prompts of each kind. Raises RromeError that names the fact.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    _: KW_ONLY
    case_id: int | None = None
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("prompt", "subject", "target_new", "target_true"):
            text = getattr(self, name)
            if name == "target_true" and text is None:
                continue
            if not isinstance(text, str) or not text.strip():
                raise RromeError(f"{self._label()}: {name} must be a text that is not empty, got {text!r}")
            if name.startswith("target"):
                object.__setattr__(self, name, text.strip())
        if self.prompt.count(HOLE) != 1:
            raise RromeError(f'{self._label()}: prompt must hold exactly one "{{}}", where the subject goes')
        if self.target_true is not None and self.target_true.casefold() == self.target_new.casefold():
            raise RromeError(f"{self._label()}: target_new equals target_true ({self.target_new!r}): nothing to edit")
        for name in ("paraphrases", "neighbourhood", "generation"):
            object.__setattr__(self, name, self._prompts(name))

    def _prompts(self, name: str) -> tuple[str, ...]:
        prompts = getattr(self, name)
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
            raise RromeError(f"{self._label()}: {name} must be a list of texts, got {prompts!r}")
        return tuple(prompts)

    def _label(self) -> str:
        return f"fact {self.prompt!r}, subject {self.subject!r}" + (
            f", case {self.case_id}" if self.case_id is not None else ""
        )

    @property
    def answer(self) -> str:
        """The true answer; RromeError for a fact without one."""
        if self.target_true is None:
            raise RromeError(f"{self.rewrite!r} has no target_true to compare with: give one")
        return self.target_true

    @property
    def rewrite(self) -> str:
        """The prompt with the subject in its place; other braces are ordinary text."""
        return self.prompt.replace(HOLE, self.subject, 1)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject starts and ends in `rewrite`, in characters: at the hole, wherever else it also occurs."""
        start = self.prompt.index(HOLE)
        return start, start + len(self.subject)

    @property
    def subject_first(self) -> bool:
        """Whether the subject opens the prompt."""
        return self.prompt.startswith(HOLE)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "record") -> "Fact":
        """A fact from a CounterFact record; RromeError names the record and the field that is missing or wrong."""
        where = f"{where} (case_id {record.get('case_id')})" if isinstance(record, Mapping) else where
        try:
            rewrite = record["requested_rewrite"]
            fields: dict[str, Any] = {name: rewrite[name] for name in ("prompt", "subject")}
            fields |= {name: rewrite[name]["str"] for name in ("target_new", "target_true")}
        except (KeyError, TypeError) as error:
            raise RromeError(f"{where}: the field {error} of requested_rewrite is missing or malformed") from error
        fields |= {
            "paraphrases": _texts(record, "paraphrase_prompts", where),
            "neighbourhood": _texts(record, "neighborhood_prompts", where),
            "generation": _texts(record, "generation_prompts", where),
        }
        try:
            return cls(**fields, case_id=record.get("case_id"), relation=rewrite.get("relation_id"))
        except RromeError as error:
            raise RromeError(f"{where}: {error}") from error

    def to_record(self) -> dict[str, Any]:
        """The fact in CounterFact's form."""
        return {
            "case_id": self.case_id,
            "requested_rewrite": {
                "prompt": self.prompt,
                "relation_id": self.relation,
                "target_new": {"str": self.target_new},
                "target_true": {"str": self.target_true},
                "subject": self.subject,
            },
            "paraphrase_prompts": list(self.paraphrases),
            "neighborhood_prompts": list(self.neighbourhood),
            "generation_prompts": list(self.generation),
        }


def _texts(record: Mapping[str, Any], field: str, where: str) -> Sequence[str]:
    texts = record.get(field, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RromeError(f"{where}: the field {field!r} must be a list of texts")
    return texts


def read_facts(path: str | Path) -> list[Fact]:
    """Facts from a file in CounterFact's form: .json (one list) or .jsonl (one record a line)."""
    path = Path(path)
    if not path.exists():
        raise RromeError(f"there is no fact file {path}: give a .json or .jsonl file in CounterFact's form")
    try:
        text = path.read_text(encoding="utf-8")
        records = json.loads(text) if path.suffix == ".json" else json_lines(text)
    except (ValueError, OSError) as error:
        raise RromeError(f"the fact file {path} cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        raise RromeError(f"the fact file {path} must hold a list of records")
    return [Fact.from_record(record, f"{path.name}, record {number}") for number, record in enumerate(records)]


def json_lines(text: str) -> list[Any]:
    """One value a line; only "\\n" ends a line, for JSON may hold the other line separators of Unicode as they are."""
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return values


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Facts to a .jsonl file in CounterFact's form."""
    lines = (json.dumps(fact.to_record(), ensure_ascii=False) for fact in facts)
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
