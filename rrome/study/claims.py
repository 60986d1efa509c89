"""The statements of the paper's claims C1 to C11 about the two studies, and the table of all; see verdicts.

Several facts can be about one subject, and they are not independent. So intervals are over subjects: a subject is broken when
one of its edits breaks the model, and has the median of its sizes and entropies and the mean of its ES, PS and NS.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..measure import auc, interval
from ..measure.metrics import NOTHING, share
from ..model.site import EditSite
from ..store import read_yaml
from ..update import RULES, Keys, SecondMoment, Value, rank_one_update
from .runs import TIMES
from .verdicts import MINIMUM as MINIMUM
from .verdicts import Evidence, Statement, core, premise, supporting, verdict

REPEATING = 0.5  # normalised entropy below it: the text says few words, or tokens, again and again
HALF = 50  # per cent: "most" of the texts; "suddenly": one edit carries so much of the rise of log perplexity
LARGE = 10  # "much larger": at least one order of magnitude
ORDERS = 100  # "by orders of magnitude": at least two
SORTED = 0.9  # area under the ROC curve
MOST = 75  # per cent of the broken subjects that a rule must leave whole to be the cure
ONE_CLUSTER = 2  # two groups of sizes are one cluster when their medians differ by less than this factor
RARE = 5  # per cent: "no outliers"
COMPARABLE = 5  # points of a hundred
JUMP = 5  # the own |Delta| of an edit of a sequence is above so many times the median
EXACT = 1e-4  # relative error at which a constraint counts as met, in float32


def _per_cent(yes: pd.Series) -> dict[str, Any]:
    """The share of subjects with a yes, with its Wilson interval."""
    return {"found": tuple(100 * number for number in share(yes.sum(), len(yes))), "n": len(yes), "unit": "%"}


def _ratio(edits: pd.DataFrame, upper: pd.Series) -> dict[str, Any]:
    """The median |Delta| of the rows in `upper` over that of the others, with its interval over subjects."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    groups = [edits[which].groupby("subject")["delta"].median() for which in (upper, ~upper)]
    n = min(map(len, groups))
    return {"found": interval(groups, ratio, paired=False) if n else NOTHING, "n": n}


def _drawn(edits: pd.DataFrame) -> str:
    """How many edits of each stratum break the model: facts are drawn by stratum, not at random."""
    stratum = edits["position"].eq(0).map({True: "first-token", False: "ordinary"})
    counts = [f"{here.sum()} of the {len(here)} {name}" for name, here in edits["broken"].groupby(stratum)]
    return f"edits that break the model, by how their facts were drawn: {', '.join(counts)}"


def _some_break(edits: pd.DataFrame) -> Statement:
    says = f"some single ROME edits raise perplexity more than {TIMES:g} times"
    return premise(says, "above", 0, (edits["broken"].sum(),), unit="edits", note=_drawn(edits))


def repeating_text(evidence: Evidence) -> list[Statement]:
    """C1; more than half below a threshold is a median below it, and has an interval also where all texts are alike."""
    edits = evidence.edits("rome")
    kinds = edits[edits["broken"]].reindex(columns=["subject", "entropy", "entropy_tokens"])
    lower = kinds.set_index("subject").min(axis=1).dropna().groupby(level=0).median()
    says = (
        f"of the subjects whose ROME edits break the model, more than {HALF} % leave a text that repeats (normalised "
        f"entropy over words or tokens below {REPEATING})"
    )
    note = f"median of that entropy {lower.median():.2f}" if len(lower) else ""
    return [_some_break(edits), core(says, "above", HALF, note=note, **_per_cent(lower < REPEATING))]


def disabling_size(evidence: Evidence) -> list[Statement]:
    """C2."""
    edits = evidence.edits("rome")
    says = (
        f"the median |Δ| of ROME edits that break the model is above {LARGE} times, an order of magnitude, that of the "
        "others (published: 630 times and more)"
    )
    larger = core(says, "above", LARGE, **_ratio(edits, edits["broken"]))
    sizes = edits.groupby(["subject", "broken"])["delta"].median().reset_index()
    says = f"|Δ| sorts them from the others: the area under the ROC curve is above {SORTED}"
    area = auc(sizes["delta"], sizes["broken"])
    return [_some_break(edits), larger, supporting(says, "above", SORTED, area, larger["n"], unit="area")]


