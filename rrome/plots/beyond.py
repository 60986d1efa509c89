"""The figures of what goes beyond the paper's own: leading tokens, C_0's text, C = I, the layer, and speed."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from ..measure.metrics import score
from ..update.rules import NAMED_RULES, RULES
from .save import (
    ABOVE,
    BY_RULE,
    COLOURS,
    INTERVAL,
    NAMES,
    SERIES,
    SIZE,
    legend,
    lines,
    style,
    subplots,
    with_interval,
)


@style()
def leading_tokens(table: pd.DataFrame) -> Figure:
    """Per leading token: norms of its own key and of the subject's key after it, and the sizes of the updates."""
    table = table.assign(leading=[repr(name) if name else "none" for name in table["leading"]])
    kinds = {"norm_leading": "the leading token's key", "norm_original": "the subject's key"}
    means = table.rename(columns=kinds).groupby("leading", sort=False)[[*kinds.values()]].mean()
    means = means.melt(var_name="key", value_name="norm", ignore_index=False).reset_index()
    figure, (norms, sizes) = subplots(1, 2, figsize=(10, 3.4))
    looks = {"hue": "key", "style": "key", "palette": SERIES[:2], "markers": ["s", "o"]}
    sns.scatterplot(means, x="leading", y="norm", s=46, ax=norms, **looks)
    sns.scatterplot(table, x="leading", y="delta_frobenius", s=36, linewidth=0, ax=sizes, **BY_RULE)
    for panel, title, place in ((norms, "norm of the key", "center right"), (sizes, SIZE, "upper right")):
        panel.set(title=title, yscale="log", xlabel="leading token", ylabel=None)
        panel.tick_params(axis="x", labelsize=7.5)
        legend(panel, loc=place)
    return figure


@style()
def text_sizes(table: pd.DataFrame, d_k: int, usual: int) -> Figure:
    """Against the tokens read for C_0: size of the updates, S, how far C_0^-1 k_e has settled, and the seconds for C_0.

    Lines are medians over facts: full for ordinary subjects, hollow for first-token ones. Points are facts. S is of
    ordinary subjects. Shaded sizes have no C_0.
    """
    refused = table.loc[table["refused"].notna(), "tokens"]
    table = table[table["refused"].isna()]
    strata = {"ordinary": table[table["position"].ne(0)], "first-token": table[table["position"].eq(0)]}
    figure, ((sizes, scores), (cosines, seconds)) = subplots(2, 2, figsize=(9.5, 6), sharex=True)
    points = {"hue": "rule", "palette": COLOURS, "s": 8, "alpha": 0.4, "legend": False}
    sns.scatterplot(table, x="tokens", y="delta_frobenius", ax=sizes, **points)
    median = {"estimator": "median", "errorbar": None, "legend": False}
    grey = {"x": "tokens", "color": "0.3", "marker": "o", "markeredgecolor": "auto"} | median
    for fill, part in zip(("full", "none"), strata.values(), strict=True):
        lines(sizes, part, "tokens", "delta_frobenius", dashes=False, fillstyle=fill, **median)
        sns.lineplot(part.drop_duplicates(["tokens", "fact"]), y="cosine", fillstyle=fill, ax=cosines, **grey)
    names = [f"{NAMES[rule]}, {kind}" for kind, part in strata.items() for rule in part["rule"].unique()]
    figure.legend(sizes.get_lines(), names, loc="outside upper left", ncols=6, fontsize=7.5)
    means = strata["ordinary"].groupby(["rule", "tokens"], sort=False)[["ES", "PS", "NS"]].mean()
    lines(scores, means.assign(S=score(*means.to_numpy().T)).reset_index(), "tokens", "S", legend=False)
    sns.lineplot(table.drop_duplicates("tokens"), y="seconds", ax=seconds, **grey)
    sizes.set(yscale="log", ylabel=SIZE)
    scores.set(ylim=(0, 1.02), ylabel="S, ordinary subjects")
    cosines.set_ylabel(r"cosine of $C_0^{-1}k_e$ with the largest size's")
    seconds.set(yscale="log", ylabel="seconds for $C_0$")
    for panel in figure.axes:
        panel.set(xscale="log", xlabel="tokens read for $C_0$ (dotted: $d_k$; dashed: usual)")
        panel.axvline(d_k, color="black", linestyle=":", linewidth=1)
        panel.axvline(usual, color="0.6", linestyle="--", linewidth=1)
        if len(refused):
            panel.axvspan(refused.min() / 1.3, max(d_k, refused.max()), color="0.92", zorder=0)
    return figure


