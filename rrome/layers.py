"""Choosing l*: what edits achieve at each layer, as a table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .covariance import second_moment
from .editor import Editor
from .facts import Fact
from .models import Model
from .rules import NAMED_RULES
from .scores import perplexity
from .single import Measures, single_edits
from .summaries import harmonic_score, interval


def layer_sweep(
    model: Model, layers: Sequence[int], facts: Sequence[Fact], texts: Sequence[str], folder: str | Path,
    *, c0_tokens: int, n_generated: int, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Single edits of all facts under the three named rules at every layer; one journal per layer in `folder`."""
    tables = []
    for layer in layers:
        here = model.at_layer(layer)
        editor = Editor(here, second_moment(here, texts, c0_tokens), seed=seed)
        journal = Path(folder) / f"layer-{layer:02d}.jsonl"
        measures = Measures(spoken=["r-rome"], n_generated=n_generated)
        tables.append(single_edits(editor, facts, journal, rules=NAMED_RULES, measures=measures))
    return pd.concat(tables, ignore_index=True)


def layer_table(edits: pd.DataFrame) -> pd.DataFrame:
    """Per layer: ES PS NS S GE of r-ROME on ordinary facts, S with a 95 % bootstrap interval, and ROME's update sizes.

    `delta_ordinary` and `delta_first_token` are medians of ||Delta||_F under ROME.
    """
    rows = {}
    for layer, here in edits.groupby("layer"):
        first = here["position"].eq(0)
        measured = here[here["rule"].eq("r-rome") & ~first]
        row = measured[["ES", "PS", "NS", "GE"]].mean().to_dict()
        row["S"], row["S_low"], row["S_high"] = interval(
            [measured["ES"], measured["PS"], measured["NS"]], harmonic_score
        )
        sizes = here["delta_frobenius"].where(here["rule"].eq("rome"))
        row["delta_ordinary"], row["delta_first_token"] = sizes[~first].median(), sizes[first].median()
        rows[layer] = row
    return pd.DataFrame(rows).T.rename_axis("layer")


def layer_damage(
    model: Model, layers: Sequence[int], fact: Fact, texts: Sequence[str], held_out: Sequence[str],
    *, c0_tokens: int, n_tokens: int, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Per layer: how many times larger held-out perplexity is after one edit, a column per named rule."""
    before = perplexity(model, held_out, n_tokens)
    rows: dict[int, dict[str, float]] = {}
    for layer in layers:
        here = model.at_layer(layer)
        editor = Editor(here, second_moment(here, texts, c0_tokens), seed=seed)
        rows[layer] = {}
        for rule, update in editor.updates(fact, NAMED_RULES).items():
            with editor.applied(update):
                rows[layer][f"perplexity_{rule}"] = perplexity(here, held_out, n_tokens) / before
    return pd.DataFrame(rows).T.rename_axis("layer")