def mixed_keys(evidence: Evidence) -> list[Statement]:
    """C3."""
    edits = evidence.edits("rome")
    bad = edits[edits["broken"]]
    others = {rule: evidence.edits(rule)["broken"].loc[bad.index] for rule in ("r-rome", "p-rome")}
    whole = ~pd.DataFrame(others).any(axis=1).groupby(bad["subject"]).any()
    says = f"of the subjects whose ROME edits break the model, more than {MOST} % do not under r-ROME and p-ROME"
    note = ", ".join(f"{here.sum()} of {len(bad)} edits break it under {rule}" for rule, here in others.items())
    return [_some_break(edits), core(says, "above", MOST, note=note, **_per_cent(whole))]


def one_cluster(evidence: Evidence, rule: str) -> list[Statement]:
    """C4, and C5 without its cost."""
    edits = evidence.edits(rule)
    name = rule.replace("rome", "ROME")
    says = f"the median |Δ| of first-token subjects is below {ONE_CLUSTER} times that of the others under {name}"
    few = f"the share of subjects of which a single {name} edit breaks the model is below {RARE} %"
    broken = _per_cent(edits.groupby("subject")["broken"].any())
    return [
        core(says, "below", ONE_CLUSTER, **_ratio(edits, edits["position"].eq(0))),
        supporting(few, "below", RARE, note=_drawn(edits), **broken),
    ]


def one_cluster_at_a_cost(evidence: Evidence) -> list[Statement]:
    """C5."""
    cost, n = evidence.difference("p-rome", "r-rome", "PS")
    says = "on ordinary facts p-ROME's PS is below r-ROME's, paired"
    return [*one_cluster(evidence, "p-rome"), supporting(says, "below", 0, cost, n, unit="points")]


def sudden_collapse(evidence: Evidence) -> list[Statement]:
    """C6: what leads from a whole model to a broken one; what happens to the broken one does not count."""
    came, collapsed = evidence.collapse()
    says = (
        f"one edit carries more than {HALF} % of the rise of log perplexity up to its passing {TIMES:g} times the start, "
        f"and its own |Δ| is above {JUMP} times the run's median (else: 0 %)"
    )
    if came is None:
        return [collapsed, core(says, "above", HALF, NOTHING, n=0, unit="%")]
    level, edits = np.log(evidence.ratios("rome").to_numpy()[:came]), evidence.runs["rome"].edits
    rises = np.diff(level, prepend=0.0)
    at = int(rises.argmax())
    part, jump = min(100.0, 100 * rises[at] / level[-1]), edits["delta"].iloc[at] / edits["delta"].median()
    note = f"{part:.0f} % by edit {at + 1}, {edits['subject'].iloc[at]}, its |Δ| {jump:.1f} times that median"
    found = (part if jump > JUMP else 0.0,)
    return [collapsed, core(says, "above", HALF, found, n=len(edits), unit="%", note=note)]


def slow_decay(evidence: Evidence) -> list[Statement]:
    """C7."""
    came, collapsed = evidence.collapse()
    ratios, edits, rome = evidence.ratios("r-rome"), evidence.runs["r-rome"].edits, evidence.runs["rome"].edits
    n, sizes = len(edits), edits["delta"] / edits["delta"].median()
    highest = ratios.max() if came else np.nan  # where ROME's run breaks, else nothing is compared
    stays = (
        f"over the whole run, in which ROME's model breaks, r-ROME's perplexity stays below {TIMES:g} times its start"
    )
    final = rome["delta_after"].iloc[-1] / edits["delta_after"].iloc[-1]
    smaller = f"r-ROME's |Δ| at the end is at least {ORDERS} times smaller than ROME's, by orders of magnitude"
    smooth = f"no r-ROME edit's own |Δ| is above {JUMP} times its run's median"
    last = f"{ratios.iloc[-1]:.2f} after {n} edits, ROME's {evidence.ratios('rome').iloc[-1]:,.1f}"
    steps = ", ".join(edits["subject"][sizes > JUMP])
    return [
        collapsed,
        core(stays, "below", TIMES, (highest,), n=n, note=last),
        supporting(smaller, "above", ORDERS, (final,), n=n),
        supporting(smooth, "below", JUMP, (sizes.max(),), n=n, note=steps),
    ]


