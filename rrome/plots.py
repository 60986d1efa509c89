"""The figures: tidy frames in, matplotlib figures out, and one way to save them with their data and provenance."""

import contextlib
import json
import textwrap
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from .cache import atomic

# One colour and one second channel (marker, hatch) per rule, told apart also in print and by the colour-blind.
COLOURS = {"unedited": "#7F7F7F", "rome": "#D55E00", "r-rome": "#0072B2", "p-rome": "#009E73"}
HATCHES = {"unedited": "", "rome": "////", "r-rome": "", "p-rome": "...."}
MARKERS = {"unedited": "s", "rome": "X", "r-rome": "o", "p-rome": "^"}
NAMES = {"unedited": "unedited", "rome": "ROME", "r-rome": "r-ROME", "p-rome": "p-ROME"}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside, figures are drawn in the kit's one style."""
    with resources.as_file(resources.files(__package__) / "data" / "rrome.mplstyle") as path, plt.style.context(path):
        yield


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, *, alt: str, provenance: dict[str, Any]
) -> list[Path]:
    """Write NAME.png, .pdf, .csv and .json (provenance with the alternative text), each whole or not at all."""
    folder = Path(folder)
    record = {"figure": name, "alt": alt, "rows": len(table), **provenance}
    writers = {
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


def disabling_edit(table: pd.DataFrame, *, width: int = 88, lines: int = 3) -> Figure:
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
        axes.text(0.09, y, shortened(row.text, width, lines), va="center", fontsize=7.6, linespacing=1.15)
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
