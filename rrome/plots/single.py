"""The figures of the single-edit study."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from sklearn.metrics import roc_curve

from ..measure.metrics import harmonic_score, interval
from ..update.rules import NAMED_RULES, RULES
from .save import COLOURS, INTERVAL, MARKERS, NAMES, legend, name_rules, style, with_interval

ORDINARY, FIRST = "ordinary subjects", "first-token subjects"
STRATA = {ORDINARY: "#56B4E9", FIRST: "#E69F00"}  # their colours where rules are told apart otherwise
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
def delta_scatter(edits: pd.DataFrame, labels: int = 4) -> Figure:
    """Figure 2: |Delta| (log) against the entropies of the text and the probe's perplexity, a column per rule.

    First-token subjects are drawn large; of updates above three times the ordinary median the `labels` largest subjects are
    named. Dotted: the unedited model's perplexity, and twice that. An entropy that no edit has is left out.
    """
    before = edits.loc[edits["rule"].eq("unedited"), "perplexity"].median()
    edits = _with_strata(edits[edits["rule"].isin(NAMED_RULES)])
    shown = [name for name in ROWS if edits.get(name, pd.Series(dtype=float)).notna().any()]
    edges = np.geomspace(edits["delta"].min() / 1.5, edits["delta"].max() * 1.5, 40)
    figure, axes = plt.subplots(
        1 + len(shown), 3, figsize=(10, 1.4 + 2 * len(shown)), sharex="col", sharey="row", layout="constrained",
        height_ratios=[1] + [2] * len(shown),
    )  # fmt: skip
    for rule, (top, *panels) in zip(NAMED_RULES, axes.T, strict=True):
        here = edits[edits["rule"].eq(rule)]
        sns.histplot(here, x="delta", bins=edges, color=COLOURS[rule], alpha=1, linewidth=0, ax=top)
        top.set(title=NAMES[rule], yscale="symlog", ylabel="edits")
        for name, panel in zip(shown, panels, strict=True):
            _points(panel, here, "delta", name, rule)
            panel.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel=r"$|\Delta|$ (log scale)", ylabel=ROWS[name])
            panel.get_legend().remove()
        if shown[-1] == "perplexity":
            panels[-1].set_yscale("log")
            for level in (before, 2 * before):
                panels[-1].axhline(level, color="0.5", linestyle=":", linewidth=1)
        _name_largest(panels[-1], here, shown[-1], labels)
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2)
    return figure


def _name_largest(panel: Axes, here: pd.DataFrame, column: str, labels: int) -> None:
    """The subjects of the largest updates, each once, to the left of the cloud and on a line to their point."""
    far = here[here["delta"] > 3 * here.loc[here["subjects"].eq(ORDINARY), "delta"].median()]
    named = far.dropna(subset=column).sort_values("delta", ascending=False).drop_duplicates("subject").head(labels)
    left, places = named["delta"].min() / 1.5, panel.get_xaxis_transform()  # so that no line crosses a name
    for place, row in enumerate(named.sort_values(column, ascending=False).to_dict("records")):
        offset = {"xytext": (left, 0.9 - 0.1 * place), "textcoords": places, "ha": "right", "va": "center"}
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (1.06, 0.5), "patchA": None}
        panel.annotate(row["subject"], (row["delta"], row[column]), fontsize=7, arrowprops=line, **offset)


@style()
def amplification_scatter(table: pd.DataFrame) -> Figure:
    """Amplification against the two keys' cosine under C_0^-1, one panel per rule, first-token subjects marked apart."""
    table = _with_strata(table)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), sharex=True, sharey=True, layout="constrained")
    for rule, panel in zip(NAMED_RULES, axes, strict=True):
        _points(panel, table, "cos_c", f"amplification_{rule}", rule)
        panel.set(yscale="log", title=NAMES[rule], xlabel=r"$\cos_C(k_e, k_e^o)$")
        panel.legend(loc="best", fontsize=7)
    axes[0].set_ylabel("amplification (log scale)")
    return figure


