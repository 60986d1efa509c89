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
from ..model.tokens import BARE, check_prompts, check_templates, fill, read_row, sample_prefixes, subject_position
from ..store.disk import digest
from ..store.journal import Journal, find_study, read_journal, study_path
from ..store.progress import bar
from ..update.keys import Keys
from ..update.rules import NAMED_RULES, RULES, RankOneUpdate, Rule, preflight, rule_named
from .draw import probe

N_TEST_PREFIXES = 4
Rows = dict[str, dict[str, Any]]  # what is known of one fact's edits, by rule


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a single-edit study measures beside the probabilities at a fact's own prompts."""

    generated: Sequence[str | Rule] = NAMED_RULES  # rules whose edited models (and the unedited one) generate text
    n_generated: int = 50  # tokens after each generation prompt; 0: none
    test_prefixes: Sequence[str] = ()  # templates "text. {}": the rewrite prompt is also tested behind each of them
    probe: str | None = None  # running text; every edited model's perplexity on it is measured

    def __post_init__(self):
        object.__setattr__(self, "generated", [rule_named(rule)[0] for rule in self.generated])
        for template in self.test_prefixes:
            check_templates([template])

    @classmethod
    def standard(cls, editor: Editor, **settings: Any) -> "Measures":
        """Measures (with these `settings`) with a held-out probe and test prefixes that the edit has not seen."""
        sampled = sample_prefixes(editor.model, editor.seed + 1)
        unseen = [template for template in sampled if template != BARE and template not in editor.prefixes]
        return cls(test_prefixes=unseen[:N_TEST_PREFIXES], probe=probe(), **settings)


def single_edits(
    editor: Editor,
    facts: Sequence[Fact],
    path: str | Path | None = None,
    *,
    rules: Sequence[str | Rule] = tuple(RULES),
    measures: Measures | None = None,
    within: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Edit each fact alone under each rule, measure, restore; one row per fact and rule, with "unedited" among the rules.

    Every row is appended to the journal `path` as it is made, and a rerun goes on where it stopped. `path` None: a file in
    `within` (None: the cache) found by a digest of all settings, `about` (how the facts were drawn, say) among them. v_e is
    searched once per fact, for `at_once` facts in one batch (None: `facts_at_once`), and all edited models of a fact are
    measured in one batch. Entropy and GE are missing for rules that are not among `measures.generated`. The settings stand
    in the table's `attrs`. Raises RromeError for a `path` with other settings.
    """
    measures, chosen = measures or Measures(), dict(map(rule_named, rules))
    check_prompts(editor.model, facts, measures.n_generated)
    editor.model.record.refuse_edits("a study of single edits")

    def make(batches: Iterable[list[int]]) -> Iterator[tuple[int, Rows]]:
        for batch in batches:
            yield from zip(batch, measured_edits(editor, [facts[n] for n in batch], chosen, measures), strict=True)

    settings = study_settings(editor) | chosen_settings(facts, chosen, measures) | dict(about or {})
    path = path or study_path("single_edits", settings, within).with_suffix(".jsonl")
    lengths, at_once = search_lengths(editor.model, facts), at_once or facts_at_once(editor.model.device)
    return record_edits(path, settings, lengths, make, at_once=at_once, progress=progress)


def chosen_settings(facts: Sequence[Fact], rules: Iterable[str], measures: Measures) -> dict[str, Any]:
    """The caller's choices that determine the numbers of a single-edit study, as JSON, for its journal's first line."""
    return {"facts": digest(*(fact.to_record() for fact in facts)), "rules": list(rules)} | asdict(measures)


def facts_at_once(device: torch.device) -> int:
    """How many facts to search in one batch: on a CPU they only share the cost of small operations."""
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
    return _table(journal.rows, settings)


def read_single_edits(path: str | Path, **known: Any) -> pd.DataFrame:
    """The table of a study on disk as far as it has come, without a model.

    `path` is a journal, or a folder in which the one study with the `known` settings is found. RromeError where there is none.
    """
    path = Path(path)
    settings, rows = read_journal(find_study("single_edits", path, **known) if path.is_dir() else path)
    return _table(rows, settings)


def _table(rows: Sequence[dict[str, Any]], settings: Mapping[str, Any]) -> pd.DataFrame:
    order = {rule: number for number, rule in enumerate(["unedited", *settings["rules"]])}
    table = pd.DataFrame(sorted(rows, key=lambda row: (row["fact"], order[row["rule"]])))
    table.attrs["settings"] = dict(settings)
    return table


def study_settings(editor: Editor) -> dict[str, Any]:
    """The editor's settings that determine the numbers of a study, as JSON, for the first line of its journal."""
    dtype = str(editor.model.site.weight.dtype).removeprefix("torch.")
    return {"model_name": editor.model.name, "dtype": dtype} | editor.settings


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
    every = {"unedited": None, **updates}
    prefixed = {"prefixed": [fill(template, fact.rewrite) for template in measures.test_prefixes]}
    pairs = fact_probabilities(editor.model, fact, every, prefixed)
    generating = ["unedited", *(rule for rule in rules if rule in measures.generated)]
    texts = _texts(editor, fact, {rule: every[rule] for rule in generating}, measures.n_generated)
    if measures.probe is not None:
        numbers = row_perplexities(editor.model, measures.probe, list(every.values()))
        for rule, number in zip(every, numbers, strict=True):
            texts.setdefault(rule, {})["perplexity"] = number
    about = _about(editor, fact, solution.keys) | {"probability": value.probability, "steps": value.steps}
    weight_norm = editor.model.site.weight.norm().item()
    return {
        rule: about
        | _size(update, weight_norm)
        | fact_metrics(pairs[rule])
        | {"pairs": pairs[rule]}
        | texts.get(rule, {})
        for rule, update in every.items()
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


def _texts(
    editor: Editor, fact: Fact, updates: Mapping[str, RankOneUpdate | None], n_tokens: int
) -> dict[str, dict[str, Any]]:
    """Entropy, GE and the first generated text per update, over the fact's generation prompts (none: nothing)."""
    prompts = fact.generation
    if not prompts or not n_tokens:
        return {}
    rows = [(rule, prompt) for rule in updates for prompt in prompts]
    with rowwise(editor.model, [updates[rule] for rule, _ in rows]):
        texts = generate(editor.model, [prompt for _, prompt in rows], n_tokens, seed=editor.seed)
    generated = {rule: texts[n * len(prompts) : (n + 1) * len(prompts)] for n, rule in enumerate(updates)}
    return {
        rule: {
            "entropy": mean([normalised_entropy(text) for text in generated[rule]]),
            "GE": 100 * mean([ngram_entropy(text) for text in generated[rule]]),
            "text": generated[rule][0],
        }
        for rule in updates
    }
