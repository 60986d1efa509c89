"""The tables of sequential studies, as they are made or read from disk.

edits         one row per edit: its update, |Delta| before and after, and the metrics of the edit just made
checkpoints   one row every so many edits, from 0 = the unedited model: earlier edits re-tested, perplexity, tasks
final         one row per fact: the metrics of each edit in the model after the last edit

An edited model is broken when its perplexity on a probe text exceeds TIMES the unedited model's (the criterion of Yang et
al. 2024, The Butterfly Effect of Model Editing). A run has collapsed at the first edit after which its model is broken.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from ..edit import EditLog
from ..store import RromeError, read_journal
from ..store.journal import find_study
from .single import as_table

CHECKPOINTS, FINAL = "checkpoints.jsonl", "final.jsonl"
TIMES = 2.0


@dataclass(frozen=True, eq=False)
class SequentialRun:
    """The three tables of a run (see the module), and the folder of its log."""

    edits: pd.DataFrame
    checkpoints: pd.DataFrame
    final: pd.DataFrame
    folder: Path | None = None


def read_sequential(folder: str | Path, **known: Any) -> SequentialRun:
    """The tables of a run on disk as far as it has come, without a model.

    `folder` is the run's own, or one that holds one run with the `known` settings. RromeError where there is none.
    """
    return tables(find_study("sequential", folder, **known).parent if known else Path(folder))


def tables(folder: Path, n: int | None = None) -> SequentialRun:
    """The tables of the first n edits (None: all); the last checkpoint of a run that was prolonged is left out."""
    log = EditLog(folder)
    (settings, checkpoints), (_, final) = (read_journal(folder / name) for name in (CHECKPOINTS, FINAL))
    if not checkpoints:
        raise RromeError(f"the run in {folder} has measured nothing yet: wait for its first checkpoint")
    n, every, rows = len(log) if n is None else n, settings["every"], []
    due = [row for row in checkpoints if row["edits"] == n or (row["edits"] < n and row["edits"] % every == 0)]
    for row in log.rows[:n]:
        asked = row["fact"]["requested_rewrite"]
        about = {"case_id": row["fact"]["case_id"], "prompt": asked["prompt"], "target_new": asked["target_new"]["str"]}
        rows.append(row | about)
    return SequentialRun(
        as_table(rows, "edit").drop(columns=["file", "sha256", "fact"], errors="ignore"),
        as_table(sorted(due, key=lambda row: row["edits"]), "edits"),
        as_table([row for row in final if row["of"] == n], "edit"),
        folder,
    )


def broken(perplexity: pd.Series, unedited: float) -> pd.Series:
    """Whether each edited model is broken; one whose perplexity is NaN is."""
    return ~(perplexity <= TIMES * unedited)


def collapse_edit(edits: pd.DataFrame, unedited: float) -> int | None:
    """The first edit (from 1) after which the model is broken; None if there is none."""
    if "perplexity" not in edits:
        raise RromeError("the run has no perplexity after each edit: give Checks a probe")
    after = edits.loc[broken(edits["perplexity"], unedited), "edit"]
    return None if after.empty else int(after.iloc[0])


def curve(edits: pd.DataFrame, checkpoints: pd.DataFrame) -> pd.DataFrame:
    """One row per number of edits from 0: cumulative |Delta|, perplexity, and at checkpoints one column per task."""
    steps = pd.DataFrame({"edits": [0, *edits["edit"]], "delta": [0.0, *edits["delta_after"]]})
    steps["perplexity"] = [checkpoints.set_index("edits")["perplexity"][0], *edits["perplexity"]]
    measured = checkpoints.drop(columns=["delta", "perplexity", "texts"], errors="ignore")
    return steps.merge(measured, on="edits", how="left")


def survival(runs: pd.DataFrame) -> pd.DataFrame:
    """Kaplan-Meier curves: per rule the share of runs not collapsed after n edits, with its 95 % interval.

    `runs` has one row per run: `rule`, `collapse` (the edit, NaN for none) and `edits` (the length of the run).
    """
    curves = []
    for rule, here in runs.groupby("rule", sort=False):
        times = stats.CensoredData.right_censored(here["collapse"].fillna(here["edits"]), here["collapse"].isna())
        estimate = stats.ecdf(times).sf
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where none, or all, collapse
            ends = estimate.confidence_interval(method="log-log")
        points = {"survived": estimate.probabilities, "low": ends.low.probabilities, "high": ends.high.probabilities}
        columns = {"edits": [0, *estimate.quantiles]} | {name: [1.0, *shares] for name, shares in points.items()}
        curves.append(pd.DataFrame(columns).assign(rule=rule))
    return pd.concat(curves, ignore_index=True)
