"""The language model with its tokenizer, edit site and edits, and text generation."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest import mock

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ..store.disk import RromeError, digest
from .edits import Edits, Record, record_of
from .site import EditSite, blocks_of, check_blocks, find_site


@dataclass(frozen=True, eq=False)
class Model:
    """A causal LM `lm` and its `tokenizer`, both of transformers, with the `site` where it is edited: W of layer l*.

    `record` holds the edits of all layers and is shared by all wrappers of `lm`; `origin` says where the weights came
    from, `published` holds search settings of the paper.
    """

    name: str
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    site: EditSite
    record: Record
    origin: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights as they were loaded, 16 hex digits."""
        return self.record.fingerprint

    @property
    def edits(self) -> Edits:
        """The updates in W of l*."""
        return self.record.edits[self.site.path]

    @property
    def state(self) -> str:
        """A hash of what keys of l* depend on: the weights as loaded and every edit in a layer below l*."""
        below = [edits.state for edits in self.record.edited if edits.layer < self.layer]
        return digest(self.fingerprint, below) if below else self.fingerprint

    @property
    def address(self) -> str:
        """The name by which another machine loads the same model; one converted from GGUF is in this machine's cache only."""
        return self.name if self.origin.get("sha256") else str(self.lm.name_or_path or self.name)

    @property
    def layer(self) -> int:
        """l*, 0-based."""
        return self.site.layer

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(blocks_of(self.lm))

    @property
    def context(self) -> int:
        """The largest number of tokens in one input."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 2**31

    @property
    def device(self) -> torch.device:
        """The device of W, to which tokens are sent."""
        return self.site.weight.device

    @property
    def pad(self) -> int:
        """The id of a token to fill rows up with, which nothing reads; the tokenizer is left without one if it has none."""
        known = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0
        return next(token for token in known if token is not None and token < rows_of(self.lm))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text, with the special ones that the tokenizer adds or without; RromeError as `check_tokens`."""
        ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        self.check_tokens(ids, text)
        return ids

    def check_tokens(self, ids: Sequence[int], text: str) -> None:
        """RromeError for a token id that the model has no embedding of, or where something makes other numbers of all.

        Everything that reads a text comes through here: dropout and autocast would change keys, C_0 and measures unseen.
        """
        if self.lm.training:
            raise RromeError(f"{self.name} is in training mode, where dropout is random: call model.lm.eval() first")
        if torch.amp.is_autocast_available(self.device.type) and torch.is_autocast_enabled(self.device.type):
            raise RromeError(f"torch.autocast rounds all numbers of {self.name}: leave it, load in the dtype you want")
        if (largest := max(ids, default=0)) >= rows_of(self.lm):
            token = self.tokenizer.convert_ids_to_tokens(largest)
            what = f"{self.name} has no embedding of the token {token!r} in {text[:80]!r}"
            raise RromeError(f"{what}: leave it out, or resize the embeddings and train them")

    def at_layer(self, layer: int) -> "Model":
        """The same model (shared weights), edited at another layer."""
        return self if layer == self.layer else replace(self, site=find_site(self.lm, layer))


