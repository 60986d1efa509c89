"""From facts to token rows: templates, sampled prefixes, and the positions of subject and target.

    template   text with one "{}" where the prompt goes: "{}" itself, or "The sun was out. {}"
    row        one prompt as tokens, with i, the position of the subject's last token

Positions come from the tokeniser's character offsets. So special tokens in front, subjects that occur twice, and tokens that
cross a word boundary need no rule of their own.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..facts.fact import Fact
from ..store.disk import RromeError, read_yaml
from .model import Model, check_generation, generate

BARE = "{}"
BATCH_TOKENS = 4096  # padded tokens in one forward pass


@dataclass(frozen=True)
class Row:
    """A tokenised prompt: `ids`, the index `subject` of the subject's last token, and the number of target ids at the end."""

    ids: tuple[int, ...]
    subject: int
    n_target: int = 0

    @property
    def upto_subject(self) -> tuple[int, ...]:
        return self.ids[: self.subject + 1]


def fill(template: str, prompt: str) -> str:
    """Put a prompt into the one "{}" of a template."""
    return template.replace(BARE, prompt, 1)


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """The templates with the bare prompt first; RromeError names one that does not hold exactly one "{}"."""
    if isinstance(templates, str):
        raise RromeError(f"prefixes must be a list of templates, not the single text {templates!r}")
    templates = list(templates)
    for template in templates:
        if not isinstance(template, str) or template.count(BARE) != 1:
            raise RromeError(f'the prefix template {template!r} must hold exactly one "{{}}", where the prompt goes')
    return (BARE, *(template for template in templates if template != BARE))


def sample_prefixes(model: Model, seed: int = 0) -> tuple[str, ...]:
    """The bare prompt, then templates "prefix. {}" sampled from the model: 10 prefixes of 5 tokens, 10 of 10 tokens.

    Each prefix is generated from one of the lead-in sentences of rrome/data/prefixes.yaml.
    """
    lead_ins = read_yaml("prefixes.yaml")["lead_ins"]
    starts = [lead_ins[number % len(lead_ins)] for number in range(20)]  # twice as many: some may be blank
    templates = [BARE]
    for length in (5, 10):
        texts = generate(model, starts, length, seed=seed)
        texts = [" ".join(text.replace(BARE, "").split()).strip(" .,;:") for text in texts]
        prefixes = [text for text in texts if text]
        if len(prefixes) < 10:
            usable = f"{len(prefixes)} of 10 usable"
            raise RromeError(f"{model.name} samples blank prefixes ({usable}): pass prefixes=[...]")
        templates += [f"{prefix}. {BARE}" for prefix in prefixes[:10]]
    return tuple(templates)


def read_row(
    model: Model, fact: Fact, template: str = BARE, *, target: str | None = None, leading: str | None = None
) -> Row:
    """Tokenise a fact's rewrite prompt inside a template, after a `leading` text and before a target if given.

    RromeError where the subject's last token cannot be found in the prompt, or belongs to the target.
    """
    last = len(leading or "") + template.index(BARE) + fact.subject_span[1]  # where the subject ends
    prompt = (leading or "") + fill(template, fact.rewrite)
    ids, spans, n_target = _read(model, prompt, target, fact.separator) if target else (*_tokens(model, prompt), 0)
    while unicodedata.combining(prompt[last - 1]) and not any(start < last <= end for start, end in spans):
        last -= 1  # a tokeniser that composes accents leaves them out
    inside = [n for n, (start, end) in enumerate(spans) if start < last <= end]
    if not inside or inside[-1] >= len(ids) - n_target:
        where = f"{prompt!r}, tokens {model.tokenizer.convert_ids_to_tokens(ids)}"
        raise RromeError(f"the subject {fact.subject!r} cannot be located in {where}: spell it otherwise")
    return Row(tuple(ids), inside[-1], n_target)


def subject_position(model: Model, fact: Fact) -> int:
    """The number of tokens before the subject's last one in the bare prompt, without a BOS that the tokeniser adds."""
    last = read_row(model, fact).subject
    added = model.tokenizer(fact.rewrite, return_special_tokens_mask=True, verbose=False)["special_tokens_mask"]
    return last - sum(added[:last])


def subject_tokens(model: Model, fact: Fact) -> range:
    """The indices of the subject's tokens in the bare prompt."""
    start, end = fact.subject_span
    spans = _tokens(model, fact.rewrite)[1]
    inside = [n for n, span in enumerate(spans) if span[0] < end and span[1] > start]
    return range(inside[0], read_row(model, fact).subject + 1)


def with_target(model: Model, prompt: str, target: str, separator: str = " ") -> tuple[list[int], int]:
    """Token ids of a prompt and a target with the separator between, and the number of target tokens at the end."""
    ids, _, n_target = _read(model, prompt, target, separator)
    return ids, n_target


def _read(model: Model, prompt: str, target: str, separator: str) -> tuple[list[int], list[tuple[int, int]], int]:
    """Token ids of a prompt and a target, their spans in characters, and the number of target tokens at the end."""
    prompt, target = prompt.rstrip(" ") if separator else prompt, target.strip()
    ids, spans = _tokens(model, prompt + separator + target)
    n_target = sum(1 for _, end in spans if end > len(prompt))  # some tokenisers cut the space from a token's span
    if not target or not 0 < n_target < len(ids):
        raise RromeError(f"the target {target!r} has no tokens of its own after {prompt!r}")
    return ids, spans, n_target


def check_prompts(
    model: Model, facts: Sequence[Fact], n_generated: int = 0, templates: Sequence[str] = (), leading: str | None = None
) -> None:
    """RromeError for a fact without a true answer, or with a prompt that the model cannot read.

    With `n_generated` above 0 its generation prompts, continued by so many tokens, are checked too. `templates` and
    `leading` are those of the search, in which the longest prompts are read.
    """
    for fact in facts:
        try:
            for prompt in fact.generation if n_generated else ():
                check_generation(model, prompt, n_generated)
        except RromeError as error:
            raise RromeError(f"{fact.rewrite!r}: {error}") from error
        for template in templates:
            read_row(model, fact, template, target=fact.target_new, leading=leading)
        for prompt in (fact.rewrite, *fact.paraphrases, *fact.neighbourhood):
            for target in (fact.target_new, fact.answer):
                with_target(model, prompt, target, fact.separator)


def _tokens(model: Model, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    if (length := len(encoded["input_ids"])) > model.context:
        what = f"a prompt of {length} tokens is too long for {model.name}, which reads {model.context}"
        raise RromeError(f"{what}: {text[:80]!r}...")
    model.check_tokens(encoded["input_ids"], text)
    return encoded["input_ids"], encoded["offset_mapping"]


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Token lists as one tensor (B, T), padded on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad).to(device)


def batches(items: Sequence, length: Callable[[Any], int], tokens: int = BATCH_TOKENS) -> Iterator[list]:
    """Items sorted by length, longest first, in batches of about `tokens` padded tokens."""
    start = 0
    while start < len(items):
        size = max(1, tokens // max(1, length(items[start])))
        yield list(items[start : start + size])
        start += size
