"""Studies: many edits, measured one way, as tidy frames with one row per fact and rule."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .cache import digest
from .editor import Editor
from .errors import RromeError
from .facts import Fact
from .journal import Journal
from .metrics import distinct_share, fact_metrics, mean, ngram_entropy, normalised_entropy
from .models import Model, generate
from .progress import bar
from .prompts import read_row
from .rowwise import rowwise
from .rules import RULES, RankOneUpdate
from .scores import fact_probabilities, perplexity

NAMED_RULES = ("rome", "r-rome", "p-rome")


def preflights(editor: Editor, facts: Sequence[Fact], *, progress: bool | None = None) -> pd.DataFrame:
    """What the keys foretell of each fact, no search: cosine, key norms, and denominator and amplification per rule.

    `position` is that of the subject's last token in the bare prompt: 0 means that nothing stands before it.
    """
    rows = []
    for fact in bar(facts, desc="keys", unit="fact", show=progress):
        ahead = editor.preflight(fact)
        row = {"case_id": fact.case_id, "subject": fact.subject, "prompt": fact.prompt}
        row["position"] = read_row(editor.model, fact, leading=editor.leading).subject
        row |= {"cosine": ahead.cosine, "norm_average": ahead.norm_average, "norm_original": ahead.norm_original}
        row |= {f"denominator_{rule}": number for rule, number in ahead.denominator.items()}
        row |= {f"amplification_{rule}": number for rule, number in ahead.amplification.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def compute_updates(
    editor: Editor, facts: Sequence[Fact], rules: Sequence[str] = NAMED_RULES, *, progress: bool | None = None
) -> list[dict[str, RankOneUpdate]]:
    """The updates of each fact alone under each rule, keys and v_e computed once per fact; the model is not changed."""
    return [editor.updates(fact, rules) for fact in bar(facts, desc="edits", unit="fact", show=progress)]


def sizes(facts: Sequence[Fact], updates: Sequence[Mapping[str, RankOneUpdate]]) -> pd.DataFrame:
    """Size, denominator and cosine of each update, one row per fact and rule."""
    return pd.DataFrame(
        {
            "case_id": fact.case_id,
            "subject": fact.subject,
            "prompt": fact.prompt,
            "target_new": fact.target_new,
            "rule": rule,
            "delta": update.size,
            "delta_frobenius": update.norm,
            "denominator": update.denominator,
            "cosine": update.cosine,
        }
        for fact, by_rule in zip(facts, updates, strict=True)
        for rule, update in by_rule.items()
    )


def what_it_says(
    editor: Editor,
    fact: Fact,
    updates: Mapping[str, RankOneUpdate],
    prompts: Sequence[str],
    texts: Sequence[str],
    *,
    n_generated: int = 60,
    n_perplexity: int = 4096,
    seed: int = 0,
) -> pd.DataFrame:
    """What the unedited model and each edited one say after each prompt, with perplexity on `texts`.

    One row per prompt and rule; rule "unedited" comes first and has no size. Text is sampled (top-k 5) from one seed.
    """
    editions = {"unedited": None, **updates}
    places = [(prompt, rule) for prompt in prompts for rule in editions]
    with rowwise(editor.model, [editions[rule] for _, rule in places]):
        said = generate(editor.model, [prompt for prompt, _ in places], n_generated, seed=seed)
    table = pd.DataFrame(places, columns=["prompt", "rule"])
    table.insert(0, "subject", fact.subject)
    table.insert(2, "target_new", fact.target_new)
    attributes = {"delta_frobenius": "norm", "denominator": "denominator", "cosine": "cosine"}
    for column, attribute in attributes.items():
        table[column] = [getattr(editions[rule], attribute, None) for rule in table["rule"]]
    table["entropy"] = [normalised_entropy(text) for text in said]
    table["text"] = said
    table["distinct"] = [distinct_share(text) for text in said]
    table["delta"] = [getattr(editions[rule], "size", None) for rule in table["rule"]]
    table["perplexity"] = table["rule"].map(_perplexities(editor, editions, texts, n_perplexity))
    return table


def _perplexities(
    editor: Editor, editions: Mapping[str, RankOneUpdate | None], texts, n_tokens: int
) -> dict[str, float]:
    measured = {}
    for rule, update in editions.items():
        if update is None:
            measured[rule] = perplexity(editor.model, texts, n_tokens)
            continue
        with editor.applied(update):
            measured[rule] = perplexity(editor.model, texts, n_tokens)
    return measured


def single_edits(
    editor: Editor,
    facts: Sequence[Fact],
    path: str | Path,
    *,
    rules: Sequence[str] = tuple(RULES),
    spoken: Sequence[str] = NAMED_RULES,
    n_generated: int = 50,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Edit each fact alone under each rule, measure, restore; one row per fact and rule, with "unedited" among the rules.

    Every row is appended to the JSON-lines file `path` as it is made and a rerun goes on where it stopped; another
    setting is refused. v_e is searched once per fact. Text is generated (each generation prompt, `n_generated` tokens)
    for the rules in `spoken` and for the unedited model only; entropy and GE are missing in other rows.
    """
    settings = study_settings(editor, facts) | {
        "rules": list(rules),
        "spoken": list(spoken),
        "n_generated": n_generated,
    }
    journal = Journal(path, settings)
    done = {(row["fact"], row["rule"]) for row in journal.rows}
    wanted = ["unedited", *rules]
    for number, fact in enumerate(bar(facts, desc="edits", unit="fact", show=progress)):
        missing = [rule for rule in wanted if (number, rule) not in done]
        if not missing:
            continue
        rows = _one_fact(editor, fact, rules, spoken, n_generated)
        for rule in missing:
            journal.append({"fact": number, "rule": rule, **rows[rule]})
    order = {rule: place for place, rule in enumerate(wanted)}
    return pd.DataFrame(sorted(journal.rows, key=lambda row: (row["fact"], order[row["rule"]])))


