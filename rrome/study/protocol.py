"""The protocols that notebooks share: the same editor, facts, measures and records."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ..edit.editor import Editor
from ..facts.fact import Fact, load_facts
from ..facts.text import FACTBOOK, factbook_prose
from ..measure.tasks import Task, agreement_task, glue_task, recall_task
from ..model.load import load
from ..model.model import Model
from ..model.tokens import BARE, sample_prefixes
from ..store.disk import RromeError
from ..update.rules import NAMED_RULES
from ..update.second_moment import second_moment_from
from .ahead import strata
from .claims import Evidence
from .sequential import Checks, SequentialRun, read_sequential, sequential_edits
from .single import Measures, read_single_edits, single_edits

PROBE_CHARACTERS = 600  # of held-out text, for the perplexity after each edit: about 130 tokens
SEQUENTIAL_PROBE_CHARACTERS = 1200
N_TEST_PREFIXES = 4


def standard_editor(
    model_name: str,
    *,
    device: str | None = None,
    layer: int | None = None,
    c0_text: str = FACTBOOK,
    c0_tokens: int = 100_000,
    seed: int = 0,
    prefixes: Sequence[str] | None = None,
) -> Editor:
    """A model with its C_0 from the text or statistics file that `c0_text` names, and sampled (or the given) prefixes."""
    model = load(model_name, device=device, layer=layer)
    return Editor(model, second_moment_from(model, c0_text, c0_tokens), prefixes, seed=seed)


def standard_recipe(editor: Editor, c0_text: str = FACTBOOK) -> Callable[[], Editor]:
    """What makes a standard editor again on a worker, on that worker's own device."""
    model, prefixes, n = editor.model, editor.prefixes, editor.second_moment.count
    standard = partial(standard_editor, c0_text=c0_text, c0_tokens=n, seed=editor.seed, prefixes=prefixes)
    return partial(standard, model.name, layer=model.layer)


def standard_facts(
    model: Model, dataset: str, *, n_known: int, n_ordinary: int, n_first_token: int, n_prompts: int = 2, seed: int = 0
) -> list[Fact]:
    """Two strata drawn from the first `n_known` facts of a set, each with at most `n_prompts` generation prompts."""
    ordinary, first = strata(model, load_facts(dataset, n=n_known), n_ordinary, n_first_token, seed=seed)
    return [replace(fact, generation=fact.generation[:n_prompts]) for fact in ordinary + first]


def standard_measures(editor: Editor, *, n_generated: int, spoken: Sequence[str]) -> Measures:
    """Texts of the spoken rules, perplexity on a piece of held-out text, and prefixes that the edit has not seen."""
    sampled = sample_prefixes(editor.model, editor.seed + 1)
    unseen = [template for template in sampled if template != BARE and template not in editor.prefixes]
    unseen = unseen[:N_TEST_PREFIXES]
    return Measures(spoken=spoken, n_generated=n_generated, test_prefixes=unseen, probe=standard_probe())


def standard_probe() -> str:
    """The short held-out text on which perplexity is measured after each edit."""
    return factbook_prose("held-out")[0][:PROBE_CHARACTERS]


def standard_study(
    editor: Editor,
    facts: Sequence[Fact],
    folder: str | Path,
    profile: str,
    *,
    n_generated: int,
    spoken: Sequence[str],
) -> pd.DataFrame:
    """The single-edit study of all eight rules, in FOLDER/single_edits-MODEL-PROFILE.jsonl; a second caller only reads it."""
    measures = standard_measures(editor, n_generated=n_generated, spoken=spoken)
    path = study_path(folder, editor.model.name, profile)
    return single_edits(editor, facts, path, measures=measures)


def study_path(folder: str | Path, model_name: str, profile: str) -> Path:
    """Where a profile's single-edit study of a model is kept."""
    return Path(folder) / f"single_edits-{Path(model_name).name}-{profile}.jsonl"


def standard_sequence(dataset: str, *, n_known: int, n_edits: int, order: int = 0) -> list[Fact]:
    """`n_edits` facts drawn from the first `n_known` of a set, in an order that the number `order` seeds.

    A longer sequence of the same order begins with the shorter one.
    """
    if n_edits > n_known:
        raise RromeError(f"{n_edits} edits asked, of the first {n_known} facts only: raise n_known")
    facts = load_facts(dataset, n=n_known)
    return random.Random(order).sample(facts, len(facts))[:n_edits]


def standard_tasks(dataset: str, names: Sequence[str], *, n_known: int, n_items: int) -> list[Task]:
    """Downstream tasks by name: "agreement", "recall", or GLUE's sst2, mrpc, cola, rte, with about `n_items` items each.

    GLUE comes from the hub; FOLDER/sst2 reads FOLDER/sst2.jsonl instead.

    Recall asks only for subjects of which no fact is among the first `n_known` of the set, so none is edited.
    """
    edited = {fact.subject for fact in load_facts(dataset, n=n_known)}
    unedited = [fact for fact in load_facts("world") if fact.subject not in edited]
    offline = {
        "agreement": lambda: agreement_task(max(1, n_items // 4)),
        "recall": lambda: recall_task(unedited, n_items),
    }
    tasks: list[Task] = []
    for name in names:
        folder, _, task = name.rpartition("/")
        glue = partial(glue_task, task, folder or "hub", n_per_class=max(1, n_items // 2))
        tasks.append(offline.get(name, glue)())
    return tasks


def standard_sequences(
    editor: Editor,
    facts: Sequence[Fact],
    folder: str | Path,
    profile: str,
    *,
    rules: Sequence[str],
    checks: Checks,
    order: int,
) -> dict[str, SequentialRun]:
    """One sequential study per rule, in FOLDER/sequential-MODEL-PROFILE/RULE-ORDER; what is done is only read."""
    paths = {rule: sequence_path(folder, editor.model.name, profile, rule, order) for rule in rules}
    return {rule: sequential_edits(editor, facts, paths[rule], rule=rule, checks=checks) for rule in rules}


def sequence_path(folder: str | Path, model_name: str, profile: str, rule: str, order: int) -> Path:
    """Where a profile's sequential study of a model, rule and order is kept."""
    return Path(folder) / f"sequential-{Path(model_name).name}-{profile}" / f"{rule}-{order}"


def standard_checks(tasks: Sequence[Task], **settings: Any) -> Checks:
    """Checks (with these `settings`) whose probe is made of held-out paragraphs about many countries."""
    paragraphs = [text.split("\n")[0] for text in factbook_prose("held-out")]
    probe = "\n".join(paragraphs)[:SEQUENTIAL_PROBE_CHARACTERS]
    return Checks(probe=probe, tasks=tasks, **settings)


def standard_evidence(folder: str | Path, model_name: str, profile: str, *, order: int) -> Evidence:
    """What a profile's two studies of a model have on disk, for the scorecard; RromeError names the one that is missing."""
    paths = {rule: sequence_path(folder, model_name, profile, rule, order) for rule in NAMED_RULES}
    runs = {rule: read_sequential(path) for rule, path in paths.items()}
    return Evidence(read_single_edits(study_path(folder, model_name, profile)), runs)