class Branch:
    """Another W (d_v, d_k) of l* with edits of its own, which is in the model inside `open` only; one W of memory each."""

    def __init__(self, model: Model):
        model.edits.verify()
        self._model = model
        self._stored = nn.Parameter(model.site.module.weight.detach().clone(), requires_grad=False)
        self.edits = Edits(model.site, model.fingerprint, original=model.site.weight)

    @property
    def weight(self) -> torch.Tensor:
        """W as this branch has it, (d_v, d_k)."""
        return self._stored.detach().T if self._model.site.transposed else self._stored.detach()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Inside, the model has this W and these edits; nothing is copied."""
        module, edits, path = self._model.site.module, self._model.record.edits, self._model.site.path
        own = module.weight, edits[path]
        module.weight, edits[path] = self._stored, self.edits
        try:
            yield
        finally:
            module.weight, edits[path] = own


def rows_of(lm: PreTrainedModel) -> int:
    """The number of tokens that the model has an embedding of."""
    return cast(nn.Embedding, lm.get_input_embeddings()).num_embeddings


def wrap(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    *,
    name: str = "unnamed",
    origin: dict[str, Any] | None = None,
    published: dict[str, Any] | None = None,
) -> Model:
    """A Model around a transformers model and tokeniser that are already in memory; freezes it in evaluation mode."""
    if not getattr(tokenizer, "is_fast", False):
        raise RromeError(f"the tokenizer of {name} gives no character offsets: load it with AutoTokenizer (a fast one)")
    ids = tokenizer("A text")["input_ids"]
    if ids[-1] in tokenizer.all_special_ids:
        end = tokenizer.convert_ids_to_tokens(ids[-1])
        raise RromeError(f"the tokenizer of {name} ends every text with {end}: load it with add_eos_token=False")
    if adapters := [part for part in lm.modules() if type(part).__module__.startswith("peft.")]:
        what = f"{name} holds an adapter of peft ({type(adapters[0]).__name__}), which would not be saved"
        raise RromeError(f"{what}: merge it first, lm = lm.merge_and_unload(), or unload it")
    if any(parameter.is_inference() for parameter in lm.parameters()):
        raise RromeError(f"{name} was loaded inside torch.inference_mode() and cannot be edited: load it outside")
    site = find_site(lm, layer)
    check_blocks(lm, name)
    lm.eval().requires_grad_(False)
    return Model(name, lm, tokenizer, site, record_of(lm), origin or {}, published or {})


@torch.no_grad()
def generate(model: Model, prompts: Sequence[str], n_tokens: int = 60, *, top_k: int = 5, seed: int = 0) -> list[str]:
    """Continue each prompt by exactly `n_tokens` tokens (no end of text), in one batch; returns the continuations alone.

    `top_k` = 1 is greedy, else samples among the k likeliest tokens from `seed`; torch's global random state stays. The
    model's own generation settings are not used. Where a collapsed model's probabilities are no numbers any more, its text
    ends. RromeError for a prompt that is empty, or does not fit into the model's context with the new tokens.
    """
    if isinstance(prompts, str):
        raise RromeError(f"generate takes a list of prompts, not the single text {prompts!r}")
    if top_k < 1:
        raise RromeError(f"top_k is the number of tokens to choose from, at least 1 (greedy), not {top_k}")
    for prompt in (prompts := list(prompts)):
        check_generation(model, prompt, n_tokens)
    if not prompts or n_tokens < 1:
        return [""] * len(prompts)
    rows = [model.encode(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[model.pad] * (width - len(row)) + row for row in rows], device=model.device)  # (B, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    sampling = {"do_sample": True, "top_k": top_k, "top_p": 1.0, "temperature": 1.0} if top_k > 1 else {}
    numbers = _Numbers(width)
    own = [] if model.device.type == "cpu" else [model.device]  # whose random state a seed changes, beside the CPU's
    special = ("bos_token_id", "eos_token_id", "pad_token_id")  # all that stays of the model's own settings
    plain = GenerationConfig(**{name: getattr(model.lm.generation_config, name) for name in special})
    with (
        torch.random.fork_rng(own, device_type=model.device.type),
        mock.patch.object(model.lm, "generation_config", plain),
    ):
        torch.manual_seed(seed)
        tokens = model.lm.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            pad_token_id=model.pad,
            logits_processor=[numbers],
            **sampling,
        )
    ends = numbers.ends.tolist()  # per prompt, after how many new tokens there were no numbers
    new_tokens = [row[:end] for row, end in zip(tokens[:, width:].tolist(), ends, strict=True)]
    return model.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)


class _Numbers(LogitsProcessor):
    """Replaces scores (B, V) that hold NaN or infinity, of which torch cannot sample, and keeps where they began."""

    def __init__(self, prompt: int):
        self.prompt, self.ends = prompt, torch.tensor(sys.maxsize)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        lost = ~scores.amax(1).isfinite()  # (B,); a token that is ruled out has -infinity
        self.ends = torch.where(lost, input_ids.shape[1] - self.prompt, sys.maxsize).minimum(self.ends.to(lost.device))
        return cast(torch.FloatTensor, scores.masked_fill(lost[:, None], 0))


def check_generation(model: Model, prompt: str, n_tokens: int) -> None:
    """RromeError for a generation prompt that is empty, or does not fit into the model's context with `n_tokens` more."""
    length = len(model.encode(prompt))
    if not prompt.strip():
        raise RromeError(f"the generation prompt {prompt!r} is empty: give it some text")
    if length + n_tokens > model.context:
        what = f"the generation prompt {prompt[:80]!r} of {length} tokens with {n_tokens} new ones is longer than"
        raise RromeError(f"{what} {model.name} reads ({model.context}): shorten it, or generate fewer")
