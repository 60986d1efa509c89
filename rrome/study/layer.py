"""Choosing l*: what edits achieve at each layer, and causal tracing (Meng et al. 2022): which layers carry a fact.

    p        probability of the true answer
    p*       the same with noise on the embeddings of the subject's tokens
    p*(l)    the same, with one state of layer l at the subject's last token put back to what it is without noise

    total effect  p - p*            indirect effect of layer l  p*(l) - p*        means over facts and noise samples

A fact is traced in one batch of 1 + samples (1 + layers) rows: the clean one, the noised ones, and these again per layer,
with that layer's state copied from row 0.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

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
from ..model.site import EditSite
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
    measures = Measures(generated=["r-rome"], n_generated=n_generated)
    settings: dict[str, Any] = {"within": within, "rules": NAMED_RULES, "measures": measures}
    editors = _editors(model, layers, texts, c0_tokens, seed)
    return pd.concat([single_edits(editor, facts, **settings) for editor in editors], ignore_index=True)


def _editors(model: Model, layers: Sequence[int], texts: Sequence[str], c0_tokens: int, seed: int) -> Iterator[Editor]:
    """An editor of every layer, one after the other."""
    for layer in layers:
        here = model.at_layer(layer)
        yield Editor(here, second_moment(here, texts, c0_tokens), seed=seed)


def layer_table(edits: pd.DataFrame) -> pd.DataFrame:
    """Per layer: ES PS NS S GE of r-ROME on ordinary facts, S with a 95 % bootstrap interval, and ROME's update sizes.

    `delta_ordinary` and `delta_first_token` are medians of ||Delta||_F under ROME.
    """
    rows = {}
    for layer, here in edits.groupby("layer"):
        first = here["position"].eq(0)
        measured = here[here["rule"].eq("r-rome") & ~first]
        row = measured[["ES", "PS", "NS", "GE"]].mean().to_dict()
        shares = [measured[name] for name in ("ES", "PS", "NS")]
        row["S"], row["S_low"], row["S_high"] = interval(shares, harmonic_score)
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
    for editor in _editors(model, layers, texts, c0_tokens, seed):
        row = rows[editor.model.layer] = {}
        for rule, update in editor.updates(fact, NAMED_RULES).items():
            with editor.applied(update):
                row[f"perplexity_{rule}"] = perplexity(editor.model, held_out, n_tokens) / before
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

    `kinds`: "hidden" restores what the block returns, "mlp" the output of the MLPs of `window` layers around the layer.
    `noise` is in standard deviations of the subjects' embeddings, `total` the average total effect. RromeError for a fact
    without a true answer, an unknown kind, or no facts.
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
            clean, noised, restored = trace(model, fact, shift, kind, window)
            effects[kind].append(np.subtract(restored, noised))
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
    row, tokens = read_row(model, fact, target=fact.answer), subject_tokens(model, fact)
    samples, n_read = len(shift), len(row.ids) - 1
    n_rows = 1 + samples * (1 + model.depth)
    ids = torch.tensor([row.ids[:-1]] * n_rows, device=model.device)  # (B, T)
    restored = torch.arange(1 + samples, n_rows, device=model.device).view(model.depth, samples)
    positions = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_read - row.n_target, n_read)).T

    def noised(embedded: torch.Tensor) -> torch.Tensor:  # (B, T, d)
        embedded = embedded.clone()
        embedded[1:, tokens.start : tokens.stop] += shift.repeat(1 + model.depth, 1, 1).to(embedded)
        return embedded

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(embeddings_changed(model, noised))
        for layer in range(model.depth):
            reach = window if kind == "mlp" else 1
            around = slice(max(0, layer - (reach - 1) // 2), layer + reach // 2 + 1)  # whose windows hold this layer
            site = model.at_layer(layer).site
            hooks.enter_context(_copied_from_clean(site, kind, restored[around].flatten(), row.subject))
        hooks.enter_context(logits_at(model, positions))
        log_probs = model.lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # (B * n_target, V)
    target = torch.tensor(row.ids[-row.n_target :] * n_rows, device=model.device)
    p = log_probs.gather(1, target[:, None]).view(n_rows, row.n_target).mean(1).exp()  # (B,)
    return p[0].item(), p[1 : 1 + samples].mean().item(), p[restored].mean(1).tolist()


def _copied_from_clean(site: EditSite, kind: Kind, rows: torch.Tensor, position: int):
    """Inside, `rows` have the state that row 0 has at `position`."""

    def change(state: torch.Tensor) -> torch.Tensor:  # (B, T, d)
        state = state.clone()
        state[rows.to(state.device), position] = state[0, position]
        return state

    if kind == "hidden":
        return block_changed(site.block, change)
    return output_changed(site, lambda _key, value: change(value))


@torch.no_grad()
def embedding_deviation(model: Model, facts: Sequence[Fact]) -> float:
    """The standard deviation of the embeddings of all the facts' subject tokens, over tokens and dimensions."""
    ids = [read_row(model, fact).ids[token] for fact in facts for token in subject_tokens(model, fact)]
    return model.lm.get_input_embeddings()(torch.tensor(ids, device=model.device)).float().std().item()
