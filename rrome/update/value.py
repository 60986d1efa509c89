"""v_e: the value at which the model predicts the new target, found by gradient descent on delta.

v_0    (d_v,)  W k_e^o + b, the value of the bare prompt                  v_e = v_0 + delta

loss   = mean NLL of the target tokens over the N prompts
         + kl * KL(current || initial) of the next token at the subject's last token in "{subject} is a"
         + weight_decay * ||delta|| / ||v_0||^2
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

import torch
from torch.nn.functional import kl_div

from ..facts.fact import Fact
from ..model.model import Model
from ..store.disk import RromeError
from .batch import freeze
from .keys import Keys


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the descent; the defaults are the original code's (Meng et al. 2022).

    `relative_to` "stream" measures delta against h (d,), the residual stream that leaves block l* at the bare prompt's
    subject, as MEMIT does with clamp=0.75; None against v_0. `stop_hits` ends a search after so many evaluations at which every
    target token of every prompt but the bare one was the likeliest (Gupta et al. 2025, ENCORE: 2 to 4).
    """

    learning_rate: float = 0.5  # of Adam
    evaluations: int = 20  # of the loss; the last one makes no step
    stop_loss: float = 0.05  # below it the search ends
    clamp: float = 4.0  # ||delta|| <= clamp * ||v_0||
    kl: float = 0.0625
    weight_decay: float = 0.5
    relative_to: Literal["stream"] | None = None
    stop_hits: int | None = None

    def __post_init__(self):
        if self.relative_to not in (None, "stream") or not (self.stop_hits is None or self.stop_hits > 0):
            remedy = "relative_to is None or 'stream', stop_hits is None or at least 1"
            raise RromeError(f"{remedy}: not {self.relative_to!r} and {self.stop_hits!r}")
        if not (self.learning_rate > 0 and self.clamp >= 0):
            remedy = "the learning rate of a search is above 0 and its clamp is 0 or above"
            raise RromeError(f"{remedy}: not {self.learning_rate!r} and {self.clamp!r}")
        if not isinstance(self.evaluations, Integral) or self.evaluations < 1:
            raise RromeError(f"a search needs a whole number of evaluations from 1 on: not {self.evaluations}")


@dataclass(frozen=True, eq=False)
class Value:
    """v_e of one fact: `target` (d_v,) = `base` v_0 + `delta`, all float32.

    `losses` has the total loss and `probabilities` exp(-mean NLL) of the target at every evaluation; `keys` are the fact's.
    """

    base: torch.Tensor
    delta: torch.Tensor
    losses: tuple[float, ...] = field(repr=False)
    probabilities: tuple[float, ...] = field(repr=False)
    keys: Keys = field(repr=False)

    @property
    def target(self) -> torch.Tensor:
        """v_e, (d_v,)."""
        return self.base + self.delta

    @property
    def probability(self) -> float:
        """exp(-mean NLL) of the target at the last evaluation."""
        return self.probabilities[-1]

    @property
    def steps(self) -> int:
        """The number of Adam steps made; the last evaluation makes none."""
        return len(self.losses) - 1


@torch.inference_mode(False)  # whatever the caller's settings are
@torch.enable_grad()
def find_values(
    model: Model,
    facts: Sequence[Fact],
    templates: Sequence[str],
    search: Search | None = None,
    leading: str | None = None,
    weights: Sequence[torch.Tensor] | None = None,
) -> list[Value | RromeError]:
    """Search v_e of facts under the templates (bare prompt first), in one batch, in the model as it is now.

    The result for each is that of a search alone, or the error of one whose loss turned NaN or infinite. `weights` is a W
    (d_v, d_k) for each fact, in place of the model's. The model is not changed.
    """
    if not facts:
        return []
    search = search or Search(**model.published)
    batch, keys, bases = freeze(model, facts, templates, leading, weights)
    scales = (bases if search.relative_to is None else batch.stream).unbind()  # (d_v,) or (d,) each
    descents = [_Descent(search, *start) for start in zip(facts, keys, bases, scales, strict=True)]
    active, initial = descents, None
    while active:
        nll, current, missed = batch.evaluate([descent.delta for descent in active])  # (B,), (B, V), (B,)
        initial = current.detach() if initial is None else initial
        kl = kl_div(initial, current, log_target=True, reduction="none").sum(1)  # (B,)
        decay = [search.weight_decay * each.delta.norm() / each.scale.norm() ** 2 for each in active]
        loss = nll + search.kl * kl + torch.stack(decay)
        numbers = torch.stack([loss, nll, missed], dim=1).tolist()  # the one wait for the device in an evaluation
        for descent, each in zip(active, numbers, strict=True):
            descent.record(*each)
        going = [n for n, descent in enumerate(active) if not descent.ended]
        if going:
            slopes = torch.autograd.grad(loss.sum(), [active[n].delta for n in going])
            for n, slope in zip(going, slopes, strict=True):
                active[n].step(slope)
        if len(going) < len(active):
            batch, initial, active = batch.only(going), initial[going], [active[n] for n in going]
    return [descent.error or descent.value() for descent in descents]


class _Descent:
    """The search of one fact's delta by Adam, from zero."""

    def __init__(self, search: Search, fact: Fact, keys: Keys, base: torch.Tensor, scale: torch.Tensor):
        self.search, self.fact, self.keys, self.base, self.scale = search, fact, keys, base, scale
        self.delta = torch.zeros_like(base, requires_grad=True)
        self.adam = torch.optim.Adam([self.delta], lr=search.learning_rate)
        self.losses: list[float] = []
        self.probabilities: list[float] = []
        self.error: RromeError | None = None
        self.hits = 0

    @property
    def ended(self) -> bool:
        if self.error is not None or len(self.losses) == self.search.evaluations:
            return True
        return self.losses[-1] < self.search.stop_loss or self.hits >= (self.search.stop_hits or math.inf)

    def record(self, loss: float, nll: float, missed: float) -> None:
        if not math.isfinite(loss):
            edit = f"{self.fact.rewrite!r} -> {self.fact.target_new!r}"
            self.error = RromeError(f"the loss of {edit} is {loss} at evaluation {len(self.losses)}")
            return
        self.hits += not missed
        self.losses.append(loss)
        self.probabilities.append(math.exp(-nll))

    def step(self, slope: torch.Tensor) -> None:
        """One step of Adam, then back onto the ball ||delta|| <= clamp ||v_0||, or clamp ||h||."""
        self.delta.grad = slope
        self.adam.step()
        with torch.no_grad():
            self.delta.mul_((self.search.clamp * self.scale.norm() / self.delta.norm()).clamp(max=1))

    def value(self) -> Value:
        return Value(self.base, self.delta.detach(), tuple(self.losses), tuple(self.probabilities), self.keys)
