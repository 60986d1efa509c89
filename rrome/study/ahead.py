"""What is known of facts before any edit is made: their keys, what these foretell, and where their subject stands."""

import random
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..model.model import Model
from ..model.tokens import subject_position
from ..store.disk import RromeError
from ..update.keys import facts_keys
from ..update.rules import preflight


def preflights(editor: Editor, facts: Sequence[Fact], *, progress: bool | None = None) -> pd.DataFrame:
    """What the keys foretell of each fact, no search: cosine, key norms, and denominator and amplification per rule.

    `position` is that of the subject's last token in the bare prompt: 0 means that nothing of the prompt stands before it.
    """
    rows = []
    every = facts_keys(editor.model, facts, editor.prefixes, editor.leading, progress=progress)
    for fact, keys in zip(facts, every, strict=True):
        ahead = preflight(keys, editor.second_moment, fact.subject)
        row: dict[str, Any] = {"case_id": fact.case_id, "subject": fact.subject, "prompt": fact.prompt}
        row["position"] = subject_position(editor.model, fact)
        row |= {"cosine": ahead.cosine, "norm_average": ahead.norm_average, "norm_original": ahead.norm_original}
        row |= {f"denominator_{rule}": number for rule, number in ahead.denominator.items()}
        row |= {f"amplification_{rule}": number for rule, number in ahead.amplification.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def strata(
    model: Model, facts: Sequence[Fact], n_ordinary: int, n_first: int, seed: int = 0
) -> tuple[list[Fact], list[Fact]]:
    """Seeded samples of ordinary facts and of facts whose subject's last token is the first token of the prompt."""
    ordinary: list[Fact] = []
    first: list[Fact] = []
    for fact in facts:
        (first if subject_position(model, fact) == 0 else ordinary).append(fact)
    for kind, n, pool in (("ordinary", n_ordinary, ordinary), ("first-token", n_first, first)):
        if n > len(pool):
            raise RromeError(
                f"{n} {kind} facts asked, the {len(facts)} facts hold {len(pool)}: ask fewer or give more facts"
            )
    draw = random.Random(seed)
    return draw.sample(ordinary, n_ordinary), draw.sample(first, n_first)
