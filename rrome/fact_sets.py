"""Sets of facts by name: the embedded one, CounterFact, or a file."""

import random
from collections.abc import Sequence
from pathlib import Path

import pooch

from .cache import cache_dir
from .data_files import read_yaml
from .errors import RromeError
from .facts import Fact, read_facts
from .world import world_facts


def load_facts(source: str | Path = "world", *, n: int | None = None, seed: int | None = None) -> list[Fact]:
    """Facts from "world" (embedded), "counterfact" (downloaded once, hash-checked) or a .json / .jsonl file.

    `n` takes the first n, or with `seed` a random sample of n in a seeded order. Raises RromeError for an unknown
    source, a failed download, a bad record, or fewer than n facts.
    """
    if str(source) == "world":
        facts = world_facts()
    else:
        facts = read_facts(counterfact_file() if str(source) == "counterfact" else source)
    if n is not None and not 0 < n <= len(facts):
        raise RromeError(f"n={n} facts asked of {source}, which holds {len(facts)}")
    if seed is not None:
        return random.Random(seed).sample(facts, n or len(facts))
    return facts[:n]


def counterfact_file() -> Path:
    """The official CounterFact file in the cache; downloads it on first use and checks its sha256."""
    entry = read_yaml("datasets.yaml")["counterfact"]
    folder = cache_dir() / "datasets"
    try:
        return Path(pooch.retrieve(entry["url"], f"sha256:{entry['sha256']}", fname="counterfact.json", path=folder))
    except (OSError, ValueError) as error:
        raise RromeError(
            f"CounterFact could not be downloaded from {entry['url']} ({error}): connect to the internet once, "
            f"or pass the path of counterfact.json as the data set"
        ) from error


def paper_sample(facts: Sequence[Fact]) -> list[Fact]:
    """The 5,000 CounterFact cases of the paper's evaluation, in the order of the data set.

    The case ids are the first 5,000 of range(21919) shuffled by Python's random with seed 37; those that `facts` lacks
    are left out.
    """
    sample = read_yaml("datasets.yaml")["counterfact"]["paper_sample"]
    case_ids = list(range(sample["records"]))
    random.Random(sample["seed"]).shuffle(case_ids)
    chosen = set(case_ids[: sample["size"]])
    return [fact for fact in facts if fact.case_id in chosen]
