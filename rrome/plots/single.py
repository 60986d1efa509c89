"""The figures of single edits, by the paper's rules and by later methods."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ..measure.metrics import by_subject, harmonic_score
from ..update.rules import NAMED_RULES, RULES
from .save import COLOURS, INTERVAL, MARKERS, NAMES, SIZE, legend, name_rules, style, subplots, with_interval

ORDINARY, FIRST = "ordinary subjects", "first-token subjects"
STRATA = {ORDINARY: "#56B4E9", FIRST: "#E69F00"}  # their colours where rules are told apart otherwise
BY_SUBJECT = {"hue": "subjects", "hue_order": list(STRATA), "palette": STRATA}
STRATA_MARKERS = {ORDINARY: "o", FIRST: "D"}


def _with_strata(edits: pd.DataFrame) -> pd.DataFrame:
    return edits.assign(subjects=np.where(edits["position"].eq(0), FIRST, ORDINARY))


def _points(panel: Axes, here: pd.DataFrame, x: str, y: str, rule: str) -> None:
    """One rule's facts: ordinary subjects small and pale, first-token subjects large with a black edge."""
    looks = {"x": x, "y": y, "color": COLOURS[rule], "marker": MARKERS[rule], "ax": panel}
    first = here["subjects"].eq(FIRST)
    sns.scatterplot(here[~first], s=16, alpha=0.5, linewidth=0, label=ORDINARY, **looks)
    sns.scatterplot(here[first], s=46, edgecolor="black", linewidth=0.7, label=FIRST, **looks)


ROWS = {"entropy": "entropy of words", "entropy_tokens": "entropy of tokens", "perplexity": "perplexity (log scale)"}


@style()
def delta_scatter(edits: pd.DataFrame) -> Figure:
    """Figure 2: |Delta| (log) against the entropies of the text and the probe's perplexity, a column per rule.

    First-token subjects are drawn large; the subjects of a rule's four largest updates, if above three times the ordinary
    median, are named. Dotted: the unedited model's perplexity, and twice that. An entropy that no edit has is left out.
    """
    before = edits.loc[edits["rule"].eq("unedited"), "perplexity"].median()
    edits = _with_strata(edits[edits["rule"].isin(NAMED_RULES)])
    shown = [name for name in ROWS if name in edits and edits[name].notna().any()]
    edges = np.geomspace(edits["delta"].min() / 1.5, edits["delta"].max() * 1.5, 40)
    heights = [1] + [2] * len(shown)
    size = (10, 0.4 + sum(heights))
    figure, axes = subplots(len(heights), 3, figsize=size, sharex="col", sharey="row", height_ratios=heights)
    for rule, (top, *panels) in zip(NAMED_RULES, axes.T, strict=True):
        here = edits[edits["rule"].eq(rule)]
        sns.histplot(here, x="delta", bins=edges, color=COLOURS[rule], alpha=1, linewidth=0, ax=top)
        top.set(title=NAMES[rule], yscale="symlog", ylabel="edits")
        for name, panel in zip(shown, panels, strict=True):
            _points(panel, here, "delta", name, rule)
            panel.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel=r"$|\Delta|$ (log scale)", ylabel=ROWS[name])
            panel.get_legend().remove()
        panel.set_yscale("log")
        for level in (before, 2 * before):
            panel.axhline(level, color="0.5", linestyle=":", linewidth=1)
        _name_largest(panel, here)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _name_largest(panel: Axes, here: pd.DataFrame) -> None:
    """The subjects of the largest updates, each once, to the left of the cloud and on a line to their point."""
    far = here[here["delta"] > 3 * here.loc[here["subjects"].eq(ORDINARY), "delta"].median()]
    named = far.sort_values("delta", ascending=False).drop_duplicates("subject").head(4)
    left, places = named["delta"].min() / 1.5, panel.get_xaxis_transform()  # so that no line crosses a name
    for place, row in enumerate(named.sort_values("perplexity", ascending=False).itertuples()):
        offset = {"xytext": (left, 0.9 - 0.1 * place), "textcoords": places, "ha": "right", "va": "center"}
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (1.06, 0.5), "patchA": None}
        panel.annotate(row.subject, (row.delta, row.perplexity), fontsize=7, arrowprops=line, **offset)


