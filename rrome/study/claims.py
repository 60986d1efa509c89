"""The criteria of the paper's claims C1 to C10: statements about the two studies; `verdicts` turns them into verdicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from ..measure.metrics import auc, interval, paired_differences
from ..model.site import EditSite
from ..store.disk import RromeError
from ..update.keys import Keys
from ..update.rules import NAMED_RULES, RULES, rank_one_update
from ..update.second_moment import SecondMoment
from ..update.value import Value
from .runs import TIMES, SequentialRun, broken, collapse_edit, disabling_edits
from .verdicts import Statement, below, beyond, tabulate, text

REPEATING = 0.5  # normalised entropy below it: the text says few words again and again
LARGE = 10  # "much larger", "by orders of magnitude": at least one order
ONE_CLUSTER = 2  # two groups of sizes are one cluster when their medians differ by less than this factor
COMPARABLE = 5  # points of a hundred
JUMP = 5  # a disabling edit of a sequence: its own |Delta| above so many times the run's median
FEW = 0.05  # "suddenly": half of the rise of log perplexity comes from at most this share of the edits
WORST = 1e30  # stands for a perplexity that is no number any more
EXACT = 1e-4  # relative error at which a constraint counts as met, in float32


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the verdicts are computed from: the single-edit study's rows and one sequential run per rule."""

    single: pd.DataFrame
    runs: Mapping[str, SequentialRun]

    def __post_init__(self):
        studies = {"single-edit": (RULES, set(self.single["rule"])), "sequential": (NAMED_RULES, self.runs)}
        for name, (wanted, here) in studies.items():
            if missing := [rule for rule in wanted if rule not in here]:
                raise RromeError(f"the {name} study lacks {', '.join(missing)}: run it to its end first")

    @property
    def ordinary(self) -> pd.DataFrame:
        """Rows of facts with something before the subject's last token."""
        return self.single[self.single["position"].gt(0)]

    def edits(self, rule: str) -> pd.DataFrame:
        """The single edits of one rule; `broken` says whether an edit broke the model."""
        before = self.single.loc[self.single["rule"].eq("unedited"), "perplexity"].iloc[0]
        here = self.single[self.single["rule"].eq(rule)]
        return here.assign(broken=broken(here["perplexity"], before))


