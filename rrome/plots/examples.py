"""Figure 1: what the edited models say, as text in a picture."""

import textwrap
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from .save import COLOURS, NAMES, SIZE, style, subplots


@style()
def disabling_edit(table: pd.DataFrame) -> Figure:
    """Figure 1: what the model says after each edit, a block per (layer,) subject and prompt, with ||Delta||_F beside it.

    `table`: subject, prompt, target_new, rule ("unedited" has no delta), delta_frobenius, entropy, entropy_tokens,
    perplexity, text, and `layer` where blocks are of several layers.
    """
    by = [name for name in ("layer", "subject", "prompt", "target_new") if name in table]
    blocks = table.groupby(by, sort=False)
    size = (11, 0.56 * blocks.size().max() * len(blocks) + 0.9)
    figure, axes = subplots(len(blocks), 2, figsize=size, width_ratios=[3.4, 1], sharey="row", squeeze=False)
    for (names, block), (words, sizes) in zip(blocks, axes, strict=True):
        *layer, subject, prompt, target = names
        looks = {"order": block["rule"], "hue": "rule", "hue_order": block["rule"], "palette": COLOURS, "jitter": False}
        sns.stripplot(block, x="delta_frobenius", y="rule", legend=False, size=7, ax=sizes, **looks)
        edges = table["delta_frobenius"].min() / 2, table["delta_frobenius"].max() * 30
        sizes.set(xscale="log", xlim=edges, xlabel=None, ylim=(len(block) - 0.5, -0.5))
        sizes.tick_params(labelsize=7)
        where = "".join(f"layer {number}, " for number in layer)
        words.set_title(f"{where}{subject} \u2192 {target}:   \u201c{prompt} \u2026\u201d", fontsize=9.5)
        words.axis("off")
        for y, row in enumerate(block.itertuples()):
            _row(words, sizes, y, row)
    axes[0, 1].set_title(f"{SIZE} (log scale)", fontsize=9)
    return figure


def _row(words: Axes, sizes: Axes, y: int, row: Any) -> None:
    """The rule, what the model says, the text's entropies and the model's perplexity, and the size beside its point."""
    words.text(0, y, NAMES.get(row.rule, row.rule), color=COLOURS.get(row.rule), weight="bold", va="center")
    words.text(0.085, y, shortened(row.text, 100, 3), va="center", fontsize=7.6, linespacing=1.15)
    words.axhline(y + 0.5, color="0.9", linewidth=0.6)
    if row.delta_frobenius == row.delta_frobenius:
        size = f"{row.delta_frobenius:,.{0 if row.delta_frobenius > 10 else 2}f}"
        sizes.annotate(size, (row.delta_frobenius, y), (6, 0), textcoords="offset points",
                       va="center", fontsize=8, weight="bold")  # fmt: skip
    numbers = f"entropy {row.entropy:.2f}, of tokens {row.entropy_tokens:.2f}\nperplexity {row.perplexity:,.0f}"
    words.text(1, y, numbers.replace("nan", "\u2013"), ha="right", va="center", fontsize=7, color="0.25")


def shortened(text: str, width: int, lines: int) -> str:
    """Text on at most `lines` lines of `width` characters, characters that the font lacks shown as a box."""
    font = get_font(findfont("DejaVu Sans"))
    flat = " ".join(text.split()).replace("$", r"\$")
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "\u25af" for letter in flat)
    wrapped = textwrap.wrap(drawable, width, max_lines=lines, placeholder=" \u2026")
    return "\n".join(wrapped) or "(nothing)"
