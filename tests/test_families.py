from dataclasses import replace

import pytest
import torch
from conftest import make_model
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig

from rrome import RULES, Editor, RromeError, Search, naive, second_moment
from rrome.measure.scores import target_nll
from rrome.model.site import find_site
from rrome.update import keys

FACT = FACTS[0]
EVALUATIONS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def editor(request, texts):
    model = make_model(FAMILIES[request.param])
    c_0 = second_moment(model, texts, 2500, cache=False)
    return Editor(model, c_0, prefixes=PREFIXES, search=Search(evaluations=EVALUATIONS))


def test_all_eight_rules_equal_the_naive_solver(editor):
    model, fact = editor.model, FACT
    target, delta, losses = naive.value(model, fact, PREFIXES, evaluations=EVALUATIONS)
    assert delta.norm() > 0.1 and losses[0] != losses[1]
    updates = editor.updates(fact, list(RULES))
    for rule, choice in RULES.items():
        expected = naive.delta_matrix(model, fact, PREFIXES, editor.second_moment.matrix, choice, target=target)
        assert (updates[rule].matrix() - expected).norm() <= 1e-4 * expected.norm(), rule


def test_keys_behind_a_shared_beginning_equal_the_naive_solvers(editor, monkeypatch):
    monkeypatch.setattr(keys, "PASS", 0)
    for fact, found in zip(FACTS, keys.facts_keys(editor.model, FACTS, PREFIXES), strict=True):
        expected = naive.keys(editor.model, fact, PREFIXES)
        torch.testing.assert_close(found.all, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_an_edit_in_a_row_of_a_batch_is_the_edit_in_the_weights(editor):
    update = editor.update(FACT, "rome")
    update = replace(update, left=20 * update.left)  # large enough to be seen in every family
    asked = [[FACT.rewrite] * 2, [FACT.target_new, FACT.target_true]]
    unedited, (rowwise, _) = target_nll(editor.model, *asked), target_nll(editor.model, *asked, [update, None])
    with editor.applied(update):
        edited = target_nll(editor.model, *asked)
    change = edited[0] - unedited[0]
    assert abs(change) > 1e-3 and abs(rowwise - edited[0]) <= 0.02 * abs(change)


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_local_experts=2, vocab_size=50),
        MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50),
    ],
    ids=lambda config: config.model_type,
)
def test_blocks_without_one_dense_mlp_are_refused_with_what_was_looked_for(config):
    lm = AutoModelForCausalLM.from_config(config)
    with pytest.raises(RromeError, match=r"not supported.*among mlp\.down_proj, mlp\.c_proj.*fc2"):
        find_site(lm, 1)


def test_quantised_weights_are_refused(tiny_llama):
    lm, module = tiny_llama.lm, tiny_llama.site.module
    saved = module.weight
    module.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    try:
        with pytest.raises(RromeError, match="down_proj.*is stored as uint8.*load the model in float"):
            find_site(lm, 1)
    finally:
        module.weight = saved