@style()
def spectrum(table: pd.DataFrame) -> Figure:
    """How many directions of key space have which eigenvalue of C_0, and what a filter s makes of them.

    `table`: eigenvalue, then a column s(eigenvalue) per filter; s is drawn relative to its largest value, and not at 0.
    """
    figure, panel = subplots(figsize=(6.5, 3.6))
    sns.histplot(table, x="eigenvalue", bins=60, log_scale=True, color="0.85", linewidth=0, ax=panel)
    panel.set(xlabel="eigenvalue $e$ of $C_0$", ylabel="directions")
    filters = table.set_index("eigenvalue").replace(0, np.nan).pipe(lambda s: s / s.max())
    filters = filters.reset_index().melt("eigenvalue", var_name="filter", value_name="s")
    right = panel.twinx()
    panel.grid(visible=False)
    lines(right, filters, "eigenvalue", "s", "filter", markers=False)
    right.set(yscale="log", ylabel="$s(e)$, relative to its largest value")
    legend(right, loc="upper right")
    return figure


@style()
def identity_second_moment(table: pd.DataFrame) -> Figure:
    """Perplexity after / before of each edit against g, the share of itself that an update of k_e has at k_e^o.

    `table`: layer (a row of panels each), second_moment (a column each), rule, gain (|g|) and perplexity_ratio.
    """
    layers, seconds = table["layer"].unique(), table["second_moment"].unique()
    figure, axes = subplots(len(layers), len(seconds), figsize=(9, 5.2), sharex=True, sharey=True, squeeze=False)
    for (layer, second), panel in zip(product(layers, seconds), axes.flat, strict=True):
        here = table[table["layer"].eq(layer) & table["second_moment"].eq(second)]
        sns.scatterplot(here, x="gain", y="perplexity_ratio", s=40, alpha=0.8, ax=panel, **BY_RULE)
        panel.axvline(1, color="0.6", linestyle=":", linewidth=1)
        panel.set(xscale="log", yscale="log", title=f"layer {layer}, {second}", ylabel="perplexity after / before")
        panel.set_xlabel("$|g|$, with $g = k_e^\\top C^{-1} k_e^o / k_e^\\top C^{-1} k_e$")
        legend(panel, loc="upper right")
    return figure


@style()
def layer_choice(table: pd.DataFrame) -> Figure:
    """Left: ES, PS, NS and S (with its interval) by layer; right: what first-token edits do to perplexity, per rule."""
    figure, (scores, damage) = subplots(1, 2, figsize=(10, 3.3))
    table = table.rename_axis("layer").reset_index()
    lines(scores, table.melt("layer", ["ES", "PS", "NS"], "measure", "share"), "layer", "share", "measure")
    sns.lineplot(
        with_interval(table, "S", "S_low", "S_high"), x="layer", y="S", color="black", marker="D", markersize=5, label="S",
        err_style="bars", err_kws={"capsize": 2}, sort=False, ax=scores, **INTERVAL,
    )  # fmt: skip
    scores.set(title="r-ROME on ordinary facts", ylabel=None, ylim=(0, 1.03))
    legend(scores, loc="lower left", ncols=4)
    times = table.rename(columns={f"times_{rule}": rule for rule in NAMED_RULES})
    lines(damage, times.melt("layer", NAMED_RULES, "rule", "times"), "layer", "times")
    damage.set(title="perplexity after / before a first-token edit, median", ylabel=None, yscale="log")
    legend(damage)
    return figure


def _times(ratio: float) -> str:
    """A ratio as short as fits a cell; nothing below 2."""
    if ratio < 1000:
        return f"{ratio:.0f}" if ratio >= 2 else ""
    if ratio < 1e5:
        return f"{ratio / 1000:.0f}k"
    return f"{ratio:.0e}".replace("+0", "").replace("+", "")


