"""The playground: type a fact, see what its keys foretell, edit, compare, undo; widgets for a notebook, methods for code.

How many edits are in the model is always on the page, and every one can be taken out again, bit for bit.
"""

import functools
import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd

from .editor import Editor
from .errors import RromeError
from .facts import Fact
from .metrics import fact_metrics, normalised_entropy
from .models import generate
from .rowwise import rowwise
from .rules import RULES, RankOneUpdate
from .scores import fact_probabilities, row_perplexities, target_nll
from .values import Value

LIKELY = 5  # times what one key throughout would give: the edit is called likely to disable the model
SHOWN = ("before", "after")


def _told(step: Callable[["Playground"], None]) -> Callable[..., None]:
    """A step of the playground whose RromeError is shown on the page; the page says when it works and when it is done."""

    @functools.wraps(step)
    def run(self: "Playground", *_button: Any) -> None:
        self.message.value = f"<em>{step.__name__.replace('_', ' ')}: working …</em>"
        try:
            step(self)
        except RromeError as error:
            self.message.value = f"<strong>Not done:</strong> {html.escape(str(error))}"
        else:
            self.message.value = f"{step.__name__.replace('_', ' ').capitalize()}: done."
        self._count()

    return run


class Playground:
    """One fact after another into the editor's model: show `app` in a notebook, or call the steps.

    `examples` can be picked from a list; `probe` is running text on which perplexity is measured. Fields of the fact are
    widgets (`fields["subject"].value`), so are the outputs `result`, `message` and `state`.
    """

    def __init__(self, editor: Editor, *, probe: str, examples: Sequence[Fact] = (), n_generated: int = 40):
        self.editor, self.probe, self.n_generated = editor, probe, n_generated
        self._searched: tuple[Any, Value] | None = None  # what the last value was searched for, and the value
        self.fields: dict[str, widgets.Text | widgets.Textarea] = {
            "prompt": _field(widgets.Text, "Prompt with {}", "The capital of {} is"),
            "subject": _field(widgets.Text, "Subject"),
            "target_new": _field(widgets.Text, "New answer"),
            "target_true": _field(widgets.Text, "True answer"),
            "paraphrases": _field(widgets.Textarea, "Paraphrases", "one prompt per line, may be empty"),
            "neighbourhood": _field(widgets.Textarea, "Neighbours", "prompts about others with the same true answer"),
            "generation": _field(widgets.Textarea, "Let it speak", "one prompt per line"),
        }
        self.example = _field(widgets.Dropdown, "Example", options=[(fact.rewrite, fact) for fact in examples])
        self.rule = _field(widgets.Dropdown, "Rule", options=list(RULES), value="r-rome")
        self.result, self.message, self.state = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.example.observe(lambda change: self.fill(change["new"]), "value")
        if examples:
            self.fill(examples[0])
        self._count()

    @property
    def app(self) -> widgets.VBox:
        """The page."""
        steps = [self.preflight, self.edit, self.undo_last, self.undo_all]
        buttons = [widgets.Button(description=step.__name__.replace("_", " ").capitalize()) for step in steps]
        for button, step in zip(buttons, steps, strict=True):
            button.on_click(step)
        form = [self.example, *self.fields.values(), self.rule, widgets.HBox(buttons)]
        return widgets.VBox([*form, self.message, self.state, self.result])

    def fill(self, fact: Fact, rule: str | None = None) -> None:
        """Write a fact, and a rule if one is given, into the fields."""
        for name, field in self.fields.items():
            value = getattr(fact, name) or ""
            field.value = value if isinstance(value, str) else "\n".join(value)
        self.rule.value = rule or self.rule.value

    @property
    def fact(self) -> Fact:
        """The fact in the fields; RromeError when it is none."""
        typed: dict[str, Any] = {name: field.value for name, field in self.fields.items()}
        typed["target_true"] = typed["target_true"].strip() or None
        for name in ("paraphrases", "neighbourhood", "generation"):
            typed[name] = tuple(filter(str.strip, typed[name].splitlines()))
        return Fact(**typed)

    @_told
    def preflight(self) -> None:
        """Show what the keys foretell under every rule, without a search."""
        fact = self.fact
        ahead = self.editor.preflight(fact)
        table = pd.DataFrame({"denominator": ahead.denominator, "amplification": ahead.amplification})
        times = ahead.amplification[self.rule.value] / min(ahead.amplification[rule] for rule in ("r-rome", "p-rome"))
        verdict = "likely to disable the model" if times > LIKELY else "as safe as the key allows"
        self.result.value = (
            f"<p>{html.escape(fact.rewrite)}: the cosine of the two keys is {ahead.cosine:.2f}, their norms are "
            f"{ahead.norm_average:.1f} (averaged) and {ahead.norm_original:.1f} (original). Under {self.rule.value} the "
            f"residual is amplified {times:.1f} times what one key throughout would give: <strong>{verdict}</strong>.</p>"
            + _table(table.rename_axis("rule"), "{:.3g}")
        )

    @_told
    def edit(self) -> None:
        """Search v_e (unless only the rule has changed since), compare the model before and after, put the update into W."""
        fact = self.fact
        update = self.editor.update(fact, self.rule.value, value=self._value(fact))
        measured, said = self._numbers(fact, update), self._words(fact, update)
        self.editor.apply(update)
        sizes = f"‖Δ‖<sub>F</sub> = {update.norm:.1f}, denominator {update.denominator:.3g}, cosine {update.cosine:.2f}"
        head = f"<p>{html.escape(fact.rewrite)} → {html.escape(fact.target_new)} under {update.rule}: {sizes}.</p>"
        self.result.value = head + _table(measured, "{:.3g}") + _table(said)

    @_told
    def undo_last(self) -> None:
        """Take the last edit out."""
        self.editor.revert()

    @_told
    def undo_all(self) -> None:
        """Take every edit out: the model is bit for bit as it was loaded."""
        self.editor.model.edits.set(())

    def _value(self, fact: Fact) -> Value:
        """v_e of the fact in the model as it is, from memory when neither has changed."""
        wanted = fact, self.editor.applied_updates
        if self._searched is None or self._searched[0] != wanted:
            self._searched = wanted, self.editor.value(fact)
        return self._searched[1]

    def _numbers(self, fact: Fact, update: RankOneUpdate) -> pd.DataFrame:
        """Probabilities, metrics where the fact has a true answer, and perplexity, before and after; W is not touched."""
        model, rows = self.editor.model, {}
        nll = target_nll(model, [fact.rewrite] * 2, [fact.target_new] * 2, [None, update])
        rows["p(new answer)"] = [math.exp(-number) for number in nll.tolist()]
        if fact.target_true:
            pairs = fact_probabilities(model, fact, dict(zip(SHOWN, (None, update), strict=True)))
            metrics = {name: fact_metrics(pairs[name]) for name in SHOWN}
            rows["p(true answer)"] = [pairs[name]["rewrite"][0][1] for name in SHOWN]
            rows |= {name: [metrics[each][name] for each in SHOWN] for name in ("ES", "PS", "NS")}
        rows["perplexity"] = row_perplexities(model, self.probe, [None, update])
        return pd.DataFrame(rows, index=SHOWN).T.dropna().rename_axis("measure")

    def _words(self, fact: Fact, update: RankOneUpdate) -> pd.DataFrame:
        """What the model says after each prompt, before and after, side by side, with the entropy of the text."""
        prompts = [fact.rewrite, *fact.generation]
        with rowwise(self.editor.model, [edition for edition in (None, update) for _ in prompts]):
            texts = generate(self.editor.model, prompts * 2, self.n_generated, seed=self.editor.seed)
        told = [f"{text.strip()} (entropy {normalised_entropy(text):.2f})" for text in texts]
        before, after = told[: len(prompts)], told[len(prompts) :]
        return pd.DataFrame({"prompt": prompts, "before": before, "after": after}).set_index("prompt")

    def _count(self) -> None:
        """Say which edits are in the model."""
        updates = self.editor.applied_updates
        items = "".join(
            f"<li>{html.escape(update.subject)} under {html.escape(update.rule)}</li>" for update in updates
        )
        said = f"{len(updates)} edit{'s' * (len(updates) != 1)} in the model" + (
            "" if updates else ": it is as it was loaded"
        )
        self.state.value = f"<p><strong>{said}.</strong></p>" + (f"<ol>{items}</ol>" if updates else "")


def _field(kind: type, label: str, placeholder: str = "", **options: Any) -> Any:
    more = {"placeholder": placeholder} if placeholder else {}
    return kind(description=label, style={"description_width": "8em"}, layout={"width": "98%"}, **more, **options)


def _table(table: pd.DataFrame, form: str = "{}") -> str:
    """An HTML table with headers; what was typed or generated is escaped."""
    return table.map(form.format).reset_index().to_html(index=False, escape=True, border=0)
