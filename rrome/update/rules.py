"""The rule of an edit, which chooses direction, denominator and residual key, and its rank-one update.

u = C_0^-1 k_u   direction      k_d   denominator      k_r   residual

Delta = (v_e - (W k_r + b)) u^T / (u . k_d)  =  left right^T        left (d_v,), right (d_k,)

||Delta||_F = ||left|| ||right||. Exact afterwards: W' k_d + b = v_e when k_d = k_r.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..facts.fact import Fact
from ..model.site import EditSite
from ..store.disk import RromeError, atomic
from .keys import Keys
from .second_moment import SecondMoment
from .value import Value

Which = Literal["average", "original"]


class Rule:
    """Which key is the direction, which the denominator, which the residual key.

    Inherit from it in a frozen dataclass that has `choose` for a rule of your own; its repr is its name in records.
    """

    @property
    def name(self) -> str:
        """The name in tables and records."""
        return repr(self)

    def choose(self, keys: Keys) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(k_u, k_d, k_r), each (d_k,), from the keys of a fact."""
        raise NotImplementedError(f"{type(self).__name__} has no method `choose`")


@dataclass(frozen=True)
class KeyChoice(Rule):
    """One of the eight rules: the averaged or the original key as direction, denominator and residual key."""

    direction: Which
    denominator: Which
    residual: Which

    def __post_init__(self):
        for role, which in vars(self).items():
            if which not in get_args(Which):
                raise RromeError(f"the {role} of a rule is 'average' or 'original', not {which!r}")

    def choose(self, keys: Keys) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(k_u, k_d, k_r), each (d_k,)."""
        pick = {"average": keys.average, "original": keys.original}
        return pick[self.direction], pick[self.denominator], pick[self.residual]

    @property
    def exact_at(self) -> Which | None:
        """The key at which W' k + b = v_e holds exactly, or None when denominator and residual differ."""
        return self.denominator if self.denominator == self.residual else None

    @property
    def initials(self) -> str:
        """First letters in the order direction, denominator, residual: "aoo" is the rule shipped in 2022."""
        return self.direction[0] + self.denominator[0] + self.residual[0]

    @property
    def name(self) -> str:
        """The paper's name where it has one, else the initials."""
        return PAPER.get(self.initials, self.initials)


PAPER = {"aoo": "rome", "aaa": "r-rome", "ooo": "p-rome"}  # the paper's names, by initials
NAMED_RULES = tuple(PAPER.values())
_ALL = {rule.initials: rule for rule in itertools.starmap(KeyChoice, itertools.product(get_args(Which), repeat=3))}
RULES = {rule.name: rule for rule in ({each: _ALL[each] for each in PAPER} | _ALL).values()}  # the paper's first


def rule_named(rule: str | Rule) -> tuple[str, Rule]:
    """The (name, rule) of one given by name or as a value; RromeError lists the names for an unknown one."""
    if isinstance(rule, Rule):
        return rule.name, rule
    if rule not in RULES:
        raise RromeError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}, or pass a rrome.Rule of your own")
    return rule, RULES[rule]


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
        left, right = self.left.to(weight.device), self.right.to(weight.device)
        if weight.dtype == torch.float32:
            weight.addr_(left, right)  # without forming Delta
        else:
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
        numbers = float(notes["denominator"]), float(notes["cosine"])
        origin = tuple(notes["origin"]) if notes.get("origin") else None
        return cls(left, right, notes["rule"], notes["subject"], *numbers, fact, origin)

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
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise RromeError(f"{path} is not a saved update: {error}") from error


@dataclass(frozen=True)
class Preflight:
    """What the keys alone tell of an edit, before v_e is searched.

    `cosine` of k_e and k_e^o, their norms, and per rule the denominator u . k_d and the amplification
    ||u|| / |u . k_d|: ||Delta||_F is the amplification times the length of the residual.
    """

    subject: str
    cosine: float
    norm_average: float
    norm_original: float
    denominator: dict[str, float]
    amplification: dict[str, float]


def preflight(
    keys: Keys, second_moment: SecondMoment, subject: str = "", rules: Sequence[Rule] = tuple(RULES.values())
) -> Preflight:
    """Denominators and amplifications of the rules for one fact's keys."""
    chosen = [[key.cpu().double() for key in rule.choose(keys)] for rule in rules]
    directions = second_moment.solve(torch.stack([k_u for k_u, _, _ in chosen]))  # (rules, d_k)
    denominator, amplification = {}, {}
    for rule, u, (_, k_d, _) in zip(rules, directions, chosen, strict=True):
        denominator[rule.name] = (u @ k_d).item()
        amplification[rule.name] = u.norm().item() / max(abs(denominator[rule.name]), 1e-300)
    norms = [key.double().norm().item() for key in (keys.average.cpu(), keys.original.cpu())]
    return Preflight(subject, keys.cosine, norms[0], norms[1], denominator, amplification)


def rank_one_update(
    site: EditSite, keys: Keys, value: Value, second_moment: SecondMoment, rule: str | Rule, subject: str = ""
) -> RankOneUpdate:
    """The update of a rule from keys, value and C_0, for the weights as they are now; nothing is changed.

    Raises RromeError when the denominator is zero or not finite.
    """
    name, choice = rule_named(rule)
    k_u, k_d, k_r = choice.choose(keys)
    u = second_moment.solve(k_u)  # (d_k,), float64
    denominator = u @ k_d.cpu().double()
    if not denominator.isfinite() or denominator == 0:
        what = f"the denominator of rule {name!r} for {subject!r} is {denominator.item()}"
        raise RromeError(f"{what}: the update is undefined")
    residual = value.target - site.value(k_r)  # (d_v,)
    right = (u / denominator).float().to(residual.device)  # (d_k,)
    return RankOneUpdate(residual, right, name, subject, denominator.item(), keys.cosine)
