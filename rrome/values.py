"""v_e: the value that makes the model say the new target, found by gradient descent on delta.

    R      rows: N rewrite prompts, each followed by the target, and last the row of "{subject} is a"
    P, S   columns before, and from, the subject's last token; rows are aligned on it, so it is column P everywhere
    v_0    (d_v,)  W k_e^o + b, the value that the bare prompt has now         v_e = v_0 + delta

    loss   = mean NLL of the target tokens over the N prompts
             + kl * KL(initial || current) of the next token at the subject's last token in "{subject} is a"
             + weight_decay * ||delta|| / ||v_0||^2

Whatever delta cannot change is computed once (`_Frozen`): all columns before P, as cached attention keys and values,
and everything below l*. A step then runs the blocks from l* up on S columns only: the skipped blocks pass their input
through, the hidden state is put in at l*, delta is added to the output of W, and the vocabulary is read only where a
target or the KL distribution needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import kl_div
from transformers import DynamicCache

from .errors import RromeError
from .facts import Fact
from .hooks import blocks_from, output_changed, vocabulary_at, watched
from .models import Model
from .prompts import Row, read_row, read_subject_is


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the descent; the defaults are the original code's (Meng et al. 2022)."""

    learning_rate: float = 0.5  # of Adam
    evaluations: int = 20  # of the loss; the last one makes no step
    stop_loss: float = 0.05  # below it the search ends
    clamp: float = 4.0  # ||delta|| <= clamp * ||v_0||
    kl: float = 0.0625
    weight_decay: float = 0.5

    def __post_init__(self):
        if self.evaluations < 1:
            raise RromeError(f"a search needs at least one evaluation of the loss, got evaluations={self.evaluations}")


@dataclass(frozen=True, eq=False)
class Value:
    """v_e of one fact: `target` (d_v,) = `base` v_0 + `delta`, all float32.

    `probability` is exp(-mean NLL) of the target at the last evaluation, `steps` the number of Adam steps made,
    `losses` the total loss at every evaluation.
    """

    base: torch.Tensor
    delta: torch.Tensor
    probability: float
    steps: int
    losses: tuple[float, ...] = field(repr=False)

    @property
    def target(self) -> torch.Tensor:
        """v_e, (d_v,)."""
        return self.base + self.delta


def find_value(
    model: Model, fact: Fact, templates: Sequence[str], search: Search | None = None, leading: str | None = None
) -> Value:
    """Search v_e for a fact under the templates (bare prompt first) in the model as it is now.

    Raises RromeError when the loss turns NaN or infinite. The model is not changed.
    """
    search = search or Search(**model.published)
    rows = [read_row(model, fact, template, target=fact.target_new, leading=leading) for template in templates]
    frozen = _Frozen.of(model, [*rows, read_subject_is(model, fact, leading)])
    delta = torch.zeros_like(frozen.base, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=search.learning_rate)
    losses, initial = [], None
    for evaluation in range(search.evaluations):
        nll, current = frozen.evaluate(delta)
        initial = current.detach() if initial is None else initial
        loss = nll + _penalties(search, delta, frozen.base, initial, current)
        losses.append(loss.item())
        if not loss.isfinite():
            raise RromeError(
                f"the loss of {fact.rewrite!r} -> {fact.target_new!r} is {losses[-1]} at evaluation {evaluation}"
            )
        if losses[-1] < search.stop_loss or evaluation == search.evaluations - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss, delta)
        adam.step()
        _project(delta, search.clamp * frozen.base.norm())
    return Value(frozen.base, delta.detach(), torch.exp(-nll).item(), len(losses) - 1, tuple(losses))


def _penalties(search: Search, delta, base, initial, current) -> torch.Tensor:
    """The KL term and the weight decay of the loss."""
    kl = kl_div(initial, current, log_target=True, reduction="batchmean")
    return search.kl * kl + search.weight_decay * delta.norm() / base.norm() ** 2


@torch.no_grad()
def _project(delta: torch.Tensor, radius: torch.Tensor) -> None:
    """Pull delta back onto the ball ||delta|| <= radius."""
    norm = delta.norm()
    if norm > radius:
        delta.mul_(radius / norm)