@style()
def amplification_scatter(table: pd.DataFrame) -> Figure:
    """Amplification against the two keys' cosine under C_0^-1, one panel per rule, first-token subjects marked apart."""
    table = _with_strata(table)
    figure, axes = subplots(1, 3, figsize=(10, 3.1), sharex=True, sharey=True)
    for rule, panel in zip(NAMED_RULES, axes, strict=True):
        _points(panel, table, "cos_c", f"amplification_{rule}", rule)
        panel.set(yscale="log", title=NAMES[rule], xlabel=r"$\cos_C(k_e, k_e^o)$")
        panel.legend(loc="best", fontsize=7)
    axes[0].set_ylabel("amplification (log scale)")
    return figure


def _facts(panel: Axes, edits: pd.DataFrame, **axes: Any) -> None:
    """A point for every fact of a rule, by kind of subject."""
    for name, marker in STRATA_MARKERS.items():
        points = {"dodge": True, "marker": marker, "size": 3.5, "alpha": 0.6, "legend": False}
        sns.stripplot(edits[edits["subjects"].eq(name)], ax=panel, **points, **axes, **BY_SUBJECT)


def _means(panel: Axes, found: pd.DataFrame, **axes: Any) -> None:
    """A statistic with its interval for each rule, by kind of subject; `found` is made by `intervals`."""
    points = {"dodge": 0.4, "markers": [*STRATA_MARKERS.values()], "linestyle": "none"}
    sns.pointplot(found, ax=panel, **points, **axes, **BY_SUBJECT, **INTERVAL)


def intervals(edits: pd.DataFrame, by: list[str], names: Sequence[str], statistic: Callable) -> pd.DataFrame:
    """A statistic of each group of edits with its interval, as `value` in the form that INTERVAL draws."""
    groups = edits.groupby(by, sort=False)
    found = ((group, by_subject(here[[*names]], here["subject"], statistic, (0, 1))) for group, here in groups)
    rows = [(*group, *three) for group, three in found]
    return with_interval(pd.DataFrame(rows, columns=[*by, "value", "low", "high"]), "value")


@style()
def key_grid(edits: pd.DataFrame) -> Figure:
    """All eight rules: sizes of the updates, S with intervals, and perplexity after the edit, by kind of subject."""
    edits, axes = _with_strata(edits), {"x": "rule", "order": list(RULES)}
    scores = intervals(edits[edits["rule"].isin(RULES)], ["rule", "subjects"], ["ES", "PS", "NS"], harmonic_score)
    figure, (sizes, shares, damage) = subplots(3, 1, figsize=(9.5, 7.4), sharex=True)
    _facts(sizes, edits, y="delta_frobenius", jitter=0.25, **axes)
    _means(shares, scores, y="value", markersize=5, capsize=0.06, err_kws={"linewidth": 1.5}, **axes)
    _facts(damage, edits, y="perplexity", jitter=0.25, **axes)
    before = edits.loc[edits["rule"].eq("unedited"), "perplexity"].median()
    damage.axhline(before, color="black", linestyle=":", linewidth=1, label="unedited")
    sizes.set(yscale="log", ylabel=SIZE)
    shares.set(ylim=(0, 1.02), ylabel="S")
    damage.set(yscale="log", xlabel=None, ylabel="perplexity after the edit")
    letters = {"average": "k\u2091", "original": "k\u2091\u1d52"}
    keys = ["\n".join(f"{use}: {letters[key]}" for use, key in vars(rule).items()) for rule in RULES.values()]
    names = [f"{NAMES.get(rule, rule)}\n{uses}" for rule, uses in zip(RULES, keys, strict=True)]
    damage.set_xticks(range(len(names)), names, fontsize=7.5)
    shares.get_legend().remove()
    figure.legend(loc="outside upper right", ncols=3)
    return figure


@style()
def what_came_after(table: pd.DataFrame) -> Figure:
    """One line per method: points are facts, or a mean with its interval for ES, PS and NS, by kind of subject.

    `table`: method, stratum ("ordinary" or "first-token"), share_written, ES, ES_prefixed, PS, NS, preservation, perplexity.
    """
    means = {"ES": "ES", "ES_prefixed": "ES, prefixed", "PS": "PS", "NS": "NS"}
    panels = {"share_written": "share written", **means, "preservation": "RMS change", "perplexity": "perplexity"}
    table = table.assign(subjects=table["stratum"] + " subjects")
    methods = {"y": "method", "order": list(table["method"].unique())}
    size = (13, 0.27 * len(methods["order"]) + 1.2)
    figure, axes = subplots(1, len(panels), figsize=size, sharey=True)
    for (column, title), panel in zip(panels.items(), axes, strict=True):
        if column in means:
            found = intervals(table.dropna(subset=column), ["method", "subjects"], [column], np.mean)
            _means(panel, found, x="value", markersize=4, err_kws={"linewidth": 1.2}, **methods)
            panel.set_xlim(-0.04, 1.04)
            panel.get_legend().remove()
        else:
            _facts(panel, table, x=column, jitter=False, **methods)
            panel.set_xscale("linear" if column == "share_written" else "log")
        panel.set(title=title, xlabel=None, ylabel=None)
    axes[-1].axvline(table.loc[table["method"].eq("unedited"), "perplexity"].median(), color="0.5", linewidth=0.8)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@style()
