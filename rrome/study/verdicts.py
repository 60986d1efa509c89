"""From measured statements to the verdict on a claim, and the page of all verdicts.

A statement is true when the whole interval of its number is on the claim's side of the threshold, false when the whole
interval is on the other side, and open in between or with fewer than MINIMUM subjects (or edits in a row). A claim has one
core statement, the claim itself, and supporting ones. A premise is shown and decides nothing. The verdict follows:

    reproduced   core true, no supporting one false     not reproduced      core false
    partly       core true, a supporting one false      open                core open
                                                        not testable here   there is no statement
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ..measure import paired_differences
from ..measure.metrics import Found
from ..store import RromeError
from ..update import NAMED_RULES
from .runs import TIMES, SequentialRun, broken, collapse_edit

MINIMUM = 10
WORST = 1e30  # stands for a perplexity that is no number any more
Statement = dict[str, Any]  # a row of the table of all statements


def statement(
    says: str,
    side: str,
    threshold: float,
    found: Sequence[float],
    n: int | None = None,
    unit: str = "times",
    note: str = "",
    *,
    role: str,
) -> Statement:
    """One measurable part of a claim: a number of a `unit` that must be `above` or `below` (`side`) a threshold.

    `found` is (value, low, high), or (value,) for a number of one run or of algebra, which has no interval. An interval of
    zero width is none. `n` counts the subjects or edits in a row behind it (None: no matter).
    """
    value, *ends = found
    if ends and np.isclose(ends[0], ends[1], rtol=1e-12, atol=0):
        ends = [np.nan, np.nan]
    least, most = min(ends or [value]), max(ends or [value])
    outcome = "true" if (least > threshold) == (side == "above") else "false"
    few = n is not None and n < MINIMUM
    if few or np.isnan([least, most]).any() or least <= threshold <= most:
        outcome = "open"
    form = {"relative error": ".0e", "edits": ".0f"}.get(unit, ",.2f" if abs(value) < 10 else ",.1f")
    number = " ".join([format(value, form), *([f"[{ends[0]:{form}}, {ends[1]:{form}}]"] if ends else [])])
    if np.isnan(ends).any():
        number = f"{value:{form}}, no interval"
    if unit != "area":
        number = f"{unit} {number}" if unit == "relative error" else f"{number} {unit}"
    count = "" if n is None else f"n = {n}" + (f", fewer than {MINIMUM}" if few else "")
    parts = ("nothing measured" if np.isnan(value) else number, count, note)
    low, high = ends or (np.nan, np.nan)
    numbers = {"value": value, "low": low, "high": high, "side": side, "threshold": threshold, "unit": unit, "n": n}
    return {"role": role, "statement": says} | numbers | {"found": "; ".join(filter(None, parts)), "outcome": outcome}


core, supporting, premise = (partial(statement, role=role) for role in ("core", "supporting", "premise"))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the verdicts are computed from: the single-edit study's rows and one sequential run per rule."""

    single: pd.DataFrame
    runs: Mapping[str, SequentialRun]

    def __post_init__(self):
        for name, here in {"single-edit": set(self.single["rule"]), "sequential": self.runs}.items():
            if missing := [rule for rule in NAMED_RULES if rule not in here]:
                raise RromeError(f"the {name} study lacks {', '.join(missing)}: run it to its end first")
        starts = {"the single-edit study": self.single[self.single["rule"].eq("unedited")]}
        starts |= {f"the run of {rule}": run.checkpoints for rule, run in self.runs.items()}
        for name, rows in starts.items():
            if rows.empty or "perplexity" not in rows or not np.isfinite(rows["perplexity"].iloc[0]):
                raise RromeError(f"{name} has no perplexity of the unedited model: give its measures a probe")

    def edits(self, rule: str) -> pd.DataFrame:
        """The single edits of one rule by fact; `broken` says whether an edit broke the model."""
        before = self.single.loc[self.single["rule"].eq("unedited"), "perplexity"].iloc[0]
        here = self.single[self.single["rule"].eq(rule)].set_index("fact")
        return here.assign(broken=broken(here["perplexity"], before))

    def difference(self, rule: str, baseline: str, name: str) -> tuple[Found, int]:
        """A measure of one rule minus another's on facts with something before the subject's last token, and its n."""
        ordinary = self.single[self.single["position"].gt(0)].groupby(["rule", "subject"])[["ES", "PS", "NS"]].mean()
        found = paired_differences(ordinary.rename_axis(["rule", "fact"]).reset_index(), rule, baseline, [name])
        measured = ordinary.loc[rule, ["ES", "PS", "NS"] if name == "S" else [name]].dropna()
        return tuple(found.loc[name]), len(measured)

    def ratios(self, rule: str) -> pd.Series:
        """Perplexity after each edit of a run over its start, by the edit's number from 1."""
        run = self.runs[rule]
        after = run.edits.set_index("edit")["perplexity"] / run.checkpoints["perplexity"].iloc[0]
        return after.fillna(np.inf).clip(upper=WORST)

    def collapse(self) -> tuple[int | None, Statement]:
        """The edit after which ROME's run is broken, and that there is one, as a premise."""
        run = self.runs["rome"]
        came, ratios = collapse_edit(run.edits, run.checkpoints["perplexity"].iloc[0]), self.ratios("rome")
        note = f"first after edit {came} of {len(ratios)}" if came else f"not within {len(ratios)} edits"
        says = f"ROME's run raises perplexity more than {TIMES:g} times, at its highest"
        return came, premise(says, "above", TIMES, (ratios.max(),), note=note)


def verdict(statements: Sequence[Statement]) -> str:
    """The verdict on a claim; see the module."""
    if not statements:
        return "not testable here"
    (claimed,) = (each["outcome"] for each in statements if each["role"] == "core")
    if claimed != "true":
        return "open" if claimed == "open" else "not reproduced"
    contrary = any(each["outcome"] == "false" for each in statements if each["role"] == "supporting")
    return "partly" if contrary else "reproduced"


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: its words, what was published and how we know, the verdict, and how many statements are open."""
    short = table.groupby("id", sort=False)[["claim", "published", "status", "verdict"]].first()
    return short.assign(open=table["outcome"].eq("open").groupby(table["id"]).sum())


def as_markdown(table: pd.DataFrame, sizes: str) -> str:
    """The scorecard as a page: the verdicts in one table, then each claim with its statements and where to look."""
    short = verdicts(table)[["claim", "verdict", "open"]].rename_axis("").rename(columns={"open": "open statements"})
    short = short.replace({"claim": {r"\|": r"\\|"}}, regex=True).to_markdown()
    lines = ["# The paper's claims, one by one", "", sizes, "", short]
    for name, here in table.groupby("id", sort=False):
        about = here.iloc[0]
        lines += ["", f"## {name}: {about['verdict']}", "", about["claim"], ""]
        lines += [f"Published: {about['published']} ({about['status']}).", ""]
        lines += [
            f"- {part['role'].capitalize()}, **{part['outcome']}**: {part['statement']}. Found: {part['found']}."
            for part in here.to_dict("records")
            if part["statement"]
        ] or ["- No statement of it can be decided here."]
        links = [f"[{each}](../notebooks/{each}.ipynb)" for each in about["evidence"].split()]
        lines += ["", f"Evidence: {', '.join(links)}."]
    return "\n".join(lines) + "\n"
