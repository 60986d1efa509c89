"""The playground: type a fact, see what its keys foretell, compare rules, edit, undo; widgets for a notebook, methods for code.

Which edits are in the model is always on the page, and every one can be taken out again, bit for bit.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from ..edit.editor import Editor, Solution
from ..facts.fact import Fact
from ..store.disk import RromeError
from ..update.rules import NAMED_RULES, RULES, RankOneUpdate
from .draw import probe as standard_probe
from .examples import html_table, in_numbers, what_it_says

LIMIT = 5  # times what one key throughout would give: an edit above it is called likely to disable the model


def _step(step: Callable[["Playground"], None]) -> Callable[..., None]:
    """A step of the playground: the page says that it works and how it ended, RromeErrors as their sentence."""
    name = step.__name__.replace("_", " ").capitalize()

    @functools.wraps(step)
    def run(self: "Playground", *_button: Any) -> None:
        start, end = time.perf_counter(), "<strong>stopped by an error</strong>, which the log of the notebook has"
        self._doing = name
        self._say("working …")
        try:
            step(self)
            end = f"done in {time.perf_counter() - start:.1f} s."
        except RromeError as error:
            end = f"<strong>not done</strong>: {escape(str(error))}"
        finally:
            self._say(end)
            self._list_edits()

    return run


class Playground:
    """One fact after another into the editor's model: show `app` in a notebook, or call the steps.

    `examples` can be picked from a list; perplexity is measured on the text `probe`, by default the studies' own. What is
    typed stands in `fields` (`fields["subject"].value`) and `rule`, what comes out in `message`, `state` and `result`.
    """

    def __init__(
        self, editor: Editor, *, examples: Sequence[Fact] = (), probe: str | None = None, n_generated: int = 40
    ):
        self.editor, self.n_generated = editor, n_generated
        self.probe = standard_probe() if probe is None else probe
        self._doing = ""  # the step at work
        self._searched: tuple[Any, Solution] | None = None  # what the last value was searched for, and the value
        self.fields: dict[str, widgets.Text | widgets.Textarea] = {
            "prompt": _field(widgets.Text, "Prompt with {}", "The capital of {} is"),
            "subject": _field(widgets.Text, "Subject", "France"),
            "target_new": _field(widgets.Text, "New answer", "Rome"),
            "target_true": _field(widgets.Text, "True answer", "Paris; may be empty"),
            "paraphrases": _field(widgets.Textarea, "Paraphrases", "one prompt per line; may be empty"),
            "neighbourhood": _field(widgets.Textarea, "Neighbours", "prompts about others with the same true answer"),
            "generation": _field(widgets.Textarea, "Let it speak", "one prompt per line; may be empty"),
        }
        options = [(f"{fact.rewrite} → {fact.target_new}", fact) for fact in examples]
        self.example = _field(widgets.Dropdown, "Example", options=options)
        self.rule = _field(widgets.Dropdown, "Rule", options=list(RULES), value="r-rome")
        self.message, self.state, self.result = widgets.HTML(), widgets.HTML(), widgets.HTML()
        steps = [self.preflight, self.compare, self.edit, self.undo_last, self.undo_all]
        buttons = [widgets.Button(description=step.__name__.replace("_", " ").capitalize()) for step in steps]
        for button, step in zip(buttons, steps, strict=True):
            button.on_click(step)
        form = [self.example, *self.fields.values(), self.rule, widgets.HBox(buttons)]
        self.app = widgets.VBox([*form, self.message, self.state, self.result])
        self.example.observe(lambda change: self.fill(change["new"]), "value")
        if examples:
            self.fill(examples[0])
        self._list_edits()

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

    @_step
    def preflight(self) -> None:
        """Show what the keys foretell under every rule, without a search."""
        fact = self.fact
        ahead = self.editor.preflight(fact)
        one_key = min(ahead.amplification[rule] for rule in ("r-rome", "p-rome"))
        rows = {
            rule: (ahead.denominator[rule], amplification, amplification / one_key, _verdict(amplification / one_key))
            for rule, amplification in ahead.amplification.items()
        }
        *_, times, verdict = rows[self.rule.value]
        self.result.value = (
            f"<p>{escape(fact.rewrite)}: the cosine of the two keys is {ahead.cosine:.2f}, their norms are "
            f"{ahead.norm_average:.1f} (averaged) and {ahead.norm_original:.1f} (original). Under {self.rule.value} the "
            f"edit is <strong>{verdict}</strong>: its residual is amplified {times:.1f} times as much as under the better of "
            "r-rome and p-rome, which use one key throughout.</p>"
            + html_table("Every rule", ["rule", "denominator", "amplification", "times one key's", "the edit is"], rows)
        )

    @_step
    def compare(self) -> None:
        """Show the fact under the named rules and the chosen one side by side; the model is not changed."""
        fact = self.fact
        rules = dict.fromkeys((*NAMED_RULES, self.rule.value))
        updates = {rule: self._update(fact, rule) for rule in rules}
        self.result.value = f"<p>{_said(fact)}, not applied:</p>" + self._shown(fact, "now", updates)

    @_step
    def edit(self) -> None:
        """Search v_e (unless only the rule has changed since), show the model before and after, put the update into W."""
        fact = self.fact
        update = self._update(fact, self.rule.value)
        shown = self._shown(fact, "before", {"after": update})
        self.editor.apply(update)
        keys = f"denominator {update.denominator:.3g}, cosine {update.cosine:.2f}"
        self.result.value = f"<p>{_said(fact)} under {update.rule}, now in the model ({keys}):</p>" + shown

    @_step
    def undo_last(self) -> None:
        """Take the last edit out."""
        self.editor.revert()
        self.result.value = ""  # it showed a model that is no more

    @_step
    def undo_all(self) -> None:
        """Take every edit out: the model is bit for bit as it was loaded."""
        self.editor.model.edits.set(())
        self.result.value = ""

    def _update(self, fact: Fact, rule: str) -> RankOneUpdate:
        """The fact's update; its v_e is from memory when neither what is searched for nor the model has changed."""
        wanted = fact.prompt, fact.subject, fact.target_new, self.editor.applied_updates
        if self._searched is None or self._searched[0] != wanted:
            self._say("searching the value …")
            self._searched = wanted, self.editor.solve(fact)
        return self._searched[1].update(rule)

    def _shown(self, fact: Fact, now: str, updates: Mapping[str, RankOneUpdate]) -> str:
        """The model as it is, in a column called `now`, beside each update, in numbers and in words; W stays as it is."""
        self._say("measuring, and letting the model speak …")
        prompts = list(dict.fromkeys((fact.rewrite, *fact.generation)))
        options = {"n_generated": self.n_generated, "seed": self.editor.seed}
        said = what_it_says(self.editor, fact, updates, prompts, [self.probe], **options)
        numbers = in_numbers(self.editor.model, fact, updates)
        numbers["perplexity"] = [*said["perplexity"][: len(updates) + 1]]
        said["told"] = said["text"].str.strip() + said["entropy"].map("\n(entropy {:.2f})".format)
        words = {prompt: [*of["told"]] for prompt, of in said.groupby("prompt", sort=False)}
        tables = ("In numbers", "measure", numbers), ("In words", "prompt", words)
        return "".join(html_table(caption, [corner, now, *updates], rows) for caption, corner, rows in tables)

    def _say(self, what: str) -> None:
        self.message.value = f"{self._doing}: {what}"

    def _list_edits(self) -> None:
        """Say which edits are in the model."""
        updates = self.editor.applied_updates
        facts = [getattr(update, "fact", None) for update in updates]
        items = [
            f"<li>{_said(fact) if fact else escape(update.subject)} under {escape(update.rule)}</li>"
            for fact, update in zip(facts, updates, strict=True)
        ]
        count = f"{len(updates)} edit{'s' * (len(updates) != 1)} in the model"
        more = f", W moved by {self.editor.model.edits.distance:.3g} in all" if updates else ": it is as it was loaded"
        self.state.value = f"<p><strong>{count}</strong>{more}.</p><ol>{''.join(items)}</ol>"


def _verdict(times: float) -> str:
    return "likely to disable the model" if times > LIMIT else "of an ordinary size for its keys"


def _said(fact: Fact) -> str:
    return f"{escape(fact.rewrite)} → {escape(fact.target_new)}"


def _field(kind: type, label: str, placeholder: str = "", **options: Any) -> Any:
    more = {"placeholder": placeholder} if placeholder else {}
    return kind(description=label, style={"description_width": "8em"}, layout={"width": "98%"}, **more, **options)
