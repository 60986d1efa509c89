"""The sequential study: facts edited one after another into the same model; a stopped run goes on bit for bit.

Several sequences (rules, orders) can run beside each other, each with a W, a log and a criterion of its own: they share the
batch of each search and what lies below W. See runs for the tables.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..edit import EditLog, Editor, Solution
from ..facts import Fact
from ..measure import Task, fact_metrics, fact_probabilities, retained, row_perplexities
from ..measure.scores import below_kept
from ..model import Model, generate
from ..model.model import Branch
from ..model.tokens import check_prompts, subject_position
from ..store import Journal, RromeError, bar
from ..store.journal import study_path
from ..update import Rule
from ..update.rules import rules_named
from .runs import CHECKPOINTS, FINAL, SequentialRun, tables
from .single import described, search_lengths, study_settings

FOUND = ("probability", "steps", "denominator", "delta_frobenius", "delta")  # of an edit that did not fail


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
    run = {"facts": facts, "folder": folder, "rule": rule, "checks": checks, "within": within, "about": about}
    return lockstep(editor, {"": run}, progress=progress)[""]


def lockstep(
    editor: Editor, runs: Mapping[Any, Mapping[str, Any]], *, progress: bool | None = None
) -> dict[Any, SequentialRun]:
    """Several sequences beside each other, each given as the arguments of `sequential_edits` by name.

    Each ends as it would alone, up to rounding, in the folder that it would have alone. v_e of the next edit of all is
    searched in one batch, whose rows are computed with the W of their sequence. Needs one W of memory for each. RromeError as
    in `sequential_edits`, and for two sequences in one folder.
    """
    editor.model.record.refuse_edits("a sequential study")
    sequences = [EditSequence(editor, **run) for run in runs.values()]
    with below_kept(), contextlib.ExitStack() as stack:
        for each in sequences:
            each.open(stack)
        last = max((len(each.facts) for each in sequences), default=0)
        first = min((each.done for each in sequences if each.done < len(each.facts)), default=last)
        for each in sequences:  # a killed step is made again as a whole: a resumed run is bit-identical
            each.go_to(first if each.done == first + 1 else each.done)
        names = ", ".join(dict.fromkeys(each.rule.name for each in sequences))
        for number in bar(range(first, last), desc=names, unit="edit", show=progress):
            for each, solution in _solutions(editor, [it for it in sequences if it.made == number < len(it.facts)]):
                each.edit(solution)
        for each in sequences:
            each.retest(progress)
    return {label: tables(each.folder, len(each.facts)) for label, each in zip(runs, sequences, strict=True)}


class EditSequence:
    """The arguments of `sequential_edits` and what comes of them; `made` counts the edits that are in its W."""

    def __init__(self, editor: Editor, facts, folder=None, rule="rome", checks=None, within=None, about=None):
        self.editor, self.model, self.facts, self.checks = editor, editor.model, list(facts), checks or Checks()
        ((name, self.rule),) = rules_named([rule], remembering=False, recorded=True).items()
        self.settings = described(study_settings(editor) | {"rule": name} | self.checks.settings, about)
        check_prompts(editor.model, self.facts, 0, editor.prefixes, editor.leading)
        first = {"first_fact": self.facts[0].to_record() if self.facts else None}
        self.folder = Path(folder or study_path("sequential", self.settings | first, within))
        self.branch, self.made = Branch(editor.model), 0

    @property
    def next(self) -> Fact:
        """The fact that is edited next."""
        return self.facts[self.made]

    def open(self, stack: contextlib.ExitStack) -> None:
        """Open the log and the journals until the stack closes; RromeError where the logged facts are others."""
        self.log = stack.enter_context(EditLog(self.folder, self.model, self.settings))
        self.done = min(len(self.log), len(self.facts))  # logged before
        self.checkpoints = stack.enter_context(Journal(self.folder / CHECKPOINTS, self.settings))
        self.final = stack.enter_context(Journal(self.folder / FINAL, self.settings))
        for row, fact in zip(self.log.rows, self.facts, strict=False):
            if row["fact"] != fact.to_record():
                raise RromeError(
                    f"edit {row['edit']} in {self.folder} is {row['subject']!r}, the list of facts has {fact.subject!r} "
                    "there: choose another folder, or give the same facts in the same order"
                )

    def go_to(self, n: int) -> None:
        """Put the first n logged edits into this W."""
        with self.branch.open():
            self.log.replay(self.model, n)
            written = [row.get("delta_frobenius") for row in self.log.rows[:n]]  # None: failed, 0: left out by the rule
            self.rule = self.editor.remembering(self.rule, list(itertools.compress(self.facts, written)))
            self.made = n
            self._checkpoint()

    def edit(self, solution: Solution | RromeError) -> None:
        """Make the next edit, measure it and log it, unless it is logged already; then the checkpoint, if one is due."""
        with self.branch.open():
            if self.made == len(self.log):
                self._make(solution)
            elif (update := self.log.update(self.made + 1)) is not None:
                self.editor.apply(update)
            if self.rule.remembers and self.log.rows[self.made].get("delta_frobenius"):
                self.rule.add(self.editor.keys(self.next))  # of a batch of its own, so that a resumed run is equal
            self.made += 1
            self._checkpoint()

    def _make(self, solution: Solution | RromeError) -> None:
        model, fact, update = self.model, self.next, None
        keys = self.editor.keys(fact) if isinstance(solution, RromeError) else solution.keys
        row: dict[str, Any] = {"rule": self.rule.name, "delta_before": model.edits.size}
        row |= {"position": subject_position(model, fact), "error": None, "cosine": keys.cosine} | dict.fromkeys(FOUND)
        try:
            if isinstance(solution, RromeError):
                raise solution
            update = solution.update(self.rule)
            model.edits.check(update)  # for NaN
        except RromeError as error:
            row["error"], update = str(error), None
        else:
            value, update = solution.value, self.log.store(update)  # a full disk ends the run before this edit counts
            self.editor.apply(update)
            found = value.probability, value.steps, update.denominator, update.norm, update.size
            row |= dict(zip(FOUND, found, strict=True))
        row |= {"delta_after": model.edits.size} | _metrics(model, fact) | _state(model, self.checks)
        self.log.append(update, fact, stored=True, **row)

    def _checkpoint(self) -> None:
        """Measure the model as it is, if a checkpoint is due and has not been made."""
        model, checks = self.model, self.checks
        due = not self.made % checks.every or self.made == len(self.facts)
        if not due or any(row["edits"] == self.made for row in self.checkpoints.rows):
            return
        row: dict[str, Any] = {"edits": self.made, "delta": model.edits.size}
        row |= {"retained": retained(model, self.facts[: self.made])} | _state(model, checks)
        for task in checks.tasks:
            row |= task.scores(model)
        self.checkpoints.append(row)

    def retest(self, progress: bool | None) -> None:
        """Measure every edit in the model after the last one."""
        measured = {row["edit"] for row in self.final.rows if row["of"] == len(self.facts)}
        missing = [n for n in range(1, len(self.facts) + 1) if self.checks.retest and n not in measured]
        with self.branch.open():
            for n in bar(missing, desc="re-test", unit="fact", show=progress):
                self.final.append({"edit": n, "of": len(self.facts)} | _metrics(self.model, self.facts[n - 1]))


def _solutions(
    editor: Editor, sequences: Sequence[EditSequence]
) -> Iterator[tuple[EditSequence, Solution | RromeError]]:
    """Each sequence with the solution of its next edit, in its own model, or with the error that the search failed with."""
    groups: dict[int, list[EditSequence]] = {}  # on a CPU by length: padding takes more time than a larger batch saves
    for each, length in zip(sequences, search_lengths(editor.model, [each.next for each in sequences]), strict=True):
        groups.setdefault(length if editor.model.device.type == "cpu" else 0, []).append(each)
    for together in groups.values():
        solved = editor.solve_each([each.next for each in together], [each.branch.weight for each in together])
        yield from zip(together, solved, strict=True)


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
