"""What speed is compared with: an edit as public code makes it, the whole model forward and back at each evaluation.

R, T   rows: the N rewrite prompts with their target, and "{subject} is a"; columns, padded on the right
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from .. import naive
from ..edit import EditLog, Editor
from ..facts import Fact
from ..measure.metrics import mean
from ..model import Model
from ..model.hooks import output_changed
from ..model.tokens import pad_right
from ..update import METHODS, RULES
from .sequential import Checks, lockstep
from .speed import search_floor, timed

Found = tuple[torch.Tensor, torch.Tensor, list[float]]


def _reader(model: Model, rows: Sequence[Sequence[int]], at: Sequence[int]) -> Callable:
    """read(delta): logits (R, T, V), keys (R, d_k) and values (R, d_v) `at` a column of each row, with delta added there."""
    row, column = torch.arange(len(rows), device=model.device), torch.tensor(at, device=model.device)
    ids = pad_right(rows, model.pad, model.device)  # (R, T)
    mask = pad_right([[1] * len(each) for each in rows], 0, model.device)  # (R, T)

    def read(delta: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        seen: list[torch.Tensor] = []

        def change(key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:  # (R, T, d_k), (R, T, d_v)
            seen[:] = key[row, column].detach(), value[row, column].detach()
            return value if delta is None else value.index_put((row, column), value[row, column] + delta)

        with output_changed(model.site, change):
            logits = model.lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits, *seen

    return read


@torch.no_grad()
def batched_keys(model: Model, fact: Fact, templates: Sequence[str], leading: str = "") -> torch.Tensor:
    """The keys of the N prompts, (N, d_k)."""
    ids, at, _ = zip(*naive.prompts(model, fact, templates, leading), strict=True)
    return _reader(model, ids, at)()[1]


def batched_value(model: Model, fact: Fact, templates: Sequence[str], leading: str = "", **settings: Any) -> Found:
    """v_e (d_v,), delta (d_v,) and the losses, with the settings of `naive.value`, whose search it is."""
    ids, at, targets = zip(*naive.prompts(model, fact, templates, leading), strict=True)
    kl_ids, kl_at = naive.kl_prompt(model, fact, leading)
    read = _reader(model, [*ids, kl_ids], [*at, kl_at])
    of_targets = [
        (row, len(ids[row]) - len(target) + n, token, 1 / len(target) / len(targets))
        for row, target in enumerate(targets)
        for n, token in enumerate(target)
    ]
    *places, weights = zip(*of_targets, strict=True)
    row, column, token = torch.tensor(places, device=model.device)  # (M,) each
    weight = torch.tensor(weights, device=model.device)

    def evaluate(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = read(delta)[0]
        picked = logits[row, column].log_softmax(-1).gather(1, token[:, None]).squeeze(1)  # (M,)
        return -(weight * picked).sum(), logits[-1:, kl_at].log_softmax(-1)

    with torch.no_grad():
        v_0 = read()[2][0].clone()
    return naive.descend(v_0, evaluate, **settings)


def _batched_edit(editor: Editor, fact: Fact) -> tuple[float, float, tuple[torch.Tensor, Found]]:
    """(seconds of the keys, seconds of the search, what they found) of the batched solver with the editor's settings."""
    names = {"learning_rate": "lr", "stop_loss": "stop", "weight_decay": "decay"}  # shorter in the naive solver
    settings = {names.get(name, name): setting for name, setting in editor.settings["search"].items()}
    given = editor.model, fact, editor.prefixes, editor.leading or ""
    read, keys = timed(partial(batched_keys, *given), editor.model.device)
    searched, found = timed(partial(batched_value, *given, **settings), editor.model.device)
    return read, searched, (keys, found)


def against_batched(editor: Editor, fact: Fact) -> pd.DataFrame:
    """The batched solver and the kit on one fact: the search alone, the edit under ROME, and under all eight rules.

    Columns: what, seconds_batched, seconds_ours, ratio, relative_error (of delta, or the largest of any Delta), and
    floor_seconds of the search. Eight rules stand beside eight searches, made once and counted eight times, and beside a
    batched solver that shares its search as well.
    """
    model, device, given = editor.model, editor.model.device, (editor.model, fact, editor.prefixes)
    read, searched, (keys, (target, delta, losses)) = _batched_edit(editor, fact)
    made, expected = {}, {}
    for rule, choice in RULES.items():
        more = editor.second_moment.matrix, choice, editor.leading or "", target, keys
        made[rule], expected[rule] = timed(partial(naive.delta_matrix, *given, *more), device)
    floor = partial(search_floor, model, [fact], editor.prefixes, len(losses), editor.leading)
    floors = [floor()]
    value_seconds, value = timed(lambda: editor.value(fact), device)
    floors.append(floor())  # before and after, for a machine that others use too
    one_seconds, one = timed(lambda: editor.update(fact, "rome"), device)
    all_seconds, every = timed(lambda: editor.updates(fact, list(RULES)), device)
    solving, n, both = sum(made.values()), len(RULES), read + searched
    error = max(_error(every[rule].matrix(), expected[rule]) for rule in RULES)
    rows = [
        ("search of v_e", searched, value_seconds, _error(value.delta, delta)),
        ("one edit, rome", both + made["rome"], one_seconds, _error(one.matrix(), expected["rome"])),
        (f"one edit, all {n} rules, against {n} searches", n * both + solving, all_seconds, error),
        (f"one edit, all {n} rules, against one search", both + solving, all_seconds, error),
    ]
    return _compared([(*row, mean(floors)) for row in rows])


def lockstep_speed(editor: Editor, facts: Sequence[Fact], sequences: Sequence[int]) -> pd.DataFrame:
    """Seconds per edit of so many sequences in lockstep, measured and logged, beside one edit of the batched solver.

    The sequences edit the facts in their order under the first rules of RULES and METHODS. Columns as in `against_batched`;
    relative_error is that of the first sequence's last Delta, against the first of `sequences`.
    """
    device, _ = editor.model.device, editor.second_moment.eigen  # made once, for the methods
    theirs = mean([sum(_batched_edit(editor, fact)[:2]) for fact in facts])
    given = {"facts": facts, "checks": Checks(every=len(facts), retest=False)}
    rows, expected = [], None
    for n in sequences:
        with TemporaryDirectory() as scratch:
            runs = {rule: given | {"rule": rule, "folder": Path(scratch, rule)} for rule in [*RULES, *METHODS][:n]}
            seconds, made = timed(partial(lockstep, editor, runs, progress=False), device)
            first = next(iter(made.values()))
            update = EditLog(Path(scratch, next(iter(runs)))).update(len(facts))
        delta = torch.zeros(1) if update is None else update.matrix()
        expected = delta if expected is None else expected
        floors = [
            search_floor(editor.model, [fact] * n, editor.prefixes, int(steps) + 1, editor.leading) / n
            for fact, steps in zip(facts, first.edits["steps"], strict=True)
        ]
        what = f"an edit in {n} sequence{'s' if n > 1 else ''}"
        rows.append((what, theirs, seconds / n / len(facts), _error(delta, expected), mean(floors)))
    return _compared(rows)


def _compared(rows: Sequence[tuple]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["what", "seconds_batched", "seconds_ours", "relative_error", "floor_seconds"])
    table.insert(3, "ratio", table["seconds_batched"] / table["seconds_ours"])
    return table


def _error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours.cpu() - expected.cpu()).norm() / expected.norm()).item()
