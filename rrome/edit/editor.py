"""The editor: from a fact to its keys, value and update, and updates put into W and taken out."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from ..facts.fact import Fact
from ..facts.text import FACTBOOK
from ..model.load import DEFAULT_MODEL, load
from ..model.model import Model
from ..model.tokens import check_templates, sample_prefixes
from ..store.disk import RromeError
from ..update.keys import Keys, facts_keys
from ..update.rules import Preflight, RankOneUpdate, Rule, preflight, rank_one_update, rule_named, rules_named
from ..update.second_moment import SecondMoment, second_moment_from
from ..update.value import Search, Value, find_values
from .adapter import save_adapter, save_merged


@dataclass(frozen=True, eq=False)
class Solution:
    """What all rules share when one fact is edited: its `value` v_e, and the `keys` of the prompts of the search."""

    editor: "Editor" = field(repr=False)
    fact: Fact
    value: Value

    @property
    def keys(self) -> Keys:
        """k_e and k_e^o."""
        return self.value.keys

    def update(self, rule: str | Rule) -> RankOneUpdate:
        """The rank-one update under a rule, for W as it is now; RromeError as in `Editor.update`."""
        _, rule = rule_named(rule)
        model, moment = self.editor.model, self.editor.second_moment
        moment.check(model)  # a layer below may have been edited since
        self.editor._guard(self.fact, self.keys, [rule])
        update = rank_one_update(model.site, self.keys, self.value, moment, rule, self.fact.subject)
        return replace(update, fact=self.fact, origin=(model.fingerprint, model.site.path))


class Editor:
    """Edits one model at one layer with one second moment and one set of prefixes.

    `prefixes` is the complete list of templates (the bare prompt "{}" comes first and is added when absent); None
    samples them from the model with `seed`. `leading` is a text put in front of every prompt at edit time. `search`
    defaults to the settings published for the model. An update whose keys predict more than `max_amplification` (see
    `preflight`) is refused before the search; with `on_excess` "warn" there is a warning instead. Only `apply`, `revert`
    and `applied` change the model, and `revert` restores the weights bit for bit.
    """

    def __init__(
        self,
        model: Model,
        second_moment: SecondMoment,
        prefixes: Sequence[str] | None = None,
        seed: int = 0,
        *,
        leading: str | None = None,
        search: Search | None = None,
        max_amplification: float | None = None,
        on_excess: Literal["refuse", "warn"] = "refuse",
    ):
        second_moment.check(model)
        if on_excess not in ("refuse", "warn"):
            raise RromeError(f"on_excess is 'refuse' or 'warn', not {on_excess!r}")
        self.max_amplification, self.on_excess = max_amplification, on_excess
        self.model, self.second_moment = model, second_moment
        self.seed, self.leading, self.search = seed, leading, search or Search(**model.published)
        self.prefixes = check_templates(sample_prefixes(model, seed) if prefixes is None else prefixes)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the editor that determine an update, as JSON."""
        return {
            "model": self.model.fingerprint,
            "layer": self.model.layer,
            "second_moment": self.second_moment.key,
            "prefixes": list(self.prefixes),
            "leading": self.leading,
            "seed": self.seed,
            "search": {name: setting for name, setting in vars(self.search).items() if setting is not None},
        }

    def keys(self, fact: Fact) -> Keys:
        """k_e and k_e^o of a fact; they do not depend on W, so they hold through a whole sequential run."""
        self._check_state()
        return facts_keys(self.model, [fact], self.prefixes, self.leading)[0]

    def _check_state(self) -> None:
        """RromeError where C_0 is not that of the layers below as they are now, or one of them was changed by hand."""
        self.second_moment.check(self.model)
        self.model.record.verify(up_to=self.model.layer)

    def preflight(self, fact: Fact) -> Preflight:
        """What the keys predict of the edit under every rule, from one short forward pass and no search."""
        return preflight(self.keys(fact), self.second_moment, fact.subject, site=self.model.site)

    def value(self, fact: Fact) -> Value:
        """v_e of a fact, searched in the model as it is now."""
        return self.solve(fact).value

    def solve(self, fact: Fact) -> Solution:
        """Keys and value of a fact: what the updates under all rules share; v_e is searched in the model as it is now."""
        return self.solve_all([fact])[0]

    def solve_all(self, facts: Sequence[Fact]) -> list[Solution]:
        """`solve` for several facts, each searched for itself but all in one batch, which keeps a GPU busy."""
        solved = self.solve_each(facts)
        for each in solved:
            if isinstance(each, RromeError):
                raise each
        return cast(list[Solution], solved)

    def solve_each(
        self, facts: Sequence[Fact], weights: Sequence[torch.Tensor] | None = None
    ) -> list[Solution | RromeError]:
        """`solve_all`, with a W (d_v, d_k) for each fact if given; an error stands for a search that failed."""
        for fact in facts:
            if not isinstance(fact, Fact):
                raise RromeError(f"an editor edits a rrome.Fact, not {fact!r}: make one, or Fact.from_record(...)")
        self._check_state()
        values = find_values(self.model, facts, self.prefixes, self.search, self.leading, weights)
        solved = zip(facts, values, strict=True)
        return [value if isinstance(value, RromeError) else Solution(self, fact, value) for fact, value in solved]

    def remembering(self, rule: str | Rule, earlier: Sequence[Fact]) -> Rule:
        """The rule as it is after earlier facts were edited: with their keys, whatever is in W, if it remembers any."""
        rule = rule_named(rule)[1].remembering(self.second_moment)
        for fact in earlier if rule.remembers else ():
            rule.add(self.keys(fact))
        return rule

    def update(self, fact: Fact, rule: str | Rule, earlier: Sequence[Fact] = ()) -> RankOneUpdate:
        """The rank-one update of a fact under a rule, after the facts edited `earlier`: `solve(fact).update(rule)`.

        RromeError for an unknown rule or, with `max_amplification`, a refused edit: both before the search.
        """
        return self.updates(fact, [self.remembering(rule, earlier) if earlier else rule])[rule_named(rule)[0]]

    def updates(self, fact: Fact, rules: Sequence[str | Rule]) -> dict[str, RankOneUpdate]:
        """One update per rule, by name, from the same keys and the same value."""
        chosen = rules_named(rules)
        self.check_guard([fact], list(chosen.values()))
        solution = self.solve(fact)
        return {name: solution.update(rule) for name, rule in chosen.items()}

    def check_guard(self, facts: Sequence[Fact], rules: Sequence[Rule]) -> None:
        """RromeError for the first fact that `max_amplification` refuses under one of the rules, from keys alone."""
        if self.max_amplification is not None and self.on_excess == "refuse":
            every = facts_keys(self.model, facts, self.prefixes, self.leading)
            for fact, keys in zip(facts, every, strict=True):
                self._guard(fact, keys, rules)

    def _guard(self, fact: Fact, keys: Keys, rules: Sequence[Rule]) -> None:
        """Refuse, or warn of, an edit whose keys predict a disabling update."""
        if self.max_amplification is None:
            return
        for name, amplification in preflight(keys, self.second_moment, rules=rules).amplification.items():
            if amplification > self.max_amplification:
                why = f"its keys amplify the residual {amplification:.3g} times, the limit is {self.max_amplification:.3g}"
                message = f"{fact.rewrite!r} under {name!r} is likely to disable the model: {why}; take another rule"
                if self.on_excess == "refuse":
                    raise RromeError(message)
                warnings.warn(message, stacklevel=3)

    def apply(self, update: RankOneUpdate) -> None:
        """W <- W + Delta, until it is reverted."""
        self.model.edits.put(update)

    def revert(self, update: RankOneUpdate | None = None) -> None:
        """Take an applied update out again (the last one by default), bit for bit."""
        self.model.edits.take_out(update)

    @property
    def applied_updates(self) -> tuple[RankOneUpdate, ...]:
        """The updates now in W, in the order in which they were applied."""
        return self.model.edits.updates

    @contextlib.contextmanager
    def applied(self, update: RankOneUpdate) -> Iterator[None]:
        """Inside, the update is in W; afterwards W is bit for bit what it was, also after an error."""
        self.apply(update)
        try:
            yield
        finally:
            self.revert(update)

    def save(self, folder: str | Path) -> None:
        """Write the updates in W as a LoRA adapter for `peft` or `EditLog`; RromeError for none, or a folder that is taken."""
        about = self.settings | {"second_moment_tokens": self.second_moment.count}
        save_adapter(folder, self.model, self.applied_updates, about)

    def save_merged(self, folder: str | Path) -> None:
        """Write the edited model as an ordinary transformers folder; RromeError as in `save`."""
        save_merged(folder, self.model, self.settings | {"second_moment_tokens": self.second_moment.count})


def load_editor(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    layer: int | None = None,
    c0_text: str | Path = FACTBOOK,
    c0_tokens: int = 100_000,
    seed: int = 0,
    prefixes: Sequence[str] | None = None,
) -> Editor:
    """A model (see `load`), its C_0 from the text or statistics file `c0_text` (see `second_moment_from`), and prefixes."""
    loaded = load(model, device=device, layer=layer)
    return Editor(loaded, second_moment_from(loaded, c0_text, c0_tokens), prefixes, seed=seed)
