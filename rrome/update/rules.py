"""The rule of an edit, which chooses direction, denominator and residual key, and its rank-one update.

u = C_0^-1 k_u   direction      k_d   denominator      k_r   residual

Delta = (v_e - (W k_r + b)) u^T / (u . k_d)  =  left right^T        left (d_v,), right (d_k,)

||Delta||_F = ||left|| ||right||. Exact afterwards: W' k_d + b = v_e when k_d = k_r.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, get_args

import torch

from ..model.site import EditSite, RankOneUpdate
from ..store.disk import RromeError
from .keys import Keys
from .second_moment import SecondMoment
from .value import Value

Which = Literal["average", "original"]


class Rule:
    """Which key is the direction, which the denominator, which the residual key.

    Inherit from it in a frozen dataclass that has `choose` for a rule of your own; its repr is its name in records.
    """

    remembers = False  # whether the keys of earlier edits enter its updates
    remembered = ""  # a digest of the keys of earlier edits that it holds, if any

    @property
    def name(self) -> str:
        """The name in tables and records."""
        return repr(self)

    def choose(self, keys: Keys) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(k_u, k_d, k_r), each (d_k,), from the keys of a fact."""
        raise NotImplementedError(f"{type(self).__name__} has no method `choose`")

    def remembering(self, second_moment: SecondMoment) -> "Rule":
        """The rule for a sequence of edits, which remembers the keys given to `add`, if this one does."""
        return self

    def add(self, keys: Keys) -> None:
        """Remember the keys of an edit that was made, in a rule from `remembering`."""

    def solve(self, keys: Keys, second_moment: SecondMoment) -> tuple[torch.Tensor, torch.Tensor]:
        """u, (d_k,), and the denominator, both float64 on the CPU: right = u / denominator."""
        k_u, k_d, _ = self.choose(keys)
        u = second_moment.solve(k_u)
        return u, u @ k_d.cpu().double()

    def within(self, right: torch.Tensor, site: EditSite) -> torch.Tensor:
        """right, (d_k,) float64, without what W as it is now forbids: for these rules, nothing."""
        return right

    def left(self, keys: Keys, value: Value, site: EditSite) -> torch.Tensor:
        """What is written, (d_v,): the residual."""
        return value.target - site.value(self.choose(keys)[2])


class Wrapper(Rule):
    """A rule that does as another one, its `rule`, in all that its class does not define."""

    rule: Rule


for each in ("name", "remembers", "remembered", "choose", "remembering", "add", "solve", "within", "left"):
    setattr(Wrapper, each, property(attrgetter(f"rule.{each}")))


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
METHODS: dict[str, Rule] = {}  # later methods by name, which methods.py puts here


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
                f"{name} remembers keys of earlier edits, and a sequential study, or one on a cluster, has none first"
            )
            raise RromeError(f"{what}: give the method itself; editor.update(fact, rule, earlier=[...]) takes keys")
    return found


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
    """The update of a rule for the weights as they are now; RromeError when its denominator is zero or not finite."""
    name, choice = rule_named(rule)
    u, denominator = choice.solve(keys, second_moment)  # (d_k,), float64
    if not denominator.isfinite() or denominator == 0:
        what = f"the denominator of rule {name!r} for {subject!r} is {denominator.item()}"
        raise RromeError(f"{what}: the update is undefined")
    left = choice.left(keys, value, site)  # (d_v,)
    right = choice.within(u / denominator, site).float().to(left.device)  # (d_k,)
    return RankOneUpdate(left, right, name, subject, denominator.item(), keys.cosine)