def comparable_metrics(evidence: Evidence) -> list[Statement]:
    """C8."""
    statements = []
    for name in ("S", "ES", "PS", "NS"):
        found, n = evidence.difference("r-rome", "rome", name)
        says = f"on ordinary facts r-ROME's {name} is within {COMPARABLE} points of ROME's, or better, paired"
        kind = core if name == "S" else supporting
        statements.append(kind(says, "above", -COMPARABLE, found, n, unit="points"))
    return statements


def memory_errors() -> dict[str, dict[str, float]]:
    """Per rule the relative error ||W'k - v_e|| / ||v_e|| at both keys, for a random W (d_v, d_k), C_0, keys and v_e."""
    draw, d_k, d_v = torch.Generator().manual_seed(0), 24, 16
    memory = torch.nn.Linear(d_k, d_v, bias=False)
    memory.weight.data = torch.randn(d_v, d_k, generator=draw)
    site = EditSite(0, "", memory, memory)
    stored = torch.randn(d_k, 4 * d_k, generator=draw, dtype=torch.float64)
    c0 = SecondMoment(stored @ stored.T / (4 * d_k), 4 * d_k, "", 0)
    keys, target = Keys(torch.randn(5, d_k, generator=draw)), torch.randn(d_v, generator=draw)
    at = {"average": keys.average, "original": keys.original}
    value, errors = Value(target * 0, target, (), (), keys), {}
    for rule in RULES:
        update = rank_one_update(site, keys, value, c0, rule)
        after = {name: site.value(key) + update.left * (update.right @ key) for name, key in at.items()}
        errors[rule] = {name: ((found - target).norm() / target.norm()).item() for name, found in after.items()}
    return errors


def sound_derivation(evidence: Evidence) -> list[Statement]:
    """C10, which follows from the algebra and is checked on a random memory."""
    errors = memory_errors()
    kept = max(errors[rule][choice.exact_at] for rule, choice in RULES.items() if choice.exact_at)
    exact = "with one key in denominator and residual W'k + b = v_e holds there, whatever the direction (random memory)"
    shipped = "as shipped it does not hold at the averaged key, for which the formula was derived (random memory)"
    mixed, unit = errors["rome"]["average"], "relative error"
    return [
        core(exact, "below", EXACT, (kept,), unit=unit),
        supporting(shipped, "above", 100 * EXACT, (mixed,), unit=unit),
    ]


CRITERIA: dict[str, Callable[[Evidence], list[Statement]]] = {
    "C1": repeating_text,
    "C2": disabling_size,
    "C3": mixed_keys,
    "C4": partial(one_cluster, rule="r-rome"),
    "C5": one_cluster_at_a_cost,
    "C6": sudden_collapse,
    "C7": slow_decay,
    "C8": comparable_metrics,
    "C9": lambda evidence: [],  # it is not known which table and model its two numbers belong to
    "C10": sound_derivation,
    "C11": lambda evidence: [],  # the kit has no zsRE
}


def scorecard(evidence: Evidence) -> pd.DataFrame:
    """All claims judged on the two studies: a row per claim and statement; a claim without statements has one row."""
    rows = []
    for name, about in read_yaml("claims.yaml").items():
        statements = CRITERIA[name](evidence)
        outcome = verdict(statements)
        row = {"id": name} | {each: about[each] for each in ("claim", "published", "status")}
        row |= {"verdict": about.get(outcome, outcome), "evidence": " ".join(about["evidence"])}
        rows += [row | part for part in statements] or [row]
    return pd.DataFrame(rows).fillna(dict.fromkeys(["role", "statement", "side", "unit", "found", "outcome"], ""))
