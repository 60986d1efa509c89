"""The figures of later methods, and of ROME and r-ROME with C = I."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .save import COLOURS, INTERVAL, MARKERS, legend, style
from .single import STRATA as SUBJECTS
from .single import intervals

STRATA = {name.removesuffix(" subjects"): colour for name, colour in SUBJECTS.items()}


@style()
def what_came_after(table: pd.DataFrame) -> Figure:
    """One line per method: points are facts, or a mean with its interval for ES, PS and NS, by kind of subject.

    `table`: method, stratum ("ordinary" or "first-token"), share_written, ES, ES_prefixed, PS, NS, preservation, perplexity.
    """
    means = {"ES": "ES", "ES_prefixed": "ES, prefixed", "PS": "PS", "NS": "NS"}
    points = {"share_written": "share written", **means, "preservation": "RMS change", "perplexity": "perplexity"}
    methods = list(table["method"].unique())
    size = (13, 0.27 * len(methods) + 1.2)
    figure, axes = plt.subplots(1, len(points), figsize=size, sharey=True, layout="constrained")
    looks: dict[str, Any] = {"y": "method", "order": methods, "hue": "stratum", "palette": STRATA, "legend": False}
    looks["hue_order"] = list(STRATA)
    for (column, title), panel in zip(points.items(), axes, strict=True):
        if column in means:
            found = intervals(table.dropna(subset=column), ["method", "stratum"], [column], np.mean)
            bars = {"dodge": 0.4, "markersize": 4, "linestyle": "none", "err_kws": {"linewidth": 1.2}}
            sns.pointplot(found, x="value", ax=panel, markers=["o", "D"], **bars, **looks, **INTERVAL)
            panel.set_xlim(-0.04, 1.04)
        else:
            sns.stripplot(table, x=column, ax=panel, dodge=True, jitter=False, size=3.5, alpha=0.6, **looks)
            panel.set_xscale("linear" if column == "share_written" else "log")
        panel.set(title=title, xlabel=None, ylabel=None)
    axes[-1].axvline(table.loc[table["method"].eq("unedited"), "perplexity"].median(), color="0.5", linewidth=0.8)
    handles = [plt.Line2D([], [], color=colour, marker="o", linestyle="none") for colour in STRATA.values()]
    figure.legend(handles, [f"{name} subjects" for name in STRATA], loc="outside upper right", ncols=2)
    return figure


@style()
def identity_second_moment(table: pd.DataFrame) -> Figure:
    """Perplexity after / before of each edit against g, the share of itself that an update of k_e has at k_e^o.

    `table`: second_moment (a panel each), rule, gain (|g|), perplexity_ratio, and layer, written at the points.
    """
    panels = list(table.groupby("second_moment", sort=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
    looks = {"hue": "rule", "style": "rule", "palette": COLOURS, "markers": MARKERS}
    for (name, here), panel in zip(panels, np.atleast_1d(axes), strict=True):
        sns.scatterplot(here, x="gain", y="perplexity_ratio", s=40, alpha=0.8, ax=panel, **looks)
        for layer, points in here.groupby("layer"):
            place = points["gain"].median(), points["perplexity_ratio"].max() * 1.6
            panel.annotate(f"layer {layer}", place, ha="center", fontsize=7.5)
        panel.axvline(1, color="0.6", linestyle=":", linewidth=1)
        panel.set(xscale="log", yscale="log", title=name, ylabel="perplexity after / before")
        panel.set_xlabel("$|g|$, with $g = k_e^\\top C^{-1} k_e^o / k_e^\\top C^{-1} k_e$")
        legend(panel, loc="upper right")
    return figure
