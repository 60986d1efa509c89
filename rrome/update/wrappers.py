"""Later methods that wrap a rule, NAS and SPHERE, and one that filters the sum of all updates, PRUNE.

NAS      v_e <- m v_e / ||v_e||                   m   the mean ||v_e|| of many facts on the unedited model
SPHERE   right <- (I - strength V V^T) right      V   (d_k, r), leading right singular vectors of W with rows of length 1
PRUNE    sigma <- log_a(sigma / s) + s  of the singular values sigma >= s of the sum     s   the largest of the original W
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from ..model.site import EditSite
from ..store.disk import RromeError
from .keys import Keys
from .rules import RankOneUpdate, Rule, Wrapper, rule_named
from .second_moment import SecondMoment
from .value import Value


@dataclass(frozen=True)
class _Named(Wrapper):
    """A wrapper of a rule, given by name or as a value, with settings of its own."""

    rule: Rule

    def __post_init__(self):
        vars(self)["rule"] = rule_named(self.rule)[1]

    @property
    def name(self) -> str:
        """The class, the name of the rule, and the settings."""
        settings = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self)[1:]]
        return f"{type(self).__name__}({', '.join([self.rule.name, *settings])})"

    def remembering(self, second_moment: SecondMoment) -> Rule:
        return replace(self, rule=self.rule.remembering(second_moment))


@dataclass(frozen=True)
class NAS(_Named):
    """Norm anchor (2602.02543): v_e gets the length `norm` (see `anchor_norm`); published with AlphaEdit.

    As in its code, an edit whose v_e is longer than `skip` times the norm is left out: its update is zero (and, unlike there,
    its key is not remembered). With `skip` None none is.
    """

    norm: float
    skip: float | None = 2.0

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.norm < math.inf and (self.skip is None or self.skip > 0)):
            raise RromeError(f"norm and skip of NAS are positive numbers, not {self.norm} and {self.skip}")

    def left(self, keys: Keys, value: Value, site: EditSite) -> torch.Tensor:
        """The residual to the anchored v_e, (d_v,); zero where the edit is left out."""
        length = value.target.norm()
        if self.skip is not None and length > self.skip * self.norm:
            return torch.zeros_like(value.target)
        return self.rule.left(keys, replace(value, delta=value.target * (self.norm / length) - value.base), site)


def anchor_norm(values: Sequence[Value], dropped: float = 0.05) -> float:
    """The mean ||v_e|| of values searched on the unedited model, without the share `dropped` that is longest."""
    lengths = sorted(value.target.double().norm().item() for value in values)
    kept = lengths[: len(lengths) - int(dropped * len(lengths))]
    if not kept:
        raise RromeError("an anchor norm needs values: search v_e of some facts first, with editor.solve_all(facts)")
    return sum(kept) / len(kept)


@dataclass(frozen=True)
class SPHERE(_Named):
    """Sparse-space projection (2510.01172): right without `strength` times its part in the directions that W uses most.

    They are the fewest singular directions of W as it is now, rows scaled to length 1, that hold the `share` of the sum of its
    squared singular values. Published: share 0.5, strength 0.5 on AlphaEdit and 0.8 on MEMIT.
    """

    share: float = 0.5
    strength: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not (0 <= self.share <= 1 and 0 <= self.strength <= 1):
            raise RromeError(f"share and strength of SPHERE lie in 0 to 1, not {self.share} and {self.strength}")

    def within(self, right: torch.Tensor, site: EditSite) -> torch.Tensor:
        """right, (d_k,), with that part of it reduced."""
        right = self.rule.within(right, site)
        rows = torch.nn.functional.normalize(site.weight.cpu().double(), dim=1)  # (d_v, d_k)
        _, singular, directions = torch.linalg.svd(rows, full_matrices=False)  # (r,), (r, d_k)
        held = singular.square().cumsum(0)
        leading = directions[: int((held < self.share * held[-1]).sum()) + 1]
        return right - self.strength * (leading @ right) @ leading


def pruned(updates: Sequence[RankOneUpdate], weight: torch.Tensor, base: float = 1.2) -> list[RankOneUpdate]:
    """The sum of all updates with its large singular values damped (PRUNE, 2405.16821), one update for each of them.

    `weight` (d_v, d_k) is the original W, `base` the a of the logarithm. Right: `model.edits.set(pruned(...))`. As the most
    used port has it, which adds the damped sum to the edited W: `model.edits.set([*updates, *pruned(...)])`.
    """
    if not updates or base <= 1:
        raise RromeError(f"PRUNE needs updates and a base above 1, got {len(updates)} and {base}")
    left = torch.stack([update.left.cpu() for update in updates], 1).double()  # (d_v, n)
    right = torch.stack([update.right.cpu() for update in updates], 1).double()  # (d_k, n)
    (outer, upper), (inner, lower) = torch.linalg.qr(left), torch.linalg.qr(right)
    vectors, sizes, others = torch.linalg.svd(upper @ lower.T)  # of rank n at most
    largest = torch.linalg.matrix_norm(weight.cpu().double(), 2)
    damped = torch.where(sizes >= largest, (sizes / largest).log() / math.log(base) + largest, sizes)
    lefts, rights = (outer @ vectors[:, : len(sizes)] * damped).T, others[: len(sizes)] @ inner.T
    device, about = updates[0].left.device, (f"PRUNE({updates[0].rule}, base={base})", f"{len(updates)} edits")
    return [
        RankOneUpdate(one.float().to(device), other.float().to(device), *about, 1.0, math.nan, origin=updates[0].origin)
        for one, other in zip(lefts, rights, strict=True)
    ]
