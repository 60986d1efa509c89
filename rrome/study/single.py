"""The single-edit study: every fact edited alone, measured one way, one row per fact and rule."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..edit.editor import Editor, Solution
from ..facts.fact import Fact
from ..measure.metrics import fact_metrics, mean, ngram_entropy, normalised_entropy
from ..measure.scores import fact_probabilities, row_perplexities, rowwise
from ..model.model import Model, generate
from ..model.tokens import check_prompts, check_templates, fill, read_row, subject_position
from ..store.disk import digest
from ..store.journal import Journal, read_journal
from ..store.progress import bar
from ..update.keys import Keys
from ..update.rules import NAMED_RULES, RULES, RankOneUpdate, Rule, preflight, rule_named

Rows = dict[str, dict[str, Any]]  # what is known of one fact's edits, by rule


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a single-edit study measures beside the probabilities at a fact's own prompts."""

    spoken: Sequence[str | Rule] = (
        NAMED_RULES  # rules whose edited models continue the generation prompts (besides unedited)
    )
    n_generated: int = 50  # tokens said after each generation prompt; 0: nothing
    test_prefixes: Sequence[str] = ()  # templates "text. {}": the rewrite prompt is also tested behind each of them
    probe: str | None = None  # running text; every edited model's perplexity on it is measured

    def __post_init__(self):
        object.__setattr__(self, "spoken", [rule_named(rule)[0] for rule in self.spoken])
        for template in self.test_prefixes:
            check_templates([template])


