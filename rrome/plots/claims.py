"""The figure of the scorecard: every statement's number against its threshold."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .save import SERIES, legend, style

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
    panels = {
        unit: table[table["unit"].eq(unit)].reset_index(drop=True) for unit in SCALES if unit in set(table["unit"])
    }
    rows = [len(here) for here in panels.values()]
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(11, 0.8 + 0.35 * len(rows) + 0.36 * sum(rows)), height_ratios=rows,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for (unit, here), panel in zip(panels.items(), axes.flat, strict=True):
        _statements(panel, here, *SCALES[unit])
    for name, colour in OUTCOMES.items():
        axes[0, 0].scatter([], [], s=45, color=colour, marker=MARKS[name], label=name)
    legend(axes[0, 0], loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return figure


def _statements(panel: Axes, here: pd.DataFrame, unit: str, scale: str) -> None:
    ends = ["value", "low", "high"]
    here = here.assign(**here[ends].clip(upper=FARTHEST), y=range(len(here)))
    numbers = here[[*ends, "threshold"]].to_numpy()
    low, high = np.nanmin(numbers), np.nanmax(numbers)  # a threshold is always there
    margin = 0.05 * (high - low) or 1
    limits = (low / 2, high * 2) if scale == "log" else (low - margin, high + margin)
    panel.set(xscale=scale, xlim=limits, ylim=(len(here) - 0.5, -0.5))
    for row in here.itertuples():
        side = limits[row.side == "above"]
        panel.fill_betweenx((row.y - 0.42, row.y + 0.42), row.threshold, side, color="0.93", linewidth=0)
        panel.vlines(row.threshold, row.y - 0.42, row.y + 0.42, color="black", linewidth=1)
        panel.hlines(row.y, row.low, row.high, color=OUTCOMES[row.outcome], linewidth=2)
    looks = {
        "hue": "outcome",
        "style": "outcome",
        "hue_order": OUTCOMES,
        "style_order": MARKS,
        "s": 45,
        "zorder": 3,
        "legend": False,
    }
    sns.scatterplot(here, x="value", y="y", palette=OUTCOMES, markers=MARKS, ax=panel, **looks)
    names = [textwrap.fill(f"{row.id}: {row.statement}", 78) for row in here.itertuples()]
    panel.set_yticks(here["y"], names, fontsize=6.5)
    for name, role in zip(panel.get_yticklabels(), here["role"], strict=True):
        name.set_weight("bold" if role == "core" else "normal")
    panel.set(ylabel=None)
    panel.set_xlabel(unit, fontsize=8)
    panel.tick_params(axis="x", labelsize=7.5)
