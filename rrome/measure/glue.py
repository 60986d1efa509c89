"""GLUE, the paper's four downstream tasks: validation examples as few-shot prompts."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..facts.text import hub_rows
from ..store.disk import RromeError, read_records, read_yaml
from .tasks import GlueTask


def glue_task(name: str, source: str | Path = "hub", *, n_per_class: int = 100, seed: int = 0) -> GlueTask:
    """One of sst2, mrpc, cola, rte: up to `n_per_class` seeded validation examples of each class, each after few shots.

    `source` is "hub" (downloaded by `datasets`) or a folder with NAME.jsonl in GLUE's own fields and labels. The shots are
    drawn first, alternate in class and are not asked; both classes are asked equally often. Raises RromeError for an
    unknown task, an unreadable source, or when no examples are left to ask.
    """
    known = read_yaml("glue.yaml")
    if name not in known["tasks"]:
        raise RromeError(f"there is no task {name!r}: choose one of {', '.join(known['tasks'])}")
    task = known["tasks"][name]
    if source == "hub":
        remedy = f"give a folder with {name}.jsonl"
        records = list(hub_rows(known["source"], name, split="validation", remedy=remedy))
    elif not (file := Path(source, f"{name}.jsonl")).exists():
        raise RromeError(f"there is no {file}: give a folder that holds it, or 'hub'")
    else:
        records = read_records(file, task["fields"])
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
    questions, labels = zip(*((_ask(task, record), record["label"]) for record in examples), strict=True)
    return GlueTask(name, answered, questions, labels, tuple(task["options"]), known["n_tokens"])


def _ask(task: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    return task["ask"].format(**{field: " ".join(record[field].split()) for field in task["fields"]})
