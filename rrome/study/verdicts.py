"""From measured statements to the verdict on a claim, and the page of all verdicts.

A statement about a number holds or fails when the number's whole interval is on one side of the threshold. It is undecided
when the threshold lies inside the interval. The verdict follows:

    reproduced   all hold              not reproduced      none holds and one fails
    partly       some hold             undecided           none holds, none fails: too few facts
                                       not testable here   there is no statement
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..store.disk import read_yaml

SIGNS = {True: "holds", False: "fails", None: "undecided"}
STATUS = {
    "seen": "seen in the authors' material",
    "post": "as a blog post tells it",
    "doubt": "as a blog post tells it, origin doubtful",
}


@dataclass(frozen=True)
class Statement:
    """One measurable part of a claim: what must be so, what was found, and whether it is so (None: undecided)."""

    says: str
    found: str
    holds: bool | None


def beyond(found: Sequence[float], threshold: float) -> bool | None:
    """Whether a (value, low, high) is above a threshold with its whole interval; None when it lies inside."""
    _, low, high = found
    return True if low > threshold else False if high < threshold else None


def below(found: Sequence[float], threshold: float) -> bool | None:
    """Whether a (value, low, high) is below a threshold with its whole interval; None when it lies inside."""
    above = beyond(found, threshold)
    return None if above is None else not above


def verdict(statements: Sequence[Statement]) -> str:
    """The verdict on a claim; see the module."""
    outcomes = [statement.holds for statement in statements]
    if not outcomes:
        return "not testable here"
    if all(outcomes):
        return "reproduced"
    if any(outcomes):
        return "partly"
    return "not reproduced" if False in outcomes else "undecided"


def text(found: Sequence[float], form: str = ".1f") -> str:
    """A (value, low, high) written as "value [low, high]"."""
    value, low, high = (format(number, form) for number in found)
    return f"{value} [{low}, {high}]"


def tabulate(statements: Mapping[str, Sequence[Statement]]) -> pd.DataFrame:
    """One row per claim and statement; a claim without statements has one row."""
    rows = []
    for name, about in read_yaml("claims.yaml").items():
        row = {"id": name, "claim": about["claim"], "published": about["published"], "status": STATUS[about["status"]]}
        row |= {"verdict": verdict(statements[name]), "evidence": " ".join(about["evidence"])}
        parts = [(part.says, part.found, SIGNS[part.holds]) for part in statements[name]] or [("", "", "")]
        rows += [row | dict(zip(("statement", "found", "outcome"), part, strict=True)) for part in parts]
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: its words, what was published and how we know, and the verdict."""
    return table.groupby("id", sort=False)[["claim", "published", "status", "verdict"]].first()


def as_markdown(table: pd.DataFrame, sizes: str, notebooks: str = "../notebooks") -> str:
    """The scorecard as a page: the verdicts in one table, then each claim with its statements and where to look."""
    short = verdicts(table)[["claim", "verdict"]].rename_axis("")
    short = short.replace({"claim": {r"\|": r"\\|"}}, regex=True).to_markdown()
    lines = ["# The paper's claims, one by one", "", sizes, "", short]
    for name, here in table.groupby("id", sort=False):
        about = here.iloc[0]
        lines += ["", f"## {name}: {about['verdict']}", "", about["claim"], ""]
        lines += [f"Published: {about['published']} ({about['status']}).", ""]
        lines += [
            f"- **{part['outcome']}**: {part['statement']}. Found: {part['found']}."
            for part in here.to_dict("records")
            if part["statement"]
        ] or ["- No statement of it can be decided here."]
        links = [f"[{each}]({notebooks}/{each}.ipynb)" for each in about["evidence"].split()]
        lines += ["", f"Evidence: {', '.join(links)}."]
    return "\n".join(lines) + "\n"
