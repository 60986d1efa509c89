"""Downstream tasks: what a model still knows after editing.

Choices between a right and a wrong continuation are won when the right one is more probable per token: agreement has
minimal pairs of the kind BLiMP uses (Warstadt et al. 2020), from rrome/data/agreement.yaml; recall asks facts not edited.
Sentiment is scored as the paper scores SST2, by weighted F1: a constant answer gives 1/3, a model without an answer 0. GLUE's
answers are generated; beside their F1 stands the area under the ROC curve of the log-odds of the two answers: a small model
that always gives one answer has a constant F1, and its log-odds may still tell.

A task has a `name`, a `key` that changes with its content, its score by guessing, `floor`, and `scores(model)`.
"""

import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..facts.fact import Fact
from ..model.model import Model, generate
from ..store.disk import RromeError, digest, read_yaml
from .metrics import roc_area
from .scores import target_nll

BATCH = 16  # prompts that are answered at once
INVALID = -1  # the label of an answer that names no option, or both
SENTIMENTS = ("negative", "positive")  # words for labels 0 and 1


@dataclass(frozen=True)
class Choice:
    """A prompt with its right continuation and the wrong ones, and what stands between."""

    prompt: str
    right: str
    wrong: tuple[str, ...]
    kind: str = ""
    separator: str = " "


