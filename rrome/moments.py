"""How much text C_0 needs: the same edits made with C_0 from more and more tokens.

The value v_e does not depend on C_0, so it is searched once per fact, and of the update only the direction changes:

    Delta(n) = (v_e - (W k_r + b)) u^T / (u . k_d)        u = C_0(n)^-1 k_u,  C_0(n) from n tokens

With fewer than d_k tokens, or with too few that differ, C_0(n) has no inverse and the kit refuses it.
"""

import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from .covariance import second_moment
from .editor import Editor
from .errors import RromeError
from .facts import Fact
from .metrics import fact_metrics
from .progress import bar
from .prompts import subject_position
from .rules import NAMED_RULES, RankOneUpdate, rank_one_update
from .scores import fact_probabilities

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
