"""The figures of what goes beyond the paper's own: the toy memory, sinks, C_0's text, the layer, and speed."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..measure.metrics import score
from ..update.rules import NAMED_RULES, RULES
from .save import BY_RULE, COLOURS, INTERVAL, LINES, MARKERS, NAMES, SERIES, legend, legend_above, style, with_interval


@style()
def toy_memory(table: pd.DataFrame) -> Figure:
    """Denominator, size and damage of an update against the angle between the two keys, one line per rule."""
    panels = {"denominator": "denominator", "size": r"size $\Vert\Delta\Vert_F$", "damage": "damage to stored values"}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    for (column, title), panel in zip(panels.items(), axes, strict=True):
        looks = LINES | {"markers": False, "legend": column == "denominator"}
        sns.lineplot(table, x="degrees", y=column, estimator=None, ax=panel, **looks)
        panel.set(title=title, xlabel="angle between the keys (degrees)", ylabel=None, xticks=range(0, 181, 45))
        panel.set_yscale("linear" if column == "denominator" else "log")
    axes[0].axhline(0, color="black", linewidth=0.8)
    legend(axes[0], fontsize=9)
    return figure


@style()
def sink_survey(survey: pd.DataFrame, named: Sequence[str]) -> Figure:
    """Each token of the survey: its own key's norm at position 0 against the norm of a subject's key right after it."""
    figure, panel = plt.subplots(figsize=(6, 3.8), layout="constrained")
    axes = {"x": "norm_leading", "y": "norm_after", "ax": panel}
    sns.scatterplot(survey, s=14, alpha=0.5, color=SERIES[0], **axes)
    few = survey[survey["token"].isin(named) & survey["norm_leading"].notna()]
    few = few.assign(token=[repr(token) for token in few["token"]])
    sns.scatterplot(few, style="token", s=60, color="white", edgecolor="black", linewidth=0.7, **axes)
    panel.set(xscale="log", yscale="log", xlabel="norm of the token's key at position 0")
    panel.set_ylabel("norm of the subject's key at position 1")
    panel.legend(fontsize=7.5)
    return figure


@style()
def leading_tokens(table: pd.DataFrame) -> Figure:
    """Per leading token: norms of its own key and of the subject's key after it, and the sizes of the updates."""
    table = table.assign(leading=[repr(name) if name else "none" for name in table["leading"]])
    kinds = {"norm_leading": "the leading token's key", "norm_original": "the subject's key"}
    means = table.groupby("leading", sort=False)[[*kinds]].mean().rename(columns=kinds)
    means = means.melt(var_name="key", value_name="norm", ignore_index=False).reset_index()
    figure, (norms, sizes) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    looks = {"hue": "key", "style": "key", "palette": SERIES[:2], "markers": ["s", "o"]}
    sns.scatterplot(means, x="leading", y="norm", s=46, ax=norms, **looks)
    sns.scatterplot(table, x="leading", y="delta_frobenius", s=36, linewidth=0, ax=sizes, **BY_RULE)
    for panel, title in ((norms, "norm of the key"), (sizes, r"$\Vert\Delta\Vert_F$")):
        panel.set(title=title, yscale="log", xlabel="leading token", ylabel=None)
        panel.tick_params(axis="x", labelsize=7.5)
        legend(panel, loc="center right" if panel is norms else "upper right")
    return figure


@style()
def text_sizes(table: pd.DataFrame, d_k: int, usual: int) -> Figure:
    """Against the tokens read for C_0: size of the updates, S, how far C_0^-1 k_e has settled, and the seconds for C_0.

    Lines are medians over facts: full for ordinary subjects, hollow for first-token ones. Points are facts. S is of
    ordinary subjects. Shaded sizes have no C_0.
    """
    refused = table.loc[table["refused"].notna(), "tokens"]
    table = table[table["refused"].isna()]
    ordinary = table[table["position"].ne(0)]
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6), sharex=True, layout="constrained")
    medians = {"x": "tokens", "estimator": "median", "errorbar": None, "markeredgecolor": "auto", "legend": False}
    sizes = {"y": "delta_frobenius", "ax": axes[0, 0]}
    sns.scatterplot(table, x="tokens", hue="rule", palette=COLOURS, s=8, alpha=0.4, legend=False, **sizes)
    for kind, fill, part in (("ordinary", "full", ordinary), ("first-token", "none", table[table["position"].eq(0)])):
        for rule, here in part.groupby("rule", sort=False):
            looks = {"color": COLOURS[rule], "marker": MARKERS[rule], "label": f"{NAMES[rule]}, {kind}"}
            sns.lineplot(here, fillstyle=fill, **sizes, **looks, **medians)
        once = part.drop_duplicates(["tokens", "fact"])
        sns.lineplot(once, y="cosine", color="0.3", marker="o", fillstyle=fill, ax=axes[1, 0], **medians)
    means = ordinary.groupby(["rule", "tokens"], sort=False)[["ES", "PS", "NS"]].mean()
    means["S"] = score(*means.to_numpy().T)
    sns.lineplot(means.reset_index(), x="tokens", y="S", estimator=None, legend=False, ax=axes[0, 1], **LINES)
    sns.lineplot(table.drop_duplicates("tokens"), y="seconds", color="0.3", marker="o", ax=axes[1, 1], **medians)
    axes[0, 0].set(yscale="log", ylabel=r"$\Vert\Delta\Vert_F$")
    axes[0, 1].set(ylim=(0, 1.02), ylabel="S, ordinary subjects")
    axes[1, 0].set_ylabel(r"cosine of $C_0^{-1}k_e$ with the largest size's")
    axes[1, 1].set(yscale="log", ylabel="seconds for $C_0$")
    for panel in axes.flat:
        panel.set(xscale="log", xlabel="tokens read for $C_0$ (dotted: $d_k$; dashed: usual)")
        panel.axvline(d_k, color="black", linestyle=":", linewidth=1)
        panel.axvline(usual, color="0.6", linestyle="--", linewidth=1)
        if len(refused):
            panel.axvspan(refused.min() / 1.3, max(d_k, refused.max()), color="0.92", zorder=0)
    figure.legend(loc="outside upper left", ncols=6, fontsize=7.5)
    return figure


