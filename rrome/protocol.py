"""The single-edit protocol that several notebooks share: the same facts, editor, measures and journal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from .covariance import second_moment
from .editor import Editor
from .fact_sets import load_facts
from .facts import Fact
from .models import Model, load
from .prompts import BARE, sample_prefixes
from .studies import Measures, single_edits, strata
from .text import factbook_prose

PROBE_CHARACTERS = 600  # of held-out text, for the perplexity after each edit: about 130 tokens
N_TEST_PREFIXES = 4


def standard_editor(
    model_name: str, *, device: str | None = None, layer: int | None = None, c0_tokens: int = 100_000, seed: int = 0
) -> Editor:
    """A model with its C_0 over the Factbook's prose and sampled prefixes."""
    model = load(model_name, device=device, layer=layer)
    return Editor(model, second_moment(model, factbook_prose("second-moment"), c0_tokens), seed=seed)


def standard_facts(
    model: Model, dataset: str, *, n_known: int, n_ordinary: int, n_first_token: int, n_prompts: int = 2, seed: int = 0
) -> list[Fact]:
    """Two strata drawn from the first `n_known` facts of a set, each with at most `n_prompts` generation prompts."""
    ordinary, first = strata(model, load_facts(dataset, n=n_known), n_ordinary, n_first_token, seed=seed)
    return [replace(fact, generation=fact.generation[:n_prompts]) for fact in ordinary + first]


def standard_measures(editor: Editor, *, n_generated: int, spoken: Sequence[str]) -> Measures:
    """Texts of the spoken rules, perplexity on a piece of held-out text, and prefixes that the edit has not seen."""
    unseen = sample_prefixes(editor.model, editor.seed + 1)
    unseen = [template for template in unseen if template != BARE and template not in editor.prefixes]
    probe = factbook_prose("held-out")[0][:PROBE_CHARACTERS]
    return Measures(spoken=spoken, n_generated=n_generated, test_prefixes=unseen[:N_TEST_PREFIXES], probe=probe)


def standard_study(
    editor: Editor, facts: Sequence[Fact], folder: str | Path, profile: str, *, n_generated: int, spoken: Sequence[str]
) -> pd.DataFrame:
    """The single-edit study of all eight rules, in FOLDER/single_edits-MODEL-PROFILE.jsonl; a second caller only reads it."""
    measures = standard_measures(editor, n_generated=n_generated, spoken=spoken)
    name = f"single_edits-{Path(editor.model.name).name}-{profile}.jsonl"
    return single_edits(editor, facts, Path(folder) / name, measures=measures)
