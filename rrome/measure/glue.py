"""The paper's downstream tasks, four of GLUE: few-shot prompts, a generated answer, weighted F1.

Beside the paper's score stands one without a threshold: the area under the ROC curve of the log-odds between the two options.
Small models answer such prompts with a constant, which the F1 cannot tell from knowing nothing; their log-odds may still know.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from ..facts.fact import json_lines
from ..model.model import Model, generate
from ..store.disk import RromeError, digest, read_yaml
from .scores import target_nll

INVALID = -1  # the label of an answer that names no option, or both
BATCH = 16


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
        """Each question behind the shots, or behind the last ones of them that leave room in the model's context."""
        room = model.context - self.n_tokens
        prompts = []
        for question in self.questions:
            candidates = ["".join([*self.shots[skipped:], question]) for skipped in range(len(self.shots) + 1)]
            fitting = (
                prompt for prompt in candidates if len(model.tokenizer(prompt, verbose=False)["input_ids"]) <= room
            )
            prompt = next(fitting, None)
            if prompt is None:
                raise RromeError(f"{self.name}: a question is longer than the {model.context} tokens of {model.name}")
            prompts.append(prompt)
        return prompts

    def scores(self, model: Model) -> dict[str, float]:
        """{name: weighted F1 of generated answers, name_auc: area under the ROC curve of the log-odds of label 1}."""
        prompts, answers = self.prompts(model), []
        for start in range(0, len(prompts), BATCH):
            answers += generate(model, prompts[start : start + BATCH], self.n_tokens, top_k=1)
        given = [read_answer(answer, self.options) for answer in answers]
        return {self.name: weighted_f1(self.labels, given), f"{self.name}_auc": self._auc(model, prompts)}

    def _auc(self, model: Model, prompts: Sequence[str]) -> float:
        twice = [prompt for prompt in prompts for _ in self.options]
        nll = target_nll(model, twice, self.options * len(prompts)).view(-1, 2)
        odds = (nll[:, 0] - nll[:, 1]).numpy()  # log p(option 1) - log p(option 0)
        return float(roc_auc_score(self.labels, np.nan_to_num(odds)))


def read_answer(answer: str, options: Sequence[str]) -> int:
    """The label whose word occurs in an answer; INVALID when none or both do."""
    named = [label for label, word in enumerate(options) if word in answer.lower()]
    return named[0] if len(named) == 1 else INVALID


def weighted_f1(labels: Sequence[int], given: Sequence[int]) -> float:
    """The F1 of each label weighted by how often it is right; an invalid answer is right for neither."""
    return float(f1_score(labels, given, labels=[0, 1], average="weighted", zero_division=0))


def glue_task(name: str, source: str | Path = "hub", *, n_per_class: int = 100, seed: int = 0) -> GlueTask:
    """One of sst2, mrpc, cola, rte: up to `n_per_class` seeded validation examples of each class behind a few-shot prompt.

    `source` is "hub" (downloaded by `datasets`) or a folder with NAME.jsonl in GLUE's own fields and labels. The shots are
    drawn first, alternating in class, and are never asked; both classes are asked equally often. Raises RromeError for an
    unknown task or when no examples are left to ask.
    """
    known = read_yaml("glue.yaml")
    if name not in known["tasks"]:
        raise RromeError(f"there is no task {name!r}: choose one of {', '.join(known['tasks'])}")
    task = known["tasks"][name]
    records = _from_hub(known["source"], name) if source == "hub" else _from_folder(Path(source), name)
    by_label = {label: [record for record in records if record.get("label") == label] for label in (0, 1)}
    draw = random.Random(f"{seed} {name}")
    for pool in by_label.values():
        draw.shuffle(pool)
    left = min(map(len, by_label.values())) - (task["shots"] + 1) // 2
    if left < 1:
        counts = ", ".join(f"{len(pool)} of label {label}" for label, pool in by_label.items())
        raise RromeError(f"{name}: {task['shots']} shots leave no examples, {source} has {counts}: give more")
    shots = [by_label[number % 2].pop() for number in range(task["shots"])]
    examples = [record for pool in by_label.values() for record in pool[: min(n_per_class, left)]]
    answered = tuple(f"{_ask(task, shot)} {task['options'][shot['label']]}\n\n" for shot in shots)
    questions = tuple(_ask(task, record) for record in examples)
    labels = tuple(record["label"] for record in examples)
    return GlueTask(name, answered, questions, labels, tuple(task["options"]), known["n_tokens"])


def _ask(task: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    question = task["ask"]
    for field in task["fields"]:
        question = question.replace("{" + field + "}", " ".join(record[field].split()))
    return question


def _from_folder(folder: Path, name: str) -> list[dict[str, Any]]:
    file = folder / f"{name}.jsonl"
    if not file.exists():
        raise RromeError(f"there is no {file}: give a folder that holds it, or 'hub'")
    try:
        return json_lines(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RromeError(f"{file} cannot be read as JSON lines: {error}") from error


def _from_hub(repository: str, name: str) -> list[dict[str, Any]]:
    try:
        import datasets  # an extra, and heavy
    except ImportError as error:
        raise RromeError(f"GLUE's {name} is read with the package datasets: pip install \"rrome[hub]\"") from error
    try:
        return list(datasets.load_dataset(repository, name, split="validation"))
    except (OSError, ValueError, RuntimeError) as error:
        raise RromeError(
            f"GLUE's {name} could not be downloaded from {repository} ({error}): connect to the internet once, "
            f"or give a folder with {name}.jsonl"
        ) from error