@style()
def spectrum(table: pd.DataFrame) -> Figure:
    """How many directions of key space have which eigenvalue of C_0, and what a filter s makes of them.

    `table`: eigenvalue, then a column s(eigenvalue) per filter; s is drawn relative to its largest value, and not at 0.
    """
    figure, panel = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    sns.histplot(table, x="eigenvalue", bins=60, log_scale=True, color="0.85", linewidth=0, ax=panel)
    panel.set(xlabel="eigenvalue $e$ of $C_0$", ylabel="directions")
    filters = (table.set_index("eigenvalue") / table.drop(columns="eigenvalue").to_numpy().max(0)).replace(0, np.nan)
    lines = filters.reset_index().melt("eigenvalue", var_name="filter", value_name="s")
    right = panel.twinx()
    sns.lineplot(
        lines, x="eigenvalue", y="s", hue="filter", style="filter", palette=SERIES[: filters.shape[1]], ax=right
    )
    right.set(yscale="log", ylabel="$s(e)$, relative to its largest value")
    legend(right, loc="upper right")
    return figure


@style()
def layer_choice(table: pd.DataFrame) -> Figure:
    """Left: ES, PS, NS and S (with its interval) by layer; right: what first-token edits do to perplexity, per rule."""
    figure, (scores, damage) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
    table = table.rename_axis("layer").reset_index()
    shares = table.melt("layer", ["ES", "PS", "NS"], "measure", "share")
    looks = {"hue": "measure", "style": "measure", "palette": SERIES[:3], "markers": True, "markeredgecolor": "auto"}
    sns.lineplot(shares, x="layer", y="share", estimator=None, markersize=5, ax=scores, **looks)
    sns.lineplot(
        with_interval(table, "S", "S_low", "S_high"), x="layer", y="S", color="black", marker="D", markersize=5, label="S",
        err_style="bars", err_kws={"capsize": 2}, sort=False, ax=scores, **INTERVAL,
    )  # fmt: skip
    scores.set(title="r-ROME on ordinary facts", ylabel=None, ylim=(0, 1.03))
    legend(scores, loc="lower left", ncols=4)
    times = table.rename(columns={f"times_{rule}": rule for rule in NAMED_RULES})
    times = times.melt("layer", NAMED_RULES, "rule", "times")
    sns.lineplot(times, x="layer", y="times", estimator=None, ax=damage, **LINES)
    damage.set(title="perplexity after / before a first-token edit, median", ylabel=None, yscale="log")
    legend(damage)
    return figure


def _times(ratio: float) -> str:
    """A ratio as short as fits a cell; nothing below 2."""
    if ratio < 2:
        return ""
    if ratio < 1000:
        return f"{ratio:.0f}"
    if ratio < 1e5:
        return f"{ratio / 1000:.0f}k"
    return f"{ratio:.0e}".replace("+0", "").replace("+", "")