@style()
def key_grid(edits: pd.DataFrame) -> Figure:
    """All eight rules: sizes of the updates, S with intervals, and perplexity after the edit, by kind of subject."""
    edits, rules = _with_strata(edits), list(RULES)
    scores = intervals(edits[edits["rule"].isin(rules)], ["rule", "subjects"], ["ES", "PS", "NS"], harmonic_score)
    figure, (sizes, shares, damage) = plt.subplots(3, 1, figsize=(9.5, 7.4), sharex=True, layout="constrained")
    looks = {"x": "rule", "order": rules, "hue": "subjects", "hue_order": list(STRATA), "palette": STRATA}
    for name, marker in STRATA_MARKERS.items():
        points = {"dodge": True, "jitter": 0.25, "marker": marker, "size": 3.5, "alpha": 0.6, "legend": False}
        for panel, column in ((sizes, "delta_frobenius"), (damage, "perplexity")):
            sns.stripplot(edits[edits["subjects"].eq(name)], y=column, ax=panel, **points, **looks)
    points = {"dodge": 0.4, "markers": [*STRATA_MARKERS.values()], "linestyle": "none", "capsize": 0.06}
    sns.pointplot(scores, y="value", markersize=5, err_kws={"linewidth": 1.5}, ax=shares, **points, **looks, **INTERVAL)
    before = edits.loc[edits["rule"].eq("unedited"), "perplexity"].median()
    damage.axhline(before, color="black", linestyle=":", linewidth=1, label="unedited")
    sizes.set(yscale="log", ylabel=r"$\Vert\Delta\Vert_F$")
    shares.set(ylim=(0, 1.02), ylabel="S")
    damage.set(yscale="log", xlabel=None, ylabel="perplexity after the edit")
    letters = {"average": "k\u2091", "original": "k\u2091\u1d52"}
    keys = ["\n".join(f"{use}: {letters[key]}" for use, key in vars(rule).items()) for rule in RULES.values()]
    names = [f"{NAMES.get(rule, rule)}\n{uses}" for rule, uses in zip(rules, keys, strict=True)]
    damage.set_xticks(range(len(rules)), names, fontsize=7.5)
    shares.get_legend().remove()
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def intervals(edits: pd.DataFrame, by: list[str], names: Sequence[str], statistic: Callable) -> pd.DataFrame:
    """A statistic of each group of edits with its interval, as `value` in the form that INTERVAL draws."""
    groups = edits.groupby(by, sort=False)
    rows = [(*group, *interval([here[name] for name in names], statistic, bounds=(0, 1))) for group, here in groups]
    return with_interval(pd.DataFrame(rows, columns=[*by, "value", "low", "high"]), "value")


@style()
def preflight_roc(edits: pd.DataFrame, rule: str, broken: pd.Series, area: tuple[float, float, float]) -> Figure:
    """Left: perplexity after the edit against the amplification that its keys predict; right: the ROC curve, if any."""
    here, predicted = edits[edits["rule"].eq(rule)], f"amplification_{rule}"
    broken = broken.loc[here.index]
    figure, (points, curve) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", width_ratios=[1.6, 1])
    outcomes = {"perplexity holds": "0.6", "model broken": "black"}
    markers = {"perplexity holds": "o", "model broken": "X"}
    here = here.assign(outcome=np.where(broken, "model broken", "perplexity holds"))
    looks = {"hue": "outcome", "style": "outcome", "palette": outcomes, "markers": markers}
    sns.scatterplot(here, x=predicted, y="perplexity", s=36, alpha=0.7, ax=points, **looks)
    points.set(xscale="log", xlabel="amplification predicted by the keys")
    points.set(yscale="log", ylabel="perplexity after the edit")
    legend(points, fontsize=9)
    found = f"AUC {area[0]:.2f} [{area[1]:.2f}, {area[2]:.2f}]"
    if broken.nunique() == 2:
        curve.plot(*roc_curve(broken, here[predicted])[:2], color=COLOURS[rule])
    else:
        found = f"{'every' if broken.all() else 'no'} edit breaks the model"
    curve.plot([0, 1], [0, 1], ":", color="0.5", linewidth=1)
    curve.set(xlabel="false alarms", ylabel="broken edits caught", aspect="equal")
    curve.set_title(f"{NAMES.get(rule, rule)}: {found}", fontsize=9)
    return figure


