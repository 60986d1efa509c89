"""A few edits looked at closely: their sizes, what the edited models generate (Figure 1), and a form to try any edit."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..facts.text import factbook_prose
from ..measure.metrics import distinct_share, fact_metrics, normalised_entropy
from ..measure.scores import fact_probabilities, perplexity, rowwise, target_nll
from ..model.model import Model, generate
from ..store.disk import RromeError
from ..store.progress import bar
from ..update.rules import NAMED_RULES, RULES, RankOneUpdate

LIMIT = 5  # amplified above so many times what one key throughout gives, an edit is likely to disable the model
TYPED = ("prompt", "subject", "target_new", "target_true", "paraphrases", "neighbourhood", "generation")
STEPS = ("preflight", "compare", "edit", "undo last", "undo all")


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
    models = {"unedited": None, **updates}
    each = [*models.values()]
    rows: dict[str, list[str | float]] = {"‖Δ‖ (Frobenius)": ["none", *(update.norm for update in updates.values())]}
    nll = target_nll(model, [fact.rewrite] * len(each), [fact.target_new] * len(each), each)
    rows["p(new answer)"] = nll.neg().exp().tolist()
    if fact.target_true:
        pairs = fact_probabilities(model, fact, models)
        rows["p(true answer)"] = [pairs[name]["rewrite"][0][1] for name in models]
        metrics = pd.DataFrame(fact_metrics(pairs[name]) for name in models)
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
    """What the unedited model and each edited one generate after each prompt, with perplexity on `texts`.

    One row per prompt and rule; rule "unedited" comes first and has no size. Text is sampled (top-k 5) from one seed.
    """
    models = {"unedited": None, **updates}
    pairs = [(prompt, rule) for prompt in prompts for rule in models]
    with rowwise(editor.model, [models[rule] for _, rule in pairs]):
        generated = generate(editor.model, [prompt for prompt, _ in pairs], n_generated, seed=seed)
    table = pd.DataFrame(pairs, columns=["prompt", "rule"])
    table.insert(0, "subject", fact.subject)
    table.insert(2, "target_new", fact.target_new)
    attributes = {"delta_frobenius": "norm", "denominator": "denominator", "cosine": "cosine"}
    for column, attribute in attributes.items():
        table[column] = [getattr(models[rule], attribute, None) for rule in table["rule"]]
    table["entropy"] = [normalised_entropy(text) for text in generated]
    table["text"] = generated
    table["distinct"] = [distinct_share(text) for text in generated]
    table["delta"] = [getattr(models[rule], "size", None) for rule in table["rule"]]
    table["perplexity"] = table["rule"].map(_perplexities(editor, models, texts, n_perplexity))
    return table


def _perplexities(editor: Editor, models: Mapping[str, RankOneUpdate | None], texts, n_tokens: int) -> dict[str, float]:
    measured = {}
    for rule, update in models.items():
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


def playground(
    editor: Editor, examples: Sequence[Fact] = (), *, probe: str | None = None, n_generated: int = 40
) -> Any:
    """A form for one fact, rule and step, to be shown in a notebook; its last two children are the button and the page.

    Steps: "preflight" makes no search; "compare" measures the model as it is beside the named rules and the chosen one;
    "edit" also puts the chosen update into W; "undo last"; "undo all". Perplexity is of `probe` (None: held-out text).
    """
    import ipywidgets  # only a notebook needs it

    found: dict[tuple, Any] = {}  # the last v_e, by what it was searched for: another rule needs no new search
    texts = [factbook_prose("held-out")[0][:600] if probe is None else probe]
    options = [(f"{fact.rewrite} → {fact.target_new}", fact) for fact in examples]
    example = ipywidgets.Dropdown(options=options, description="example", layout={"width": "98%"})
    fields = {name: ipywidgets.Textarea(rows=1, description=name, layout={"width": "98%"}) for name in TYPED}
    rule = ipywidgets.Dropdown(options=list(RULES), value="r-rome", description="rule")
    step = ipywidgets.Dropdown(options=STEPS, description="step")
    button, page = ipywidgets.Button(description="Go"), ipywidgets.HTML()

    def fill(*_: Any) -> None:
        for name, field in fields.items():
            text = getattr(example.value, name, None) or ""
            field.value = text if isinstance(text, str) else "\n".join(text)

    def do(rule: str, step: str) -> str:
        if step.startswith("undo"):
            editor.revert() if step == "undo last" else editor.model.edits.set(())
            return ""
        typed: dict[str, Any] = {name: field.value for name, field in fields.items()}
        lines = {name: tuple(filter(str.strip, typed[name].splitlines())) for name in TYPED[4:]}
        fact = Fact(**typed | lines | {"target_true": typed["target_true"].strip() or None})
        if step == "preflight":
            return _preflight_table(editor, fact)
        wanted = fact.prompt, fact.subject, fact.target_new, editor.applied_updates
        value = found.get(wanted) or editor.value(fact)
        found.clear()
        found[wanted] = value
        updates = {name: editor.update(fact, name, value=value) for name in (*NAMED_RULES, rule)}
        shown = _preflight_table(editor, fact) + _comparison(editor, fact, updates, texts, n_generated)
        if step == "edit":
            editor.apply(updates[rule])
        return shown

    def go(*_: Any) -> None:
        button.disabled, shown = True, "<p><strong>Stopped</strong> by an error, which the notebook shows or logs.</p>"
        try:
            shown = do(rule.value, step.value)
        except RromeError as error:
            shown = f"<p><strong>Not done</strong>: {escape(str(error))}</p>"
        finally:
            button.disabled, page.value = False, shown + _edits_in(editor)

    example.observe(fill, "value")
    fill()
    button.on_click(go)
    return ipywidgets.VBox([example, *fields.values(), rule, step, button, page])


def _edits_in(editor: Editor) -> str:
    named = [(getattr(update, "fact", None), update) for update in editor.applied_updates]
    edits = [f"{f'{f.rewrite} → {f.target_new}' if f else u.subject} under {u.rule}" for f, u in named]
    return f"<p>Edits in the model: {len(edits)}</p><ol>{''.join(f'<li>{escape(edit)}</li>' for edit in edits)}</ol>"


def _preflight_table(editor: Editor, fact: Fact) -> str:
    keys = editor.preflight(fact)
    one_key = min(keys.amplification[rule] for rule in ("r-rome", "p-rome"))
    rows = {}
    for rule, size in keys.amplification.items():
        verdict = "likely to disable the model" if size > LIMIT * one_key else "of an ordinary size for its keys"
        rows[rule] = keys.denominator[rule], size, size / one_key, verdict
    caption = (
        f"Keys: cosine {keys.cosine:.2f}, norms {keys.norm_average:.1f} (average), {keys.norm_original:.1f} (original)"
    )
    return html_table(caption, ["rule", "denominator", "amplification", "times one key's", "the edit is"], rows)


def _comparison(editor: Editor, fact: Fact, updates: Mapping[str, RankOneUpdate], texts: list[str], n: int) -> str:
    prompts = list(dict.fromkeys((fact.rewrite, *fact.generation)))
    table = what_it_says(editor, fact, updates, prompts, texts, n_generated=n, seed=editor.seed)
    numbers = in_numbers(editor.model, fact, updates) | {"perplexity": [*table["perplexity"][: len(updates) + 1]]}
    table["text"] = table["text"].str.strip() + table["entropy"].map("\n(entropy {:.2f})".format)
    generated = {prompt: [*rows["text"]] for prompt, rows in table.groupby("prompt", sort=False)}
    caption, heads = f"{fact.rewrite} → {fact.target_new}", ["", "before", *updates]
    return html_table(caption, heads, numbers) + html_table("Generated text", heads, generated)
