"""Attention sinks: which tokens, put in front of a prompt, take the sink from its first word, and what edits gain by it.

The first token of a sequence has nothing to attend to. In many models some of them serve as a place where attention is put
down (a sink); their keys at the edit site are outliers. When the subject is that first token, its bare-prompt key is such
an outlier and its averaged key is not. A leading token that takes the sink leaves the subject an ordinary key.
"""

from collections.abc import Sequence

import pandas as pd
import torch

from .editor import Editor
from .facts import Fact
from .keys import row_keys
from .models import Model
from .progress import bar
from .prompts import Row
from .rules import NAMED_RULES
from .scores import target_nll


def sink_survey(model: Model, tokens: Sequence[str], subject: str) -> pd.DataFrame:
    """Per token: the norm of its key at position 0, `norm_leading`, and of the subject's key behind it, `norm_behind`.

    A row for "" says what the subject's key is with nothing before it. Tokens that the tokeniser splits or drops are
    left out.
    """
    subject_ids = _ids(model, subject)
    single = {token: _ids(model, token) for token in tokens}
    single = {token: ids for token, ids in single.items() if len(ids) == 1}
    leading = row_keys(model, [Row(tuple(ids), 0) for ids in single.values()]).norm(dim=1)
    behind = row_keys(model, [Row((*ids, *subject_ids), len(subject_ids)) for ids in single.values()]).norm(dim=1)
    bare = row_keys(model, [Row(tuple(subject_ids), len(subject_ids) - 1)]).norm().item()
    rows = [{"token": "", "norm_leading": float("nan"), "norm_behind": bare}]
    for token, at_0, at_1 in zip(single, leading.tolist(), behind.tolist(), strict=True):
        rows.append({"token": token, "norm_leading": at_0, "norm_behind": at_1})
    return pd.DataFrame(rows)


def vocabulary_sample(model: Model, n: int, seed: int = 0) -> list[str]:
    """A seeded sample of ordinary vocabulary entries as text, with all special tokens in front."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(model.tokenizer), generator=generator).tolist()
    texts = [str(model.tokenizer.decode([token])) for token in order[: 2 * n]]
    printable = [text for text in dict.fromkeys(texts) if text.strip().isprintable() and text.strip()]
    special = [token for token in model.tokenizer.all_special_tokens if token]
    return list(dict.fromkeys([*special, *printable[:n]]))


def leading_edits(
    editor: Editor, facts: Sequence[Fact], tokens: Sequence[str], *, progress: bool | None = None
) -> pd.DataFrame:
    """Edit each fact with each leading token ("": none), under the named rules; one row per token, fact and rule.

    `norm_leading` is the norm of the token's own key, `norm_original` that of the subject's bare-prompt key behind it.
    `holds_with` and `holds_without` say whether p(new) > p(true) after the edit when the token is, and is not, in front of
    the prompt at test time.
    """
    rows = []
    for token in bar(tokens, desc="leading tokens", unit="token", show=progress):
        ids = _ids(editor.model, token)
        own = row_keys(editor.model, [Row(tuple(ids), len(ids) - 1)]).norm().item() if ids else float("nan")
        led = Editor(
            editor.model,
            editor.second_moment,
            editor.prefixes,
            editor.seed,
            leading=token or None,
            search=editor.search,
        )
        for fact in facts:
            rows += [{"leading": token, "norm_leading": own, **row} for row in _led_edit(led, fact)]
    return pd.DataFrame(rows)


def _led_edit(editor: Editor, fact: Fact) -> list[dict]:
    keys, value = editor.keys(fact), editor.value(fact)
    updates = {rule: editor.update(fact, rule, keys=keys, value=value) for rule in NAMED_RULES}
    holds = {}
    for name, prompt in (("holds_without", fact.rewrite), ("holds_with", (editor.leading or "") + fact.rewrite)):
        n = len(updates)
        targets = [fact.target_new] * n + [fact.answer] * n
        new, true = target_nll(editor.model, [prompt] * 2 * n, targets, [*updates.values()] * 2).view(2, n)
        holds[name] = dict(zip(updates, (new < true).tolist(), strict=True))
    about = {"subject": fact.subject, "norm_original": keys.original.norm().item(), "cosine": keys.cosine}
    return [
        about
        | {"rule": rule, "delta_frobenius": update.norm}
        | {name: by_rule[rule] for name, by_rule in holds.items()}
        for rule, update in updates.items()
    ]


def _ids(model: Model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