def _ratio(upper: pd.Series, lower: pd.Series) -> tuple[float, float, float]:
    """The ratio of two groups' medians, with its interval."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return (np.nan,) * 3 if upper.empty or lower.empty else interval([upper, lower], ratio, paired=False)


def _none_breaks(evidence: Evidence, rule: str) -> Statement:
    broken = evidence.edits(rule)["broken"]
    says = f"no single {rule} edit raises perplexity more than {TIMES:g} times"
    return Statement(says, f"{broken.sum()} of {len(broken)}", not broken.any())


def disabling_text(evidence: Evidence) -> list[Statement]:
    """C1."""
    edits = evidence.edits("rome")
    broken = edits["broken"]
    says = f"some single ROME edits raise perplexity more than {TIMES:g} times"
    statements = [Statement(says, f"{broken.sum()} of {len(broken)}", bool(broken.any()))]
    kinds = edits[broken].reindex(columns=["entropy", "entropy_tokens"]).dropna(how="all")
    if len(kinds):
        entropy = interval([kinds.bfill(axis=1)["entropy"]], np.median)
        says = f"the normalised entropy of their texts is below {REPEATING} in the median"
        wordless = kinds["entropy"].isna().sum()  # one token over and over, say
        found = text(entropy, ".2f") + (f", of {wordless} texts with few words over tokens" if wordless else "")
        statements.append(Statement(says, found, below(entropy, REPEATING)))
    return statements


def disabling_size(evidence: Evidence) -> list[Statement]:
    """C2."""
    edits = evidence.edits("rome")
    broken = edits["broken"]
    ratio = _ratio(edits["delta"][broken], edits["delta"][~broken])
    says = f"the median |Δ| of ROME edits that break the model is above {LARGE} times that of the others"
    statements = [Statement(says, f"{text(ratio)} times", beyond(ratio, LARGE))]
    if broken.any() and not broken.all():
        area = auc(edits["delta"], broken)
        says = "|Δ| sorts them from the others: the area under the ROC curve is above 0.9"
        statements.append(Statement(says, text(area, ".3f"), beyond(area, 0.9)))
    return statements


def mixed_keys(evidence: Evidence) -> list[Statement]:
    """C3."""
    mixed = [name for name, rule in RULES.items() if len(set(vars(rule).values())) > 1]
    harmless = [rule for rule in mixed if not evidence.edits(rule)["broken"].any()]
    found = f"{len(mixed) - len(harmless)} of {len(mixed)}" + (f", not {', '.join(harmless)}" if harmless else "")
    says = "each of the six rules that mix the two keys breaks the model on some fact"
    pure = [_none_breaks(evidence, rule) for rule in RULES if rule not in mixed]
    return [*pure, Statement(says, found, not harmless)]


def one_cluster(evidence: Evidence, rule: str) -> list[Statement]:
    """C4, and C5 without its cost."""
    edits = evidence.edits(rule)
    first = edits["position"].eq(0)
    found = _ratio(edits["delta"][first], edits["delta"][~first])
    says = f"under {rule} the median |Δ| of first-token subjects is less than {ONE_CLUSTER} times that of the others"
    return [Statement(says, f"{text(found)} times", below(found, ONE_CLUSTER)), _none_breaks(evidence, rule)]


def one_cluster_at_a_cost(evidence: Evidence) -> list[Statement]:
    """C5."""
    cost = tuple(paired_differences(evidence.ordinary, "p-rome", "r-rome", ["PS"]).loc["PS"])
    says = "on ordinary facts p-ROME's PS is below r-ROME's, paired"
    return [*one_cluster(evidence, "p-rome"), Statement(says, f"{text(cost)} points", below(cost, 0))]


def sudden_collapse(evidence: Evidence) -> list[Statement]:
    """C6."""
    run = evidence.runs["rome"]
    start = run.checkpoints["perplexity"].iloc[0]
    came = collapse_edit(run.edits, start)
    found = f"at edit {came} of {len(run.edits)}" if came else f"not within {len(run.edits)} edits"
    statements = [Statement(f"ROME's run raises perplexity more than {TIMES:g} times", found, came is not None)]
    if came is None:
        return statements
    level = np.log(run.edits["perplexity"].fillna(np.inf).clip(upper=WORST).to_numpy())
    rises = pd.Series(np.diff(level, prepend=np.log(start))).clip(lower=0).sort_values(ascending=False)
    half = rises.index[: int((rises.cumsum() < rises.sum() / 2).sum()) + 1]
    subjects = ", ".join(run.edits["subject"].iloc[half])
    says = f"half of the rise of log perplexity comes from at most {FEW:.0%} of the edits"
    few = Statement(says, f"from {len(half)} of {len(rises)}: {subjects}", bool(len(half) <= FEW * len(rises)))
    jumps = half.isin(disabling_edits(run.edits, JUMP).index)
    says = f"at each of these |Δ| jumps: the edit's own is above {JUMP} times the run's median"
    return [*statements, few, Statement(says, f"{jumps.sum()} of {len(half)}", bool(jumps.all()))]


def slow_decay(evidence: Evidence) -> list[Statement]:
    """C7."""
    run, rome = evidence.runs["r-rome"], evidence.runs["rome"]
    start = run.checkpoints["perplexity"].iloc[0]
    came = collapse_edit(run.edits, start)
    times = run.edits["perplexity"].iloc[-1] / start
    found = f"perplexity times {times:.2f} after {len(run.edits)} edits"
    statements = [Statement(f"r-ROME's run does not raise perplexity {TIMES:g} times", found, came is None)]
    ratio = rome.edits["delta_after"].iloc[-1] / run.edits["delta_after"].iloc[-1]
    says = f"its |Δ| at the end is at least {LARGE} times smaller than ROME's"
    statements.append(Statement(says, f"{ratio:.1f} times", bool(ratio >= LARGE)))
    jumps = disabling_edits(run.edits, JUMP)["subject"]
    says = f"no edit's own |Δ| is above {JUMP} times its run's median"
    return [*statements, Statement(says, ", ".join(jumps) or "none", jumps.empty)]


def comparable_metrics(evidence: Evidence) -> list[Statement]:
    """C8."""
    differences = paired_differences(evidence.ordinary, "r-rome", "rome", ["ES", "PS", "NS", "S"])
    statements = []
    for name, *found in differences.itertuples():
        says = f"on ordinary facts r-ROME's {name} is not lower than ROME's by more than {COMPARABLE} points, paired"
        statements.append(Statement(says, f"{text(found)} points", beyond(found, -COMPARABLE)))
    return statements


def memory_errors(d_k: int = 24, d_v: int = 16, seed: int = 0) -> dict[str, dict[str, float]]:
    """Per rule the relative error ||W'k + b - v_e|| / ||v_e|| at both keys, for a random W (d_v, d_k), C_0, keys and v_e."""
    draw = torch.Generator().manual_seed(seed)
    memory = torch.nn.Linear(d_k, d_v)
    memory.weight.data = torch.randn(d_v, d_k, generator=draw)
    site = EditSite(0, "", memory, memory)
    stored = torch.randn(d_k, 4 * d_k, generator=draw, dtype=torch.float64)
    c0 = SecondMoment(stored @ stored.T / (4 * d_k), 4 * d_k, "", 0)
    keys = Keys(torch.randn(5, d_k, generator=draw))
    target = torch.randn(d_v, generator=draw)
    value = Value(target * 0, target, (), (), keys)
    errors: dict[str, dict[str, float]] = {rule: {} for rule in RULES}
    for rule in RULES:
        update = rank_one_update(site, keys, value, c0, rule)
        for name, key in (("average", keys.average), ("original", keys.original)):
            after = site.value(key) + update.left * (update.right @ key)
            errors[rule][name] = ((after - target).norm() / target.norm()).item()
    return errors


