"""The figures of the sequential study: collapse curves, and how many edits runs survive."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .save import COLOURS, DASHES, MARKERS, NAMES, style

TASK_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
TASK_MARKERS = ("o", "^", "s", "D", "v", "P")
ROWS = ("tasks", "perplexity", r"$|\Delta|$", r"$|\Delta|$ (log)")


def collapse_curves(
    curves: Mapping[str, pd.DataFrame],
    rules: Sequence[str],
    floors: Mapping[str, float],
    disabling: Mapping[str, pd.DataFrame],
) -> Figure:
    """Figures 3 and 4: a column per rule; from above: task scores with floors, perplexity, cumulative |Delta|, its log.

    `curves` (see collapse.curve) of all rules set common limits, so that figures of different rules compare; rules that
    have no column are drawn grey behind. The edits in `disabling` are marked by a vertical line with their subject.
    """
    with style():
        figure, axes = plt.subplots(
            len(ROWS), len(rules), figsize=(1.2 + 4.2 * len(rules), 8.6), sharex=True, sharey="row", layout="constrained",
            squeeze=False, height_ratios=[1.4, 1, 1, 1],
        )  # fmt: skip
        for rule, column in zip(rules, axes.T, strict=True):
            _tasks(column[0], curves[rule], floors)
            for panel in column[1:]:
                for number in disabling[rule]["edit"]:
                    panel.axvline(number, color="0.75", linewidth=0.8, zorder=0)
            for panel, name in zip(column[1:], ("perplexity", "delta", "delta"), strict=True):
                known = {
                    each: curve[curve[name] > 0] if panel is column[-1] else curve for each, curve in curves.items()
                }
                for other in (other for other in curves if other not in rules):
                    panel.plot(known[other]["edits"], known[other][name], color="0.7", linewidth=1, label=NAMES[other])
                panel.plot(known[rule]["edits"], known[rule][name], color=COLOURS[rule], label=NAMES[rule])
            _names(column[2], disabling[rule])
            column[0].set_title(NAMES[rule])
            column[-1].set_xlabel("edits")
        for panel, label in zip(axes[:, 0], ROWS, strict=True):
            panel.set_ylabel(label)
        axes[1, 0].set_yscale("log")
        axes[2, 0].set_ylim(top=1.55 * max(curve["delta"].max() for curve in curves.values()))  # the names stand above
        axes[3, 0].set_yscale("log")
        axes[0, 0].legend(fontsize=7, loc="lower left")
        if len(curves) > len(rules):
            axes[1, 0].legend(fontsize=7)
    return figure


def _tasks(panel: Axes, curve: pd.DataFrame, floors: Mapping[str, float]) -> None:
    """One line per task through its checkpoints, and its floor dotted in the same colour."""
    for (name, floor), colour, marker in zip(floors.items(), TASK_COLOURS, TASK_MARKERS, strict=False):
        points = curve[["edits", name]].dropna()
        panel.plot(points["edits"], points[name], color=colour, marker=marker, markersize=3.5, label=name)
        panel.axhline(floor, color=colour, linestyle=":", linewidth=1)
    panel.set_ylim(0, 1.02)


def _names(panel: Axes, disabling: pd.DataFrame) -> None:
    """The subjects of the largest disabling edits, along their lines."""
    for row in disabling.nlargest(5, "delta").itertuples():
        place = {
            "xy": (row.edit, 0.98),
            "xycoords": ("data", "axes fraction"),
            "rotation": 90,
            "va": "top",
            "ha": "right",
        }
        panel.annotate(row.subject, fontsize=6.5, **place)


def survival_curves(table: pd.DataFrame) -> Figure:
    """The share of runs that have not collapsed, by number of edits, with 95 % bands (see collapse.survival)."""
    with style():
        figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
        for rule, here in table.groupby("rule", sort=False):
            axes.step(
                here["edits"], here["survived"], where="post", color=COLOURS[rule], linestyle=DASHES[rule],
                marker=MARKERS[rule], markersize=4, label=NAMES[rule],
            )  # fmt: skip
            axes.fill_between(here["edits"], here["low"], here["high"], step="post", color=COLOURS[rule], alpha=0.12)
        axes.set(xlabel="edits", ylabel="runs not collapsed", ylim=(-0.03, 1.03))
        axes.legend()
    return figure
