"""The single-edit study: every fact edited alone and measured, one row per fact and rule."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..edit import Editor, Solution
from ..facts import Fact
from ..measure.metrics import fact_metrics, ngram_entropy, normalised_entropy, token_entropy
from ..measure.scores import fact_probabilities, row_perplexities, rowwise
from ..model import Model, generate, read_row, sample_prefixes
from ..model.tokens import BARE, check_prompts, check_templates, fill, subject_position
from ..store import Journal, RromeError, bar, digest, read_journal
from ..store.journal import WEIGHTS, differences, find_study, study_path
from ..update import NAMED_RULES, RULES, RankOneUpdate, Rule, preflight, rule_named
from ..update.rules import rules_named
from .draw import probe

Batch = tuple[int, ...]  # numbers of facts that are searched together
Rows = dict[str, dict[str, Any]]  # the rows of one fact, by rule


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a single-edit study measures beside the probabilities at a fact's own prompts."""

    generated: Sequence[str | Rule] = NAMED_RULES  # rules whose edited models (and the unedited one) generate text
    n_generated: int = 50  # tokens after each generation prompt; 0: none
    test_prefixes: Sequence[str] = ()  # templates "text. {}": the rewrite prompt is also tested in each
    probe: str | None = None  # running text; every edited model's perplexity on it is measured

    def __post_init__(self):
        object.__setattr__(self, "generated", [rule_named(rule)[0] for rule in self.generated])
        check_templates(self.test_prefixes)

    @classmethod
    def standard(cls, editor: Editor, **settings: Any) -> "Measures":
        """Measures (with these `settings`) with a held-out probe and test prefixes that the edit has not seen."""
        sampled = sample_prefixes(editor.model, editor.seed + 1)
        unseen = [template for template in sampled if template != BARE and template not in editor.prefixes]
        return cls(test_prefixes=unseen[:4], probe=probe(), **settings)


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

    Every row is appended to the journal `path`, and a rerun goes on where it stopped. `path` None: a file in `within`
    (None: the cache) found by a digest of all settings, `about` (how the facts were drawn, say) among them. `at_once` facts
    are searched in one batch (None: `facts_at_once`). Entropy and GE are only of rules in `measures.generated`. The table's
    `attrs` hold the settings. Raises RromeError for a `path` with other settings.
    """
    facts, measures, chosen = list(facts), measures or Measures(), rules_named(rules, recorded=True)
    settings, lengths, suited = prepared(editor, facts, chosen, measures)
    editor.model.record.refuse_edits("a study of single edits")
    settings = described(settings, about)
    path = path or study_path("single_edits", settings, within).with_suffix(".jsonl")

    def make(batches: Sequence[Batch]) -> Iterator[tuple[Batch, Iterable[Rows]]]:
        return ((batch, measured_edits(editor, [facts[n] for n in batch], chosen, measures)) for batch in batches)

    return record_edits(path, settings, lengths, make, at_once=at_once or suited, progress=progress)


def prepared(editor: Editor, facts: Sequence[Fact], rules: Mapping[str, Rule], measures: Measures) -> tuple:
    """(settings as JSON, search lengths, facts at once) of a study; RromeError for a fact that it refuses."""
    check_prompts(editor.model, facts, measures.n_generated, editor.prefixes, editor.leading)
    editor.check_guard(facts, list(rules.values()))
    chosen = {"facts": digest(*(fact.to_record() for fact in facts)), "rules": list(rules)} | asdict(measures)
    if held := {name: rule.remembered for name, rule in rules.items() if rule.remembered}:
        chosen["remembered"] = held
    return study_settings(editor) | chosen, search_lengths(editor.model, facts), facts_at_once(editor.model.device)


def facts_at_once(device: torch.device) -> int:
    """How many facts to search in one batch; a CPU gains little by more."""
    return 4 if device.type == "cpu" else 8


def search_lengths(model: Model, facts: Sequence[Fact]) -> list[int]:
    """How many tokens each evaluation of a fact's search reads; facts of one length share a batch without padding."""
    return [len(row.ids) - row.subject for row in (read_row(model, fact, target=fact.target_new) for fact in facts)]


def record_edits(
    path: str | Path,
    settings: Mapping[str, Any],
    lengths: Sequence[int],
    make: Callable[[Sequence[Batch]], Iterable[tuple[Batch, Iterable[Rows]]]],
    *,
    at_once: int,
    progress: bool | None = None,
) -> pd.DataFrame:
    """The study's table: `make` takes batches of fact numbers and yields each with its facts' rows, in any order."""
    if at_once < 1:
        raise RromeError(f"a batch holds at least one fact: at_once={at_once}")
    wanted = ["unedited", *settings["rules"]]
    in_order = sorted(range(len(lengths)), key=lambda n: lengths[n])  # whatever is done: resumed batches are the same
    batches = [tuple(in_order[start : start + at_once]) for start in range(0, len(in_order), at_once)]
    with Journal(path, settings) as journal:
        done = {(row["fact"], row["rule"]) for row in journal.rows}
        missing = {n: [rule for rule in wanted if (n, rule) not in done] for n in in_order}
        complete = sum(not rules for rules in missing.values())
        with bar(total=len(lengths), initial=complete, desc="edits", unit="fact", show=progress) as shown:
            for batch, made in make([batch for batch in batches if any(missing[n] for n in batch)]):
                for number, rows in zip(batch, made, strict=True):
                    for rule in missing[number]:
                        journal.append({"fact": number, "rule": rule, **rows[rule]})
                    shown.update(bool(missing[number]))
    return read_single_edits(path)


