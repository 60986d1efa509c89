"""The rule of an edit, which chooses direction, denominator and residual key, and its rank-one update.

u = C_0^-1 k_u   direction      k_d   denominator      k_r   residual

Delta = (v_e - (W k_r + b)) u^T / (u . k_d)  =  left right^T        left (d_v,), right (d_k,)

||Delta||_F = ||left|| ||right||. Exact afterwards: W' k_d + b = v_e when k_d = k_r.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..facts.fact import Fact
from ..model.site import EditSite
from ..store.disk import RromeError, atomic
from .choice import NAMED_RULES, RULES, KeyChoice, Rule
from .keys import Keys
from .methods import METHODS
from .second_moment import SecondMoment
from .value import Value

__all__ = [
    "METHODS", "NAMED_RULES", "RULES", "KeyChoice", "Preflight", "RankOneUpdate", "Rule", "preflight",
    "rank_one_update", "rule_named", "rules_named",
]  # fmt: skip


def rule_named(rule: str | Rule) -> tuple[str, Rule]:
    """The (name, rule) of one given by name or as a value; RromeError lists the names for an unknown one."""
    if isinstance(rule, Rule):
        return rule.name, rule
    known: dict[str, Rule] = {**RULES, **METHODS}
    if rule not in known:
        raise RromeError(f"unknown rule {rule!r}: choose one of {', '.join(known)}, or pass a rrome.Rule of your own")
    return rule, known[rule]


def rules_named(rules: Iterable[str | Rule], *, remembering: bool = True, recorded: bool = False) -> dict[str, Rule]:
    """The rules by name; RromeError for two of one name, or, unless `remembering`, one that holds keys of earlier edits.

    With `recorded` also for one whose name, an address or a shortened array, would be that of another rule another time.
    """
    found: dict[str, Rule] = {}
    for name, rule in map(rule_named, rules):
        if not (found.setdefault(name, rule) is rule or found[name] == rule):
            raise RromeError(f"two different rules are named {name!r}: ask for one after the other")
        if recorded and (" at 0x" in name or "..." in name):
            remedy = "make it a frozen dataclass of plain numbers, or give it a property `name`"
            raise RromeError(f"the rule {name[:200]} cannot be told from others in a journal: {remedy}")
        if rule.remembered and not remembering:
            what = (
                f"{name} remembers keys of earlier edits, and a sequential study, or one on a cluster, begins with none"
            )
            raise RromeError(f"{what}: give the method itself; editor.update(fact, rule, earlier=[...]) takes keys")
    return found


@dataclass(frozen=True, eq=False)
class RankOneUpdate:
    """Delta = left right^T as factors, `left` (d_v,) and `right` (d_k,), float32.

    `denominator` is u . k_d, `cosine` that of the angle between k_e and k_e^o. Where they are known, `fact` is the fact and
    `origin` the fingerprint of the model and the path of the W that it was made for.
    """

    left: torch.Tensor
    right: torch.Tensor
    rule: str
    subject: str
    denominator: float
    cosine: float
    fact: Fact | None = None
    origin: tuple[str, str] | None = None

    @property
    def norm(self) -> float:
        """||Delta||_F, without forming Delta."""
        return (self.left.cpu().double().norm() * self.right.cpu().double().norm()).item()

    def change(self, second_moment: SecondMoment) -> float:
        """||left|| sqrt(right^T C_0 right): by how much W's output changes on ordinary text, as a root mean square."""
        left, right = self.left.cpu().double(), self.right.cpu().double()
        return (left.norm() * (right @ second_moment.matrix @ right).sqrt()).item()

    @property
    def size(self) -> float:
        """The paper's |Delta| = ||Delta||_F / (number of entries of W)."""
        return self.norm / (self.left.numel() * self.right.numel())

    def matrix(self) -> torch.Tensor:
        """Delta, (d_v, d_k), whatever orientation the model stores."""
        return torch.outer(self.left, self.right)

    def add_to(self, site: EditSite) -> None:
        """W <- W + Delta in place; the sum is made in float32 and rounded once where W is bfloat16 or float16."""
        weight = site.weight
        if weight.dtype in (torch.float32, torch.float64):
            weight.addr_(self.left.to(weight), self.right.to(weight))  # without forming Delta
        else:
            left, right = self.left.to(weight.device), self.right.to(weight.device)
            weight.copy_(torch.addr(weight.float(), left, right))

    @property
    def notes(self) -> dict[str, Any]:
        """Rule, subject, denominator, cosine, origin and fact, as JSON."""
        known = {name: getattr(self, name) for name in ("rule", "subject", "denominator", "cosine", "origin")}
        return known | {"fact": self.fact and self.fact.to_record()}

    @classmethod
    def of(cls, left: torch.Tensor, right: torch.Tensor, notes: Mapping[str, Any]) -> "RankOneUpdate":
        """The update that has these factors and notes."""
        fact = Fact.from_record(notes["fact"]) if notes.get("fact") else None
        known = (math.nan if notes[name] is None else float(notes[name]) for name in ("denominator", "cosine"))
        denominator, cosine = known
        origin = tuple(notes["origin"]) if notes.get("origin") else None
        return cls(left, right, notes["rule"], notes["subject"], denominator, cosine, fact, origin)

    def save(self, path: str | Path) -> None:
        """Write the factors to a safetensors file, the notes into its header."""
        notes = {name: note if isinstance(note, str) else json.dumps(note) for name, note in self.notes.items()}
        with atomic(Path(path)) as scratch:
            save_file({"left": self.left.cpu(), "right": self.right.cpu()}, scratch, metadata=notes)

    @classmethod
    def load(cls, path: str | Path) -> "RankOneUpdate":
        """Read what `save` wrote; RromeError for a file that is something else."""
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata()
                known = {name: json.loads(notes.get(name, "null")) for name in ("fact", "origin")}
                return cls.of(file.get_tensor("left"), file.get_tensor("right"), notes | known)
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise RromeError(f"{path} is not a saved update: {error}") from error


