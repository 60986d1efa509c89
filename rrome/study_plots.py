"""The figures of the single-edit study."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from .metrics import score
from .plots import COLOURS, DASHES, MARKERS, NAMES, style
from .rules import NAMED_RULES, RULES
from .summaries import harmonic_score, interval

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


def sink_survey(survey: pd.DataFrame, named: Sequence[str]) -> Figure:
    """Each token of the survey: its own key's norm at position 0 against the norm of a subject's key right behind it."""
    with style():
        figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
        axes.scatter(survey["norm_leading"], survey["norm_behind"], s=12, alpha=0.5, color="#0072B2")
        for row in survey[survey["token"].isin(named)].itertuples():
            axes.scatter(row.norm_leading, row.norm_behind, s=46, color="#D55E00", edgecolors="black", linewidths=0.7)
            offset = {"xytext": (5, 4), "textcoords": "offset points"}
            axes.annotate(repr(row.token), (row.norm_leading, row.norm_behind), fontsize=7.5, **offset)
        axes.set(xscale="log", yscale="log", xlabel="norm of the token's key at position 0")
        axes.set_ylabel("norm of the subject's key at position 1")
    return figure


def leading_tokens(table: pd.DataFrame) -> Figure:
    """Per leading token: norms of its own key and of the subject's key behind it, and ROME's update sizes."""
    order = list(dict.fromkeys(table["leading"]))
    with style():
        figure, (norms, sizes) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
        for column, marker, label in (
            ("norm_leading", "s", "the leading token's key"),
            ("norm_original", "o", "the subject's key"),
        ):
            mean = table.groupby("leading", sort=False)[column].mean()
            norms.plot([order.index(name) for name in mean.index], mean, marker, label=label)
        for rule in NAMED_RULES:
            here = table[table["rule"].eq(rule)]
            places = [order.index(name) for name in here["leading"]]
            sizes.scatter(
                places, here["delta_frobenius"], marker=MARKERS[rule], color=COLOURS[rule], label=NAMES[rule], s=26
            )
        for panel, title in ((norms, "norm of the key"), (sizes, r"$\Vert\Delta\Vert_F$")):
            panel.set(title=title, yscale="log", xticks=range(len(order)))
            panel.set_xticklabels(
                [repr(name) if name else "none" for name in order], rotation=30, ha="right", fontsize=7.5
            )
            panel.legend(fontsize=7)
    return figure


def text_sizes(table: pd.DataFrame, d_k: int, usual: int) -> Figure:
    """Against the tokens behind C_0: size of the updates, S, how far C_0^-1 k_e has settled, and the seconds for C_0.

    Medians over facts, of ordinary subjects full and of first-token ones hollow, with every fact as a point; S of ordinary
    ones alone. Shaded are sizes without a C_0. `usual` is marked.
    """
    refused = table.loc[table["refused"].notna(), "tokens"]
    table = table[table["refused"].isna()]
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(9.5, 6), sharex=True, layout="constrained")
        for is_first, fill in ((False, "full"), (True, "none")):
            part = table[table["position"].eq(0) == is_first]
            for rule, here in part.groupby("rule", sort=False):
                marks = {"color": COLOURS[rule], "marker": MARKERS[rule], "fillstyle": fill, "linestyle": DASHES[rule]}
                by_size, label = here.groupby("tokens"), f"{NAMES[rule]}, {'first-token' if is_first else 'ordinary'}"
                axes[0, 0].plot(by_size["delta_frobenius"].median(), label=label, markersize=5, **marks)
                axes[0, 0].plot(
                    here["tokens"], here["delta_frobenius"], ".", color=COLOURS[rule], alpha=0.3, markersize=3
                )
                means = by_size[["ES", "PS", "NS"]].mean()
                if not is_first:
                    axes[0, 1].plot(means.index, score(means["ES"], means["PS"], means["NS"]), markersize=5, **marks)
            once = part.drop_duplicates(["tokens", "fact"])
            grey = {"color": "0.3", "marker": "o", "fillstyle": fill, "markersize": 5}
            axes[1, 0].plot(once.groupby("tokens")["cosine"].median(), **grey)
        axes[1, 1].plot(table.groupby("tokens")["seconds"].first(), color="0.3", marker="o", markersize=5)
        axes[0, 0].set(yscale="log", ylabel=r"$\Vert\Delta\Vert_F$")
        axes[0, 1].set(ylim=(0, 1.02), ylabel="S, ordinary subjects")
        axes[1, 0].set_ylabel(r"cosine of $C_0^{-1}k_e$ with the largest size's")
        axes[1, 1].set(yscale="log", ylabel="seconds for $C_0$")
        for panel in axes.flat:
            panel.set_xscale("log")
            panel.axvline(d_k, color="black", linestyle=":", linewidth=1)
            panel.axvline(usual, color="0.6", linestyle="--", linewidth=1)
            if len(refused):
                panel.axvspan(refused.min() / 1.3, max(d_k, refused.max()), color="0.92", zorder=0)
        for panel in axes[1]:
            panel.set_xlabel("tokens behind $C_0$ (dotted: $d_k$; dashed: usual)")
        axes[0, 0].legend(fontsize=6.5)
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
