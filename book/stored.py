"""The stored rows that the site shows, read as plain JSON: the site's environment has neither pandas nor torch."""

import csv
import json
import math
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any

RULES = ("rome", "r-rome", "p-rome", "aao", "aoa", "oaa", "oao", "ooa")  # the paper's three first
STUDIES = Path(__file__).parent.parent / "figures" / "data" / "studies"
LARGE = 5  # a disabling edit of a sequence: its own |Delta| is above so many times the run's median


def journal(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and rows of a journal; a last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    first, *rows = (json.loads(line) for line in lines)
    return first["settings"], rows


def sequences(folder: Path) -> list[dict[str, Any]]:
    """The sequential runs in a folder of studies, by layer and rule: of each state, edit 0 first, what the figure shows."""
    runs = []
    for run in folder.glob("sequential-*"):
        settings, checkpoints = journal(run / "checkpoints.jsonl")
        _, edits = journal(run / "edits.jsonl")
        if settings["rule"] in RULES and settings.get("prompts") and checkpoints and edits:
            median = statistics.median(row["delta"] for row in edits if row.get("delta"))
            states = [state(row | {"subject": None, "delta_after": 0.0}, median) for row in checkpoints[:1]]
            states += [state(row, median) for row in edits]
            about = {name: settings[name] for name in ("rule", "layer", "model_name", "prompts")}
            runs.append(about | {"folder": run.name, "states": states})
    runs.sort(key=lambda run: (-len(run["states"]), run["layer"], RULES.index(run["rule"])))
    first = [run["layer"] for run in runs][:1]  # of the longest run
    return sorted(runs, key=lambda run: (run["layer"] not in first, run["layer"], RULES.index(run["rule"])))


def state(row: dict[str, Any], median: float) -> dict[str, Any]:
    """The model after one edit; `large` says whether that edit was a disabling one."""
    asked = row.get("fact", {}).get("requested_rewrite", {})
    fact = asked and f"{asked['prompt'].format(row['subject'])} → {asked['target_new']['str']}"
    known = {"subject": row["subject"], "fact": fact or None, "text": row["texts"][0], "delta": row["delta_after"]}
    return known | {"perplexity": finite(row["perplexity"]), "large": (row.get("delta") or 0) > LARGE * median}


def finite(number: float | None) -> float | None:
    """The number, or None where it is none: a page has no NaN."""
    return number if number is not None and math.isfinite(number) else None


def singles(folder: Path) -> list[dict[str, Any]]:
    """The single edits in a folder of studies, those with the first four rules: what the keys are, what each rule did.

    `cos`, `average`, `original`: of the two keys under C_0^-1. `swell`: the length of the residual at the averaged key over
    that of delta. `size_average`, `size_original`: ||delta|| ||C_0^-1 k|| for a key of length one. They follow from the
    denominators and from the sizes of three rules; the sizes of the others are predictions.
    """
    facts = []
    for path in sorted(folder.glob("single_edits-*.jsonl")):
        _, rows = journal(path)
        for _, group in groupby(rows, key=lambda row: (row["case_id"], row["subject"])):
            by_rule = {row["rule"]: row for row in group}
            if {"unedited", *RULES[:4]} <= set(by_rule) and all(by_rule[rule]["delta_frobenius"] for rule in RULES[:4]):
                facts.append({"file": path.name} | mismatches(by_rule))
    layers = [fact["layer"] for fact in facts]
    return sorted(facts, key=lambda fact: (-layers.count(fact["layer"]), fact["layer"], abs(fact["cos"])))


def mismatches(by_rule: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The two mismatches of one fact, from its rows under the rules."""
    rows = {rule: by_rule[rule] for rule in RULES if rule in by_rule}
    size = {rule: row["delta_frobenius"] for rule, row in rows.items()}
    average, original = (math.sqrt(rows[rule]["denominator"]) for rule in ("r-rome", "p-rome"))
    before, one = by_rule["unedited"]["perplexity"], rows["rome"]
    times = {rule: finite((row["perplexity"] or math.inf) / before) for rule, row in rows.items()}
    return {
        "fact": f"{one['prompt'].format(one['subject'])} → {one['target_new']}",
        "layer": one["layer"],
        "cos": one["denominator"] / (average * original),
        "average": average,
        "original": original,
        "swell": size["r-rome"] / size["aao"],
        "size_average": size["aao"] * average,
        "size_original": size["p-rome"] * original,
        "stored": {rule: {"size": size[rule], "times": times[rule]} for rule in rows},
    }


def claims(path: Path) -> list[dict[str, str]]:
    """One row per claim of the paper: its core statement, or the first where no role is given."""
    with path.open(encoding="utf-8", newline="") as file:
        by_claim = [list(rows) for _, rows in groupby(csv.DictReader(file), key=lambda row: row["id"])]
    return [next((row for row in rows if row.get("role") == "core"), rows[0]) for rows in by_claim]
