"""Choosing l*: what edits achieve at each layer, as a table.

Causal tracing (Meng et al. 2022): at which layers the subject's last token carries a fact.

    p        probability of the true answer
    p*       the same with noise on the embeddings of the subject's tokens
    p*(l)    the same, with one state of layer l at the subject's last token put back to what it is without noise

    total effect  p - p*            indirect effect of layer l  p*(l) - p*        means over facts and noise samples

A fact is traced in one batch: row 0 is clean, the next rows are noised, and then come as many for every layer, in which
that layer's state is copied from row 0.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..measure.metrics import harmonic_score, interval
from ..measure.scores import perplexity
from ..model.hooks import block_changed, embeddings_changed, logits_at, output_changed
from ..model.model import Model
from ..model.tokens import check_prompts, read_row, subject_tokens
from ..store.disk import RromeError
from ..store.progress import bar
from ..update.rules import NAMED_RULES
from ..update.second_moment import second_moment
from .single import Measures, single_edits


def layer_sweep(
    model: Model, layers: Sequence[int], facts: Sequence[Fact], texts: Sequence[str], within: str | Path,
    *, c0_tokens: int, n_generated: int, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Single edits of all facts under the three named rules at every layer; one journal per layer in the folder `within`."""
    tables = []
    for layer in layers:
        here = model.at_layer(layer)
        editor = Editor(here, second_moment(here, texts, c0_tokens), seed=seed)
        measures = Measures(generated=["r-rome"], n_generated=n_generated)
        tables.append(single_edits(editor, facts, within=within, rules=NAMED_RULES, measures=measures))
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


Kind = Literal["hidden", "mlp"]


def trace_layers(
    model: Model,
    facts: Sequence[Fact],
    *,
    kinds: Sequence[Kind] = get_args(Kind),
    window: int = 1,
    samples: int = 10,
    noise: float = 3.0,
    seed: int = 0,
    progress: bool | None = None,
) -> pd.DataFrame:
    """The average indirect effect of every layer, one row per kind of state and layer, with a 95 % interval over facts.

    `kinds`: "hidden" puts back what the block returns, "mlp" the output of the MLPs of `window` layers around the layer.
    `noise` is in standard deviations of the subjects' embeddings. `total` is the average total effect. Raises RromeError
    for a fact without a true answer, an unknown kind, or no facts.
    """
    if not facts or not kinds or not set(kinds) <= set(get_args(Kind)):
        raise RromeError(f"tracing needs facts, and kinds among {', '.join(get_args(Kind))}: got {list(kinds)}")
    check_prompts(model, facts)
    generator = torch.Generator().manual_seed(seed)
    scale = noise * embedding_deviation(model, facts)
    width = cast(nn.Embedding, model.lm.get_input_embeddings()).embedding_dim
    effects: dict[str, list] = {kind: [] for kind in kinds}
    totals = []
    for fact in bar(facts, desc="tracing", unit="fact", show=progress):
        shift = scale * torch.randn(samples, len(subject_tokens(model, fact)), width, generator=generator)
        for kind in kinds:
            clean, noised, mended = trace(model, fact, shift, kind, window)
            effects[kind].append(np.subtract(mended, noised))
        totals.append(clean - noised)
    rows = [
        (layer, kind, *interval([sample], np.mean), np.mean(totals))
        for kind in kinds
        for layer, sample in enumerate(np.transpose(effects[kind]))
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "effect", "low", "high", "total"])


@torch.no_grad()
def trace(
    model: Model, fact: Fact, shift: torch.Tensor, kind: Kind = "hidden", window: int = 1
) -> tuple[float, float, list[float]]:
    """p, p* and p*(l) per layer of one fact, with `shift` (samples, subject tokens, d) added to the embeddings."""
    row, samples = read_row(model, fact, target=fact.answer), len(shift)
    n_rows = 1 + samples * (1 + model.depth)
    ids = torch.tensor([row.ids[:-1]] * n_rows, device=model.device)  # (B, T)
    mended = torch.arange(1 + samples, n_rows, device=model.device).view(model.depth, samples)
    where = [(n, len(row.ids) - back - 1) for n in range(n_rows) for back in range(row.n_target, 0, -1)]
    with contextlib.ExitStack() as hooks:
        hooks.enter_context(embeddings_changed(model, _noised(subject_tokens(model, fact), shift)))
        for layer in range(model.depth):
            site, reach = model.at_layer(layer).site, window if kind == "mlp" else 1
            around = slice(max(0, layer - (reach - 1) // 2), layer + reach // 2 + 1)  # whose windows hold this layer
            change = _copied_from_clean(mended[around].flatten(), row.subject)
            hooks.enter_context(
                block_changed(site.block, change)
                if kind == "hidden"
                else output_changed(site, partial(_of_value, change))
            )
        hooks.enter_context(logits_at(model, torch.tensor(where, device=model.device).T))
        log_probs = model.lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # (B * n_target, V)
    target = torch.tensor(row.ids[-row.n_target :] * n_rows, device=model.device)
    p = log_probs.gather(1, target[:, None]).view(n_rows, row.n_target).mean(1).exp()  # (B,)
    return p[0].item(), p[1 : 1 + samples].mean().item(), p[mended].mean(1).tolist()


@torch.no_grad()
def embedding_deviation(model: Model, facts: Sequence[Fact]) -> float:
    """The standard deviation of the embeddings of all the facts' subject tokens, over tokens and dimensions."""
    ids = [read_row(model, fact).ids[token] for fact in facts for token in subject_tokens(model, fact)]
    return model.lm.get_input_embeddings()(torch.tensor(ids, device=model.device)).float().std().item()


def _noised(tokens: range, shift: torch.Tensor):
    """A change that adds the samples of noise, over and over, to all rows but row 0."""

    def change(embedded):  # (B, T, d)
        repeats = (len(embedded) - 1) // len(shift)
        embedded = embedded.clone()
        embedded[1:, tokens.start : tokens.stop] += shift.repeat(repeats, 1, 1).to(embedded)
        return embedded

    return change


def _of_value(change: Callable[[torch.Tensor], torch.Tensor], _key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return change(value)


def _copied_from_clean(rows: torch.Tensor, position: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A change that gives `rows` the state that row 0 has at `position`."""

    def change(state: torch.Tensor) -> torch.Tensor:  # (B, T, d)
        state = state.clone()
        state[rows.to(state.device), position] = state[0, position]
        return state

    return change
