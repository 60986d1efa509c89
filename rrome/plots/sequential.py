"""The figures of the sequential study: collapse curves, and how many edits runs survive."""

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .save import ABOVE, COLOURS, NAMES, SERIES, legend, lines, name_rules, style, subplots


@style()
def collapse_curves(
    curves: Mapping[str, pd.DataFrame],
    rules: Sequence[str],
    floors: Mapping[str, float],
    disabling: Mapping[str, pd.DataFrame],
) -> Figure:
    """Figures 3 and 4: a column per rule; from above: task scores with floors, perplexity, cumulative |Delta|, its log.

    `curves` (see study.curve) of rules without a column are drawn grey in each, so that all columns have common limits.
    The edits in `disabling` are marked by a vertical line with their subject, the edit after which perplexity first passes
    twice its start (dotted) by a dashed line through all panels of its rule.
    """
    grey = {rule: curve for rule, curve in curves.items() if rule not in rules}
    heights = {"figsize": (1.2 + 4.2 * len(rules), 8.6), "height_ratios": [1.4, 1, 1, 1]}
    figure, axes = subplots(4, len(rules), sharex=True, sharey="row", squeeze=False, **heights)
    for rule, (tasks, *others) in zip(rules, axes.T, strict=True):
        _tasks(tasks, curves[rule], floors)
        tasks.set_title(NAMES[rule])
        for panel, name in zip(others, ("perplexity", "delta", "delta"), strict=True):
            for each, curve in (grey | {rule: curves[rule]}).items():
                looks = {"color": "0.7", "linewidth": 1} if each in grey else {"color": COLOURS[rule], "linewidth": 2}
                sns.lineplot(curve, x="edits", y=name, estimator=None, ax=panel, label=each, legend=False, **looks)
            for number in disabling[rule]["edit"]:
                panel.axvline(number, color="0.75", linewidth=0.8, zorder=0)
        _subjects(others[1], disabling[rule], len(curves[rule]))
        limit = 2 * curves[rule]["perplexity"].iloc[0]
        others[0].axhline(limit, color="0.4", linestyle=":", linewidth=1)
        broken = curves[rule].loc[~(curves[rule]["perplexity"] <= limit), "edits"]
        for panel in (tasks, *others) if len(broken) else ():
            panel.axvline(broken.iloc[0], color="black", linestyle="--", linewidth=1, zorder=1)
        if grey:
            legend(others[0], **ABOVE)
    for panel, label in zip(axes[:, 0], ("score", "perplexity", r"$|\Delta|$", r"$|\Delta|$ (log)"), strict=True):
        panel.set_ylabel(label)
    axes[1, 0].set_yscale("log")
    axes[2, 0].set_ylim(top=1.55 * max(curve["delta"].max() for curve in curves.values()))  # subjects above the curves
    axes[3, 0].set_yscale("log", nonpositive="mask")
    return figure


def _tasks(panel: Axes, curve: pd.DataFrame, floors: Mapping[str, float]) -> None:
    """One line per task through its checkpoints, its floor dotted in the same colour, and the share of edits retained."""
    palette = dict(zip(floors, SERIES, strict=False)) | {"retained": "black"}
    points = curve.melt("edits", [name for name in palette if name in curve], "task", "score").dropna()
    lines(panel, points, "edits", "score", "task", palette=palette, dashes=False)
    for name, floor in floors.items():
        panel.axhline(floor, color=palette[name], linestyle=":", linewidth=1)
    panel.set_ylim(0, 1.02)
    legend(panel, **ABOVE)


def _subjects(panel: Axes, disabling: pd.DataFrame, length: int) -> None:
    """The subjects of the five largest disabling edits along their lines, a little later where lines are close."""
    place = -length / 2
    for row in disabling.nlargest(5, "delta").sort_values("edit").itertuples():
        place = max(row.edit, place + 0.04 * length)
        where = {"transform": panel.get_xaxis_transform(), "rotation": 90, "va": "top", "ha": "right"}
        panel.text(place, 0.98, row.subject, fontsize=6.5, **where)


@style()
def survival_curves(table: pd.DataFrame) -> Figure:
    """The share of runs that survive, by number of edits: a panel per `what`, a step curve per rule (see study.survival).

    Each curve is drawn a little below the one before, so that equal curves are all seen.
    """
    rules = list(table["rule"].unique())
    colours = COLOURS | dict(zip([rule for rule in rules if rule not in COLOURS], SERIES, strict=False))
    lowered = table.assign(survived=table["survived"] - 0.012 * table["rule"].map(rules.index))
    looks = {"hue": "rule", "palette": colours, "drawstyle": "steps-post", "estimator": None, "sort": False}
    grid = sns.relplot(
        lowered, kind="line", x="edits", y="survived", col="what", height=3.4, aspect=1.2, linewidth=2, **looks
    )
    grid.set_titles("{col_name}").set_axis_labels("edits", "share of runs").set(ylim=(-0.1, 1.03))
    name_rules(grid)
    return grid.figure