@style()
def depth_map(table: pd.DataFrame) -> Figure:
    """Eight rules by layer: the largest perplexity after / before of any edit in `table` (see study.depth_map).

    Rules are grouped by the keys that they mix. Above: median norms of the original key and of v_0.
    """
    groups = {
        "direction = denominator,\nresidual at the bare key": ["p-rome", "aao"],
        "direction = denominator,\nresidual at the average": ["r-rome", "ooa"],
        "direction and denominator\nmixed": ["rome", "aoa", "oao", "oaa"],
    }
    order = [rule for rules in groups.values() for rule in rules]
    worst = table.pivot_table(index="rule", columns="layer", values="perplexity_ratio", aggfunc="max").loc[order]
    figure, (norms, cells) = plt.subplots(
        2, 1, figsize=(11, 4.6), sharex=True, layout="constrained", height_ratios=[1, 2.6]
    )
    names = {"norm_original": "$\\Vert k_e^o\\Vert$", "norm_v0": "$\\Vert v_0\\Vert$"}
    places = {layer: place + 0.5 for place, layer in enumerate(worst)}
    lengths = table.rename(columns=names).melt("layer", names.values(), "what", "norm")
    lengths = lengths.assign(place=lengths["layer"].map(places))
    looks = {"hue": "what", "style": "what", "palette": SERIES[:2], "markers": True, "markeredgecolor": "auto"}
    sns.lineplot(lengths, x="place", y="norm", estimator="median", errorbar=None, markersize=5, ax=norms, **looks)
    norms.set(yscale="log", ylabel="norm, median")
    legend(norms, loc="upper left", ncols=2)
    shown = worst.map(_times)
    colours = {"cmap": "rocket_r", "norm": LogNorm(1, 1e4, clip=True), "linewidths": 0.5}
    bar = {"label": "perplexity after / before", "pad": 0.01}
    sns.heatmap(worst, annot=shown, fmt="", annot_kws={"fontsize": 6.5}, cbar_kws=bar, ax=cells, **colours)
    cells.set(ylabel=None, xlabel="layer of the edit")
    labels = {rule: f"{NAMES[rule]} ({RULES[rule].initials})" for rule in NAMED_RULES}
    cells.set_yticks(cells.get_yticks(), [labels.get(rule, rule) for rule in order])
    cells.tick_params(axis="y", labelrotation=0, length=0)
    ends = np.cumsum([len(rules) for rules in groups.values()])
    cells.hlines(ends[:-1], *cells.get_xlim(), color="black", linewidth=1.2)
    for name, end, rules in zip(groups, ends, groups.values(), strict=True):
        where = {"transform": cells.get_yaxis_transform(), "ha": "right", "va": "center"}
        cells.text(-0.12, end - len(rules) / 2, name, fontsize=7, **where)
    return figure


@style()
def tracing(effects: pd.DataFrame, chosen: int | None = None) -> Figure:
    """The average indirect effect by layer with its interval, one line per kind of state; `chosen` marks a layer."""
    named = effects.assign(kind=effects["kind"].map({"hidden": "what the block returns", "mlp": "what the MLP adds"}))
    figure, panel = plt.subplots(figsize=(6.5, 3.3), layout="constrained")
    sns.lineplot(
        with_interval(named, "effect"), x="layer", y="effect", hue="kind", style="kind", palette=SERIES[:2], markers=True,
        markersize=5, err_kws={"alpha": 0.15, "linewidth": 0}, sort=False, ax=panel, **INTERVAL,
    )  # fmt: skip
    panel.axhline(effects["total"].iloc[0], color="0.4", linewidth=0.8, linestyle=":", label="total effect")
    if chosen is not None:
        panel.axvline(chosen, color="0.75", linewidth=5, zorder=0, label="layer edited")
    panel.set_ylabel("average indirect effect")
    legend_above(panel)
    return figure


@style()
def speed(comparison: pd.DataFrame, growth: pd.DataFrame) -> Figure:
    """Above: seconds of a batched solver, of the kit, and of its matrix products alone; below: how a search grows."""
    kinds = list(growth["varied"].unique())
    columns = {"seconds_batched": "batched solver", "seconds_ours": "rrome", "seconds": "rrome"}
    columns["floor_seconds"] = "products alone"
    solvers = ["batched solver", "rrome", "products alone"]
    looks = {"hue": "solver", "palette": dict(zip(solvers, ("0.75", SERIES[0], "black"), strict=True))}
    times = comparison.rename(columns=columns).melt("what", solvers, "solver", "seconds")
    growth = growth.rename(columns=columns).melt(["varied", "size"], solvers[1:], "solver", "seconds")
    figure = plt.figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplot_mosaic([["times"] * len(kinds), kinds])
    sns.stripplot(times, x="seconds", y="what", jitter=False, size=8, ax=axes["times"], **looks)
    axes["times"].set(xscale="log", xlabel="seconds (log scale)", ylabel=None)
    legend_above(axes["times"])
    looks |= {"style": "solver", "markers": True, "markeredgecolor": "auto", "legend": False}
    for kind, line in growth.groupby("varied", sort=False):
        sns.lineplot(line, x="size", y="seconds", estimator=None, ax=axes[kind], **looks)
        axes[kind].set(xlabel=kind, ylabel="seconds per fact" if kind == kinds[0] else None, ylim=(0, None))
    return figure
