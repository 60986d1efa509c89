"""Context managers that look into a forward pass or change it; each takes its hook out again, also after an error."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .models import Model
from .sites import blocks_of, find_site


class _Reached(Exception):
    """Raised inside a forward pass to end it."""


@contextlib.contextmanager
def _removed(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def input_of(model: Model, module: nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    """What `module` is given in a forward pass, which ends there: nothing above the module is run."""
    captured = []

    def stop(_module, args):
        captured.append(args[0])
        raise _Reached

    with _removed(module.register_forward_pre_hook(stop)), contextlib.suppress(_Reached):
        model.lm(**inputs)
    return captured[0]


def output_changed(module: nn.Module, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
    """Inside, `module` returns change(input, output) instead of its output."""
    return _removed(module.register_forward_hook(lambda _, args, out: change(args[0], out)))


def vocabulary_at(model: Model, places: torch.Tensor):
    """Inside, the vocabulary is read only at `places` (2, M) = (row, column): the model's logits are (1, M, V)."""
    head = model.lm.get_output_embeddings()
    return _removed(head.register_forward_pre_hook(lambda _, args: (args[0][places[0], places[1]].unsqueeze(0),)))


def last_mlp_at(model: Model, places: torch.Tensor):
    """Inside, the last block's MLP runs only at distinct `places` (2, M) = (row, column); elsewhere its output is zero.

    Right for whoever reads the model's output at these places alone, since no block above mixes columns.
    """
    block = blocks_of(model.lm)[-1]
    mlp = model.lm.get_submodule(find_site(model.lm, model.depth - 1).path.rpartition(".")[0])
    if mlp is block:  # OPT keeps its two layers in the block itself
        return contextlib.nullcontext()
    shape = []

    def gather(_mlp, states):  # (B, T, d) each
        shape[:] = states[0].shape[:2]
        return tuple(state[places[0], places[1]].unsqueeze(0) for state in states)

    def scatter(_mlp, _states, out):  # (1, M, d)
        everywhere = out.new_zeros(*shape, out.shape[-1])
        return everywhere.index_put((places[0], places[1]), out[0])

    return _removed(mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter))


@contextlib.contextmanager
def blocks_from(model: Model, first: int, hidden: torch.Tensor, as_tuple: bool) -> Iterator[None]:
    """Inside, blocks below `first` pass their input through and block `first` reads `hidden` (B, T, d) in its place.

    `as_tuple` says whether this family's blocks return a tuple.
    """

    def passed(state, *_args, **_kwargs):
        return (state,) if as_tuple else state

    def replaced(_block, args, kwargs):
        return (hidden, *args[1:]), kwargs

    blocks = blocks_of(model.lm)
    with _removed(blocks[first].register_forward_pre_hook(replaced, with_kwargs=True)):
        try:
            for block in blocks[:first]:
                block.forward = passed
            yield
        finally:
            for block in blocks[:first]:
                block.__dict__.pop("forward", None)


@dataclass(frozen=True, eq=False)
class Passage:
    """What one forward pass saw at block l*, each (B, T, .): its input, W's input and output, its own output."""

    entering: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    leaving: torch.Tensor
    as_tuple: bool  # whether this family's blocks return a tuple


@torch.no_grad()
def through_block(model: Model, **inputs: Any) -> Passage:
    """Run the model up to the end of block l*: no block above is run."""
    seen, module = {}, model.site.module

    def stop(_block, args, out):
        leaving = out[0] if isinstance(out, tuple) else out
        seen.update(entering=args[0], leaving=leaving, as_tuple=isinstance(out, tuple))
        raise _Reached

    with (
        _removed(
            module.register_forward_hook(lambda _, args, out: seen.update(key=args[0], value=out)),
            model.site.block.register_forward_hook(stop),
        ),
        contextlib.suppress(_Reached),
    ):
        model.lm(**inputs)
    return Passage(**seen)
