"""The sequential study: facts edited one after another into the same model; a stopped run goes on bit for bit.

Several sequences (rules, orders) can run beside each other, each with a W, a log and a criterion of its own: they share the
batch of each search and what lies below W. See runs for the tables.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..edit.editor import Editor, Solution
from ..facts.fact import Fact
from ..measure.scores import below_kept
from ..store.disk import RromeError
from ..store.progress import bar
from ..update.keys import facts_keys
from ..update.rules import Rule
from .runs import SequentialRun
from .sequence import Checks, EditSequence
from .single import search_lengths

Label = TypeVar("Label")
Solved = Solution | RromeError


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
    editor: Editor, runs: Mapping[Label, Mapping[str, Any]], *, progress: bool | None = None
) -> dict[Label, SequentialRun]:
    """Several sequences beside each other, each given as the arguments of `sequential_edits` by name.

    Each ends as it would alone, up to rounding, in the folder that it would have alone. v_e of the next edit of all is
    searched in one batch, whose rows are computed with the W of their sequence. Needs one W of memory for each. RromeError as
    in `sequential_edits`, and for two sequences in one folder.
    """
    editor.model.record.refuse_edits("a sequential study")
    sequences = {label: EditSequence(editor, **run) for label, run in runs.items()}
    facts = list(dict.fromkeys(fact for each in sequences.values() for fact in each.facts))
    keys = facts_keys(editor.model, facts, editor.prefixes, editor.leading, progress=progress)
    cosines = {fact: each.cosine for fact, each in zip(facts, keys, strict=True)}
    with below_kept(), contextlib.ExitStack() as stack:
        for each in sequences.values():
            each.open(stack)
        first = min((each.done for each in sequences.values() if each.done < len(each.facts)), default=len(facts))
        for each in sequences.values():  # a killed step is made again as a whole: a resumed run is bit-identical
            each.go_to(first if each.done == first + 1 else each.done)
        steps = range(first, max((len(each.facts) for each in sequences.values()), default=0))
        names = ", ".join(dict.fromkeys(each.rule.name for each in sequences.values()))
        for number in bar(steps, desc=names, unit="edit", show=progress):
            together = [each for each in sequences.values() if each.made == number < len(each.facts)]
            for each, solution in _solutions(editor, together):
                each.edit(solution, cosines)
        for each in sequences.values():
            each.retest(progress)
        return {label: each.tables for label, each in sequences.items()}


def _solutions(editor: Editor, sequences: Sequence[EditSequence]) -> Iterator[tuple[EditSequence, Solved]]:
    """Each sequence with the solution of its next edit, in its own model, or with the error that the search failed with.

    On a CPU a batch holds facts of one length: padding takes more time there than a larger batch saves.
    """
    groups: dict[int, list[EditSequence]] = {}
    for each, length in zip(sequences, search_lengths(editor.model, [each.next for each in sequences]), strict=True):
        groups.setdefault(length if editor.model.device.type == "cpu" else 0, []).append(each)
    for together in groups.values():
        yield from zip(together, _searched(editor, together), strict=True)


def _searched(editor: Editor, together: Sequence[EditSequence]) -> list[Solved]:
    if len(together) > 1:
        return editor.solve_each([each.next for each in together], [each.branch.weight for each in together])
    with together[0].branch.open():
        try:
            return [editor.solve(together[0].next)]
        except RromeError as error:
            return [error]
