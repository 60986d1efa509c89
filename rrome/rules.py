"""The rule of an edit: which key stands in which of the three places, and the rank-one update that follows.

u = C_0^-1 k_u   direction      k_d   denominator      k_r   residual

Delta = (v_e - (W k_r + b)) u^T / (u . k_d)  =  left right^T        left (d_v,), right (d_k,)

||Delta||_F = ||left|| ||right||. Exact afterwards: W' k_d + b = v_e when k_d = k_r.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .cache import atomic
from .covariance import SecondMoment
from .errors import RromeError
from .keys import Keys
from .sites import EditSite
from .values import Value

Which = Literal["average", "original"]


@dataclass(frozen=True)
class KeyChoice:
    """One of the eight rules: the key that stands in each of the three places."""

    direction: Which
    denominator: Which
    residual: Which

    def __post_init__(self):
        for place, which in vars(self).items():
            if which not in get_args(Which):
                raise RromeError(f"the {place} of a rule is 'average' or 'original', not {which!r}")

    @property
    def exact_at(self) -> Which | None:
        """The key at which W' k + b = v_e holds exactly, or None when denominator and residual differ."""
        return self.denominator if self.denominator == self.residual else None

    @property
    def initials(self) -> str:
        """First letters in the order direction, denominator, residual: "aoo" is the rule shipped in 2022."""
        return self.direction[0] + self.denominator[0] + self.residual[0]


def _all_rules() -> dict[str, KeyChoice]:
    named = {"aoo": "rome", "aaa": "r-rome", "ooo": "p-rome"}
    choices = [KeyChoice(*places) for places in itertools.product(get_args(Which), repeat=3)]
    rules = {named.get(choice.initials, choice.initials): choice for choice in choices}
    return {name: rules[name] for name in [*named.values(), *(name for name in rules if name not in named.values())]}


RULES: dict[str, KeyChoice] = _all_rules()
NAMED_RULES = ("rome", "r-rome", "p-rome")  # those of the paper


def rule_named(rule: "str | KeyChoice") -> tuple[str, KeyChoice]:
    """The (name, choice) of a rule given by either; RromeError lists the rules for an unknown one."""
    for name, choice in RULES.items():
        if rule in (name, choice):
            return name, choice
    raise RromeError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}")


@dataclass(frozen=True, eq=False)
class RankOneUpdate:
    """Delta = left right^T, kept factored: `left` (d_v,), `right` (d_k,), float32.

    `denominator` is u . k_d before division and `cosine` that of the angle between k_e and k_e^o.
    """

    left: torch.Tensor
    right: torch.Tensor
    rule: str
    subject: str
    denominator: float
    cosine: float

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

    def save(self, path: str | Path) -> None:
        """Write the factors to a safetensors file."""
        notes = {name: repr(getattr(self, name)) for name in ("denominator", "cosine")}
        notes |= {"rule": self.rule, "subject": self.subject}
        with atomic(Path(path)) as scratch:
            save_file({"left": self.left, "right": self.right}, scratch, metadata=notes)

    @classmethod
    def load(cls, path: str | Path) -> "RankOneUpdate":
        """Read what `save` wrote; RromeError for a file that is something else."""
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata()
                numbers = {name: float(notes[name]) for name in ("denominator", "cosine")}
                texts = {name: notes[name] for name in ("rule", "subject")}
                return cls(left=file.get_tensor("left"), right=file.get_tensor("right"), **texts, **numbers)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise RromeError(f"{path} is not a saved update: {error}") from error


@dataclass(frozen=True)
class Preflight:
    """What is known of an edit before v_e is searched, from the keys alone.

    `cosine` of k_e and k_e^o, their norms, and per rule the denominator u . k_d and the amplification
    ||u|| / |u . k_d|: ||Delta||_F is the amplification times the length of the residual.
    """

    subject: str
    cosine: float
    norm_average: float
    norm_original: float
    denominator: dict[str, float]
    amplification: dict[str, float]


def preflight(keys: Keys, second_moment: SecondMoment, subject: str = "") -> Preflight:
    """Denominators and amplifications of all rules for one fact's keys."""
    places = {"average": keys.average.cpu().double(), "original": keys.original.cpu().double()}
    direction = {name: second_moment.solve(key) for name, key in places.items()}
    denominator, amplification = {}, {}
    for name, choice in RULES.items():
        u = direction[choice.direction]
        denominator[name] = (u @ places[choice.denominator]).item()
        amplification[name] = u.norm().item() / max(abs(denominator[name]), 1e-300)
    norms = {f"norm_{name}": key.norm().item() for name, key in places.items()}
    return Preflight(subject, keys.cosine, **norms, denominator=denominator, amplification=amplification)


def rank_one_update(
    site: EditSite, keys: Keys, value: Value, second_moment: SecondMoment, rule: str | KeyChoice, subject: str = ""
) -> RankOneUpdate:
    """The update of a rule from keys, value and C_0, for the weights as they are now; nothing is changed.

    Raises RromeError when the denominator is zero or not finite.
    """
    name, choice = rule_named(rule)
    u = second_moment.solve(getattr(keys, choice.direction))  # (d_k,), float64
    denominator = u @ getattr(keys, choice.denominator).cpu().double()
    if not denominator.isfinite() or denominator == 0:
        raise RromeError(
            f"the denominator of rule {name!r} for {subject!r} is {denominator.item()}: the update is undefined"
        )
    residual = value.target - site.value(getattr(keys, choice.residual))  # (d_v,)
    right = (u / denominator).float().to(residual.device)  # (d_k,)
    return RankOneUpdate(residual, right, name, subject, denominator.item(), keys.cosine)
