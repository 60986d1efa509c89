"""The input of a study: facts drawn with a seed, what their keys predict, held-out texts, and tasks by name."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pandas as pd

from ..edit import Editor
from ..facts import Fact, factbook_prose, load_facts
from ..measure import Task, agreement_task, glue_task, recall_task, sentiment_task
from ..model import Model
from ..model.tokens import subject_position
from ..store import RromeError
from ..update import facts_keys, preflight


def draw_facts(
    model: Model, dataset: str, *, n_known: int, n_ordinary: int, n_first_token: int, n_companies: int = 0,
    n_prompts: int = 2, seed: int = 0,
) -> list[Fact]:  # fmt: skip
    """Seeded samples of the first `n_known` of a set, ordinary ones, then first-token ones, and of the set "companies".

    A first-token fact has its subject's last token at the start of the prompt. Each keeps at most `n_prompts` generation
    prompts. RromeError where the set holds too few.
    """
    pools: dict[bool, list[Fact]] = {True: [], False: []}
    for fact in load_facts(dataset, n=n_known):
        pools[subject_position(model, fact) > 0].append(fact)
    drawn, draw = [], random.Random(seed)
    for kind, n, pool in (("ordinary", n_ordinary, pools[True]), ("first-token", n_first_token, pools[False])):
        if n > len(pool):
            known = len(pools[True] + pools[False])
            raise RromeError(
                f"{n} {kind} facts asked, the {known} facts hold {len(pool)}: ask fewer or give more facts"
            )
        drawn += draw.sample(pool, n)
    drawn += load_facts("companies", n=n_companies, seed=seed) if n_companies else []
    return [replace(fact, generation=fact.generation[:n_prompts]) for fact in drawn]


def draw_sequence(dataset: str, *, n_known: int, n_edits: int, order: int = 0) -> list[Fact]:
    """`n_edits` of the first `n_known` facts of a set, in an order seeded by `order`; a longer one begins with the shorter."""
    if not 0 <= n_edits <= n_known:
        raise RromeError(f"{n_edits} edits asked, of the first {n_known} facts only: raise n_known")
    facts = load_facts(dataset, n=n_known)
    return random.Random(order).sample(facts, len(facts))[:n_edits]


def preflights(editor: Editor, facts: Sequence[Fact]) -> pd.DataFrame:
    """What the keys of each fact predict, without a search, and its subject's `position` in the bare prompt, from 0."""
    rows = []
    every = facts_keys(editor.model, facts, editor.prefixes, editor.leading, progress=None)
    for fact, keys in zip(facts, every, strict=True):
        found = preflight(keys, editor.second_moment, fact.subject, site=editor.model.site)
        about = {"case_id": fact.case_id, "prompt": fact.prompt, "position": subject_position(editor.model, fact)}
        rows.append(about | asdict(found) | {"cos_c": found.cos_c})
    return pd.json_normalize(rows, sep="_")  # denominator_RULE, amplification_RULE


def probe() -> str:
    """The held-out text, about one country, on which perplexity is measured after a single edit (about 130 tokens)."""
    return factbook_prose("held-out")[0][:600]


def mixed_probe() -> str:
    """The held-out text, a paragraph each about several countries, on which perplexity is measured in a sequence."""
    return "\n".join(text.split("\n")[0] for text in factbook_prose("held-out"))[:1200]


def named_tasks(model: Model, dataset: str, names: Sequence[str], *, n_known: int, n_items: int) -> list[Task]:
    """Downstream tasks by name: "sentiment", "agreement", "recall", GLUE's sst2, mrpc, cola, rte; about `n_items` items each.

    GLUE comes from the hub; FOLDER/sst2 reads FOLDER/sst2.jsonl instead. Recall asks only about subjects of which no fact
    is among the first `n_known` of the set, from which the edits are drawn. `model` is the unedited one.
    """
    edited = {fact.subject for fact in load_facts(dataset, n=n_known)}
    unedited = [fact for fact in load_facts("world") if fact.subject not in edited]
    offline: dict[str, Callable[[], Task]] = {
        "sentiment": lambda: sentiment_task(model, n_items),
        "agreement": lambda: agreement_task(max(1, n_items // 4)),
        "recall": lambda: recall_task(unedited, n_items),
    }

    def glue(name: str) -> Task:
        folder, _, task = name.rpartition("/")
        return glue_task(task, folder or "hub", n_per_class=max(1, n_items // 2))

    return [offline[name]() if name in offline else glue(name) for name in names]
