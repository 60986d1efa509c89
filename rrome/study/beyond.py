"""Beyond the paper: attention sinks, and how much text C_0 needs.

The first token of a sequence has nothing before it to attend to. In many models some tokens serve there as the place where
attention is put (a sink), and their keys at the edit site are outliers. A subject at position 0 has such a key in the bare
prompt and an ordinary averaged key. A leading token that takes the sink gives the subject an ordinary key.

C_0(n) is made from n tokens. v_e does not depend on it and is searched once per fact; only the direction u changes:

    Delta(n) = (v_e - (W k_r + b)) u^T / (u . k_d)        u = C_0(n)^-1 k_u
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..measure.metrics import fact_metrics
from ..measure.scores import fact_probabilities, target_nll
from ..model.model import Model
from ..model.tokens import Row, subject_position
from ..store.disk import RromeError
from ..store.progress import bar
from ..update.keys import row_keys
from ..update.rules import NAMED_RULES, RankOneUpdate, rank_one_update
from ..update.second_moment import second_moment


def sink_survey(model: Model, tokens: Sequence[str], subject: str) -> pd.DataFrame:
    """Per token: the norm of its key at position 0, `norm_leading`, and of the subject's key after it, `norm_after`.

    The row for "" has the subject's key with nothing before it. What the tokenizer does not read as one token is left out.
    """
    subject_ids = _ids(model, subject)
    single = {token: _ids(model, token) for token in tokens}
    single = {token: ids for token, ids in single.items() if len(ids) == 1}
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


def leading_edits(
    editor: Editor, facts: Sequence[Fact], tokens: Sequence[str], *, progress: bool | None = None
) -> pd.DataFrame:
    """Edit each fact with each leading token ("": none), under the named rules; one row per token, fact and rule.

    `norm_leading` is the norm of the token's own key, `norm_original` that of k_e^o after it. `holds_with` and
    `holds_without`: whether p(new) > p(true) after the edit, with and without the token before the prompt.
    """
    rows = []
    for token in bar(tokens, desc="leading tokens", unit="token", show=progress):
        ids = _ids(editor.model, token)
        own = row_keys(editor.model, [Row(tuple(ids), len(ids) - 1)]).norm().item() if ids else math.nan
        settings: dict[str, Any] = {"leading": token or None, "search": editor.search}
        led = Editor(editor.model, editor.second_moment, editor.prefixes, editor.seed, **settings)
        for fact in facts:
            rows += _led_edit(led, fact, own)
    return pd.DataFrame(rows)


def _led_edit(editor: Editor, fact: Fact, norm_leading: float) -> list[dict]:
    solution, leading = editor.solve(fact), editor.leading or ""
    updates = [solution.update(rule) for rule in NAMED_RULES]
    rows = pd.DataFrame(
        {
            "leading": leading,
            "norm_leading": norm_leading,
            "subject": fact.subject,
            "norm_original": solution.keys.original.norm().item(),
            "cosine": solution.keys.cosine,
            "rule": NAMED_RULES,
            "delta_frobenius": [update.norm for update in updates],
        }
    )
    targets = [target for target in (fact.target_new, fact.answer) for _ in updates]
    for name, prompt in (("holds_without", fact.rewrite), ("holds_with", leading + fact.rewrite)):
        prompts = [prompt] * len(targets)
        new, true = target_nll(editor.model, prompts, targets, updates * 2, fact.separator).view(2, -1)
        rows[name] = (new < true).tolist()
    return rows.to_dict("records")


def _ids(model: Model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def text_sizes(
    editor: Editor,
    facts: Sequence[Fact],
    texts: Sequence[str],
    sizes: Sequence[int],
    *,
    rules: Sequence[str] = NAMED_RULES,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Edit each fact with C_0 from the first n tokens of the texts, for each n of `sizes`; a row per size, fact and rule.

    `tokens` is n, `seconds` the time that C_0(n) took, `cosine` that of C_0(n)^-1 k_e and the same at the largest size. A
    size with too few tokens for an inverse has one row, with the reason in `refused`; RromeError where the largest has.
    Prefixes and search are the editor's, its C_0 is not used; nothing is cached.
    """
    model = editor.model
    values = [editor.value(fact) for fact in bar(facts, desc="search", unit="fact", show=progress)]
    averages = torch.stack([value.keys.average for value in values])  # (F, d_k)
    about: dict[int, dict] = {}
    directions: dict[int, torch.Tensor] = {}  # C_0(n)^-1 k_e of all facts, (F, d_k)
    updates: list[dict[tuple[int, str], RankOneUpdate]] = [{} for _ in facts]
    largest, *_ = order = sorted(sizes, reverse=True)
    for n in bar(order, desc="C_0", unit="size", show=progress):
        start = time.perf_counter()
        try:
            moment = second_moment(model, texts, n, cache=False, progress=progress)
        except RromeError as error:
            if n == largest:
                raise
            about[n] = {"tokens": n, "refused": str(error)}
            continue
        about[n] = {"tokens": n, "seconds": time.perf_counter() - start}
        directions[n] = moment.solve(averages)
        for fact, value, made in zip(facts, values, updates, strict=True):
            for rule in rules:
                made[n, rule] = rank_one_update(model.site, value.keys, value, moment, rule, fact.subject)
    rows = [row for row in about.values() if "refused" in row]
    for number, fact in enumerate(bar(facts, desc="measure", unit="fact", show=progress)):
        pairs = fact_probabilities(
            model, fact, {f"{rule} {n}": update for (n, rule), update in updates[number].items()}
        )
        last = directions[largest][number]
        asked = {"fact": number, "subject": fact.subject, "position": subject_position(model, fact)}
        for (n, rule), update in updates[number].items():
            row, metrics = about[n] | asked, fact_metrics(pairs[f"{rule} {n}"])
            row["cosine"] = torch.cosine_similarity(directions[n][number], last, dim=0).item()
            row |= {"rule": rule, "delta_frobenius": update.norm}
            rows.append(row | {name: metrics[name] for name in ("ES", "PS", "NS")})
    return pd.DataFrame(rows).sort_values(["tokens", "fact"], kind="stable", ignore_index=True)
