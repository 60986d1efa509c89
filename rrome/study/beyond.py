"""Attention sinks: which tokens, put in front of a prompt, take the sink from its first word, and what edits gain by it.

The first token of a sequence has nothing to attend to. In many models some of them serve as a place where attention is put
down (a sink); their keys at the edit site are outliers. When the subject is that first token, its bare-prompt key is such
an outlier and its averaged key is not. A leading token that takes the sink leaves the subject an ordinary key.

How much text C_0 needs: the same edits made with C_0 from more and more tokens.

The value v_e does not depend on C_0, so it is searched once per fact, and of the update only the direction changes:

    Delta(n) = (v_e - (W k_r + b)) u^T / (u . k_d)        u = C_0(n)^-1 k_u,  C_0(n) from n tokens

With fewer than d_k tokens, or with too few that differ, C_0(n) has no inverse and the kit refuses it.
"""

import time
from collections.abc import Mapping, Sequence

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
    """Per token: the norm of its key at position 0, `norm_leading`, and of the subject's key behind it, `norm_after`.

    A row for "" says what the subject's key is with nothing before it. Tokens that the tokeniser splits or drops are
    left out.
    """
    subject_ids = _ids(model, subject)
    single = {token: _ids(model, token) for token in tokens}
    single = {token: ids for token, ids in single.items() if len(ids) == 1}
    leading = row_keys(model, [Row(tuple(ids), 0) for ids in single.values()]).norm(dim=1)
    behind = row_keys(model, [Row((*ids, *subject_ids), len(subject_ids)) for ids in single.values()]).norm(dim=1)
    bare = row_keys(model, [Row(tuple(subject_ids), len(subject_ids) - 1)]).norm().item()
    rows = [{"token": "", "norm_leading": float("nan"), "norm_after": bare}]
    for token, at_0, at_1 in zip(single, leading.tolist(), behind.tolist(), strict=True):
        rows.append({"token": token, "norm_leading": at_0, "norm_after": at_1})
    return pd.DataFrame(rows)


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

    `norm_leading` is the norm of the token's own key, `norm_original` that of the subject's bare-prompt key behind it.
    `holds_with` and `holds_without` say whether p(new) > p(true) after the edit when the token is, and is not, in front of
    the prompt at test time.
    """
    rows = []
    for token in bar(tokens, desc="leading tokens", unit="token", show=progress):
        ids = _ids(editor.model, token)
        own = row_keys(editor.model, [Row(tuple(ids), len(ids) - 1)]).norm().item() if ids else float("nan")
        led = Editor(
            editor.model,
            editor.second_moment,
            editor.prefixes,
            editor.seed,
            leading=token or None,
            search=editor.search,
        )
        for fact in facts:
            rows += [{"leading": token, "norm_leading": own, **row} for row in _led_edit(led, fact)]
    return pd.DataFrame(rows)


def _led_edit(editor: Editor, fact: Fact) -> list[dict]:
    solution = editor.solve(fact)
    updates = {rule: solution.update(rule) for rule in NAMED_RULES}
    holds = {}
    for name, prompt in (("holds_without", fact.rewrite), ("holds_with", (editor.leading or "") + fact.rewrite)):
        n = len(updates)
        targets = [fact.target_new] * n + [fact.answer] * n
        new, true = target_nll(editor.model, [prompt] * 2 * n, targets, [*updates.values()] * 2).view(2, n)
        holds[name] = dict(zip(updates, (new < true).tolist(), strict=True))
    about = {
        "subject": fact.subject,
        "norm_original": solution.keys.original.norm().item(),
        "cosine": solution.keys.cosine,
    }
    return [
        about
        | {"rule": rule, "delta_frobenius": update.norm}
        | {name: by_rule[rule] for name, by_rule in holds.items()}
        for rule, update in updates.items()
    ]


def _ids(model: Model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


MEASURED = ("ES", "PS", "NS")


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

    `tokens` is n, `seconds` what C_0(n) took, `cosine` that of the angle between C_0(n)^-1 k_e and what it is at the largest
    size. A size without a C_0 has one row, with the reason in `refused`; RromeError where the largest has none. The editor
    gives prefixes and search, its own C_0 is not used; nothing is cached.
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
        measured = _measured(editor, fact, updates[number])
        last = directions[largest][number]
        asked = {"fact": number, "subject": fact.subject, "position": subject_position(model, fact)}
        for (n, rule), update in updates[number].items():
            row = about[n] | asked
            row["cosine"] = torch.cosine_similarity(directions[n][number], last, dim=0).item()
            rows.append(row | {"rule": rule, "delta_frobenius": update.norm} | measured[n, rule])
    return pd.DataFrame(rows).sort_values(["tokens", "fact"], kind="stable", ignore_index=True)


def _measured(
    editor: Editor, fact: Fact, updates: Mapping[tuple[int, str], RankOneUpdate]
) -> dict[tuple[int, str], dict[str, float]]:
    """ES, PS and NS of every update of a fact, all in one batch."""
    names = {f"{rule} {n}": (n, rule) for n, rule in updates}
    pairs = fact_probabilities(editor.model, fact, {name: updates[place] for name, place in names.items()})
    metrics = {place: fact_metrics(pairs[name]) for name, place in names.items()}
    return {place: {name: found[name] for name in MEASURED} for place, found in metrics.items()}
