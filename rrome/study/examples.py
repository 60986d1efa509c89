"""A few edits looked at closely: their sizes, and what the edited models say. What Figure 1 is made of."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..measure.metrics import distinct_share, fact_metrics, normalised_entropy
from ..measure.scores import fact_probabilities, perplexity, rowwise, target_nll
from ..model.model import Model, generate
from ..store.progress import bar
from ..update.rules import NAMED_RULES, RankOneUpdate


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


def in_numbers(model: Model, fact: Fact, updates: Mapping[str, RankOneUpdate]) -> dict[str, list[str | float]]:
    """Size, probabilities and, where the fact has the prompts for them, ES, PS and NS, by name.

    Each list starts with the model as it is and goes on with what each update makes of it; the model is not changed.
    """
    editions = {"unedited": None, **updates}
    each = [*editions.values()]
    rows: dict[str, list[str | float]] = {"‖Δ‖ (Frobenius)": ["none", *(update.norm for update in updates.values())]}
    nll = target_nll(model, [fact.rewrite] * len(each), [fact.target_new] * len(each), each)
    rows["p(new answer)"] = nll.neg().exp().tolist()
    if fact.target_true:
        pairs = fact_probabilities(model, fact, editions)
        rows["p(true answer)"] = [pairs[name]["rewrite"][0][1] for name in editions]
        metrics = pd.DataFrame(fact_metrics(pairs[name]) for name in editions)
        rows |= metrics[["ES", "PS", "NS"]].dropna(axis=1).to_dict("list")
    return rows


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


CELL = 'style="text-align: left; vertical-align: top; padding: 0.2em 0.8em; white-space: pre-wrap"'


def html_table(caption: str, heads: Sequence[str], rows: Mapping[str, Sequence[str | float]]) -> str:
    """HTML with a caption and headers of columns and rows; every text in it is escaped, numbers have three digits."""
    head = "".join(f'<th scope="col" {CELL}>{escape(name)}</th>' for name in heads)
    body = ""
    for name, cells in rows.items():
        texts = [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in cells]
        data = "".join(f"<td {CELL}>{escape(text)}</td>" for text in texts)
        body += f'<tr><th scope="row" {CELL}>{escape(name)}</th>{data}</tr>'
    return (
        f"<table><caption {CELL}>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
