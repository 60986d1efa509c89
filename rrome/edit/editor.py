"""The editor: one object that takes a fact through keys, value and update, and puts updates in and takes them out."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..facts.fact import Fact
from ..model.model import Model
from ..model.site import Update
from ..model.tokens import check_templates, sample_prefixes
from ..store.disk import RromeError
from ..update.keys import Keys, fact_keys
from ..update.rules import Preflight, RankOneUpdate, Rule, preflight, rank_one_update, rule_named
from ..update.second_moment import SecondMoment
from ..update.value import Search, Value, find_values
from .adapter import save_adapter, save_merged


class Editor:
    """Edits one model at one layer with one second moment and one set of prefixes.

    `prefixes` is the complete list of templates (the bare prompt "{}" comes first and is added when absent); None
    samples them from the model with `seed`. `leading` is a text put in front of every prompt at edit time. `search`
    defaults to the settings published for the model. With `max_amplification`, an update whose keys foretell more than
    that (see `preflight`) is refused before the search, or only warned of when `on_excess` is "warn".

    Asking for keys, a value or an update never changes the model; `apply`, `revert` and `applied` do, and `revert`
    restores the weights bit for bit.
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
        self.max_amplification = max_amplification
        self.on_excess = on_excess
        self.model = model
        self.second_moment = second_moment
        self.seed = seed
        self.leading = leading
        self.search = search or Search(**model.published)
        self.prefixes = check_templates(sample_prefixes(model, seed) if prefixes is None else prefixes)

    @property
    def settings(self) -> dict[str, Any]:
        """What an update owes to the editor, as JSON."""
        return {
            "model": self.model.fingerprint,
            "layer": self.model.layer,
            "second_moment": self.second_moment.key,
            "prefixes": list(self.prefixes),
            "leading": self.leading,
            "seed": self.seed,
            "search": vars(self.search),
        }

    def keys(self, fact: Fact) -> Keys:
        """k_e and k_e^o of a fact; they do not depend on W, so they hold through a whole sequential run."""
        return fact_keys(self.model, fact, self.prefixes, self.leading)

    def preflight(self, fact: Fact) -> Preflight:
        """What the keys foretell of the edit under every rule, from one short forward pass and no search."""
        return preflight(self.keys(fact), self.second_moment, fact.subject)

    def value(self, fact: Fact) -> Value:
        """v_e of a fact, searched in the model as it is now."""
        return self.values([fact])[0]

    def values(self, facts: Sequence[Fact]) -> list[Value]:
        """v_e of several facts, each searched for itself but all in one batch: what keeps a GPU busy."""
        return find_values(self.model, facts, self.prefixes, self.search, self.leading)

    def update(
        self, fact: Fact, rule: str | Rule, *, keys: Keys | None = None, value: Value | None = None
    ) -> RankOneUpdate:
        """The rank-one update of a fact under a rule; pass `keys` and `value` to share them between rules."""
        _, rule = rule_named(rule)  # an unknown rule fails before the search
        keys = keys or (value.keys if value else None)
        self._guard(fact, rule, keys)
        value = value or self.value(fact)
        keys = keys or value.keys
        update = rank_one_update(self.model.site, keys, value, self.second_moment, rule, fact.subject)
        return replace(update, fact=fact)

    def _guard(self, fact: Fact, rule: Rule, keys: Keys | None) -> None:
        """Refuse or warn of an edit that its keys foretell to be disabling."""
        if self.max_amplification is None:
            return
        keys = keys or self.keys(fact)
        amplification = preflight(keys, self.second_moment, rules=[rule]).amplification[rule.name]
        if amplification > self.max_amplification:
            message = (
                f"{fact.rewrite!r} under {rule.name!r} is likely to disable the model: its residual would be amplified "
                f"{amplification:.3g} times, the limit is {self.max_amplification:.3g}; take another rule, or leading="
            )
            if self.on_excess == "refuse":
                raise RromeError(message)
            warnings.warn(message, stacklevel=3)

    def updates(self, fact: Fact, rules: Sequence[str | Rule]) -> dict[str, RankOneUpdate]:
        """One update per rule, by name, from the same keys and the same value."""
        chosen = dict(map(rule_named, rules))
        keys = None if self.max_amplification is None else self.keys(fact)
        for rule in chosen.values():
            self._guard(fact, rule, keys)
        value = self.value(fact)
        return {name: self.update(fact, rule, keys=keys, value=value) for name, rule in chosen.items()}

    def apply(self, update: Update) -> None:
        """W <- W + Delta, until it is reverted."""
        self.model.edits.put(update)

    def revert(self, update: Update | None = None) -> None:
        """Take an applied update out again (the last one by default), bit for bit."""
        self.model.edits.take_out(update)

    @property
    def applied_updates(self) -> tuple[Update, ...]:
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
        """Write the updates now in W as a LoRA adapter that plain `peft` loads, with a model card (see share).

        `EditLog(folder)` reads it back. RromeError when nothing is applied, or for a folder that is not empty.
        """
        save_adapter(folder, self.model, self.applied_updates, self._provenance)

    def save_merged(self, folder: str | Path) -> None:
        """Write the edited model as an ordinary transformers folder; RromeError as in `save`."""
        save_merged(folder, self.model, self._provenance)

    @property
    def _provenance(self) -> dict[str, Any]:
        return self.settings | {"second_moment_tokens": self.second_moment.count}
