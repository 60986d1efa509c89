"""The two interactive figures: what stands on the page before a script runs, and the rows that the script reads.

Each is drawn here in one state, which is what a reader without JavaScript sees; static/live.js moves the same elements.
"""

import csv
import json
import math
import statistics
from html import escape
from pathlib import Path
from typing import Any

from .stored import LARGE, RULES, sequences, singles

NAMES = {"rome": "ROME", "r-rome": "r-ROME", "p-rome": "p-ROME"}
CHOICES = dict(zip(RULES, ("aoo", "aaa", "ooo", "aao", "aoa", "oaa", "oao", "ooa"), strict=True))


def fill(text: str, studies: Path) -> str:
    """A page with the figures `{{edits}}` and `{{mismatches}}` and links to their rows; it says where rows are missing."""
    runs, facts = sequences(studies), singles(studies)
    for name, rows, draw in (("edits", runs, edits), ("mismatches", facts, mismatches)):
        if f"{{{{{name}}}}}" in text:
            text = text.replace(
                f"{{{{{name}}}}}", draw(rows) if rows else "*The rows of this figure are not stored yet.*"
            )
    if "{{said}}" in text:
        with (studies.parent / "fig1_disabling_edit.csv").open(encoding="utf-8", newline="") as table:
            text = text.replace("{{said}}", said(list(csv.DictReader(table))))
    words = {run["folder"]: f"{NAMES.get(run['rule'], run['rule'])} at layer {run['layer']}" for run in runs}
    links = [f"[{word}](figures/data/studies/{folder}/edits.jsonl.gz)" for folder, word in words.items()]
    text = text.replace("{{sequences}}", ", ".join(links) or "none yet")
    layers = {fact["file"]: fact["layer"] for fact in facts}
    links = [f"[single edits at layer {layer}](figures/data/studies/{file}.gz)" for file, layer in layers.items()]
    return text.replace("{{singles}}", ", ".join(links) or "none yet")


