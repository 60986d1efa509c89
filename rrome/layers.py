"""Choosing l*: what edits achieve at each layer, as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from .covariance import second_moment
from .editor import Editor
from .facts import Fact
from .metrics import score
from .models import Model
from .rules import NAMED_RULES
from .scores import perplexity
from .studies import Measures, single_edits


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
    first = edits["position"].eq(0)
    rows = {}
    for layer, here in edits.groupby("layer"):
        measured = here[here["rule"].eq("r-rome") & ~first]
        row = measured[["ES", "PS", "NS", "GE"]].mean().to_dict()
        row["S"], row["S_low"], row["S_high"] = score_interval(measured)
        sizes = here[here["rule"].eq("rome")].set_index("position")["delta_frobenius"]
        row["delta_ordinary"] = sizes[sizes.index != 0].median()
        row["delta_first_token"] = sizes[sizes.index == 0].median()
        rows[layer] = row
    return pd.DataFrame(rows).T.rename_axis("layer")


def score_interval(measured: pd.DataFrame, seed: int = 0) -> tuple[float, float, float]:
    """S of the mean ES, PS and NS of some edits with its 95 % bootstrap interval over facts."""
    columns = measured[["ES", "PS", "NS"]].to_numpy().T  # (3, facts)

    def statistic(es, ps, ns):
        return score(np.mean(es), np.mean(ps), np.mean(ns))

    value = statistic(*columns)
    if columns.shape[1] < 2:
        return value, np.nan, np.nan
    interval = bootstrap(
        tuple(columns), statistic, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=seed
    ).confidence_interval
    return value, float(interval.low), float(interval.high)


def layer_damage(
    model: Model, layers: Sequence[int], fact: Fact, texts: Sequence[str], held_out: Sequence[str],
    *, c0_tokens: int, n_tokens: int, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Per layer: how many times larger held-out perplexity is after one edit, a column per named rule."""
    before = perplexity(model, held_out, n_tokens)
    rows = {}
    for layer in layers:
        here = model.at_layer(layer)
        editor = Editor(here, second_moment(here, texts, c0_tokens), seed=seed)
        rows[layer] = {}
        for rule, update in editor.updates(fact, NAMED_RULES).items():
            with editor.applied(update):
                rows[layer][f"perplexity_{rule}"] = perplexity(here, held_out, n_tokens) / before
    return pd.DataFrame(rows).T.rename_axis("layer")