def preflight_roc(edits: pd.DataFrame, rule: str, broken: pd.Series, area: tuple[float, float, float]) -> Figure:
    """Left: perplexity after the edit against the amplification that its keys predict; right: the ROC curve, if any."""
    here, predicted = edits[edits["rule"].eq(rule)], f"amplification_{rule}"
    broken = broken.loc[here.index]
    figure, (points, curve) = subplots(1, 2, figsize=(9, 3.5), width_ratios=[1.6, 1])
    here = here.assign(outcome=np.where(broken, "model broken", "perplexity holds"))
    looks = {"palette": {"perplexity holds": "0.6", "model broken": "black"}, "s": 36, "alpha": 0.7}
    looks["markers"] = {"perplexity holds": "o", "model broken": "X"}
    sns.scatterplot(here, x=predicted, y="perplexity", hue="outcome", style="outcome", ax=points, **looks)
    points.set(xscale="log", xlabel="amplification predicted by the keys")
    points.set(yscale="log", ylabel="perplexity after the edit")
    legend(points, fontsize=9)
    found = f"{'every' if broken.all() else 'no'} edit breaks the model"
    if broken.nunique() == 2:
        found = "AUC {:.2f} [{:.2f}, {:.2f}]".format(*area)
        curve.plot(*roc_curve(broken, here[predicted])[:2], color=COLOURS[rule])
    curve.plot([0, 1], [0, 1], ":", color="0.5", linewidth=1)
    curve.set(xlabel="false alarms", ylabel="broken edits caught", aspect="equal")
    curve.set_title(f"{NAMES[rule]}: {found}", fontsize=9)
    return figure


@style()
def predicted_damage(edits: pd.DataFrame, safe: float, alarm: float) -> Figure:
    """Perplexity after over before against the amplification of the same fact under ROME, a panel per rule.

    `ratio` is the column drawn. Dotted: the largest amplification that was harmless on other facts, the smallest that was
    not, and the ratio of 2 above which a model is called broken.
    """
    edits, rules = _with_strata(edits), list(edits["rule"].unique())
    figure, axes = subplots(1, len(rules), figsize=(2.9 * len(rules), 3.2), sharey=True)
    for rule, panel in zip(rules, axes, strict=True):
        _points(panel, edits[edits["rule"].eq(rule)], "amplification_rome", "ratio", rule)
        for line in (safe, alarm):
            panel.axvline(line, color="0.5", linestyle=":", linewidth=1)
        panel.axhline(2, color="0.5", linestyle=":", linewidth=1)
        panel.set(xscale="log", yscale="log", title=NAMES[rule], xlabel="amplification under ROME")
        panel.legend(loc="upper left", fontsize=8)
    axes[0].set_ylabel("perplexity after / before (log scale)")
    return figure


@style()
def prefixed_efficacy(edits: pd.DataFrame) -> Figure:
    """ES of the bare prompt and after unseen prefixes, per rule of the study and kind of subject, with intervals."""
    rules = [rule for rule in (*NAMED_RULES, "aao") if rule in set(edits["rule"])]
    prompts = {"ES": "bare prompt", "ES_prefixed": "after unseen prefixes"}
    edits = _with_strata(edits[edits["rule"].isin(rules)]).rename(columns=prompts)
    edits = edits.melt(["subjects", "rule", "subject"], prompts.values(), "prompt", "ES")
    found = intervals(edits, ["subjects", "rule", "prompt"], ["ES"], np.mean)
    looks = {"hue": "rule", "hue_order": rules, "palette": COLOURS, "markers": [MARKERS[rule] for rule in rules]}
    grid = sns.catplot(
        found, kind="point", x="prompt", y="value", col="subjects", col_order=STRATA, height=3, aspect=1.3,
        dodge=0.3, capsize=0.04, markersize=6, linewidth=1.2, **looks, **INTERVAL,
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("", "ES").set(ylim=(0, 1.04))
    name_rules(grid)
    return grid.figure