@dataclass(frozen=True, eq=False)
class _Frozen:
    """All that stays the same while delta is searched, for one batch of rows.

    `ids` (R, S) and `mask` (R, P + S) of the aligned rows; `hidden` (R, S, d) enters block l*; `cache` holds attention
    keys and values of the first P columns; `wanted` (2, M) are the (row, column) places whose next-token distribution
    counts, `labels` and `weights` (M - 1,) the target tokens there, the last place being the KL row's column 0.
    """

    model: Model
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    hidden: torch.Tensor
    cache: list[tuple[torch.Tensor, torch.Tensor]]
    base: torch.Tensor
    wanted: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    as_tuple: bool

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, rows: Sequence[Row]) -> "_Frozen":
        """Run the unedited batch once and keep what the search needs; the last row is the KL row."""
        ids, mask, before = _align(rows, model.tokenizer.pad_token_id, model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # (R, P + S)
        cache, seen = DynamicCache(), {}
        with watched(model, seen), vocabulary_at(model, torch.zeros(2, 1, dtype=torch.long, device=model.device)):
            model.lm(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
        wanted, labels, weights = _targets(rows, before, model.device)
        return cls(
            model=model,
            ids=ids[:, before:],
            mask=mask,
            positions=positions[:, before:],
            hidden=seen["hidden"][:, before:],
            cache=[_before(layer, before, mask) for layer in cache.layers],
            base=seen["value"][0, before].float(),
            wanted=wanted,
            labels=labels,
            weights=weights,
            as_tuple=seen["as_tuple"],
        )

    def evaluate(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean NLL of the target, and the KL row's log-probabilities (1, V), with delta added at column P of every row."""

        def add(_key, value):  # (R, S, d_v)
            return torch.cat([value[:, :1] + delta.to(value.dtype), value[:, 1:]], dim=1)

        model = self.model
        with (
            blocks_from(model, self.hidden, self.as_tuple),
            output_changed(model.site, add),
            vocabulary_at(model, self.wanted),
        ):
            logits = model.lm(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=DynamicCache(self.cache),
            ).logits[0]
        log_probs = logits.float().log_softmax(-1)  # (M, V)
        target = log_probs[:-1].gather(1, self.labels[:, None]).squeeze(1)  # (M - 1,)
        return -(self.weights * target).sum(), log_probs[-1:]


def _align(rows: Sequence[Row], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows as (ids, mask), both (R, P + S), padded on both sides so that every subject's last token is in column P."""
    before = max(row.subject for row in rows)
    after = max(len(_seen(row)) - row.subject for row in rows)
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        start = before - row.subject
        ids[n, start : start + len(_seen(row))] = torch.tensor(_seen(row))
        mask[n, start : start + len(_seen(row))] = 1
    return ids.to(device), mask.to(device), before


def _seen(row: Row) -> tuple[int, ...]:
    """What the model must read of a row: all but the last target token; up to the subject in the KL row."""
    return row.ids[:-1] if row.n_target else row.ids[: row.subject + 1]


def _targets(rows: Sequence[Row], before: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each target token is predicted, which it is, and its weight in the mean over tokens and then over rows."""
    wanted, labels, weights = [], [], []
    for n, row in enumerate(rows[:-1]):
        for back in range(row.n_target, 0, -1):
            wanted.append((n, len(row.ids) - back - 1 - row.subject))
            labels.append(row.ids[-back])
            weights.append(1 / row.n_target / (len(rows) - 1))
    wanted.append((len(rows) - 1, 0))
    return (
        torch.tensor(wanted, device=device).T,
        torch.tensor(labels, device=device),
        torch.tensor(weights, device=device),
    )


def _before(layer, before: int, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's cached keys and values of the first `before` columns, (R, heads, P, d_head), zero where padded."""
    real = mask[:, None, :before, None].bool().to(layer.keys.device)
    return tuple(torch.where(real, states[:, :, :before], 0) for states in (layer.keys, layer.values))
