"""Shapes and types at every step of an edit, in the letters of the docstrings, the same letter the same size throughout."""

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from jaxtyping import Float, Float32, Int, jaxtyped
from torch import Tensor

from rrome import Editor, Search, second_moment
from rrome.model.hooks import through_block
from rrome.model.tokens import pad_right, read_row
from rrome.update.batch import freeze
from rrome.update.keys import capture_inputs

FACT = FACTS[1]


@pytest.fixture(scope="module")
def editor(tiny, texts):
    c_0 = second_moment(tiny, texts, 2500, cache=False)
    return Editor(tiny, c_0, prefixes=PREFIXES, search=Search(evaluations=2))


def test_an_edit_from_keys_to_update(editor):
    with jaxtyped("context"):
        assert isinstance(editor.model.site.weight, Float[Tensor, "d_v d_k"])
        assert isinstance(editor.second_moment.matrix, Float[Tensor, "d_k d_k"])
        keys = editor.keys(FACT)
        assert isinstance(keys.all, Float32[Tensor, "N d_k"]) and len(keys.all) == len(PREFIXES)
        assert isinstance(keys.average, Float32[Tensor, "d_k"]) and isinstance(keys.original, Float32[Tensor, "d_k"])
        value = editor.value(FACT)
        assert isinstance(value.base, Float32[Tensor, "d_v"]) and isinstance(value.delta, Float32[Tensor, "d_v"])
        assert isinstance(value.target, Float32[Tensor, "d_v"]) and isinstance(value.keys.all, Float32[Tensor, "N d_k"])
        for update in editor.updates(FACT, ["rome", "r-rome", "p-rome"]).values():
            assert isinstance(update.left, Float32[Tensor, "d_v"]) and isinstance(update.right, Float32[Tensor, "d_k"])
            assert isinstance(update.matrix(), Float32[Tensor, "d_v d_k"])


def test_what_a_forward_pass_shows_of_block_l(editor):
    row = read_row(editor.model, FACT)
    ids = pad_right([row.ids, row.ids[:2]], 0, editor.model.device)
    with jaxtyped("context"):
        assert isinstance(ids, Int[Tensor, "B T"])
        seen = through_block(editor.model, input_ids=ids)
        assert isinstance(seen.entering, Float[Tensor, "B T d"]) and isinstance(seen.leaving, Float[Tensor, "B T d"])
        assert isinstance(seen.key, Float[Tensor, "B T d_k"]) and isinstance(seen.value, Float[Tensor, "B T d_v"])
        assert isinstance(capture_inputs(editor.model, ids), Float32[Tensor, "B T d_k"])
        assert isinstance(editor.model.site.weight, Float[Tensor, "d_v d_k"])


def test_what_the_search_keeps_and_what_it_evaluates(editor):
    facts = FACTS[:2]
    batch, keys, bases = freeze(editor.model, facts, PREFIXES)
    with jaxtyped("context"):
        assert isinstance(batch.ids, Int[Tensor, "R S"]) and isinstance(batch.owner, Int[Tensor, "R"])
        assert isinstance(batch.positions, Int[Tensor, "R S"]) and isinstance(batch.hidden, Float[Tensor, "R S d"])
        assert batch.mask.shape == (len(batch.ids), batch.ids.shape[1] + batch.cache[0][0].shape[2])
        assert len(batch.cache) == editor.model.depth
        for kept in (part for layer in batch.cache for part in layer):
            assert isinstance(kept, Float[Tensor, "R heads P d_head"])
        assert isinstance(batch.logit_positions.label, Int[Tensor, "M"]) and isinstance(
            batch.logit_positions.weight, Float[Tensor, "M"]
        )
        assert isinstance(bases, Float32[Tensor, "B d_v"]) and len(keys) == len(bases) == len(facts)
        nll, log_probabilities, _ = batch.evaluate([torch.zeros_like(base) for base in bases])
        assert isinstance(nll, Float32[Tensor, "B"]) and isinstance(log_probabilities, Float32[Tensor, "B V"])
