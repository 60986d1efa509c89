"""The sequential study: facts edited one after another into the same model; a stopped run goes on bit for bit.

edits         one row per edit: its update, |Delta| before and after, and the metrics of the edit just made
checkpoints   one row every so many edits, from 0 = the unedited model: earlier edits re-tested, perplexity, tasks
final         one row per fact: the metrics of each edit in the model after the last edit

An edited model is broken when its perplexity on a probe text exceeds `times` the unedited model's (the criterion of Yang et
al. 2024, The Butterfly Effect of Model Editing). A run has collapsed at the first edit after which its model is broken.
"""

import itertools
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
from ..update.rules import Rule, rules_named
from .single import as_table, described, study_settings

CHECKPOINTS, FINAL = "checkpoints.jsonl", "final.jsonl"
FOUND = ("probability", "steps", "denominator", "delta_frobenius", "delta")  # of an edit that did not fail
TIMES = 2.0


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The measurements of a sequential study, and how often they are made."""

    every: int = 20  # edits between two checkpoints
    probe: str | None = None  # text, cut to 512 tokens; its perplexity is measured after every edit (see mixed_probe)
    tasks: Sequence[Task] = ()  # downstream tasks, scored at every checkpoint
    prompts: Sequence[str] = ()  # continued after every edit, with sampled text
    n_generated: int = 30  # tokens of each continuation
    retest: bool = True  # measure every edit again in the model after the last one

    def __post_init__(self):
        if self.every < 1:
            raise RromeError(f"checkpoints need at least one edit in between, got every={self.every}")
        names = ["edits", "delta", "retained", "perplexity", "texts", *(task.name for task in self.tasks)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RromeError(f"two columns of a checkpoint would have one name: rename the task {', '.join(twice)}")

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as JSON, a task by its key."""
        return vars(self) | {"tasks": {task.name: task.key for task in self.tasks}, "prompts": list(self.prompts)}


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

    Everything is appended to `folder` (see edit.log). `folder` None: one in `within` (None: the cache) found by a digest of
    the first fact and all settings, `about` (how the facts were drawn, say) among them. A rerun applies the logged edits
    and goes on, also with more facts at the end; its tables equal an uninterrupted run's. An edit that fails (NaN after a
    collapse) is recorded in `error` and skipped. Afterwards the model is as it was. Raises RromeError, before any edit, for
    an edited model, other settings or facts in the folder, or a fact that cannot be edited or measured.
    """
    editor.model.record.refuse_edits("a sequential study")
    checks, ((name, rule),) = checks or Checks(), rules_named([rule], remembering=False).items()
    facts = list(facts)
    settings = described(study_settings(editor) | {"rule": name} | checks.settings, about)
    check_prompts(editor.model, facts, 0, editor.prefixes, editor.leading)
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
            made = [row.get("delta_frobenius") for row in log.rows[:done]]  # None: failed, 0: left out by the rule
            rule = editor.remembering(rule, list(itertools.compress(facts, made)))
            _checkpoint(editor.model, facts, done, checks, checkpoints)
            for number in bar(range(done, len(facts)), desc=name, unit="edit", show=progress):
                _edit(editor, facts[number], keys[number], rule, checks, log)
                _checkpoint(editor.model, facts, number + 1, checks, checkpoints)
            measured = {row["edit"] for row in final.rows if row["of"] == len(facts)}
            missing = [n for n in range(1, len(facts) + 1) if checks.retest and n not in measured]
            for n in bar(missing, desc="re-test", unit="fact", show=progress):
                final.append({"edit": n, "of": len(facts)} | _metrics(editor.model, facts[n - 1]))
            return _tables(folder, len(facts), checks.every, log.rows, checkpoints.rows, final.rows)
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
    """Make one edit, measure it and log it."""
    model, update = editor.model, None
    row: dict[str, Any] = {"rule": rule.name, "delta_before": model.edits.size}
    row |= {"position": subject_position(model, fact), "error": None, "cosine": keys.cosine}
    row |= dict.fromkeys(FOUND)
    try:
        solution = editor.solve(fact)  # with keys of its own batch, so that a resumed run is bit-identical
        update = solution.update(rule)
        model.edits.check(update)  # for NaN
    except RromeError as error:
        row["error"], update = str(error), None
    else:
        value, update = solution.value, log.store(update)  # a full disk ends the run: going on, it makes this edit
        editor.apply(update)
        row |= {"probability": value.probability, "steps": value.steps, "denominator": update.denominator}
        row |= {"delta_frobenius": update.norm, "delta": update.size}
    row |= {"delta_after": model.edits.size} | _metrics(model, fact) | _state(model, checks)
    log.append(update, fact, stored=True, **row)
    if rule.remembers and row.get("delta_frobenius"):
        rule.add(editor.keys(fact))  # of a batch of its own, so that a resumed run is bit-identical


def _metrics(model: Model, fact: Fact) -> dict[str, float]:
    return fact_metrics(fact_probabilities(model, fact, {"now": None})["now"])


def _state(model: Model, checks: Checks) -> dict[str, Any]:
    """The perplexity and the texts of the model as it is."""
    row: dict[str, Any] = {}
    if checks.probe is not None:
        row["perplexity"] = row_perplexities(model, checks.probe, [None])[0]
    if checks.prompts:
        row["texts"] = generate(model, checks.prompts, checks.n_generated)
    return row


def _checkpoint(model: Model, facts: Sequence[Fact], done: int, checks: Checks, journal: Journal) -> None:
    """Measure the model after `done` edits, if a checkpoint is due and has not been made."""
    due = done % checks.every == 0 or done == len(facts)
    if not due or any(row["edits"] == done for row in journal.rows):
        return
    row: dict[str, Any] = {"edits": done, "delta": model.edits.size, "retained": retained(model, facts[:done])}
    row |= _state(model, checks)
    for task in checks.tasks:
        row |= task.scores(model)
    journal.append(row)


def retained(model: Model, facts: Sequence[Fact]) -> float:
    """The share of facts whose rewrite prompt still prefers the new target to the true one; NaN for no facts."""
    prompts = [fact.rewrite for fact in facts for _ in range(2)]
    targets = [target for fact in facts for target in (fact.target_new, fact.answer)]
    separators = [fact.separator for fact in facts for _ in range(2)]
    nll = target_nll(model, prompts, targets, separators=separators).view(len(facts), 2)
    return mean((nll[:, 0] < nll[:, 1]).double().tolist())


def read_sequential(folder: str | Path, **known: Any) -> SequentialRun:
    """The tables of a run on disk as far as it has come, without a model.

    `folder` is the run's own, or one that holds one run with the `known` settings. RromeError where there is none.
    """
    folder = Path(folder)
    if known:
        folder = find_study("sequential", folder, **known).parent
    log = EditLog(folder)
    (settings, checkpoints), (_, final) = (read_journal(folder / name) for name in (CHECKPOINTS, FINAL))
    if not checkpoints:
        raise RromeError(f"the run in {folder} has measured nothing yet: wait for its first checkpoint")
    return _tables(folder, len(log), settings["every"], log.rows, checkpoints, final)


def _tables(
    folder: Path, n: int, every: int, edits: Sequence[dict], checkpoints: Sequence[dict], final: Sequence[dict]
) -> SequentialRun:
    """The tables of the first n edits; the last checkpoint of a run that was prolonged is left out."""
    due = [row for row in checkpoints if row["edits"] == n or (row["edits"] < n and row["edits"] % every == 0)]
    rows = []
    for row in edits[:n]:
        asked = row["fact"]["requested_rewrite"]
        about = {"case_id": row["fact"]["case_id"], "prompt": asked["prompt"], "target_new": asked["target_new"]["str"]}
        rows.append(row | about)
    return SequentialRun(
        as_table(rows).drop(columns=["file", "sha256", "fact"], errors="ignore"),
        as_table(sorted(due, key=lambda row: row["edits"])),
        as_table([row for row in final if row["of"] == n]),
        folder,
    )


def broken(perplexity: pd.Series, unedited: float, times: float = TIMES) -> pd.Series:
    """Whether each edited model is broken; one whose perplexity is NaN is."""
    return ~(perplexity <= times * unedited)


def collapse_edit(edits: pd.DataFrame, unedited: float, times: float = TIMES) -> int | None:
    """The first edit (from 1) after which the model is broken; None if there is none."""
    if "perplexity" not in edits:
        raise RromeError("the run has no perplexity after each edit: give Checks a probe")
    after = edits.loc[broken(edits["perplexity"], unedited, times), "edit"]
    return None if after.empty else int(after.iloc[0])


def disabling_edits(edits: pd.DataFrame, times: float = 5.0) -> pd.DataFrame:
    """The edits whose own |Delta| is above `times` the run's median."""
    return edits[edits["delta"] > times * edits["delta"].median()]


def curve(edits: pd.DataFrame, checkpoints: pd.DataFrame) -> pd.DataFrame:
    """One row per number of edits from 0: cumulative |Delta|, perplexity, and at checkpoints one column per task."""
    steps = pd.DataFrame({"edits": [0, *edits["edit"]], "delta": [0.0, *edits["delta_after"]]})
    steps["perplexity"] = [checkpoints.set_index("edits")["perplexity"][0], *edits["perplexity"]]
    measured = checkpoints.drop(columns=["delta", "perplexity", "texts"], errors="ignore")
    return steps.merge(measured, on="edits", how="left")
