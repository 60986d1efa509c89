"""The figures of the single-edit study."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from sklearn.metrics import roc_curve

from ..measure.metrics import harmonic_score, interval
from ..update.rules import NAMED_RULES, RULES
from .save import COLOURS, DASHES, HATCHES, MARKERS, NAMES, style

STRATA = {"ordinary subjects": False, "first-token subjects": True}


def delta_scatter(edits: pd.DataFrame, rules: Sequence[str] = NAMED_RULES, labels: int = 3) -> Figure:
    """Figure 2: |Delta| (log) against normalised entropy, one panel per rule on the same axes, with both margins.

    First-token subjects are drawn large; of updates above three times the ordinary median the
    `labels` largest are named.
    """
    edits = edits[edits["rule"].isin(rules)]
    edges = np.geomspace(edits["delta"].min() / 1.5, edits["delta"].max() * 1.5, 40)
    with style():
        figure, axes = plt.subplots(
            2, len(rules) + 1, figsize=(11, 4.4), sharex="col", sharey="row", layout="constrained",
            height_ratios=[1, 3.4], width_ratios=[*[3] * len(rules), 0.8],
        )  # fmt: skip
        axes[0, -1].axis("off")
        for rule, top, panel in zip(rules, axes[0], axes[1], strict=False):
            here = edits[edits["rule"].eq(rule)]
            _scatter_panel(panel, here, rule, labels)
            panel.set_xlim(edges[0], edges[-1])
            top.hist(here["delta"], edges, color=COLOURS[rule])
            top.set(title=NAMES[rule], yscale="symlog")
            side = {"bins": np.linspace(0, 1, 26), "orientation": "horizontal", "histtype": "step"}
            axes[1, -1].hist(here["entropy"].dropna(), color=COLOURS[rule], **side)
        axes[0, 0].set_ylabel("edits")
        axes[1, 0].set(ylabel="normalised entropy of the text", ylim=(-0.03, 1.03))
        axes[1, -1].set(xlabel="edits", xscale="symlog")
    return figure


def _scatter_panel(panel: Axes, here: pd.DataFrame, rule: str, labels: int) -> None:
    first = here["position"].eq(0)
    marks = {"marker": MARKERS[rule], "color": COLOURS[rule]}
    panel.scatter(here["delta"][~first], here["entropy"][~first], s=14, alpha=0.5, label="ordinary subjects", **marks)
    large = {"s": 46, "edgecolors": "black", "linewidths": 0.7}
    panel.scatter(here["delta"][first], here["entropy"][first], label="first-token subjects", **large, **marks)
    far = here[here["delta"] > 3 * here["delta"][~first].median()]
    named = far.nlargest(labels, "delta")
    left, places = named["delta"].min() / 1.3, panel.get_xaxis_transform()  # so that no line crosses a name
    for place, row in enumerate(named.itertuples()):
        offset = {"xytext": (left, 0.62 - 0.07 * place), "textcoords": places, "ha": "right"}
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (1.06, 0.5), "patchA": None}
        panel.annotate(row.subject, (row.delta, row.entropy), fontsize=7, arrowprops=line, **offset)
    panel.set(xscale="log", xlabel=r"$|\Delta|$ (log scale)")
    panel.legend(loc="lower left", fontsize=7)


def key_grid(edits: pd.DataFrame) -> Figure:
    """All eight rules: sizes of the updates, S with intervals, and perplexity after the edit, by kind of subject."""
    names = list(RULES)
    with style():
        figure, axes = plt.subplots(3, 1, figsize=(9.5, 7.4), sharex=True, layout="constrained")
        for shift, (label, is_first) in zip((-0.17, 0.17), STRATA.items(), strict=True):
            part = edits[edits["position"].eq(0) == is_first]
            colour, marker = ("#CC79A7", "D") if is_first else ("#0072B2", "o")
            for place, name in enumerate(names):
                here = part[part["rule"].eq(name)]
                jitter = place + shift + np.linspace(-0.1, 0.1, len(here))
                points = {"s": 10, "alpha": 0.5, "color": colour, "marker": marker, "linewidths": 0}
                axes[0].scatter(jitter, here["delta_frobenius"], **points, label=label if place == 0 else None)
                axes[2].scatter(jitter, here["perplexity"], **points)
                value, low, high = interval([here["ES"], here["PS"], here["NS"]], harmonic_score)
                errors = [[value - low], [high - value]]
                axes[1].errorbar(place + shift, value, errors, color=colour, marker=marker, capsize=2)
        before = edits.loc[edits["rule"].eq("unedited"), "perplexity"].median()
        axes[2].axhline(before, color="black", linestyle=":", linewidth=1, label="unedited")
        axes[0].set(yscale="log", ylabel=r"$\Vert\Delta\Vert_F$")
        axes[1].set(ylim=(0, 1.02), ylabel="S")
        axes[2].set(yscale="log", ylabel="perplexity after the edit", xticks=range(len(names)))
        axes[2].set_xticklabels([_places(name) for name in names], fontsize=7.5)
        axes[0].legend()
        axes[2].legend()
    return figure


def _places(name: str) -> str:
    letters = {"average": "k\u2091", "original": "k\u2091\u1d52"}
    choice = RULES[name]
    return f"{NAMES.get(name, name)}\n" + "\n".join(
        f"{place}: {letters[which]}" for place, which in vars(choice).items()
    )


def preflight_roc(edits: pd.DataFrame, rule: str, broken: pd.Series, area: tuple[float, float, float]) -> Figure:
    """Left: perplexity after the edit against the amplification that its keys foretold; right: the ROC curve, if any."""
    here = edits[edits["rule"].eq(rule)]
    foretold, broken = here[f"amplification_{rule}"], broken.loc[here.index]
    with style():
        figure, (points, curve) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", width_ratios=[1.6, 1])
        for happened, marker, label in ((False, "o", "perplexity holds"), (True, "X", "model broken")):
            chosen = broken.eq(happened)
            points.scatter(foretold[chosen], here["perplexity"][chosen], marker=marker, s=24, alpha=0.7, label=label)
        points.set(
            xscale="log", yscale="log", xlabel="amplification foretold by the keys", ylabel="perplexity after the edit"
        )
        points.legend()
        name, found = NAMES.get(rule, rule), f"AUC {area[0]:.2f} [{area[1]:.2f}, {area[2]:.2f}]"
        if broken.nunique() == 2:
            false, true, _ = roc_curve(broken, foretold)
            curve.plot(false, true, color=COLOURS[rule])
        else:
            found = f"{'every' if broken.all() else 'no'} edit breaks the model"
        curve.plot([0, 1], [0, 1], ":", color="0.5", linewidth=1)
        curve.set(xlabel="false alarms", ylabel="broken edits caught", aspect="equal")
        curve.set_title(f"{name}: {found}", fontsize=9)
    return figure


def prefixed_efficacy(edits: pd.DataFrame, rules: Sequence[str] = (*NAMED_RULES, "aao")) -> Figure:
    """ES of the bare prompt and behind unseen prefixes, per rule of the study and kind of subject, with intervals."""
    rules = [rule for rule in rules if rule in set(edits["rule"])]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
        for (label, is_first), panel in zip(STRATA.items(), axes, strict=True):
            for place, rule in enumerate(rules):
                here = edits[edits["rule"].eq(rule) & (edits["position"].eq(0) == is_first)]
                for shift, column, fill in ((-0.12, "ES", "full"), (0.12, "ES_prefixed", "none")):
                    value, low, high = interval([here[column]], np.mean)
                    marks = {"color": COLOURS[rule], "marker": MARKERS[rule], "fillstyle": fill, "capsize": 3}
                    panel.errorbar(
                        place + shift, value, [[value - low], [high - value]], linestyle=DASHES[rule], **marks
                    )
            panel.set(title=label, xticks=range(len(rules)), ylim=(0, 1.04))
            panel.set_xticklabels([NAMES[rule] for rule in rules])
        axes[0].set_ylabel("ES: bare (full), prefixed (hollow)")
    return figure


def amplification_scatter(table: pd.DataFrame, rules: Sequence[str] = NAMED_RULES) -> Figure:
    """Amplification against the cosine of the two keys, one panel per rule, first-token subjects marked apart."""
    first = table["position"].eq(0)
    with style():
        figure, axes = plt.subplots(1, len(rules), figsize=(10, 3.1), sharex=True, sharey=True, layout="constrained")
        for rule, panel in zip(rules, axes, strict=True):
            marks = {"marker": MARKERS[rule], "color": COLOURS[rule], "linewidths": 0.8}
            height = table[f"amplification_{rule}"]
            panel.scatter(table["cosine"][~first], height[~first], s=16, alpha=0.45, label="other subjects", **marks)
            panel.scatter(table["cosine"][first], height[first], s=42, edgecolors="black", label="first token", **marks)
            panel.set(yscale="log", title=NAMES[rule], xlabel=r"cosine of $k_e$ and $k_e^o$")
            panel.legend(loc="best", fontsize=7)
        axes[0].set_ylabel("amplification (log scale)")
    return figure


def disabling_edit(table: pd.DataFrame, *, width: int = 104, lines: int = 2) -> Figure:
    """Figure 1: what the model says after each edit, one block per (subject, prompt), with ||Delta||_F beside it.

    `table` has the columns subject, prompt, target_new, rule, delta_frobenius, entropy, perplexity and text; the
    unedited model has rule "unedited" and no delta.
    """
    blocks = list(table.groupby(["subject", "prompt", "target_new"], sort=False))
    rows = max(len(block) for _, block in blocks)
    with style():
        figure, axes = plt.subplots(
            len(blocks),
            2,
            figsize=(11, 0.52 * rows * len(blocks) + 0.9),
            width_ratios=[3.4, 1],
            layout="constrained",
            squeeze=False,
        )
        longest = table["delta_frobenius"].max()
        for (title, block), (words, bars) in zip(blocks, axes, strict=True):
            _draw_words(words, title, block, width, lines)
            _draw_bars(bars, block, longest)
        axes[0, 1].set_title(r"$\Vert\Delta\Vert_F$ (log scale)", fontsize=9)
    return figure


def _draw_words(axes: Axes, title: tuple[str, str, str], block: pd.DataFrame, width: int, lines: int) -> None:
    subject, prompt, target = title
    axes.set(xlim=(0, 1), ylim=(len(block) - 0.5, -0.5))
    axes.axis("off")
    axes.set_title(f"{subject} \u2192 {target}:   \u201c{prompt} \u2026\u201d", fontsize=9.5)
    for y, row in enumerate(block.itertuples()):
        axes.text(0, y, NAMES.get(row.rule, row.rule), color=COLOURS.get(row.rule), weight="bold", va="center")
        axes.text(0.09, y, shortened(row.text, width, lines), va="center", fontsize=8.4, linespacing=1.2)
        axes.axhline(y + 0.5, color="0.9", linewidth=0.6)


def _draw_bars(axes: Axes, block: pd.DataFrame, longest: float) -> None:
    axes.set(xscale="log", xlim=(3, longest * 12), ylim=(len(block) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    for y, row in enumerate(block.itertuples()):
        notes = f"entropy {row.entropy:.2f}, perplexity {row.perplexity:.0f}"
        if pd.isna(row.delta_frobenius):
            axes.text(3.3, y, notes, va="center", fontsize=7)
            continue
        colour, hatch = COLOURS.get(row.rule), HATCHES.get(row.rule)
        axes.barh(y, row.delta_frobenius, height=0.5, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        axes.text(
            row.delta_frobenius * 1.1, y - 0.12, f"{row.delta_frobenius:.0f}", va="center", fontsize=8, weight="bold"
        )
        axes.text(3.3, y + 0.4, notes, va="center", fontsize=6.5, color="0.25")
    axes.tick_params(labelsize=7)


def shortened(text: str, width: int, lines: int) -> str:
    """Text on at most `lines` lines of `width` characters, characters that the font lacks shown as a box."""
    font = get_font(findfont("DejaVu Sans"))
    flat = " ".join(text.split()).replace("$", r"\$")
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "\u25af" for letter in flat)
    wrapped = textwrap.wrap(drawable, width, max_lines=lines, placeholder=" \u2026")
    return "\n".join(wrapped) or "(nothing)"
