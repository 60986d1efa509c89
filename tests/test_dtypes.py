"""Half-precision weights. Over the 25 families of tests/families.py the largest deviations from float32 measured were, in
bfloat16 and float16: 2.9e-2 and 4.1e-3 in ||Delta||_F, 2.1e-3 and 2.5e-4 in W' k = v_e.
"""

import copy

import pytest
import torch
from conftest import make_model
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES

import rrome
from rrome import RULES, Editor, Search, second_moment

NORM = {torch.bfloat16: 5e-2, torch.float16: 1e-2}  # relative bounds of ||Delta||_F
EXACT = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of W' k: one rounding of a number


def editor(lm, tokenizer, texts):
    model = rrome.wrap(lm, tokenizer, 1)
    c_0 = second_moment(model, texts, 2500, cache=False)
    return Editor(model, c_0, prefixes=PREFIXES, search=Search(evaluations=4))


@pytest.fixture(scope="module", params=["gpt2", "gpt-j", "gpt-neox", "opt", "llama", "qwen3", "gemma3", "phi3"])
def tiny_of_family(request):
    return make_model(FAMILIES[request.param])


@pytest.mark.parametrize("dtype", NORM, ids=str)
def test_half_precision_stays_near_float32_and_the_edit_exact_to_one_rounding(tiny_of_family, texts, dtype):
    lm, tokenizer = copy.deepcopy(tiny_of_family.lm).to(dtype), tiny_of_family.tokenizer
    full, half = editor(copy.deepcopy(lm).float(), tokenizer, texts), editor(lm, tokenizer, texts)
    solution = half.solve(FACTS[0])
    keys, value = solution.keys, solution.value
    assert keys.all.dtype == value.target.dtype == torch.float32
    expected, before = full.updates(FACTS[0], list(RULES)), half.model.site.weight.clone()
    for rule, choice in RULES.items():
        update = solution.update(rule)
        assert update.norm == pytest.approx(expected[rule].norm, rel=NORM[dtype]), rule
        if choice.exact_at:
            with half.applied(update):
                got = half.model.site.value(getattr(keys, choice.exact_at))
            assert (got - value.target).norm() <= EXACT[dtype] * value.target.norm(), rule
    assert torch.equal(half.model.site.weight, before)