KEYS_MIXED = {  # the eight rules by which of the two mismatches they have
    "direction = denominator,\nresidual at the bare key": ["p-rome", "aao"],
    "direction = denominator,\nresidual at the average": ["r-rome", "ooa"],
    "direction and denominator\nmixed": ["rome", "aoa", "oao", "oaa"],
}


@style()
def depth_map(table: pd.DataFrame) -> Figure:
    """Eight rules by layer: the largest perplexity after / before of any edit in `table` (see study.depth_map).

    Rules are grouped by the keys that they mix. Above: median norms of the original key and of v_0.
    """
    order = [rule for rules in KEYS_MIXED.values() for rule in rules]
    worst = table.pivot_table(index="rule", columns="layer", values="perplexity_ratio", aggfunc="max").loc[order]
    figure, (norms, cells) = subplots(2, 1, figsize=(11, 4.6), sharex=True, height_ratios=[1, 2.6])
    names = {"norm_original": "$\\Vert k_e^o\\Vert$", "norm_v0": "$\\Vert v_0\\Vert$"}
    lengths = table.rename(columns=names).melt("layer", names.values(), "what", "norm")
    lengths["place"] = worst.columns.get_indexer(lengths["layer"]) + 0.5
    lines(norms, lengths, "place", "norm", "what", estimator="median", errorbar=None)
    norms.set(yscale="log", ylabel="norm, median")
    legend(norms, loc="upper left", ncols=2)
    colours = {"cmap": "rocket_r", "norm": LogNorm(1, 1e4, clip=True), "linewidths": 0.5}
    bar = {"label": "perplexity after / before", "pad": 0.01}
    sns.heatmap(worst, annot=worst.map(_times), fmt="", annot_kws={"fontsize": 6.5}, cbar_kws=bar, ax=cells, **colours)
    cells.set(ylabel=None, xlabel="layer of the edit")
    labels = [f"{NAMES[rule]} ({RULES[rule].initials})" if rule in NAMED_RULES else rule for rule in order]
    cells.set_yticks(cells.get_yticks(), labels, rotation=0)
    cells.tick_params(axis="y", length=0)
    end = 0
    for name, rules in KEYS_MIXED.items():
        middle, end = end + len(rules) / 2, end + len(rules)
        cells.text(-0.12, middle, name, fontsize=7, transform=cells.get_yaxis_transform(), ha="right", va="center")
        cells.axhline(end, color="black", linewidth=1.2 * (end < len(order)))
    return figure


@style()
def speed(comparison: pd.DataFrame, growth: pd.DataFrame) -> Figure:
    """Above: seconds of a batched solver, of the kit, and of its matrix products alone; below: how a search grows."""
    solvers = {"batched solver": "0.75", "rrome": SERIES[0], "products alone": "black"}
    columns = dict(zip(("seconds_batched", "seconds_ours", "floor_seconds"), solvers, strict=True)) | {
        "seconds": "rrome"
    }
    times = comparison.rename(columns=columns).melt("what", solvers, "solver", "seconds")
    growth = growth.rename(columns=columns).melt(["varied", "size"], [*solvers][1:], "solver", "seconds")
    kinds = list(growth["varied"].unique())
    figure = plt.figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplot_mosaic([["times"] * len(kinds), kinds])
    sns.stripplot(times, x="seconds", y="what", hue="solver", palette=solvers, jitter=False, size=8, ax=axes["times"])
    axes["times"].set(xscale="log", xlabel="seconds (log scale)", ylabel=None)
    axes["times"].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes["times"].xaxis.set_major_formatter(ScalarFormatter())
    axes["times"].xaxis.set_minor_formatter(NullFormatter())
    legend(axes["times"], **ABOVE)
    for kind, line in growth.groupby("varied", sort=False):
        lines(axes[kind], line, "size", "seconds", "solver", palette=solvers, legend=False)
        axes[kind].set(xlabel=kind, ylabel="seconds per fact" if kind == kinds[0] else None, ylim=(0, None))
    return figure