@dataclass(frozen=True)
class ChoiceTask:
    """Choices under one name; the score is the share that is won."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self):
        if not self.choices:
            raise RromeError(f"the task {self.name!r} has no choices: give at least one")

    @property
    def key(self) -> str:
        """A content hash, in which the usual separator does not stand."""
        choices = [{k: v for k, v in vars(each).items() if (k, v) != ("separator", " ")} for each in self.choices]
        return digest(self.name, *choices)

    @property
    def floor(self) -> float:
        """The expected share won by guessing."""
        return sum(1 / (1 + len(choice.wrong)) for choice in self.choices) / len(self.choices)

    def scores(self, model: Model) -> dict[str, float]:
        """The share won; a model that yields NaN wins none."""
        rows = [(each.prompt, option, each.separator) for each in self.choices for option in (each.right, *each.wrong)]
        prompts, options, separators = zip(*rows, strict=True)
        nll = target_nll(model, prompts, options, separators=separators)
        groups = nll.split([1 + len(choice.wrong) for choice in self.choices])
        return {self.name: statistics.fmean(bool((nll[0] < nll[1:]).all()) for nll in groups)}


def agreement_task(n_per_kind: int = 60, seed: int = 0) -> ChoiceTask:
    """Minimal pairs: subject-verb agreement across a phrase or a clause, reflexives, determiners.

    Raises RromeError when a kind has fewer than `n_per_kind` pairs.
    """
    choices = []
    for kind, words in read_yaml("agreement.yaml").items():
        pairs = list(dict.fromkeys(_pairs(kind, **words)))
        if n_per_kind > len(pairs):
            raise RromeError(f"{n_per_kind} pairs asked of the kind {kind!r}, which has {len(pairs)}: ask fewer")
        choices += random.Random(f"{seed} {kind}").sample(pairs, n_per_kind)
    return ChoiceTask("agreement", tuple(choices))


def _pairs(
    kind: str, pattern: str, nouns: list[str], links: list[str], others: list[str], answers: list[str]
) -> Iterator[Choice]:
    """Every pair of one kind, in both directions; "a/b" are two forms, of which `others` take the opposite one."""
    for parts in itertools.product(nouns, links, others, answers):
        noun, (link, *_), other, answer = (part.split("/") for part in parts)
        for side in (0, 1):
            prompt = pattern.format(noun=noun[side], link=link, other=other[1 - side])
            yield Choice(prompt, answer[side], (answer[1 - side],), kind)


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
        options = fact.target_true, tuple(draw.sample(wrong, n_wrong))
        choices.append(Choice(fact.rewrite, *options, fact.relation or "", fact.separator))
    if len(choices) < n:
        raise RromeError(f"{n} recall items asked, the {len(facts)} facts give {len(choices)}: give more facts")
    return ChoiceTask("recall", tuple(choices[:n]))


@dataclass(frozen=True)
class SentimentTask:
    """Reviews with their labels (1: positive), judged by the log-odds of two words against a threshold fixed beforehand."""

    name: str
    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    threshold: float
    floor: float = 1 / 3  # the weighted F1 of one answer to everything, both labels being asked equally often

    @property
    def key(self) -> str:
        """A content hash; the threshold follows from the model."""
        return digest(self.name, self.prompts, self.labels)

    def scores(self, model: Model) -> dict[str, float]:
        """The weighted F1; a review whose log-odds are NaN has no answer."""
        odds = log_odds(model, self.prompts, SENTIMENTS)
        return {self.name: weighted_f1(self.labels, [INVALID if x != x else int(x > self.threshold) for x in odds])}


def log_odds(model: Model, prompts: Sequence[str], options: Sequence[str]) -> list[float]:
    """log p(options[1]) - log p(options[0]) per token after each prompt."""
    twice = [prompt for prompt in prompts for _ in options]
    nll = target_nll(model, twice, [*options] * len(prompts)).view(-1, 2)
    return (nll[:, 0] - nll[:, 1]).tolist()


def sentiment_task(model: Model, n: int = 80, seed: int = 0) -> SentimentTask:
    """`n` short reviews, as many positive as negative; the threshold is the median log-odds of `n` others in this model.

    Take the unedited model. Raises RromeError for an odd `n`, or one for which there are too few reviews.
    """
    about = read_yaml("sentiment.yaml")
    pairs = [
        tuple(about["ask"].format(review=frame.format(noun=noun, word=word)) for word in words.split("/"))
        for frame, noun, words in itertools.product(about["frames"], about["nouns"], about["words"])
    ]
    if n < 2 or n % 2 or n > len(pairs):
        raise RromeError(f"sentiment asks an even number of reviews from 2 to {len(pairs)}, not {n}")
    drawn = [review for pair in random.Random(f"{seed} sentiment").sample(pairs, n) for review in pair]
    threshold = statistics.median(log_odds(model, drawn[n:], SENTIMENTS))
    return SentimentTask("sentiment", tuple(drawn[:n]), (1, 0) * (n // 2), threshold)


@dataclass(frozen=True)
class GlueTask:
    """Questions of one task with their labels (0 or 1), the shots before each, and the words that stand for the labels."""

    name: str
    shots: tuple[str, ...]
    questions: tuple[str, ...]
    labels: tuple[int, ...]
    options: tuple[str, str]
    n_tokens: int  # of a generated answer

    @property
    def key(self) -> str:
        """A content hash."""
        return digest(vars(self))

    @property
    def floor(self) -> float:
        """The better weighted F1 of the two constant answers."""
        return max(weighted_f1(self.labels, [label] * len(self.labels)) for label in (0, 1))

    def prompts(self, model: Model) -> list[str]:
        """The shots and each question, without the first shots where the model's context is too short for all."""
        return [self._prompt(model, question) for question in self.questions]

    def _prompt(self, model: Model, question: str) -> str:
        for skipped in range(len(self.shots) + 1):
            prompt = "".join([*self.shots[skipped:], question])
            if len(model.encode(prompt)) <= model.context - self.n_tokens:
                return prompt
        raise RromeError(f"{self.name}: a question is longer than the {model.context} tokens of {model.name}")

    def scores(self, model: Model) -> dict[str, float]:
        """{name: weighted F1 of generated answers, name_auc: area under the ROC curve of the log-odds of label 1}."""
        prompts = self.prompts(model)
        batches = (prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH))
        answers = [answer for batch in batches for answer in generate(model, batch, self.n_tokens, top_k=1)]
        given = [read_answer(answer, self.options) for answer in answers]
        odds = log_odds(model, prompts, self.options)
        area = float(roc_area(np.nan_to_num(odds), np.equal(self.labels, 1)))
        return {self.name: weighted_f1(self.labels, given), f"{self.name}_auc": area}


def read_answer(answer: str, options: Sequence[str]) -> int:
    """The label whose word occurs in an answer; INVALID when none or both do."""
    named = [label for label, word in enumerate(options) if word in answer.lower()]
    return named[0] if len(named) == 1 else INVALID


Task = ChoiceTask | SentimentTask | GlueTask


def weighted_f1(labels: Sequence[int], given: Sequence[int]) -> float:
    """The F1 of each label weighted by how often it is right; an invalid answer is right for neither."""
    from sklearn.metrics import f1_score  # heavy, and needed for few tasks

    return float(f1_score(labels, given, labels=[0, 1], average="weighted", zero_division=0))
