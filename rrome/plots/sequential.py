"""The figures of the sequential study: collapse curves, and how many edits runs survive."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .save import COLOURS, INTERVAL, LINES, NAMES, SERIES, legend, style, with_interval


@style()
def collapse_curves(
    curves: Mapping[str, pd.DataFrame],
    rules: Sequence[str],
    floors: Mapping[str, float],
    disabling: Mapping[str, pd.DataFrame],
) -> Figure:
    """Figures 3 and 4: a column per rule; from above: task scores with floors, perplexity, cumulative |Delta|, its log.

    `curves` (see study.curve) of all rules set common limits, so that figures of different rules compare; rules that
    have no column are drawn grey. The edits in `disabling` are marked by a vertical line with their subject.
    """
    every = pd.concat([curve.assign(rule=rule) for rule, curve in curves.items()])
    grey = dict.fromkeys((rule for rule in curves if rule not in rules), "0.7")
    figure, axes = plt.subplots(
        4, len(rules), figsize=(1.2 + 4.2 * len(rules), 8.6), sharex=True, sharey="row", layout="constrained",
        squeeze=False, height_ratios=[1.4, 1, 1, 1],
    )  # fmt: skip
    for rule, (tasks, *others) in zip(rules, axes.T, strict=True):
        _tasks(tasks, curves[rule], floors)
        tasks.set_title(NAMES[rule])
        palette = grey | {rule: COLOURS[rule]}
        looks: dict[str, Any] = {"hue": "rule", "size": "rule", "palette": palette}
        looks["sizes"] = {each: 1 + (each == rule) for each in palette}
        for panel, name in zip(others, ("perplexity", "delta", "delta"), strict=True):
            shown = every[every["rule"].isin(palette) & (every[name].gt(0) | (panel is not others[-1]))]
            looks |= {"hue_order": [*palette], "legend": bool(grey) and panel is axes[1, 0]}
            sns.lineplot(shown, x="edits", y=name, estimator=None, ax=panel, **looks)
            for number in disabling[rule]["edit"]:
                panel.axvline(number, color="0.75", linewidth=0.8, zorder=0)
        _subjects(others[1], disabling[rule], len(curves[rule]))
    for panel, label in zip(axes[:, 0], ("tasks", "perplexity", r"$|\Delta|$", r"$|\Delta|$ (log)"), strict=True):
        panel.set_ylabel(label)
    axes[1, 0].set_yscale("log")
    axes[2, 0].set_ylim(top=1.55 * every["delta"].max())  # the subjects stand above the curves
    axes[3, 0].set_yscale("log")
    if grey:
        legend(axes[1, 0])
    return figure


def _tasks(panel: Axes, curve: pd.DataFrame, floors: Mapping[str, float]) -> None:
    """One line per task through its checkpoints, and its floor dotted in the same colour."""
    palette = dict(zip(floors, SERIES, strict=False))
    points = curve.melt("edits", list(floors), "task", "score").dropna()
    looks = {
        "hue": "task",
        "style": "task",
        "palette": palette,
        "dashes": False,
        "markers": True,
        "markeredgecolor": "auto",
    }
    sns.lineplot(points, x="edits", y="score", estimator=None, markersize=5, ax=panel, **looks)
    for name, floor in floors.items():
        panel.axhline(floor, color=palette[name], linestyle=":", linewidth=1)
    panel.set_ylim(0, 1.02)
    legend(panel, loc="lower left")


def _subjects(panel: Axes, disabling: pd.DataFrame, length: int) -> None:
    """The subjects of the five largest disabling edits, each along its line or, where lines are close, a little later."""
    place = -length / 2
    for row in disabling.nlargest(5, "delta").sort_values("edit").itertuples():
        place = max(row.edit, place + 0.04 * length)
        where = {"transform": panel.get_xaxis_transform(), "rotation": 90, "va": "top", "ha": "right"}
        panel.text(place, 0.98, row.subject, fontsize=6.5, **where)


@style()
def survival_curves(table: pd.DataFrame) -> Figure:
    """The share of runs that have not collapsed, by number of edits, with 95 % bands (see study.survival)."""
    table = table.assign(
        **table.groupby("rule")[["low", "high"]].ffill()
    )  # a step's band ends where the next one begins
    figure, panel = plt.subplots(figsize=(6, 3.6), layout="constrained")
    looks = {"drawstyle": "steps-post", "sort": False, "err_kws": {"step": "post", "alpha": 0.12, "linewidth": 0}}
    sns.lineplot(with_interval(table, "survived"), x="edits", y="survived", ax=panel, **looks, **LINES, **INTERVAL)
    panel.set(ylabel="runs not collapsed", ylim=(-0.03, 1.03))
    legend(panel, fontsize=9)
    return figure
