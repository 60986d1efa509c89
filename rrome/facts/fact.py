"""A fact to edit, and sets of them by name or from a file in CounterFact's record form.

rewrite prompt          the prompt with the subject filled in: what the edit must change
paraphrase prompts      other words for the same question: what should change with it
neighbourhood prompts   other subjects with the same true answer: what must not change
"""

import numbers
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import pooch

from ..store.disk import RromeError, cache_dir, data_records, read_records, read_yaml

HOLE = "{}"
PROMPTS = {  # field of a Fact: field of a CounterFact record
    "paraphrases": "paraphrase_prompts",
    "neighbourhood": "neighborhood_prompts",
    "generation": "generation_prompts",
}


@dataclass(frozen=True)
class Fact:
    """One edit: afterwards the model should continue `prompt` about `subject` with `target_new`, not `target_true`.

    `prompt` holds exactly one "{}", where the subject goes; white space around subject and targets is taken off. The remaining
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
    separator: str = " "  # between a prompt and a target; "" in a language that is written without spaces

    def __post_init__(self):
        given = ("prompt", "subject", "target_new", "target_true")
        for name in given if self.target_true is not None else given[:3]:
            text = getattr(self, name)
            stripped = _stripped(text) if isinstance(text, str) else ""
            if not stripped:
                raise RromeError(f"{self._label()}: {name} must be a text that is not empty, got {text!r}")
            if name != "prompt":
                object.__setattr__(self, name, stripped)
        if not isinstance(self.separator, str) or self.separator.strip():
            raise RromeError(f"{self._label()}: separator must be white space or empty, got {self.separator!r}")
        if isinstance(self.case_id, numbers.Integral):
            object.__setattr__(self, "case_id", int(self.case_id))  # NumPy's are no JSON
        if self.prompt.count(HOLE) != 1:
            raise RromeError(f'{self._label()}: prompt must hold exactly one "{{}}", where the subject goes')
        if self.target_true is not None and _folded(self.target_true) == _folded(self.target_new):
            raise RromeError(f"{self._label()}: target_new equals target_true ({self.target_new!r}): nothing to edit")
        for name in PROMPTS:
            object.__setattr__(self, name, _texts(getattr(self, name), f"{self._label()}: {name}"))

    def _label(self) -> str:
        case = "" if self.case_id is None else f", case {self.case_id}"
        return f"fact {self.prompt!r}, subject {self.subject!r}{case}"

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

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "record") -> "Fact":
        """A fact from a record in CounterFact's form, or in the flat form of other toolkits.

        The flat form has `prompt` (with the subject in it), `subject`, `target_new`, and if known `ground_truth` and
        `rephrase_prompt`; its locality prompts have answers of their own and are not read. RromeError names the record and the
        field that is missing or wrong.
        """
        if not isinstance(record, Mapping):
            raise RromeError(f"{where}: a JSON object was expected, not {str(record)[:80]!r}")
        where = f"{where} (case_id {record.get('case_id')})"
        asked = record.get("requested_rewrite", record)  # other toolkits keep its fields in the record itself
        asked = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
        if not isinstance(asked, Mapping):
            raise RromeError(f"{where}: requested_rewrite must be one JSON object, not {str(asked)[:80]!r}")
        fields: dict[str, Any] = {name: asked.get(name) for name in ("prompt", "subject")}
        true = asked.get("target_true") or asked.get("ground_truth")
        fields["target_true"] = _target(true[:1] if isinstance(true, list) else true)  # the first of an answer's names
        fields["target_new"] = _target(asked.get("target_new"))
        if lost := [name for name in ("prompt", "subject", "target_new") if not fields[name]]:
            raise RromeError(f"{where}: {', '.join(lost)} missing among the fields {', '.join(map(str, asked))}")
        for name, there in PROMPTS.items():
            fields[name] = _texts(record.get(there, ()), f"{where}: the field {there!r}")
        rephrased = record.get("rephrase_prompt") or []
        rephrased = [rephrased] if isinstance(rephrased, str) else rephrased
        fields["paraphrases"] += _texts(rephrased, f"{where}: the field 'rephrase_prompt'")
        fields |= {"case_id": record.get("case_id"), "relation": asked.get("relation_id")}
        try:
            fields["prompt"] = _with_hole(fields["prompt"], fields["subject"])
            return cls(**fields, separator=asked.get("separator", " "))
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
                **({} if self.separator == " " else {"separator": self.separator}),
            },
        } | {field: list(getattr(self, name)) for name, field in PROMPTS.items()}


def _stripped(text: str) -> str:
    """A text without white space of any kind at its ends, also of no width."""
    return re.sub("^[\\s\u200b\u2060\ufeff]+|[\\s\u200b\u2060\ufeff]+$", "", text)


def _folded(text: str) -> str:
    """A text in which neither capitals nor the form of accents count."""
    return unicodedata.normalize("NFC", text).casefold()


def _with_hole(prompt: Any, subject: Any) -> Any:
    """A prompt with its one subject as a hole, where it has none; RromeError that shows why there is not one subject."""
    if not isinstance(prompt, str) or not isinstance(subject, str) or HOLE in prompt:
        return prompt
    subject = _stripped(subject)
    if (count := prompt.count(subject)) != 1:
        composed = not count and _folded(subject) in _folded(prompt)
        why = "capitals or the form of accents differ" if composed else f"it is there {count} times"
        raise RromeError(f"the prompt {prompt!a} must hold the subject {subject!a}, or {HOLE}, exactly one time: {why}")
    return prompt.replace(subject, HOLE)


def _target(target: Any) -> Any:
    """The text of a target that is given as {"str": text}, as a text, or as a list of one of them."""
    if isinstance(target, list) and len(target) < 2:
        target = target[0] if target else None
    return target.get("str") if isinstance(target, Mapping) else target


def _texts(texts: Any, what: str) -> tuple[str, ...]:
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise RromeError(f"{what} must be a list of texts, got {texts!r}")
    return tuple(texts)


def read_facts(path: str | Path) -> list[Fact]:
    """Facts from a file of records (see `Fact.from_record`): one JSON list, or one record a line."""
    if not (path := Path(path)).exists():
        raise RromeError(f"there is no fact file {path}: give a .json or .jsonl file in CounterFact's form")
    return [Fact.from_record(record, f"{path.name}, record {n}") for n, record in enumerate(read_records(path))]


def load_facts(source: str | Path = "world", *, n: int | None = None, seed: int | None = None) -> list[Fact]:
    """Facts from "world", "companies" (embedded), "counterfact" (downloaded once), "counterfact-paper", .json or .jsonl.

    "counterfact-paper" is the `paper_sample` of CounterFact. `n` takes the first n, or with `seed` a random sample of n
    in a seeded order. RromeError for an unknown source, a failed download, a bad record, or fewer than n facts.
    """
    if str(source) in ("world", "companies"):
        facts = [Fact.from_record(record, f"the facts {source!r}") for record in data_records(f"{source}.jsonl.bz2")]
    else:
        facts = read_facts(counterfact_file() if str(source) in ("counterfact", "counterfact-paper") else source)
    if str(source) == "counterfact-paper":
        facts = paper_sample(facts)
    if n is not None and not 0 < n <= len(facts):
        raise RromeError(f"n={n} facts asked of {source}, which holds {len(facts)}")
    if seed is not None:
        return random.Random(seed).sample(facts, n or len(facts))
    return facts[:n]


def counterfact_file() -> Path:
    """The official CounterFact file in the cache; downloads it on first use and checks its sha256."""
    entry = read_yaml("datasets.yaml")["counterfact"]
    folder = cache_dir() / "datasets"
    try:
        return Path(pooch.retrieve(entry["url"], f"sha256:{entry['sha256']}", fname="counterfact.json", path=folder))
    except (OSError, ValueError) as error:
        remedy = "connect to the internet once, or pass the path of counterfact.json as the data set"
        raise RromeError(f"CounterFact could not be downloaded from {entry['url']} ({error}): {remedy}") from error


def paper_sample(facts: Sequence[Fact]) -> list[Fact]:
    """Those among the paper's 5,000 CounterFact cases: the first of range(21919) shuffled by Python's random with seed 37."""
    sample = read_yaml("datasets.yaml")["counterfact"]["paper_sample"]
    case_ids = list(range(sample["records"]))
    random.Random(sample["seed"]).shuffle(case_ids)
    chosen = set(case_ids[: sample["size"]])
    return [fact for fact in facts if fact.case_id in chosen]