@style()
def predicted_damage(edits: pd.DataFrame, safe: float, alarm: float) -> Figure:
    """Perplexity after over before against the amplification of the same fact under ROME, a panel per rule.

    `ratio` is the column drawn. Dotted: the largest amplification that was harmless on other facts, the smallest that was
    not, and the ratio of 2 above which a model is called broken.
    """
    edits, rules = _with_strata(edits), list(edits["rule"].unique())
    figure, axes = plt.subplots(1, len(rules), figsize=(2.9 * len(rules), 3.2), sharey=True, layout="constrained")
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
    edits = edits.melt(["subjects", "rule"], prompts.values(), "prompt", "ES")
    found = intervals(edits, ["subjects", "rule", "prompt"], ["ES"], np.mean)
    looks = {"hue": "rule", "hue_order": rules, "palette": COLOURS, "markers": [MARKERS[rule] for rule in rules]}
    grid = sns.catplot(
        found, kind="point", x="prompt", y="value", col="subjects", col_order=STRATA, height=3, aspect=1.3,
        dodge=0.3, capsize=0.04, markersize=6, linewidth=1.2, **looks, **INTERVAL,
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("", "ES").set(ylim=(0, 1.04))
    name_rules(grid)
    return grid.figure


@style()
def disabling_edit(table: pd.DataFrame) -> Figure:
    """Figure 1: what the model says after each edit, a block per (layer,) subject and prompt, with ||Delta||_F beside it.

    `table`: subject, prompt, target_new, rule ("unedited" has no delta), delta_frobenius, entropy, entropy_tokens,
    perplexity, text, and `layer` where blocks are of several layers.
    """
    by = [name for name in ("layer", "subject", "prompt", "target_new") if name in table]
    blocks = list(table.groupby(by, sort=False))
    rows = max(len(block) for _, block in blocks)
    figure, axes = plt.subplots(
        len(blocks), 2, figsize=(11, 0.56 * rows * len(blocks) + 0.9), width_ratios=[3.4, 1], sharey="row",
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for (names, block), (words, sizes) in zip(blocks, axes, strict=True):
        *layer, subject, prompt, target = names
        looks = {"order": block["rule"], "hue": "rule", "hue_order": block["rule"], "palette": COLOURS, "jitter": False}
        sns.stripplot(block, x="delta_frobenius", y="rule", legend=False, size=7, ax=sizes, **looks)
        edges = table["delta_frobenius"].min() / 2, table["delta_frobenius"].max() * 30
        sizes.set(xscale="log", xlim=edges, xlabel=None, ylim=(len(block) - 0.5, -0.5))
        sizes.tick_params(labelsize=7)
        where = f"layer {layer[0]}, " if layer else ""
        words.set_title(f"{where}{subject} \u2192 {target}:   \u201c{prompt} \u2026\u201d", fontsize=9.5)
        words.axis("off")
        for y, row in enumerate(block.itertuples()):
            _row(words, sizes, y, row)
    axes[0, 1].set_title(r"$\Vert\Delta\Vert_F$ (log scale)", fontsize=9)
    return figure


def _row(words: Axes, sizes: Axes, y: int, row: Any) -> None:
    """The rule, what the model says, the text's entropies and the model's perplexity, and the size beside its point."""
    words.text(0, y, NAMES.get(row.rule, row.rule), color=COLOURS.get(row.rule), weight="bold", va="center")
    words.text(0.085, y, shortened(row.text, 100, 3), va="center", fontsize=7.6, linespacing=1.15)
    words.axhline(y + 0.5, color="0.9", linewidth=0.6)
    if row.delta_frobenius == row.delta_frobenius:
        sizes.annotate(f"{row.delta_frobenius:,.0f}", (row.delta_frobenius, y), (6, 0), textcoords="offset points",
                       va="center", fontsize=8, weight="bold")  # fmt: skip
    numbers = f"entropy {row.entropy:.2f}, of tokens {row.entropy_tokens:.2f}\nperplexity {row.perplexity:,.0f}"
    notes = numbers.replace("nan", "\u2013")
    words.text(1, y, notes, ha="right", va="center", fontsize=7, color="0.25")


def shortened(text: str, width: int, lines: int) -> str:
    """Text on at most `lines` lines of `width` characters, characters that the font lacks shown as a box."""
    font = get_font(findfont("DejaVu Sans"))
    flat = " ".join(text.split()).replace("$", r"\$")
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "\u25af" for letter in flat)
    wrapped = textwrap.wrap(drawable, width, max_lines=lines, placeholder=" \u2026")
    return "\n".join(wrapped) or "(nothing)"