def sound_derivation(evidence: Evidence) -> list[Statement]:
    """C10: the kit's own update on a random memory, and the denominators of the sequential runs."""
    errors = memory_errors()
    kept = max(errors[rule][choice.exact_at] for rule, choice in RULES.items() if choice.exact_at)
    mixed = errors["rome"]["average"]
    positive = {rule: evidence.runs[rule].edits["denominator"].min() for rule in ("r-rome", "p-rome")}
    exact = "with one key in denominator and residual W'k + b = v_e holds there, whatever the direction (random memory)"
    shipped = "as shipped it does not hold at the averaged key, for which the formula was derived"
    matched = "with one key in direction and denominator the denominator stays positive in the sequential runs"
    smallest = "; ".join(f"smallest {number:.0f} ({rule})" for rule, number in positive.items())
    return [
        Statement(exact, f"largest relative error {kept:.0e}", kept < EXACT),
        Statement(shipped, f"relative error {mixed:.2f}", mixed > 100 * EXACT),
        Statement(matched, smallest, all(number > 0 for number in positive.values())),
    ]


CRITERIA: dict[str, Callable[[Evidence], list[Statement]]] = {
    "C1": disabling_text,
    "C2": disabling_size,
    "C3": mixed_keys,
    "C4": partial(one_cluster, rule="r-rome"),
    "C5": one_cluster_at_a_cost,
    "C6": sudden_collapse,
    "C7": slow_decay,
    "C8": comparable_metrics,
    "C9": lambda evidence: [],  # it is not known which table and model its two numbers belong to
    "C10": sound_derivation,
}


def scorecard(evidence: Evidence) -> pd.DataFrame:
    """All claims judged on the two studies; see verdicts.tabulate."""
    return tabulate({name: criteria(evidence) for name, criteria in CRITERIA.items()})