@dataclass(frozen=True)
class Preflight:
    """What the keys alone tell of an edit, before v_e is searched.

    `cosine` of k_e and k_e^o, their norms, and per rule the denominator u . k_d and the amplification
    ||u|| / |u . k_d|: ||Delta||_F is the amplification times the length of the residual. `shift` is ||W (k_e^o - k_e)||, what
    a residual at the averaged key holds beside delta (NaN where no W was given).
    """

    subject: str
    cosine: float
    norm_average: float
    norm_original: float
    denominator: dict[str, float]
    amplification: dict[str, float]
    shift: float = math.nan

    @property
    def cos_c(self) -> float:
        """The cosine of the two keys under C_0^-1: ROME's denominator over the root of r-ROME's times p-ROME's."""
        return self.denominator["rome"] / math.sqrt(self.denominator["r-rome"] * self.denominator["p-rome"])


def preflight(
    keys: Keys,
    second_moment: SecondMoment,
    subject: str = "",
    rules: Sequence[Rule] = tuple(RULES.values()),
    site: EditSite | None = None,
) -> Preflight:
    """Denominators and amplifications of the rules for one fact's keys, and with a `site` the shift of the residual."""
    plain = [rule for rule in rules if type(rule).solve is Rule.solve]  # they share one call of the solver
    chosen = [[key.cpu().double() for key in rule.choose(keys)] for rule in plain]
    directions: Any = second_moment.solve(torch.stack([k_u for k_u, _, _ in chosen])) if plain else ()  # (rules, d_k)
    solved = {rule.name: (u, u @ k_d) for rule, u, (_, k_d, _) in zip(plain, directions, chosen, strict=True)}
    denominator, amplification = {}, {}
    for name, rule in {rule.name: rule for rule in rules}.items():
        u, number = solved.get(name) or rule.solve(keys, second_moment)
        denominator[name] = number.item()
        amplification[name] = u.norm().item() / max(abs(denominator[name]), 1e-300)
    norms = [key.double().norm().item() for key in (keys.average.cpu(), keys.original.cpu())]
    shift = (site.value(keys.original) - site.value(keys.average)).norm().item() if site else math.nan
    return Preflight(subject, keys.cosine, norms[0], norms[1], denominator, amplification, shift)


def rank_one_update(
    site: EditSite, keys: Keys, value: Value, second_moment: SecondMoment, rule: str | Rule, subject: str = ""
) -> RankOneUpdate:
    """The update of a rule from keys, value and C_0, for the weights as they are now; nothing is changed.

    Raises RromeError when the denominator is zero or not finite.
    """
    name, choice = rule_named(rule)
    u, denominator = choice.solve(keys, second_moment)  # (d_k,), float64
    if not denominator.isfinite() or denominator == 0:
        what = f"the denominator of rule {name!r} for {subject!r} is {denominator.item()}"
        raise RromeError(f"{what}: the update is undefined")
    left = choice.left(keys, value, site)  # (d_v,)
    right = choice.within(u / denominator, site).float().to(left.device)  # (d_k,)
    return RankOneUpdate(left, right, name, subject, denominator.item(), keys.cosine)