def read_single_edits(path: str | Path, **known: Any) -> pd.DataFrame:
    """The table of a study on disk as far as it has come, without a model.

    `path` is a journal, or a folder that holds one study with the `known` settings. RromeError where there is none.
    """
    if Path(path).is_dir():
        path, known = find_study("single_edits", path, **known), {}
    settings, rows = read_journal(path)
    if wrong := differences({name: settings.get(name) for name in known}, known):
        raise RromeError(f"{path} holds a study with other settings: {wrong}")
    order = ["unedited", *settings["rules"]]
    table = as_table(sorted(rows, key=lambda row: (row["fact"], order.index(row["rule"]))), "fact", "rule")
    table.attrs["settings"] = settings
    return table


def as_table(rows: Sequence[dict[str, Any]], *names: str) -> pd.DataFrame:
    """The rows of a journal, the first for each value of the named fields; what was never measured is NaN."""
    table = pd.DataFrame(rows)
    table = table.drop_duplicates([*names], ignore_index=True) if len(table) else table
    return table.assign(**{name: math.nan for name in table if table[name].isna().all()})


def study_settings(editor: Editor) -> dict[str, Any]:
    """The settings of an editor and its model, as JSON, for a journal's first line."""
    model, guard = editor.model, {"max_amplification": editor.max_amplification, "on_excess": editor.on_excess}
    dtype = str(model.site.weight.dtype).removeprefix("torch.")
    about = {"model_name": model.name, "dtype": dtype, WEIGHTS: model.record.mark}
    return about | editor.settings | ({} if editor.max_amplification is None else guard)


def described(settings: Mapping[str, Any], about: Mapping[str, Any] | None) -> dict[str, Any]:
    """A study's settings and what the caller says about it; RromeError for a name that both have."""
    if taken := sorted(set(settings) & set(about or {})):
        raise RromeError(f"about= must not name settings of the study itself: rename {', '.join(taken)}")
    return {**settings, **(about or {})}


def measured_edits(
    editor: Editor, facts: Sequence[Fact], rules: Mapping[str, Rule], measures: Measures
) -> Iterator[Rows]:
    """Each fact's row per rule, "unedited" first; v_e is searched for all these facts in one batch."""
    model, probe = editor.model, measures.probe
    for solution in editor.solve_all(facts):
        fact, about = solution.fact, _about(solution)
        updates = {"unedited": None, **{name: solution.update(rule) for name, rule in rules.items()}}
        prefixed = {"prefixed": [fill(template, fact.rewrite) for template in measures.test_prefixes]}
        pairs = fact_probabilities(model, fact, updates, prefixed)
        edited = list(updates.values())
        numbers = [] if probe is None else row_perplexities(model, probe, edited)
        perplexities = {name: {"perplexity": number} for name, number in zip(updates, numbers, strict=False)}
        generating = {name: updates[name] for name in updates if name == "unedited" or name in measures.generated}
        texts = _texts(editor, fact, generating, measures.n_generated)
        rows: Rows = {}
        for name, update in updates.items():
            rows[name] = about | _size(solution, rules.get(name), update) | fact_metrics(pairs[name])
            rows[name] |= {"pairs": pairs[name]} | texts.get(name, {}) | perplexities.get(name, {})
        yield rows


def _about(solution: Solution) -> dict[str, Any]:
    """What is the same under every rule: fact, keys and value."""
    editor, fact, keys, value = solution.editor, solution.fact, solution.keys, solution.value
    names = ("case_id", "subject", "prompt", "target_new", "target_true", "relation")
    amplification = preflight(keys, editor.second_moment).amplification
    return {
        **{name: getattr(fact, name) for name in names},
        "position": subject_position(editor.model, fact),
        "layer": editor.model.layer,
        "cosine": keys.cosine,
        "norm_average": keys.average.norm().item(),
        "norm_original": keys.original.norm().item(),
        "norm_v0": value.base.norm().item(),
        **{f"amplification_{rule}": size for rule, size in amplification.items()},
        "probability": value.probability,
        "steps": value.steps,
    }


def _size(solution: Solution, rule: Rule | None, update: RankOneUpdate | None) -> dict[str, float | None]:
    """Sizes of an update, the share of left that it writes at its key, its change of W's output on text."""
    names = ("delta", "delta_frobenius", "delta_relative", "denominator", "share_written", "preservation")
    if rule is None or update is None:
        return dict.fromkeys(names)
    relative = update.norm / solution.editor.model.site.weight.norm().item()
    written = (rule.choose(solution.keys)[1] @ update.right).item() * bool(update.left.any())  # NAS may leave it out
    change = update.change(solution.editor.second_moment)
    found = update.size, update.norm, relative, update.denominator, written, change
    return dict(zip(names, found, strict=True))


def _texts(editor: Editor, fact: Fact, updates: Mapping[str, RankOneUpdate | None], n_tokens: int) -> Rows:
    """Entropy, GE and the first generated text per update, over the fact's generation prompts (none: nothing)."""
    if not fact.generation or not n_tokens:
        return {}
    n = len(fact.generation)
    with rowwise(editor.model, [update for update in updates.values() for _ in range(n)]):
        texts = generate(editor.model, fact.generation * len(updates), n_tokens, seed=editor.seed)
    rows = {}
    for number, rule in enumerate(updates):
        own = texts[number * n : (number + 1) * n]
        tokens = [editor.model.encode(text, special=False) for text in own]
        rows[rule] = {
            "entropy": pd.Series(map(normalised_entropy, own)).mean(),  # of texts that have one
            "entropy_tokens": pd.Series(map(token_entropy, tokens)).mean(),
            "GE": 100 * pd.Series(map(ngram_entropy, own)).mean(),
            "text": own[0],
        }
    return rows
