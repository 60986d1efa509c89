"""Later methods at one layer: the update of a key under a filter of C_0, with the keys of earlier edits beside it.

C_0 = U diag(e) U^T      S = U diag(s(e)) U^T      s   the filter
K = [k_1 .. k_n, k]      the keys of earlier edits, where the method remembers them, and the key of this one, (d_k, n + 1)

right = S K (K^T S K + tau I)^-1 e_last             left = v_e - (W k_r + b)

With a = s^1/2 U^T k, and b_i (d_k,) for each earlier key, the system grows by one row a key and is never solved anew:

a' = a - sum_i b_i (b_i . a)      d = a' . a + tau      right = U s^1/2 a' / d      b_{n+1} = a' / d^1/2

Proof: sum_i b_i b_i^T = A (A^T A + tau I)^-1 A^T for A = [a_1 .. a_n], and d is the Schur complement of the last key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from ..store.disk import RromeError, digest
from .keys import Keys
from .rules import METHODS, RULES, Rule, Wrapper
from .second_moment import SecondMoment

Average = Literal["equal", "half"]
PUBLISHED_D_K = 16_384  # of GPT-J, for which MEMIT's lambda = 15000 was published (Llama-3-8B: 14336, the same lambda)
KEPT, BELOW = 0.7, 0.02  # AlphaEdit's threshold, and about how many of an 8B Llama's eigenvalues lie below it
ROUNDING = 1e-12


class _Changed:
    """A dataclass whose repr has what is not the default."""

    def __repr__(self):
        changed = [f"{name}={value!r}" for name, value in vars(self).items() if value != getattr(type(self), name)]
        return f"{type(self).__name__}({', '.join(changed)})"


@dataclass(frozen=True, repr=False)
class Filter(_Changed):
    """s(e) = 1 / (slope e + offset) for the eigenvalues e of C_0 below `below`, and 0 for the others."""

    slope: float = 1.0
    offset: float = 0.0
    below: float = math.inf

    def __call__(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """s(e), (d_k,)."""
        return (eigenvalues < self.below) / (self.slope * eigenvalues + self.offset)


@dataclass(frozen=True, repr=False)
class Method(_Changed, Rule):
    """A method of the family, wherever a rule goes; the defaults are EMMET's for one fact.

    `filter` maps the eigenvalues of C_0 to numbers >= 0, both (d_k,). `remembers`: whether the keys of earlier edits enter.
    `average`: the averaged key has "equal" weights as in ROME, or is "half" the bare key and half the mean of the prefixed
    ones as in MEMIT. `choice` names one of the eight `RULES`: "ooo" (p-ROME) takes the bare key alone.
    """

    filter: Callable[[torch.Tensor], torch.Tensor] = Filter()
    tau: float = 0.0
    remembers: bool = False
    average: Average = "half"
    choice: str = "aao"

    def __post_init__(self):
        if not 0 <= self.tau < math.inf:
            raise RromeError(f"tau of a method is a number from 0 on, not {self.tau}")
        if self.average not in get_args(Average) or self.choice not in RULES:
            known = f"an average is one of {', '.join(get_args(Average))}, a choice one of {', '.join(RULES)}"
            raise RromeError(f"{known}: not {self.average!r} and {self.choice!r}")
        if self.remembers and RULES[self.choice].direction != RULES[self.choice].denominator:
            needs = "one key as direction and denominator"
            raise RromeError(f"a method that remembers keys needs {needs}, {self.choice!r} has two")

    @property
    def name(self) -> str:
        """Its name in METHODS where it has one, else what is not the default."""
        return next((name for name, method in METHODS.items() if method == self), repr(self))

    def choose(self, keys: Keys) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        average, places = keys.average, RULES[self.choice]
        if self.average == "half" and len(keys.all) > 1:
            average = (keys.original + keys.all[1:].mean(0)) / 2
        pick = {"average": average, "original": keys.original}
        return pick[places.direction], pick[places.denominator], pick[places.residual]

    def remembering(self, second_moment: SecondMoment) -> Rule:
        return Memory(self, second_moment) if self.remembers else self

    def solve(self, keys: Keys, second_moment: SecondMoment) -> tuple[torch.Tensor, torch.Tensor]:
        return Memory(self, second_moment).solve(keys, second_moment)

    def scaled(self, second_moment: SecondMoment) -> "Method":
        """The same for this C_0: tau in units of d_k, the numbers of the filter in units of the eigenvalues.

        The constants are taken as published for d_k = PUBLISHED_D_K and a C_0 with KEPT of its eigenvalues below BELOW.
        RromeError for a filter that is no Filter.
        """
        if not isinstance(self.filter, Filter):
            what = "only a method with a rrome.update.Filter can be scaled"
            raise RromeError(f"{what}: {self.filter!r} has no known numbers")
        eigenvalues, _ = second_moment.eigen
        unit, width = eigenvalues.quantile(KEPT).item() / BELOW, len(eigenvalues) / PUBLISHED_D_K
        # without slope S has no unit, and tau has that of the eigenvalues
        of_filter, of_tau = (unit, 1) if self.filter.slope else (1, unit)
        filter = replace(self.filter, offset=self.filter.offset * of_filter, below=self.filter.below * unit)
        return replace(self, tau=self.tau * width * of_tau, filter=filter)


class Memory(Wrapper):
    """A method and the keys of earlier edits, for one C_0; `add` lets it grow by one key, in O(n d_k)."""

    rule: Method

    def __init__(self, method: Method, second_moment: SecondMoment):
        self.rule, self.second_moment = method, second_moment
        eigenvalues, self._vectors = second_moment.eigen
        values = method.filter(eigenvalues)
        if values.shape != eigenvalues.shape or not values.isfinite().all() or values.min() < 0:
            what = f"the filter {method.filter!r} does not give each eigenvalue of C_0 a number >= 0"
            raise RromeError(f"{what} (they are {eigenvalues.min().item():.3g} to {eigenvalues.max().item():.3g})")
        if not values.any():
            what = f"{method.name} leaves no direction to write in: its filter is 0 at every eigenvalue of C_0"
            remedy = "take its numbers to this scale with method.scaled(second_moment)"
            raise RromeError(f"{what}, the smallest of which is {eigenvalues.min().item():.3g}; {remedy}")
        self._root = values.sqrt()  # s(e)^1/2, (d_k,)
        self._rows = self._root.new_empty(0, len(values))  # b_i, with room for more
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def remembered(self) -> str:  # type: ignore[override]
        """A digest of the keys' lengths, to three digits; empty for none."""
        return digest(*(f"{length:.3g}" for length in self._rows[: self._n].norm(dim=1).tolist())) if self._n else ""

    def solve(self, keys: Keys, second_moment: SecondMoment) -> tuple[torch.Tensor, torch.Tensor]:
        """u = U s^1/2 a', (d_k,), and d; RromeError for another C_0 than that of the keys remembered."""
        if second_moment is not self.second_moment:
            of = f"layer {self.second_moment.layer} of model {self.second_moment.fingerprint}"
            raise RromeError(f"the keys that {self.name} remembers are of {of}: take editor.remembering(rule, facts)")
        k_u, k_d, _ = (key.cpu().double() for key in self.choose(keys))
        u = self._vectors @ (self._root * self._remainder(self._whitened(k_u)))
        return u, u @ k_d + self.rule.tau

    def add(self, keys: Keys) -> None:
        """Remember the key that an edit has written; without a ridge, one that depends on the others adds nothing."""
        key = self._whitened(self.choose(keys)[0].cpu().double())
        rest = self._remainder(key)
        if not (size := rest @ key + self.rule.tau) > 0:
            return
        if self._n == len(self._rows):
            self._rows = torch.cat([self._rows, self._rows.new_empty(self._n + 64, len(key))])
        self._rows[self._n] = rest / size.sqrt()
        self._n += 1

    def _whitened(self, key: torch.Tensor) -> torch.Tensor:
        """a = s^1/2 U^T k."""
        return self._root * (key @ self._vectors)

    def _remainder(self, a: torch.Tensor) -> torch.Tensor:
        """a' = a - sum_i b_i (b_i . a); zero where it is rounding, without a ridge."""
        rows, rest = self._rows[: self._n], a
        for _ in range(1 if self.rule.tau else 2):  # without a ridge, twice keeps the b_i orthonormal
            rest = rest - (rows @ rest) @ rows
        return rest if self.rule.tau or rest @ a > ROUNDING * (a @ a) else torch.zeros_like(a)


_NULL = Filter(slope=0, offset=1, below=BELOW)
_IDENTITY = Filter(slope=0, offset=1)
METHODS |= {  # the constants published for GPT-J and Llama-3-8B: 2403.14236, 2210.07229, 2410.02355 (2605.26670: no memory),
    # 2502.01636 (Llama-3-8B), 2605.09285
    "emmet": Method(),
    "memit": Method(tau=15_000),
    "memit-seq": Method(tau=15_000, remembers=True),
    "alphaedit": Method(_NULL, tau=10, remembers=True),
    "alphaedit-no-memory": Method(_NULL, tau=10),
    "encore": Method(Filter(offset=20 / 15_000), tau=15_000, remembers=True),
    "betaedit": Method(Filter(slope=3_000, offset=10, below=BELOW), tau=1, remembers=True),
    "identity-rome": Method(_IDENTITY, average="equal", choice="rome"),  # C = I, as EasyEdit ships ROME and R-ROME
    "identity-r-rome": Method(_IDENTITY, average="equal", choice="r-rome"),
}
