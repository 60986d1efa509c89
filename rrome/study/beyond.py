"""Beyond the paper: attention sinks, and how much text C_0 needs.

The first token of a sequence has nothing before it to attend to. In many models some tokens serve there as the place where
attention is put (a sink), and their keys at the edit site are outliers. A subject at position 0 has such a key in the bare
prompt and an ordinary averaged key. A leading token that takes the sink gives the subject an ordinary key.

C_0(n) is made from n tokens. v_e does not depend on it and is searched once per fact; only the direction u changes:

    Delta(n) = (v_e - (W k_r + b)) u^T / (u . k_d)        u = C_0(n)^-1 k_u
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from ..edit import Editor
from ..facts import Fact
from ..measure import fact_metrics, fact_probabilities
from ..model import Model
from ..model.tokens import Row, subject_position
from ..store import RromeError, bar
from ..update import NAMED_RULES, rank_one_update, second_moment
from ..update.keys import row_keys
from .speed import timed


def sink_survey(model: Model, tokens: Sequence[str], subject: str) -> pd.DataFrame:
    """The norm of each single token's key at position 0, `norm_leading`, and of the subject's after it ("": nothing)."""
    subject_ids = model.encode(subject, special=False)
    read = {token: model.encode(token, special=False) for token in tokens}
    single = {token: ids for token, ids in read.items() if len(ids) == 1}
    leading = row_keys(model, [Row(tuple(ids), 0) for ids in single.values()]).norm(dim=1)
    after = row_keys(model, [Row((*ids, *subject_ids), len(subject_ids)) for ids in single.values()]).norm(dim=1)
    bare = row_keys(model, [Row(tuple(subject_ids), len(subject_ids) - 1)]).norm().item()
    norms = {"norm_leading": [math.nan, *leading.tolist()], "norm_after": [bare, *after.tolist()]}
    return pd.DataFrame({"token": ["", *single], **norms})


def vocabulary_sample(model: Model, n: int, seed: int = 0) -> list[str]:
    """A seeded sample of ordinary vocabulary entries as text, with all special tokens in front."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(model.tokenizer), generator=generator).tolist()
    texts = [str(model.tokenizer.decode([token])) for token in order[: 2 * n]]
    printable = [text for text in dict.fromkeys(texts) if text.strip().isprintable() and text.strip()]
    special = [token for token in model.tokenizer.all_special_tokens if token]
    return list(dict.fromkeys([*special, *printable[:n]]))


def leading_edits(editor: Editor, facts: Sequence[Fact], tokens: Sequence[str]) -> pd.DataFrame:
    """Edit each fact with each leading token ("": none), under the named rules; one row per token, fact and rule.

    `norm_leading` is the norm of the token's own key, `norm_original` that of k_e^o after it. `holds_with` and
    `holds_without`: whether p(new) > p(true) after the edit, with and without the token before the prompt.
    """
    rows: list[dict] = []
    for token in bar(tokens, desc="leading tokens", unit="token"):
        ids = editor.model.encode(token, special=False)
        own = row_keys(editor.model, [Row(tuple(ids), len(ids) - 1)]).norm().item() if ids else math.nan
        settings: dict[str, Any] = {"leading": token or None, "search": editor.search}
        led = Editor(editor.model, editor.second_moment, editor.prefixes, editor.seed, **settings)
        for fact in facts:
            solution = led.solve(replace(fact, paraphrases=(), neighbourhood=()))
            about = {"leading": token, "norm_leading": own, "subject": fact.subject}
            about |= {"norm_original": solution.keys.original.norm().item(), "cosine": solution.keys.cosine}
            updates = {rule: solution.update(rule) for rule in NAMED_RULES}
            pairs = fact_probabilities(editor.model, solution.fact, updates, {"led": [token + fact.rewrite]})
            for rule, update in updates.items():
                ((new, true),), ((led_new, led_true),) = pairs[rule]["rewrite"], pairs[rule]["led"]
                row = about | {"rule": rule, "delta_frobenius": update.norm}
                rows.append(row | {"holds_without": new > true, "holds_with": led_new > led_true})
    return pd.DataFrame(rows)


def text_sizes(editor: Editor, facts: Sequence[Fact], texts: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """Edit each fact with C_0 from the first n tokens of the texts, for each n of `sizes`, under the named rules.

    One row per size, fact and rule: `tokens` is n, `seconds` the time that C_0(n) took, `cosine` that of C_0(n)^-1 k_e and
    the same at the largest size. A size with too few tokens for an inverse has one row, with the reason in `refused`;
    RromeError where the largest has. Prefixes and search are the editor's, its C_0 is not used; nothing is cached.
    """
    model, refused, rows = editor.model, [], []
    values = [editor.value(fact) for fact in bar(facts, desc="search", unit="fact")]
    averages = torch.stack([value.keys.average for value in values])  # (F, d_k)
    last = torch.empty(0)  # C_0^-1 k_e of all facts at the largest size, (F, d_k)
    for n in bar(sorted(sizes, reverse=True), desc="C_0", unit="size"):
        try:
            seconds, moment = timed(partial(second_moment, model, texts, n, cache=False), model.device)
        except RromeError as error:
            if not len(last):
                raise
            refused.append({"tokens": n, "refused": str(error)})
            continue
        about = {"tokens": n, "seconds": seconds}
        directions = moment.solve(averages)  # (F, d_k)
        last = last if len(last) else directions
        cosines = torch.cosine_similarity(directions, last).tolist()
        for number, (fact, value, cosine) in enumerate(zip(facts, values, cosines, strict=True)):
            updates = {
                rule: rank_one_update(model.site, value.keys, value, moment, rule, fact.subject) for rule in NAMED_RULES
            }
            pairs = fact_probabilities(model, fact, updates)
            here = about | {"fact": number, "subject": fact.subject, "position": subject_position(model, fact)}
            for rule, update in updates.items():
                row = here | {"cosine": cosine, "rule": rule, "delta_frobenius": update.norm}
                metrics = fact_metrics(pairs[rule])
                rows.append(row | {name: metrics[name] for name in ("ES", "PS", "NS")})
    return pd.DataFrame(refused + rows).sort_values(["tokens", "fact"], kind="stable", ignore_index=True)
