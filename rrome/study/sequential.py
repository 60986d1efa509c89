"""The sequential study: facts edited one after another into the same model, on a log that resumes bit for bit after a kill.

edits         one row per edit: its update, |Delta| before and after, and the metrics of the edit just made
checkpoints   one row every so many edits, from 0 = the unedited model: earlier edits re-tested, perplexity, tasks
final         one row per fact: the metrics of each edit in the model after the last edit
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..edit.editor import Editor
from ..edit.log import EditLog
from ..facts.fact import Fact
from ..measure.metrics import fact_metrics, mean
from ..measure.scores import below_kept, fact_probabilities, row_perplexities, target_nll
from ..measure.tasks import Task
from ..model.model import Model, generate
from ..model.tokens import check_prompts, subject_position
from ..store.disk import RromeError
from ..store.journal import Journal, find_study, read_journal, study_path
from ..store.progress import bar
from ..update.keys import Keys, facts_keys
from ..update.rules import RankOneUpdate, Rule, rule_named
from .single import study_settings

CHECKPOINTS, FINAL = "checkpoints.jsonl", "final.jsonl"


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What a sequential study measures, and how often."""

    every: int = 20  # edits between two checkpoints
    probe: str | None = (
        None  # held-out text, cut to 512 tokens (see mixed_probe); its perplexity is measured after every edit
    )
    tasks: Sequence[Task] = ()  # downstream tasks, scored at every checkpoint
    prompts: Sequence[str] = ()  # continued greedily at every checkpoint
    n_generated: int = 30  # tokens of each continuation
    retest: bool = True  # measure every edit again in the model after the last one

    def __post_init__(self):
        if self.every < 1:
            raise RromeError(f"checkpoints need at least one edit in between, got every={self.every}")

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON."""
        known = {name: getattr(self, name) for name in ("every", "probe", "n_generated", "retest")}
        tasks = {task.name: task.key for task in self.tasks}
        return known | {"tasks": tasks, "prompts": list(self.prompts)}


@dataclass(frozen=True, eq=False)
class SequentialRun:
    """The three tables of a run (see the module), and the folder of its log."""

    edits: pd.DataFrame
    checkpoints: pd.DataFrame
    final: pd.DataFrame
    folder: Path | None = None


def sequential_edits(
    editor: Editor,
    facts: Sequence[Fact],
    folder: str | Path | None = None,
    *,
    rule: str | Rule = "rome",
    checks: Checks | None = None,
    within: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> SequentialRun:
    """Edit the facts in their order into one model under one rule, and measure as it goes.

    Everything is appended to `folder` as it is made (see edit.log). `folder` None: one in `within` (None: the cache) found
    by a digest of the first fact and all settings, `about` (how the facts were drawn, say) among them. A rerun applies
    again what was done and goes on; the tables then equal an uninterrupted run's. More facts at the end of the list prolong
    a finished run. An edit that fails (NaN after a collapse) is recorded in `error` and skipped. Afterwards the model is as
    it was. Raises RromeError for an edited model, other settings or facts in the folder, or a fact that could not be edited
    or measured, before any edit.
    """
    editor.model.record.refuse_edits("a sequential study")
    checks, (name, rule) = checks or Checks(), rule_named(rule)
    settings = study_settings(editor) | {"rule": name} | checks.settings | dict(about or {})
    check_prompts(editor.model, facts)
    first = {"first_fact": facts[0].to_record() if facts else None}
    folder = Path(folder or study_path("sequential", settings | first, within))
    keys = facts_keys(editor.model, facts, editor.prefixes, editor.leading, progress=progress)
    try:
        with (
            below_kept(),
            EditLog(folder, editor.model, settings) as log,
            Journal(folder / CHECKPOINTS, settings) as checkpoints,
            Journal(folder / FINAL, settings) as final,
        ):
            done = _resume(editor.model, facts, log)
            _checkpoint(editor.model, facts, done, checks, checkpoints)
            for number in bar(range(done, len(facts)), desc=name, unit="edit", show=progress):
                _edit(editor, facts[number], keys[number], rule, checks, log)
                _checkpoint(editor.model, facts, number + 1, checks, checkpoints)
            if checks.retest:
                _final(editor.model, facts, final, progress)
            return _tables(folder, len(facts), log.rows, checkpoints.rows, final.rows)
    finally:
        editor.model.edits.set(())


def _resume(model: Model, facts: Sequence[Fact], log: EditLog) -> int:
    """Put the logged edits back into the model; returns how many of the facts are done."""
    for row, fact in zip(log.rows, facts, strict=False):
        if row["fact"] != fact.to_record():
            raise RromeError(
                f"edit {row['edit']} in {log.folder} is {row['subject']!r}, the list of facts has {fact.subject!r} "
                "there: choose another folder, or give the same facts in the same order"
            )
    done = min(len(log), len(facts))
    log.replay(model, done)
    return done


def _edit(editor: Editor, fact: Fact, keys: Keys, rule: Rule, checks: Checks, log: EditLog) -> None:
    """Make one edit, measure it and write it down."""
    model, before = editor.model, editor.model.edits.size
    row: dict[str, Any] = {"rule": rule.name, "delta_before": before, "position": subject_position(model, fact)}
    row |= {"error": None, "cosine": keys.cosine}
    update: RankOneUpdate | None = None
    try:
        solution = editor.solve(fact)  # with keys of its own batch, so that a resumed run is bit-identical
        made = log.store(solution.update(rule))
        editor.apply(made)
    except RromeError as error:
        row["error"] = str(error)
    else:
        update, value = made, solution.value
        row |= {"probability": value.probability, "steps": value.steps, "denominator": update.denominator}
        row |= {"delta_frobenius": update.norm, "delta": update.size}
    row["delta_after"] = model.edits.size
    row |= fact_metrics(fact_probabilities(model, fact, {"now": None})["now"])
    if checks.probe is not None:
        (row["perplexity"],) = row_perplexities(model, checks.probe, [None])
    log.append(update, fact, stored=True, **row)


def _checkpoint(model: Model, facts: Sequence[Fact], done: int, checks: Checks, journal: Journal) -> None:
    """Measure the model after `done` edits, if a checkpoint is due and has not been made."""
    due = done % checks.every == 0 or done == len(facts)
    if not due or any(row["edits"] == done for row in journal.rows):
        return
    row: dict[str, Any] = {"edits": done, "delta": model.edits.size, "retained": retained(model, facts[:done])}
    if checks.probe is not None:
        (row["perplexity"],) = row_perplexities(model, checks.probe, [None])
    for task in checks.tasks:
        row |= task.scores(model)
    if checks.prompts:
        row["texts"] = generate(model, checks.prompts, checks.n_generated, top_k=1)
    journal.append(row)


def retained(model: Model, facts: Sequence[Fact]) -> float:
    """The share of facts whose rewrite prompt still prefers the new target to the true one; NaN for no facts."""
    prompts = [fact.rewrite for fact in facts for _ in range(2)]
    targets = [target for fact in facts for target in (fact.target_new, fact.answer)]
    if not prompts:
        return math.nan
    nll = target_nll(model, prompts, targets).view(-1, 2)
    return mean((nll[:, 0] < nll[:, 1]).double().tolist())


def _final(model: Model, facts: Sequence[Fact], journal: Journal, progress: bool | None) -> None:
    """Measure every edit in the model as it is after the last one."""
    measured = {row["edit"] for row in journal.rows if row["of"] == len(facts)}
    missing = [number for number in range(1, len(facts) + 1) if number not in measured]
    for number in bar(missing, desc="re-test", unit="fact", show=progress):
        pairs = fact_probabilities(model, facts[number - 1], {"now": None})["now"]
        journal.append({"edit": number, "of": len(facts), **fact_metrics(pairs)})


def read_sequential(folder: str | Path, **known: Any) -> SequentialRun:
    """The tables of a run on disk as far as it has come, without a model.

    `folder` is the run's own, or one in which the one run with the `known` settings is found. RromeError where there is none.
    """
    folder = Path(folder)
    if known:
        folder = find_study("sequential", folder, **known).parent
    log = EditLog(folder)
    checkpoints, final = (read_journal(folder / name)[1] for name in (CHECKPOINTS, FINAL))
    return _tables(folder, len(log), log.rows, checkpoints, final)


def _tables(
    folder: Path, n: int, edits: Sequence[dict], checkpoints: Sequence[dict], final: Sequence[dict]
) -> SequentialRun:
    return SequentialRun(
        pd.DataFrame(map(_flat, edits[:n])),
        pd.DataFrame([row for row in checkpoints if row["edits"] <= n]).sort_values("edits", ignore_index=True),
        pd.DataFrame([row for row in final if row["of"] == n]),
        folder,
    )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A log's row as a row of the table: without the factors' file and the fact's prompts."""
    return {name: value for name, value in row.items() if name not in ("file", "sha256", "fact")} | {
        "case_id": row["fact"]["case_id"],
        "prompt": row["fact"]["requested_rewrite"]["prompt"],
        "target_new": row["fact"]["requested_rewrite"]["target_new"]["str"],
    }
