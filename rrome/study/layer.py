"""Choosing l*: what edits achieve at each layer, and causal tracing (Meng et al. 2022): which layers carry a fact.

p        probability of the true answer
p*       the same with noise on the embeddings of the subject's tokens
p*(l)    the same, with one state of layer l at the subject's last token put back to what it is without noise

total effect  p - p*            indirect effect of layer l  p*(l) - p*        means over facts and noise samples
"""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..edit import Editor
from ..facts import Fact
from ..measure import harmonic_score, interval
from ..measure.metrics import share
from ..model import Model, read_row, sample_prefixes, subject_tokens
from ..model.hooks import block_changed, logits_at, output_changed
from ..model.site import find_site
from ..model.tokens import check_prompts
from ..store import RromeError, bar
from ..update import NAMED_RULES, RULES, Rule, second_moment
from .runs import broken
from .single import Measures, single_edits

SHOWN = (*NAMED_RULES, "aao")  # rules whose texts are kept
NOISE = 3.0  # in tracing
DEPTH_MAP = (
    "layer", "case_id", "subject", "stratum", "rule", "perplexity_ratio", "delta_frobenius", "norm_original",
    "norm_average", "norm_v0", "p_new_bare", "p_new_prefixed",
)  # fmt: skip


def layer_sweep(
    model: Model, layers: Sequence[int], facts: Sequence[Fact], texts: Sequence[str], within: str | Path,
    *, c0_tokens: int, n_generated: int, rules: Sequence[str | Rule] = tuple(RULES), seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Single edits of all facts at every layer, each with a C_0 from the texts; one journal per layer in `within`."""
    tables, prefixes = [], sample_prefixes(model, seed)  # of the unedited model, so the same at every layer
    measures: Measures | None = None
    for layer in layers:
        here = model.at_layer(layer)
        editor = Editor(here, second_moment(here, texts, c0_tokens), prefixes, seed)
        measures = measures or Measures.standard(editor, generated=SHOWN, n_generated=n_generated)
        tables.append(single_edits(editor, facts, within=within, rules=rules, measures=measures))
    return pd.concat(tables, ignore_index=True)


def depth_map(edits: pd.DataFrame) -> pd.DataFrame:
    """What each edit of a layer sweep does, one row per layer, fact and rule.

    `perplexity_ratio` is the probe's perplexity after the edit over that before it, `p_new_bare` and `p_new_prefixed` the
    probability of the new answer after the bare prompt and (mean) after unseen prefixes.
    """
    before = edits[edits["rule"].eq("unedited")].set_index(["layer", "fact"])["perplexity"]
    rows = edits[edits["rule"].ne("unedited")].join(before.rename("before"), on=["layer", "fact"])
    rows["perplexity_ratio"] = rows["perplexity"] / rows["before"]
    rows["stratum"] = rows["position"].eq(0).map({True: "first-token", False: "ordinary"})
    rows["p_new_bare"] = [pairs["rewrite"][0][0] for pairs in rows["pairs"]]
    prefixed = (pd.Series([new for new, _ in pairs["prefixed"]], dtype=float) for pairs in rows["pairs"])
    rows["p_new_prefixed"] = [found.mean(skipna=False) for found in prefixed]
    return rows[[*DEPTH_MAP]].reset_index(drop=True)


def safety(table: pd.DataFrame) -> pd.DataFrame:
    """Per rule of a `depth_map`: how many edits break the model (raise the probe's perplexity more than TIMES times).

    `layers` counts the layers with such an edit, `subjects` the subjects that have one at some layer; `share` of the
    subjects, with `low` and `high`, the ends of its Wilson interval.
    """
    rows = {}
    for rule, here in table.groupby("rule", sort=False):
        bad, subjects = here[broken(here["perplexity_ratio"], 1)], here["subject"].nunique()
        counts = {"broken": len(bad), "layers": bad["layer"].nunique(), "subjects": bad["subject"].nunique()}
        shares = dict(zip(("share", "low", "high"), share(counts["subjects"], subjects), strict=True))
        rows[rule] = {"edits": len(here), "worst": here["perplexity_ratio"].max()} | counts | shares
    return pd.DataFrame(rows).T.rename_axis("rule")


def layer_table(edits: pd.DataFrame) -> pd.DataFrame:
    """Per layer: ES PS NS S GE of r-ROME on ordinary facts, S with a 95 % bootstrap interval, and what edits break.

    `below_best` is the paired interval's upper end of S minus S of the layer with the largest. Per named rule,
    `broken_RULE` counts the first-token facts whose edit raises the probe's perplexity more than TIMES times, and
    `times_RULE` is the median of perplexity after over before.
    """

    def difference(*shares: np.ndarray, axis: int = -1) -> np.ndarray:
        here, there = (harmonic_score(es, ps, ns, axis) for es, ps, ns in (shares[:3], shares[3:]))
        return here - there

    rows, measured = {}, edits[edits["rule"].eq("r-rome") & edits["position"].ne(0)]
    shares = {layer: here[["ES", "PS", "NS"]].to_numpy().T for layer, here in measured.groupby("layer")}
    best = max(shares, key=lambda layer: harmonic_score(*shares[layer]))
    first = depth_map(edits).query("stratum == 'first-token'")
    for layer, here in measured.groupby("layer"):
        row = here[["ES", "PS", "NS", "GE"]].mean().to_dict()
        row["S"], row["S_low"], row["S_high"] = interval(shares[layer], harmonic_score)
        row["below_best"] = interval([*shares[layer], *shares[best]], difference)[2]
        for rule in NAMED_RULES:
            times = first[first["layer"].eq(layer) & first["rule"].eq(rule)]["perplexity_ratio"]
            row[f"broken_{rule}"], row[f"times_{rule}"] = broken(times, 1).sum(), times.median()
        rows[layer] = row
    return pd.DataFrame(rows).T.rename_axis("layer")


def trace_layers(model: Model, facts: Sequence[Fact], *, samples: int = 10, seed: int = 0) -> pd.DataFrame:
    """The average indirect effect of every layer, one row per kind of state and layer, with a 95 % interval over facts.

    Kind "hidden" restores what the block returns, "mlp" the output of its MLP. The noise is NOISE standard deviations of the
    subjects' embeddings, `total` the average total effect. RromeError for a fact without a true answer, or no facts.
    """
    if not facts:
        raise RromeError("tracing needs facts: give at least one")
    check_prompts(model, facts)
    generator = torch.Generator().manual_seed(seed)
    embedding = cast(nn.Embedding, model.lm.get_input_embeddings())
    ids = [read_row(model, fact).ids[token] for fact in facts for token in subject_tokens(model, fact)]
    scale = NOISE * embedding(torch.tensor(ids, device=model.device)).float().std().item()
    effects: dict[str, list] = {"hidden": [], "mlp": []}
    totals = []
    for fact in bar(facts, desc="tracing", unit="fact"):
        size = samples, len(subject_tokens(model, fact)), embedding.embedding_dim
        shift = scale * torch.randn(size, generator=generator)
        for kind in effects:
            clean, noised, restored = trace(model, fact, shift, kind)
            effects[kind].append(np.subtract(restored, noised))
        totals.append(clean - noised)
    rows = [
        (layer, kind, *interval([sample], np.mean), np.mean(totals))
        for kind, found in effects.items()
        for layer, sample in enumerate(np.transpose(found))
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "effect", "low", "high", "total"])


@torch.no_grad()
def trace(model: Model, fact: Fact, shift: torch.Tensor, kind: str) -> tuple[float, float, list[float]]:
    """p, p* and p*(l) per layer of one fact, with `shift` (samples, subject tokens, d) added to the embeddings.

    In one batch of 1 + samples (1 + layers) rows: clean, noised, and noised again per layer with its state of row 0.
    """
    row, tokens = read_row(model, fact, target=fact.answer), subject_tokens(model, fact)
    samples, n_read = len(shift), len(row.ids) - 1
    n_rows = 1 + samples * (1 + model.depth)
    ids = torch.tensor([row.ids[:-1]] * n_rows, device=model.device)  # (B, T)
    restored = torch.arange(1 + samples, n_rows, device=model.device).view(model.depth, samples)
    positions = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_read - row.n_target, n_read)).T

    def noised(_module: nn.Module, _args: tuple, embedded: torch.Tensor) -> torch.Tensor:  # (B, T, d)
        embedded = embedded.clone()
        embedded[1:, tokens.start : tokens.stop] += shift.repeat(1 + model.depth, 1, 1).to(embedded)
        return embedded

    def restore(*states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:  # (B, T, d) each, a value after its key
        state = states[-1].clone()
        state[rows.to(state.device), row.subject] = state[0, row.subject]
        return state

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(model.lm.get_input_embeddings().register_forward_hook(noised))
        for layer, rows in enumerate(restored):
            site, change = find_site(model.lm, layer), partial(restore, rows=rows)
            hooks.enter_context(block_changed(site.block, change) if kind == "hidden" else output_changed(site, change))
        hooks.enter_context(logits_at(model, positions))
        log_probs = model.lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # (B * n_target, V)
    target = torch.tensor(row.ids[-row.n_target :] * n_rows, device=model.device)
    p = log_probs.gather(1, target[:, None]).view(n_rows, row.n_target).mean(1).exp()  # (B,)
    return p[0].item(), p[1 : 1 + samples].mean().item(), p[restored].mean(1).tolist()
