"""What the model still knows after editing, on every machine: choices between a right and a wrong continuation.

A choice is won when the right continuation is more probable per token than every wrong one. Two offline tasks: agreement
minimal pairs of the kind BLiMP uses (Warstadt et al. 2020), made from rrome/data/agreement.yaml, and cloze recall of
facts that are not edited.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..facts.fact import Fact
from ..model.model import Model
from ..store.disk import RromeError, digest, read_yaml
from .scores import target_nll


class Task(Protocol):
    """Anything that scores a model: `name`, a `key` that changes with its content, and the `floor` that guessing gets."""

    @property
    def name(self) -> str: ...

    @property
    def floor(self) -> float: ...

    @property
    def key(self) -> str: ...

    def scores(self, model: Model) -> dict[str, float]:
        """Named scores of the model as it is now, in [0, 1]; the task's own name is among them."""


@dataclass(frozen=True)
class Choice:
    """A prompt with its right continuation and the wrong ones; one space is put between them."""

    prompt: str
    right: str
    wrong: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class ChoiceTask:
    """Choices under one name; its score is the share that is won, the floor what guessing wins."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self):
        if not self.choices:
            raise RromeError(f"the task {self.name!r} has no choices: give at least one")

    @property
    def key(self) -> str:
        """A content hash."""
        return digest(self.name, *(vars(choice) for choice in self.choices))

    @property
    def floor(self) -> float:
        """The expected share won by guessing."""
        return sum(1 / (1 + len(choice.wrong)) for choice in self.choices) / len(self.choices)

    def won(self, model: Model) -> list[bool]:
        """Which choices the model wins, as it is now; a model that yields NaN wins none."""
        pairs = [(choice.prompt, option) for choice in self.choices for option in (choice.right, *choice.wrong)]
        nll = iter(target_nll(model, *zip(*pairs, strict=True)).tolist())
        outcomes = []
        for choice in self.choices:
            right, *wrong = itertools.islice(nll, 1 + len(choice.wrong))
            outcomes.append(all(right < other for other in wrong))
        return outcomes

    def scores(self, model: Model) -> dict[str, float]:
        """The share won."""
        won = self.won(model)
        return {self.name: sum(won) / len(won)}


def agreement_task(n_per_kind: int = 60, seed: int = 0) -> ChoiceTask:
    """Minimal pairs of subject-verb agreement across a phrase or a clause, reflexives and determiners.

    Raises RromeError when a kind has fewer than `n_per_kind` pairs.
    """
    words = read_yaml("agreement.yaml")
    choices = []
    for kind in words:
        if kind == "verbs":
            continue
        pairs = list(dict.fromkeys(_pairs(kind, words[kind], words["verbs"])))
        if n_per_kind > len(pairs):
            raise RromeError(f"{n_per_kind} pairs asked of the kind {kind!r}, which has {len(pairs)}: ask fewer")
        choices += random.Random(f"{seed} {kind}").sample(pairs, n_per_kind)
    return ChoiceTask("agreement", tuple(choices))


def _pairs(kind: str, words: dict[str, Any], verbs: Sequence[str]) -> Iterator[Choice]:
    """Every pair of one kind, in both directions."""
    pattern, links = words["pattern"], words["links"]
    if kind == "determiners":
        for link, determiner, noun in itertools.product(links, _two(words["determiners"]), _two(words["nouns"])):
            for side in (0, 1):
                yield Choice(
                    pattern.format(link=link, determiner=determiner[side]), noun[side], (noun[1 - side],), kind
                )
        return
    answers = _two([words["answers"]] if "answers" in words else verbs)
    others = _two(words.get("others", ["/"]))
    for noun, link, other, answer in itertools.product(_two(words["nouns"]), links, others, answers):
        for side in (0, 1):
            prompt = pattern.format(noun=noun[side], link=link, other=other[1 - side])
            yield Choice(prompt, answer[side], (answer[1 - side],), kind)


def _two(words: Iterable[str]) -> list[list[str]]:
    return [word.split("/") for word in words]


def recall_task(facts: Sequence[Fact], n: int = 200, n_wrong: int = 3, seed: int = 0) -> ChoiceTask:
    """Cloze recall: the true answer of a fact against `n_wrong` true answers of other facts of its relation.

    Give facts that are not edited. Facts without a true answer or whose relation has too few answers are left out; raises
    RromeError when fewer than `n` remain.
    """
    answers: dict[str | None, list[str]] = {}
    for fact in facts:
        if fact.target_true is not None and fact.target_true not in answers.setdefault(fact.relation, []):
            answers[fact.relation].append(fact.target_true)
    draw = random.Random(seed)
    choices = []
    for fact in draw.sample(list(facts), len(facts)):
        wrong = [answer for answer in answers.get(fact.relation, []) if answer != fact.target_true]
        if fact.target_true is None or len(wrong) < n_wrong:
            continue
        choices.append(Choice(fact.rewrite, fact.target_true, tuple(draw.sample(wrong, n_wrong)), fact.relation or ""))
    if len(choices) < n:
        raise RromeError(f"{n} recall items asked, the {len(facts)} facts give {len(choices)}: give more facts")
    return ChoiceTask("recall", tuple(choices[:n]))
