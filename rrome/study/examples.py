"""A few edits looked at closely: what edited models generate (Figure 1), and a form to try any edit."""

import contextlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ..edit import Editor, Solution
from ..facts import Fact
from ..measure.metrics import distinct_share, fact_metrics, normalised_entropy, token_entropy
from ..measure.scores import fact_probabilities, perplexity, rowwise, target_nll
from ..model import generate
from ..store import RromeError
from ..update import NAMED_RULES, RULES, RankOneUpdate
from .draw import probe

LIMIT = 5  # amplified above so many times what one key throughout gives, an edit is likely to disable the model
TYPED = ("prompt", "subject", "target_new", "target_true", "paraphrases", "neighbourhood", "generation")
WORDS = {"ES": "ES: new beats true", "PS": "PS: also in other words", "NS": "NS: neighbours keep theirs"}
STEPS = ("preflight", "compare", "edit", "undo last", "undo all")


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
    """What the unedited and each edited model generate after each prompt (top-k 5), and its perplexity on `texts`."""
    models = {"unedited": None, **updates}
    pairs = [(prompt, rule) for prompt in prompts for rule in models]
    with rowwise(editor.model, [models[rule] for _, rule in pairs]):
        generated = generate(editor.model, [prompt for prompt, _ in pairs], n_generated, seed=seed)
    perplexities = {}
    for rule, update in models.items():
        with editor.applied(update) if update else contextlib.nullcontext():
            perplexities[rule] = perplexity(editor.model, texts, n_perplexity)
    return pd.DataFrame(
        {
            "subject": fact.subject,
            "prompt": prompt,
            "target_new": fact.target_new,
            "rule": rule,
            "delta_frobenius": getattr(models[rule], "norm", None),
            "denominator": getattr(models[rule], "denominator", None),
            "cosine": getattr(models[rule], "cosine", None),
            "entropy": normalised_entropy(text),
            "entropy_tokens": token_entropy(editor.model.encode(text, special=False)),
            "text": text,
            "distinct": distinct_share(text),
            "delta": getattr(models[rule], "size", None),
            "perplexity": perplexities[rule],
        }
        for (prompt, rule), text in zip(pairs, generated, strict=True)
    )


LOOK = "text-align: left; vertical-align: top; padding: 0.2em 0.8em; white-space: pre-wrap"
BEFORE, WHOLE, BROKEN = "#8882", "#009e7330", "#d55e0040"  # behind the columns of models


def _html(caption: str, table: pd.DataFrame, colours: Sequence[str] = ()) -> str:
    """HTML of a table with a colour behind each column; every text in it is escaped, numbers have three digits."""
    shown = table.style.set_caption(escape(caption))
    shown.set_table_styles([{"selector": "td, th, caption", "props": LOOK}])
    shown.format(lambda cell: cell if isinstance(cell, str) else f"{cell:.3g}", escape="html")
    shown.format_index(escape="html", axis="index").format_index(escape="html", axis="columns")
    if colours:
        shown.apply(lambda _: [f"background: {colour}" for colour in colours], axis="columns")
    return shown.to_html()


def playground(editor: Editor, examples: Sequence[Fact] = (), *, n_generated: int = 40) -> Any:
    """A form for one fact, rule and step, to be shown in a notebook; its last two children are the button and the page.

    Steps: "preflight" makes no search; "compare" measures the model as it is beside the named rules and the chosen one;
    "edit" also puts the chosen update into W; "undo last"; "undo all". Perplexity is of held-out text.
    """
    import ipywidgets  # only a notebook needs it

    found: dict[tuple, Solution] = {}  # the last one, by what it was searched for: another rule needs no new search
    options = [(f"{fact.rewrite} → {fact.target_new}", fact) for fact in examples]
    example = ipywidgets.Dropdown(options=options, description="example", layout={"width": "98%"})
    look = {"rows": 1, "layout": {"width": "98%"}, "style": {"description_width": "8em"}}
    fields = {name: ipywidgets.Textarea(description=name, **look) for name in TYPED}
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
        typed |= lines | {"target_true": typed["target_true"].strip() or None}
        fact = Fact(**typed, separator=getattr(example.value, "separator", " "))
        if step == "preflight":
            return _preflight_table(editor, fact)
        wanted = fact.prompt, fact.subject, fact.target_new, fact.separator, editor.applied_updates
        solution = found.get(wanted) or editor.solve(fact)
        found.clear()
        found[wanted] = solution
        updates = {name: solution.update(name) for name in (*NAMED_RULES, rule)}
        shown = _preflight_table(editor, fact) + _comparison(editor, fact, updates, n_generated)
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
    table = pd.DataFrame({"denominator": keys.denominator, "amplification": keys.amplification})
    times = table["amplification"] / table["amplification"][["r-rome", "p-rome"]].min()
    verdicts = {True: "likely to disable the model", False: "of an ordinary size for its keys"}
    table = table.assign(**{"times one key's": times, "the edit is": times.gt(LIMIT).map(verdicts)})
    norms = f"norms {keys.norm_average:.1f} (average), {keys.norm_original:.1f} (original)"
    return _html(f"Keys: cosine under the inverse of C_0 {keys.cos_c:.2f}, {norms}", table)


def _comparison(editor: Editor, fact: Fact, updates: Mapping[str, RankOneUpdate], n_generated: int) -> str:
    """Two tables, a column for the model before and one per update: numbers, and generated text."""
    models = {"before": None, **updates}
    prompts = list(dict.fromkeys((fact.rewrite, *fact.generation)))
    said = what_it_says(editor, fact, updates, prompts, [probe()], n_generated=n_generated, seed=editor.seed)
    texts = said["text"].str.strip() + said["entropy_tokens"].map("\n(entropy of tokens {:.2f})".format)
    generated = pd.DataFrame(texts.to_numpy().reshape(-1, len(models)), said["prompt"].unique(), [*models])
    asked = [fact.rewrite] * len(models), [fact.target_new] * len(models)
    nll = target_nll(editor.model, *asked, [*models.values()], fact.separator)
    numbers = pd.DataFrame({"p(new answer)": nll.neg().exp().tolist()}, [*models])
    if fact.target_true:
        pairs = fact_probabilities(editor.model, fact, models).values()
        numbers["p(true answer)"] = [found["rewrite"][0][1] for found in pairs]
        scores = pd.DataFrame(map(fact_metrics, pairs), [*models])[[*WORDS]].dropna(axis="columns")
        numbers = numbers.join(scores.rename(columns=WORDS))
    known = numbers.filter(like="answer").assign(half=0.5).idxmax(axis="columns").eq("p(new answer)")
    numbers["perplexity"] = [*said["perplexity"][: len(models)]]
    whole = numbers["perplexity"].le(2 * numbers["perplexity"]["before"])
    verdicts = "the fact is " + known.map({True: "in", False: "not in"})
    verdicts += ", the model is " + whole.map({True: "whole", False: "broken"})
    numbers.insert(0, "‖Δ‖ (Frobenius)", ["none", *(update.norm for update in updates.values())])
    numbers.insert(0, "verdict", ["–", *verdicts[1:]])
    colours = [BEFORE, *whole[1:].map({True: WHOLE, False: BROKEN})]
    caption = f"{fact.rewrite} → {fact.target_new}"
    return _html(caption, numbers.T, colours) + _html("Generated text", generated, colours)
