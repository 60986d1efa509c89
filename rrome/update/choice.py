"""Which key an edit takes as its direction, which as its denominator, which in its residual.

u = C_0^-1 k_u   direction      k_d   denominator      k_r   residual
"""

import itertools
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, get_args

import torch

from ..model.site import EditSite
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