def raw(html: str, rows: Any = None) -> str:
    """HTML for a page of Markdown, with the rows that its script reads."""
    data = json.dumps(rows, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    script = f'\n<script type="application/json" class="rows">{data}</script>' if rows else ""
    return f"````{{raw}} html\n{html}{script}\n````"


def shown(number: float | None) -> str:
    """A number in three digits, with an exponent below 0.001 and from a million on; static/live.js writes it the same."""
    if number is None or not math.isfinite(number):
        return "no number"
    if number and not 1e-3 <= abs(number) < 1e6:
        return f"{number:.2e}"
    text = f"{number:.3g}"
    return f"{float(text):,.0f}" if abs(number) >= 100 else text


def edits(runs: list[dict[str, Any]]) -> str:
    """Figure: one edit after another. It stands at the first disabling edit of the first rule; a script draws the lines."""
    here = [run for run in runs if run["layer"] == runs[0]["layer"]]
    at = next((n for n, state in enumerate(here[0]["states"]) if state["large"]), len(here[0]["states"]) - 1)
    most, layers = max(len(run["states"]) for run in here) - 1, sorted({run["layer"] for run in runs})
    fact = here[0]["states"][at]
    options = "".join(f"<option{' selected' * (layer == here[0]['layer'])}>{layer}</option>" for layer in layers)
    cards = "".join(card(run, min(at, len(run["states"]) - 1)) for run in here)
    marked = '<polyline/><path class="mark"/>'
    lines = "".join(f'<g class="rule-{run["rule"]}">{marked}</g>' for run in here)
    return raw(
        f'<section class="live edits" aria-label="One edit after another">'
        f'<div class="controls" hidden><button type="button" class="play">Play</button>'
        f'<button type="button" class="next">Next disabling edit</button>'
        f'<label>Layer <select class="layer">{options}</select></label></div>'
        f'<p class="now" aria-live="polite">After edit <b class="n">{at}</b> of <b class="most">{most}</b>: '
        f'<span class="fact">{escape(fact["fact"] or "unedited")}</span></p>'
        f'<div class="plot" hidden><svg preserveAspectRatio="none" role="img">{lines}'
        f'<line class="cursor" y1="0" y2="100"/></svg><span class="axis high"></span><span class="axis low"></span></div>'
        f'<input type="range" min="0" max="{most}" value="{at}" aria-label="Number of edits" hidden>'
        f'<div class="models">{cards}</div></section>',
        runs,
    )


def card(run: dict[str, Any], at: int) -> str:
    """One rule's model after `at` edits."""
    rule, state, start = run["rule"], run["states"][at], run["states"][0]["perplexity"]
    times = (state["perplexity"] or math.inf) / start
    return (
        f'<article class="model rule-{rule}{" broken" * (not times <= 2)}" data-rule="{rule}"><h3>{NAMES.get(rule, rule)}</h3>'
        f'<p class="says"><b>{escape(run["prompts"][0])}</b><span class="text">{escape(state["text"])}</span></p>'
        f'<dl><dt>perplexity</dt><dd class="perplexity">{shown(state["perplexity"])}</dd>'
        f'<dt>|Δ|</dt><dd class="delta">{shown(state["delta"])}</dd>'
        f'<dt>this edit</dt><dd class="large">{"disabling" if state["large"] else "ordinary"}</dd></dl></article>'
    )


SLIDERS = {  # the mismatch, its words, smallest and largest; all but the cosine and tau on a logarithmic scale
    "cos": ("cos<sub>C</sub>(k<sub>e</sub>, k<sub>e</sub><sup>o</sup>), the cosine of the two keys under C₀⁻¹", -1, 1),
    "average": ("length of k<sub>e</sub> under C₀⁻¹", 5, 200),
    "original": ("length of k<sub>e</sub><sup>o</sup> under C₀⁻¹", 5, 200),
    "swell": ("residual at k<sub>e</sub>: ‖δ + W(k<sub>e</sub><sup>o</sup> − k<sub>e</sub>)‖ / ‖δ‖", 0.5, 200),
    "tau": ("τ, added to the denominator", 0, 1000),
}


def sizes(fact: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Of each rule: the denominator, the residual over delta, and ||Delta||_F, from the two mismatches of a fact and tau."""
    key = {"a": fact["average"], "o": fact["original"]}
    scale, swell = {"a": fact["size_average"], "o": fact["size_original"]}, {"a": fact["swell"], "o": 1.0}
    found = {}
    for rule, (u, d, r) in CHOICES.items():
        denominator = key[u] * key[d] * (1 if u == d else fact["cos"]) + fact.get("tau", 0.0)
        found[rule] = denominator, swell[r], swell[r] * scale[u] * key[u] / max(abs(denominator), 1e-9)
    return found


def mismatches(facts: list[dict[str, Any]]) -> str:
    """Figure: two mismatches. It stands at the stored fact whose two keys are the most unlike, which is the first."""
    fact, found = facts[0], sizes(facts[0])
    sliders = "".join(
        f'<div><label for="{name}"><span>{words}</span><output id="{name}-is">{shown(fact.get(name, 0.0))}</output></label>'
        f'<input type="range" id="{name}" min="0" max="1000"></div>'
        for name, (words, _, _) in SLIDERS.items()
    )
    options = [f'<option value="{n}">{escape(each["fact"])}</option>' for n, each in enumerate(facts)]
    for n, each in enumerate(facts):
        if n == 0 or each["layer"] != facts[n - 1]["layer"]:
            options[n] = f'<optgroup label="layer {each["layer"]}">{options[n]}'
    rows = "".join(
        f'<tr class="rule-{rule}{" mixed" * (CHOICES[rule][0] != CHOICES[rule][1])}" data-rule="{rule}">'
        f'<th scope="row">{NAMES.get(rule, rule)}</th><td class="size">{shown(size)}</td>'
        f'<td class="bar"><i style="width:{width(size):.1f}%"></i></td><td class="denominator">{shown(d)}</td>'
        f'<td class="residual">{shown(r)}</td><td>{" ".join(CHOICES[rule])}</td>'
        f'<td class="stored">{was(fact, rule, "size")}</td><td class="times">{was(fact, rule, "times")}</td></tr>'
        for rule, (d, r, size) in found.items()
    )
    return raw(
        f'<section class="live mismatches" aria-label="Two mismatches"><div class="controls" hidden>'
        f'<label>Start from a stored edit <select class="fact">{"".join(options)}</select></label></div>'
        f'<p class="now">Shown: <b class="fact">{escape(fact["fact"])}</b></p><div class="sliders" hidden>{sliders}</div>'
        f'<p class="verdict" role="status"></p><div class="wide" tabindex="0" role="region" aria-label="The eight rules">'
        f"<table><thead><tr><th>rule</th><th>‖Δ‖</th><th>on a logarithmic axis</th><th>denominator</th>"
        f"<th>residual / ‖δ‖</th><th>keys</th><th>stored ‖Δ‖</th><th>stored: perplexity, times</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>",
        {"facts": facts, "sliders": {name: spec[1:] for name, spec in SLIDERS.items()}, "choices": CHOICES},
    )


def said(table: list[dict[str, str]]) -> str:
    """What three models say after the edit that is last in Figure 1, as cards: a picture of text is too small on a phone."""
    unedited, *edited = table[-4:]
    fact = f"{unedited['subject']} → {unedited['target_new']}"
    median = statistics.median(float(row["delta"]) for row in edited)
    cards = ""
    for row in edited:
        now = {"text": f"{row['text'][:130]} …", "perplexity": float(row["perplexity"]), "delta": float(row["delta"])}
        states = [{"perplexity": float(unedited["perplexity"])}, now | {"large": now["delta"] > LARGE * median}]
        cards += card({"rule": row["rule"], "prompts": [row["prompt"]], "states": states}, 1)
    words = f"One fact edited, <b>{escape(fact)}</b>, then asked about something else"
    return raw(
        f'<section class="live" aria-label="One edit"><p class="now">{words}:</p><div class="models">{cards}</div></section>'
    )


def was(fact: dict[str, Any], rule: str, what: str) -> str:
    """A stored number of a rule, empty where the rule was not run."""
    return shown(fact["stored"][rule][what]) if rule in fact["stored"] else ""


def width(size: float) -> float:
    """The length of a bar in per cent: from 1 to 100,000 on a logarithmic axis."""
    return 100 * min(max(math.log10(max(size, 1e-9)) / 5, 0.0), 1.0)