def single_edits(
    editor: Editor,
    facts: Sequence[Fact],
    path: str | Path,
    *,
    rules: Sequence[str | Rule] = tuple(RULES),
    measures: Measures | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Edit each fact alone under each rule, measure, restore; one row per fact and rule, with "unedited" among the rules.

    Every row is appended to the JSON-lines file `path` as it is made and a rerun goes on where it stopped; another
    setting is refused. v_e is searched once per fact, for `at_once` facts in one batch (None: `facts_at_once`), and
    all edited models of a fact are measured in one batch.
    Entropy and GE are missing in rows of rules that are not spoken.
    """
    measures, chosen = measures or Measures(), dict(map(rule_named, rules))
    check_prompts(editor.model, facts)

    def make(batches: Iterable[list[int]]) -> Iterator[tuple[int, Rows]]:
        for batch in batches:
            yield from zip(batch, measured_edits(editor, [facts[n] for n in batch], chosen, measures), strict=True)

    settings = study_settings(editor) | chosen_settings(facts, chosen, measures)
    lengths, at_once = search_lengths(editor.model, facts), at_once or facts_at_once(editor.model.device)
    return record_edits(path, settings, lengths, make, at_once=at_once, progress=progress)


def chosen_settings(facts: Sequence[Fact], rules: Iterable[str], measures: Measures) -> dict[str, Any]:
    """What the numbers of a single-edit study owe to the caller's choices, as JSON, for the header of its journal."""
    return {"facts": digest(*(fact.to_record() for fact in facts)), "rules": list(rules)} | asdict(measures)


def facts_at_once(device: torch.device) -> int:
    """How many facts are best searched in one batch: on a processor they only share the cost of small operations."""
    return 4 if device.type == "cpu" else 8


def search_lengths(model: Model, facts: Sequence[Fact]) -> list[int]:
    """Tokens of each fact that every evaluation of its search reads: facts of one length share a batch without padding."""
    rows = [read_row(model, fact, target=fact.target_new) for fact in facts]
    return [len(row.ids) - row.subject for row in rows]


def record_edits(
    path: str | Path,
    settings: Mapping[str, Any],
    lengths: Sequence[int],
    make: Callable[[list[list[int]]], Iterable[tuple[int, Rows]]],
    *,
    at_once: int,
    progress: bool | None = None,
) -> pd.DataFrame:
    """The study's table: `make` is given the facts' numbers in batches, and each fact's rows are kept as they come.

    Batches hold facts of like `lengths` and do not depend on what is already there, so that a search made again is the
    same to the last bit. Facts may come in any order and from anywhere; only this process writes the journal at `path`.
    """
    wanted = ["unedited", *settings["rules"]]
    in_order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    batches = [in_order[start : start + at_once] for start in range(0, len(in_order), at_once)]
    with Journal(path, settings) as journal:
        done = {(row["fact"], row["rule"]) for row in journal.rows}
        missing = {n: [rule for rule in wanted if (n, rule) not in done] for n in in_order}
        wanting = [batch for batch in batches if any(missing[n] for n in batch)]
        there = sum(not rules for rules in missing.values())
        with bar(total=len(lengths), initial=there, desc="edits", unit="fact", show=progress) as shown:
            for number, rows in make(wanting):
                for rule in missing[number]:
                    journal.append({"fact": number, "rule": rule, **rows[rule]})
                shown.update(bool(missing[number]))
    return _table(journal.rows, wanted)


def read_single_edits(path: str | Path) -> pd.DataFrame:
    """The table of a study on disk as far as it has come, without a model; RromeError where there is none."""
    settings, rows = read_journal(path)
    return _table(rows, ["unedited", *settings["rules"]])


def _table(rows: Sequence[dict[str, Any]], rules: Sequence[str]) -> pd.DataFrame:
    order = {rule: place for place, rule in enumerate(rules)}
    return pd.DataFrame(sorted(rows, key=lambda row: (row["fact"], order[row["rule"]])))


def study_settings(editor: Editor) -> dict[str, Any]:
    """What the numbers of a study owe to its editor, as JSON, for the header of its journal."""
    return editor.settings


def measured_edits(
    editor: Editor, facts: Sequence[Fact], rules: Mapping[str, Rule], measures: Measures
) -> Iterator[Rows]:
    """Each fact's row per rule, "unedited" first; v_e is searched for all these facts in one batch."""
    for solution in editor.solve_all(facts):
        yield _one_fact(solution, rules, measures)


def _one_fact(solution: Solution, rules: Mapping[str, Rule], measures: Measures) -> Rows:
    """One fact's row per rule: what it is, its keys and value, its updates and what they do."""
    editor, fact, value = solution.editor, solution.fact, solution.value
    updates = {name: solution.update(rule) for name, rule in rules.items()}
    editions = {"unedited": None, **updates}
    behind = {"prefixed": [fill(template, fact.rewrite) for template in measures.test_prefixes]}
    pairs = fact_probabilities(editor.model, fact, editions, behind)
    spoken = ["unedited", *(rule for rule in rules if rule in measures.spoken)]
    speech = _speech(editor, fact, {rule: editions[rule] for rule in spoken}, measures.n_generated)
    if measures.probe is not None:
        for rule, number in zip(
            editions, row_perplexities(editor.model, measures.probe, list(editions.values())), strict=True
        ):
            speech.setdefault(rule, {})["perplexity"] = number
    about = _about(editor, fact, solution.keys) | {"probability": value.probability, "steps": value.steps}
    weight_norm = editor.model.site.weight.norm().item()
    return {
        rule: about
        | _size(update, weight_norm)
        | fact_metrics(pairs[rule])
        | {"pairs": pairs[rule]}
        | speech.get(rule, {})
        for rule, update in editions.items()
    }


def _about(editor: Editor, fact: Fact, keys: Keys) -> dict[str, Any]:
    """What a row says of its fact and keys, the same under every rule."""
    return {
        "case_id": fact.case_id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
        "relation": fact.relation,
        "position": subject_position(editor.model, fact),
        "layer": editor.model.layer,
        "cosine": keys.cosine,
        "norm_average": keys.average.norm().item(),
        "norm_original": keys.original.norm().item(),
    } | {f"amplification_{rule}": size for rule, size in preflight(keys, editor.second_moment).amplification.items()}


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
