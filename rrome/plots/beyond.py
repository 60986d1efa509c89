"""The figures: tidy frames in, matplotlib figures out, and one way to save them with their data and provenance."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..measure.metrics import score
from ..update.rules import NAMED_RULES
from .save import COLOURS, DASHES, MARKERS, NAMES, style


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


def toy_memory(table: pd.DataFrame) -> Figure:
    """Denominator, size and damage of an update against the angle between the two keys, one line per rule."""
    panels = {"denominator": "denominator", "size": r"size $\Vert\Delta\Vert_F$", "damage": "damage to stored values"}
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
        for column, panel in zip(panels, axes, strict=True):
            for rule, line in table.groupby("rule", sort=False):
                panel.plot(line["degrees"], line[column], DASHES[rule], color=COLOURS[rule], label=NAMES[rule])
            panel.set(title=panels[column], xlabel="angle between the keys (degrees)", xticks=range(0, 181, 45))
            if column != "denominator":
                panel.set_yscale("log")
        axes[0].axhline(0, color="black", linewidth=0.8)
        axes[0].legend()
    return figure


def layer_choice(table: pd.DataFrame) -> Figure:
    """Left: ES, PS, NS and S (with its interval) by layer; right: perplexity after the example edit, per rule."""
    with style():
        figure, (scores, damage) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
        for name, marker, dash in (("ES", "o", "-"), ("PS", "^", "--"), ("NS", "s", "-.")):
            scores.plot(table.index, table[name], dash, marker=marker, label=name, markersize=4)
        errors = [table["S"] - table["S_low"], table["S_high"] - table["S"]]
        scores.errorbar(table.index, table["S"], errors, color="black", marker="D", markersize=4, capsize=2, label="S")
        scores.set(title="r-ROME on ordinary facts", xlabel="layer", ylim=(0, 1.03))
        scores.legend(loc="lower left", ncols=4, fontsize=7)
        for rule in NAMED_RULES:
            heights = table[f"perplexity_{rule}"]
            damage.plot(
                table.index, heights, DASHES[rule], marker=MARKERS[rule], color=COLOURS[rule], label=NAMES[rule]
            )
        damage.set(title="perplexity after Italy \u2192 Antarctica / before", xlabel="layer", yscale="log")
        damage.legend(fontsize=7)
    return figure


def tracing(effects: pd.DataFrame, chosen: int | None = None) -> Figure:
    """The average indirect effect by layer with its interval, one line per kind of state; `chosen` marks a layer."""
    looks = {
        "hidden": ("#0072B2", "-", "o", "what the block returns"),
        "mlp": ("#D55E00", "--", "s", "what the MLP adds"),
    }
    with style():
        figure, panel = plt.subplots(figsize=(6.5, 3.3), layout="constrained")
        for kind, here in effects.groupby("kind", sort=False):
            colour, dash, marker, label = looks[str(kind)]
            panel.plot(here["layer"], here["effect"], dash, color=colour, marker=marker, markersize=3.5, label=label)
            panel.fill_between(here["layer"], here["low"], here["high"], color=colour, alpha=0.15, linewidth=0)
        panel.axhline(effects["total"].iloc[0], color="0.4", linewidth=0.8, linestyle=":", label="total effect")
        if chosen is not None:
            panel.axvline(chosen, color="0.75", linewidth=5, zorder=0, label="layer edited")
        panel.set(xlabel="layer", ylabel="average indirect effect")
        panel.legend(fontsize=7)
    return figure


def speed(comparison: pd.DataFrame, growth: pd.DataFrame) -> Figure:
    """Above: seconds of the naive solver, of the kit, and of its matrix products alone; below: how a search grows."""
    bars = {"seconds_naive": ("naive", "#7F7F7F", "////"), "seconds_ours": ("rrome", "#0072B2", "")}
    kinds = list(growth["varied"].unique())
    with style():
        figure = plt.figure(figsize=(10, 5.2), layout="constrained")
        axes = figure.subplot_mosaic([["bars"] * len(kinds), kinds])
        places = range(len(comparison))
        for shift, (column, (label, colour, hatch)) in zip((-0.2, 0.2), bars.items(), strict=True):
            heights = [place + shift for place in places]
            axes["bars"].barh(
                heights, comparison[column], 0.38, color=colour, hatch=hatch, edgecolor="white", label=label
            )
        ends = [place + 0.42 for place in places]
        axes["bars"].vlines(
            comparison["floor_seconds"],
            [end - 0.44 for end in ends],
            ends,
            "black",
            label="products of the search alone",
        )
        axes["bars"].set(xscale="log", xlabel="seconds", yticks=places, yticklabels=comparison["what"])
        axes["bars"].invert_yaxis()
        axes["bars"].legend(loc="upper right")
        for kind, line in growth.groupby("varied", sort=False):
            axes[kind].plot(line["size"], line["seconds"], "o-", color="#0072B2", markersize=4)
            axes[kind].plot(line["size"], line["floor_seconds"], "k:")
            axes[kind].set(xlabel=kind, ylim=(0, None))
        axes[kinds[0]].set_ylabel("seconds per fact")
    return figure
