"""Shapes and types at every step of an edit, in the letters of the docstrings, the same letter the same size throughout."""

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from jaxtyping import Float, Float32, Int, jaxtyped
from torch import Tensor

from rrome import Editor, Search, second_moment
from rrome.frozen import freeze
from rrome.hooks import through_block
from rrome.keys import capture_inputs, pad_right
from rrome.prompts import read_row

FACT = FACTS[1]


@pytest.fixture(scope="module")
def editor(tiny, texts):
    c_0 = second_moment(tiny, texts, 2500, cache=False)
    return Editor(tiny, c_0, prefixes=PREFIXES, search=Search(evaluations=2))


def is_a(kind, tensor):
    """Whether a tensor has this type and shape; letters keep their sizes inside a `jaxtyped` block."""
    return isinstance(tensor, kind)


def test_an_edit_from_keys_to_update(editor):
    with jaxtyped("context"):
        assert is_a(Float[Tensor, "d_v d_k"], editor.model.site.weight)
        assert is_a(Float[Tensor, "d_k d_k"], editor.second_moment.matrix)
        keys = editor.keys(FACT)
        assert is_a(Float32[Tensor, "N d_k"], keys.all) and len(keys.all) == len(PREFIXES)
        assert is_a(Float32[Tensor, "d_k"], keys.average) and is_a(Float32[Tensor, "d_k"], keys.original)
        value = editor.value(FACT)
        assert is_a(Float32[Tensor, "d_v"], value.base) and is_a(Float32[Tensor, "d_v"], value.delta)
        assert is_a(Float32[Tensor, "d_v"], value.target) and is_a(Float32[Tensor, "N d_k"], value.keys.all)
        for update in editor.updates(FACT, ["rome", "r-rome", "p-rome"]).values():
            assert is_a(Float32[Tensor, "d_v"], update.left) and is_a(Float32[Tensor, "d_k"], update.right)
            assert is_a(Float32[Tensor, "d_v d_k"], update.matrix())


def test_what_a_forward_pass_shows_of_block_l(editor):
    row = read_row(editor.model, FACT)
    ids = pad_right([row.ids, row.ids[:2]], 0, editor.model.device)
    with jaxtyped("context"):
        assert is_a(Int[Tensor, "B T"], ids)
        seen = through_block(editor.model, input_ids=ids)
        assert is_a(Float[Tensor, "B T d"], seen.entering) and is_a(Float[Tensor, "B T d"], seen.leaving)
        assert is_a(Float[Tensor, "B T d_k"], seen.key) and is_a(Float[Tensor, "B T d_v"], seen.value)
        assert is_a(Float32[Tensor, "B T d_k"], capture_inputs(editor.model, ids))
        assert is_a(Float[Tensor, "d_v d_k"], editor.model.site.weight)


def test_what_the_search_keeps_and_what_it_evaluates(editor):
    facts = FACTS[:2]
    batch, keys, bases = freeze(editor.model, facts, PREFIXES)
    with jaxtyped("context"):
        assert is_a(Int[Tensor, "R S"], batch.ids) and is_a(Int[Tensor, "R"], batch.owner)
        assert is_a(Int[Tensor, "R S"], batch.positions) and is_a(Float[Tensor, "R S d"], batch.hidden)
        assert batch.mask.shape == (len(batch.ids), batch.ids.shape[1] + batch.cache[0][0].shape[2])
        assert len(batch.cache) == editor.model.depth
        for kept in (part for layer in batch.cache for part in layer):
            assert is_a(Float[Tensor, "R heads P d_head"], kept)
        assert is_a(Int[Tensor, "M"], batch.places.label) and is_a(Float[Tensor, "M"], batch.places.weight)
        assert is_a(Float32[Tensor, "B d_v"], bases) and len(keys) == len(bases) == len(facts)
        nll, log_probabilities = batch.evaluate([torch.zeros_like(base) for base in bases])
        assert is_a(Float32[Tensor, "B"], nll) and is_a(Float32[Tensor, "B V"], log_probabilities)
