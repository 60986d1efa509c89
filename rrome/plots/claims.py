"""The figure of the scorecard: every statement's number against its threshold."""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .save import SERIES, legend, style, subplots

OUTCOMES = {"true": SERIES[0], "false": SERIES[2], "open": "0.6"}
MARKS = {"true": "o", "false": "X", "open": "d"}
SCALES = {
    "%": ("per cent", "linear"),
    "times": ("times", "log"),
    "area": ("area under the ROC curve", "linear"),
    "points": ("points", "linear"),
    "relative error": ("relative error", "log"),
}
FARTHEST = 1e6  # a ratio above is drawn there


@style()
def verdicts(table: pd.DataFrame) -> Figure:
    """Each core (bold) and supporting statement of a scorecard: number and 95 % interval, one panel per unit.

    The claim's side of each threshold is shaded. A statement about which nothing was measured has no point.
    """
    table = table[table["role"].isin(["core", "supporting"])]
    rows = table["unit"].value_counts().reindex(SCALES).dropna()
    size = (11, 0.8 + 0.35 * len(rows) + 0.36 * rows.sum())
    figure, axes = subplots(len(rows), 1, figsize=size, height_ratios=rows, squeeze=False)
    for unit, panel in zip(rows.index, axes.flat, strict=True):
        _statements(panel, table[table["unit"].eq(unit)], *SCALES[unit])
    for name, colour in OUTCOMES.items():
        axes[0, 0].scatter([], [], s=45, color=colour, marker=MARKS[name], label=name)
    legend(axes[0, 0], loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return figure


def _statements(panel: Axes, here: pd.DataFrame, unit: str, scale: str) -> None:
    ends = ["value", "low", "high"]
    here = here.assign(**here[ends].clip(upper=FARTHEST), y=range(len(here)))
    numbers = here[[*ends, "threshold"]].stack()
    margin = 0.05 * (numbers.max() - numbers.min()) or 1
    limits = (numbers.min() - margin, numbers.max() + margin)
    if scale == "log":
        limits = (numbers.min() / 2, numbers.max() * 2)
    panel.set(xscale=scale, xlim=limits, ylim=(len(here) - 0.5, -0.5))
    side = np.where(here["side"].eq("above"), limits[1], limits[0]) - here["threshold"]
    panel.barh(here["y"], side, 0.84, here["threshold"], color="0.93", linewidth=0)
    panel.vlines(here["threshold"], here["y"] - 0.42, here["y"] + 0.42, color="black", linewidth=1)
    panel.hlines(here["y"], here["low"], here["high"], color=here["outcome"].map(OUTCOMES), linewidth=2)
    looks = {"palette": OUTCOMES, "markers": MARKS, "s": 45, "zorder": 3, "legend": False}
    sns.scatterplot(here, x="value", y="y", hue="outcome", style="outcome", ax=panel, **looks)
    panel.set_ylabel(None)
    names = (here["id"] + ": " + here["statement"]).map(lambda name: textwrap.fill(name, 78))
    panel.set_yticks(here["y"], names, fontsize=6.5)
    for name, role in zip(panel.get_yticklabels(), here["role"], strict=True):
        name.set_weight("bold" if role == "core" else "normal")
    panel.set_xlabel(unit, fontsize=8)
    panel.tick_params(axis="x", labelsize=7.5)
