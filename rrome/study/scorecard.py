"""The scorecard as a table and as figures/claims.md: one row per statement of a claim, one verdict per claim."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..store.disk import atomic, read_yaml
from .claims import CRITERIA, Evidence
from .verdicts import verdict

SIGNS = {True: "holds", False: "fails", None: "undecided"}
STATUS = {
    "seen": "seen in the authors' material",
    "post": "as a blog post tells it",
    "doubt": "as a blog post tells it, origin doubtful",
}


def scorecard(evidence: Evidence) -> pd.DataFrame:
    """One row per claim (its words, what was published, the verdict) and statement (what must be so, found, outcome).

    A claim without statements has one row, with empty ones.
    """
    rows = []
    for name, about in read_yaml("claims.yaml").items():
        statements = CRITERIA[name](evidence)
        row = {"id": name, "claim": about["claim"], "published": about["published"], "status": STATUS[about["status"]]}
        row |= {"verdict": verdict(statements), "evidence": " ".join(about["evidence"])}
        parts = [{"statement": part.says, "found": part.found, "outcome": SIGNS[part.holds]} for part in statements]
        rows += [row | part for part in parts or [dict.fromkeys(("statement", "found", "outcome"), "")]]
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


def save_scorecard(
    table: pd.DataFrame, folder: str | Path, *, sizes: str, provenance: Mapping[str, Any], name: str = "claims"
) -> Sequence[Path]:
    """Write NAME.md (the page), NAME.csv (the table) and NAME.json (provenance), each whole or not at all."""
    contents = {
        ".md": as_markdown(table, sizes),
        ".csv": table.to_csv(index=False, lineterminator="\n"),
        ".json": json.dumps({"figure": name, "rows": len(table), **provenance}, indent=2, ensure_ascii=False) + "\n",
    }
    files = []
    for suffix, content in contents.items():
        files.append(Path(folder) / f"{name}{suffix}")
        with atomic(files[-1]) as scratch:
            scratch.write_text(content, encoding="utf-8")
    return files
