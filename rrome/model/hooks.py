"""Hooks that read or change a forward pass, each removed on exit, and attention to a KV cache that is not copied.

    P, S   cached tokens, and new ones after them           H, K   heads of queries, and of keys and values
    R, D   rows, head size                                  G      query heads that share a head of keys, H = G K

    softmax(q [k_P; k] / sqrt(D)) [v_P; v]  =  p_P v_P + p v        with [p_P, p] the softmax

Attention of transformers concatenates both parts in every block and pass, repeats them for query heads that share them, and
computes gradients of all. Here the cache is read where it is and has no gradient.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from .model import Model
from .site import EditSite, blocks_of, find_site


class _Reached(Exception):
    """Raised inside a forward pass to end it."""


@torch.no_grad()
def input_of(model: Model, module: nn.Module, **inputs: Any) -> torch.Tensor:
    """The input (B, T, .) of `module` in a forward pass of `input_ids` (B, T), which ends there."""
    captured: list[torch.Tensor] = []

    def stop(_module, args):
        captured.append(args[0].reshape(*inputs["input_ids"].shape, -1))  # OPT's MLP reads (B * T, d)
        raise _Reached

    with module.register_forward_pre_hook(stop), contextlib.suppress(_Reached):
        model.lm(**inputs)
    return captured[0]


@contextlib.contextmanager
def output_changed(site: EditSite, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside, W returns change(key, value) instead of its value, (B, T, d_k) and (B, T, d_v) in every family."""
    shape: list[int] = []

    def read_shape(_block, args):
        shape[:] = args[0].shape[:2]

    def changed(_module, args, out):
        return change(args[0].reshape(*shape, -1), out.reshape(*shape, -1)).reshape(out.shape)

    with site.block.register_forward_pre_hook(read_shape), site.module.register_forward_hook(changed):
        yield


def block_changed(block: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]):
    """Inside, a block returns change(hidden) instead of its hidden states (B, T, d), by themselves or first in a tuple."""

    def changed(_block, _args, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    return block.register_forward_hook(changed)


def logits_at(model: Model, positions: torch.Tensor):
    """Inside, logits are computed only at `positions` (2, M) = (row, column): the model's logits are (1, M, V)."""

    def at_positions(_head, args):
        row, column = positions.to(args[0].device)
        return (args[0][row, column].unsqueeze(0),)

    return model.lm.get_output_embeddings().register_forward_pre_hook(at_positions)


@contextlib.contextmanager
def last_mlp_at(model: Model, positions: torch.Tensor) -> Iterator[None]:
    """Inside, the last block's MLP runs only at distinct `positions` (2, M) = (row, column), and is zero elsewhere.

    The model's output at these positions is unchanged, since no block above mixes positions.
    """
    block = blocks_of(model.lm)[-1]
    mlp = model.lm.get_submodule(find_site(model.lm, model.depth - 1).path.rpartition(".")[0])
    if mlp is block:  # OPT keeps its two layers in the block itself
        yield
        return
    shape: list[int] = []

    def gather(_mlp, states):  # (B, T, d) each
        shape[:] = states[0].shape[:2]
        row, column = positions.to(states[0].device)
        return tuple(state[row, column].unsqueeze(0) for state in states)

    def scatter(_mlp, _states, out):  # (1, M, d)
        everywhere = out.new_zeros(*shape, out.shape[-1])
        return everywhere.index_put(tuple(positions.to(out.device)), out[0])

    with mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter):
        yield


@contextlib.contextmanager
def blocks_from(model: Model, first: int, hidden: torch.Tensor, as_tuple: bool) -> Iterator[None]:
    """Inside, no block below `first` computes, and block `first` reads `hidden` (B, T, d); `as_tuple` as in Passage."""

    def passed(state, *_args, **_kwargs):
        return (state,) if as_tuple else state

    def replaced(_block, args, kwargs):
        return (hidden, *args[1:]), kwargs

    blocks = blocks_of(model.lm)
    with contextlib.ExitStack() as stack:
        stack.enter_context(blocks[first].register_forward_pre_hook(replaced, with_kwargs=True))
        for block in blocks[:first]:
            stack.enter_context(mock.patch.object(block, "forward", passed))
        yield