def study_settings(editor: Editor, facts: Sequence[Fact]) -> dict[str, Any]:
    """Everything that a study's numbers depend on, as JSON: the header of its journal."""
    return {
        "model": editor.model.fingerprint,
        "layer": editor.model.layer,
        "second_moment": editor.second_moment.key,
        "prefixes": list(editor.prefixes),
        "leading": editor.leading,
        "seed": editor.seed,
        "search": vars(editor.search),
        "facts": digest(*(fact.to_record() for fact in facts)),
    }


def _one_fact(editor: Editor, fact: Fact, rules, spoken, n_generated: int) -> dict[str, dict[str, Any]]:
    """One fact's row per rule: what it is, its keys and value, its updates and what they do."""
    keys, value = editor.keys(fact), editor.value(fact)
    updates = {rule: editor.update(fact, rule, keys=keys, value=value) for rule in rules}
    editions = {"unedited": None, **updates}
    probabilities = fact_probabilities(editor.model, fact, editions)
    speech = _speech(editor, fact, {rule: editions[rule] for rule in ("unedited", *spoken)}, n_generated)
    about = {
        "case_id": fact.case_id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
        "relation": fact.relation,
        "position": read_row(editor.model, fact, leading=editor.leading).subject,
        "layer": editor.model.layer,
        "cosine": keys.cosine,
        "norm_average": keys.average.norm().item(),
        "norm_original": keys.original.norm().item(),
        "probability": value.probability,
        "steps": value.steps,
    }
    weight_norm = editor.model.site.weight.norm().item()
    return {
        rule: about
        | _size(update, weight_norm)
        | fact_metrics(probabilities[rule])
        | {"pairs": probabilities[rule]}
        | speech.get(rule, {})
        for rule, update in editions.items()
    }


def _size(update: RankOneUpdate | None, weight_norm: float) -> dict[str, float | None]:
    if update is None:
        return dict.fromkeys(("delta", "delta_frobenius", "delta_relative", "denominator"))
    relative = update.norm / weight_norm
    return {
        "delta": update.size,
        "delta_frobenius": update.norm,
        "delta_relative": relative,
        "denominator": update.denominator,
    }


def _speech(
    editor: Editor, fact: Fact, editions: Mapping[str, RankOneUpdate | None], n_tokens: int
) -> dict[str, dict[str, Any]]:
    """Entropy, GE and the first text per edition, over the fact's generation prompts (none: nothing)."""
    prompts = fact.generation
    if not prompts or not n_tokens:
        return {}
    places = [(rule, prompt) for rule in editions for prompt in prompts]
    with rowwise(editor.model, [editions[rule] for rule, _ in places]):
        texts = generate(editor.model, [prompt for _, prompt in places], n_tokens, seed=editor.seed)
    said = {rule: texts[n * len(prompts) : (n + 1) * len(prompts)] for n, rule in enumerate(editions)}
    return {
        rule: {
            "entropy": mean([normalised_entropy(text) for text in said[rule]]),
            "GE": 100 * mean([ngram_entropy(text) for text in said[rule]]),
            "text": said[rule][0],
        }
        for rule in editions
    }


def strata(
    model: Model, facts: Sequence[Fact], n_ordinary: int, n_first: int, seed: int = 0
) -> tuple[list[Fact], list[Fact]]:
    """Seeded samples of ordinary facts and of facts whose subject's last token is the first token of the prompt."""
    first = [fact for fact in facts if read_row(model, fact).subject == 0]
    ordinary = [fact for fact in facts if fact not in set(first)]
    for kind, n, pool in (("ordinary", n_ordinary, ordinary), ("first-token", n_first, first)):
        if n > len(pool):
            raise RromeError(
                f"{n} {kind} facts asked, the {len(facts)} facts hold {len(pool)}: ask fewer or give more facts"
            )
    draw = random.Random(seed)
    return draw.sample(ordinary, n_ordinary), draw.sample(first, n_first)
