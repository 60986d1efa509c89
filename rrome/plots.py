"""The figures: tidy frames in, matplotlib figures out, and one way to save them with their data and provenance."""

import contextlib
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from .cache import atomic
from .rules import NAMED_RULES

# One colour and one second channel (marker, hatch) per rule, told apart also in print and by the colour-blind.
COLOURS = {"unedited": "#7F7F7F", "rome": "#D55E00", "r-rome": "#0072B2", "p-rome": "#009E73", "aao": "#CC79A7"}
HATCHES = {"unedited": "", "rome": "////", "r-rome": "", "p-rome": "....", "aao": "xxxx"}
MARKERS = {"unedited": "s", "rome": "X", "r-rome": "o", "p-rome": "^", "aao": "D"}
DASHES = {"unedited": ":", "rome": "-", "r-rome": "--", "p-rome": "-.", "aao": (0, (1, 1))}
NAMES = {"unedited": "unedited", "rome": "ROME", "r-rome": "r-ROME", "p-rome": "p-ROME", "aao": "aao"}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside, figures are drawn in the kit's one style; after it pyplot forgets them, else a notebook shows some twice."""
    before = plt.get_fignums()
    with resources.as_file(resources.files(__package__) / "data" / "rrome.mplstyle") as path, plt.style.context(path):
        yield
    for number in set(plt.get_fignums()) - set(before):
        plt.close(number)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook with its alternative text, for who cannot see it; the book shows it too."""
    display(figure, metadata={"image/png": {"alt": alt}})


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, *, alt: str, provenance: dict[str, Any]
) -> list[Path]:
    """Write NAME.png, .pdf, .csv and .json (provenance with the alternative text), each whole or not at all."""
    folder = Path(folder)
    record = {"figure": name, "alt": alt, "rows": len(table), **provenance}
    writers: dict[str, Callable[[Any], Any]] = {
        ".png": partial(figure.savefig, format="png", metadata={"Description": alt}),
        ".pdf": partial(figure.savefig, format="pdf", metadata={"CreationDate": None, "Title": alt}),
        ".csv": partial(table.to_csv, index=False, lineterminator="\n"),
        ".json": lambda path: Path(path).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n"),
    }
    with style():
        for suffix, write in writers.items():
            with atomic(folder / f"{name}{suffix}") as scratch:
                write(scratch)
    return [folder / f"{name}{suffix}" for suffix in writers]


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


def amplification_scatter(table: pd.DataFrame, rules: Sequence[str] = NAMED_RULES) -> Figure:
    """Amplification against the cosine of the two keys, one panel per rule, first-token subjects marked apart."""
    first = table["position"].eq(0)
    with style():
        figure, axes = plt.subplots(1, len(rules), figsize=(10, 3.1), sharex=True, sharey=True, layout="constrained")
        for rule, panel in zip(rules, axes, strict=True):
            marks = {"marker": MARKERS[rule], "color": COLOURS[rule], "linewidths": 0.8}
            height = table[f"amplification_{rule}"]
            panel.scatter(table["cosine"][~first], height[~first], s=16, alpha=0.45, label="other subjects", **marks)
            panel.scatter(table["cosine"][first], height[first], s=42, edgecolors="black", label="first token", **marks)
            panel.set(yscale="log", title=NAMES[rule], xlabel=r"cosine of $k_e$ and $k_e^o$")
            panel.legend(loc="best", fontsize=7)
        axes[0].set_ylabel("amplification (log scale)")
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


def disabling_edit(table: pd.DataFrame, *, width: int = 104, lines: int = 2) -> Figure:
    """Figure 1: what the model says after each edit, one block per (subject, prompt), with ||Delta||_F beside it.

    `table` has the columns subject, prompt, target_new, rule, delta_frobenius, entropy, perplexity and text; the
    unedited model has rule "unedited" and no delta.
    """
    blocks = list(table.groupby(["subject", "prompt", "target_new"], sort=False))
    rows = max(len(block) for _, block in blocks)
    with style():
        figure, axes = plt.subplots(
            len(blocks),
            2,
            figsize=(11, 0.52 * rows * len(blocks) + 0.9),
            width_ratios=[3.4, 1],
            layout="constrained",
            squeeze=False,
        )
        longest = table["delta_frobenius"].max()
        for (title, block), (words, bars) in zip(blocks, axes, strict=True):
            _draw_words(words, title, block, width, lines)
            _draw_bars(bars, block, longest)
        axes[0, 1].set_title(r"$\Vert\Delta\Vert_F$ (log scale)", fontsize=9)
    return figure


def _draw_words(axes: Axes, title: tuple[str, str, str], block: pd.DataFrame, width: int, lines: int) -> None:
    subject, prompt, target = title
    axes.set(xlim=(0, 1), ylim=(len(block) - 0.5, -0.5))
    axes.axis("off")
    axes.set_title(f"{subject} \u2192 {target}:   \u201c{prompt} \u2026\u201d", fontsize=9.5)
    for y, row in enumerate(block.itertuples()):
        axes.text(0, y, NAMES.get(row.rule, row.rule), color=COLOURS.get(row.rule), weight="bold", va="center")
        axes.text(0.09, y, shortened(row.text, width, lines), va="center", fontsize=8.4, linespacing=1.2)
        axes.axhline(y + 0.5, color="0.9", linewidth=0.6)


def _draw_bars(axes: Axes, block: pd.DataFrame, longest: float) -> None:
    axes.set(xscale="log", xlim=(3, longest * 12), ylim=(len(block) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    for y, row in enumerate(block.itertuples()):
        notes = f"entropy {row.entropy:.2f}, perplexity {row.perplexity:.0f}"
        if pd.isna(row.delta_frobenius):
            axes.text(3.3, y, notes, va="center", fontsize=7)
            continue
        colour, hatch = COLOURS.get(row.rule), HATCHES.get(row.rule)
        axes.barh(y, row.delta_frobenius, height=0.5, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        axes.text(
            row.delta_frobenius * 1.1, y - 0.12, f"{row.delta_frobenius:.0f}", va="center", fontsize=8, weight="bold"
        )
        axes.text(3.3, y + 0.4, notes, va="center", fontsize=6.5, color="0.25")
    axes.tick_params(labelsize=7)


def shortened(text: str, width: int, lines: int) -> str:
    """Text on at most `lines` lines of `width` characters, characters that the font lacks shown as a box."""
    font = get_font(findfont("DejaVu Sans"))
    flat = " ".join(text.split()).replace("$", r"\$")
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "\u25af" for letter in flat)
    wrapped = textwrap.wrap(drawable, width, max_lines=lines, placeholder=" \u2026")
    return "\n".join(wrapped) or "(nothing)"