@dataclass(frozen=True, eq=False)
class Passage:
    """What one forward pass computed at block l*, each (B, T, .): its input, input and output of W, its output."""

    entering: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    leaving: torch.Tensor
    as_tuple: bool  # whether this family's blocks return a tuple


@torch.no_grad()
def through_block(model: Model, **inputs: Any) -> Passage:
    """Run the model up to the end of block l*."""
    seen: dict[str, Any] = {}
    shape = inputs["input_ids"].shape

    def at_site(_module, args, out):
        value = out.reshape(*shape, -1).clone()  # to which Falcon's block adds in place; OPT's are (B * T, .)
        seen.update(key=args[0].reshape(*shape, -1), value=value)

    def stop(_block, args, out):
        leaving = out[0] if isinstance(out, tuple) else out
        seen.update(entering=args[0], leaving=leaving, as_tuple=isinstance(out, tuple))
        raise _Reached

    with (
        model.site.module.register_forward_hook(at_site),
        model.site.block.register_forward_hook(stop),
        contextlib.suppress(_Reached),
    ):
        model.lm(**inputs)
    return Passage(**seen)


NAME = "rrome_kv_cache"  # among the attention functions of transformers
Pair = tuple[torch.Tensor, torch.Tensor]


@contextlib.contextmanager
def attending_to(model: Model, cached: Sequence[Pair]) -> Iterator[DynamicCache]:
    """Inside, a forward pass of new tokens that is given the yielded cache attends to the `cached` ones too, uncopied.

    `cached` has each layer's keys and values, (R, K, P, D) both. Families with an attention function of their own get a cache
    that joins both parts, and so do weights in half precision, whose scores torch computes in float32.
    """
    lm, cache = model.lm, DynamicCache()
    separate = bool(cached) and torch.finfo(cached[0][0].dtype).bits >= 32  # full precision
    separate = separate and lm.config._attn_implementation == "sdpa" and lm._can_set_attn_implementation()
    for keys, values in cached:
        layer = _SeparateLayer() if separate else DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    if not separate:
        yield cache
        return
    lm.set_attn_implementation(NAME)
    try:
        yield cache
    finally:
        lm.set_attn_implementation("sdpa")


class _SeparateLayer(DynamicLayer):
    """The KV cache of one layer, which returns (cached, new) keys and values instead of joining them."""

    def update(self, key_states, value_states, *_args, **_kwargs):
        return (self.keys, key_states), (self.values, value_states)


def separate_attention(
    _module, query: torch.Tensor, key: Pair, value: Pair, attention_mask: torch.Tensor, scaling=None, **_options
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (R, H, S, D) to `key` and `value`, (cached, new) each: (R, S, H, D), and no weights.

    `attention_mask` (R, 1, S, P + S) is added to the scores; keyword arguments as transformers gives them.
    """
    cached_keys, keys = key  # (R, K, P, D), (R, K, S, D)
    cached_values, values = value
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    grouped = scaled.reshape(*keys.shape[:2], -1, query.shape[-1])  # (R, K, G S, D)
    scores = torch.cat([grouped @ cached_keys.mT, grouped @ keys.mT], dim=-1)  # (R, K, G S, P + S)
    masked = scores.unflatten(2, (-1, query.shape[2])) + attention_mask[:, :, None]  # (R, K, G, S, P + S)
    to_cached, to_new = masked.softmax(-1).flatten(2, 3).split([cached_keys.shape[2], keys.shape[2]], dim=-1)
    read = to_cached @ cached_values + to_new @ values  # (R, K, G S, D)
    return read.reshape(*query.shape[:3], -1).transpose(1, 2), None


AttentionInterface.register(NAME, separate_attention)
AttentionMaskInterface.register(NAME, eager_mask)
