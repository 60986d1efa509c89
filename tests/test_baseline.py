"""The solver that speed is compared with makes the same edit as the kit, and reads the whole model each time."""

from dataclasses import replace

import pytest
from facts_for_tests import FACTS, PREFIXES
from families import model_of, random_texts

from rrome import RULES, Editor, Search, naive, second_moment
from rrome.study import baseline
from rrome.study.baseline import batched_keys, batched_value


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt-neox", "opt", "bloom", "falcon", "llama", "gemma2", "phi3"])
def test_the_batched_solver_makes_the_edit_that_the_kit_makes(name):
    model, fact = model_of(name), FACTS[1]
    moment = second_moment(model, random_texts(), None, cache=False)
    solution = Editor(model, moment, PREFIXES, search=Search(evaluations=6)).solve(fact)
    target, delta, losses = batched_value(model, fact, PREFIXES, evaluations=6)
    assert solution.value.losses == pytest.approx(losses, rel=1e-5)
    assert (solution.value.delta - delta).norm() <= 2e-5 * delta.norm()
    keys = batched_keys(model, fact, PREFIXES)
    for rule in ("rome", "r-rome", "p-rome"):
        expected = naive.delta_matrix(model, fact, PREFIXES, moment.matrix, RULES[rule], "", target, keys)
        assert (solution.update(rule).matrix() - expected).norm() <= 2e-5 * expected.norm()


def test_the_batched_solver_reads_every_prompt_through_the_whole_model_at_each_evaluation(tiny):
    read = []
    first, last = tiny.lm.transformer.h[0], tiny.lm.transformer.h[-1]
    hooks = [block.register_forward_hook(lambda _b, args, _out: read.append(len(args[0]))) for block in (first, last)]
    batched_value(tiny, FACTS[0], PREFIXES, evaluations=3, stop=0.0)
    for hook in hooks:
        hook.remove()
    assert read == [len(PREFIXES) + 1] * 2 * (1 + 3)  # once for v_0


@pytest.fixture(scope="module")
def bare(tiny):
    return Editor(tiny, second_moment(tiny, random_texts(), None, cache=False), PREFIXES, search=Search(evaluations=4))


def test_the_comparison_says_against_what(bare):
    table = baseline.against_batched(bare, FACTS[0])
    columns = ["what", "seconds_batched", "seconds_ours", "ratio", "relative_error", "floor_seconds"]
    assert list(table) == columns
    one, rule, eight, shared = table["seconds_batched"]
    assert eight > 7 * rule > rule > one and shared < 2 * rule + eight / 8
    assert list(table["what"])[2:] == [f"one edit, all 8 rules, against {of}" for of in ("8 searches", "one search")]
    assert (table["relative_error"] < 1e-4).all() and (table["floor_seconds"] > 0).all()
    assert (table["ratio"] == table["seconds_batched"] / table["seconds_ours"]).all()


def test_sequences_in_lockstep_are_compared_with_one(bare):
    facts = [replace(fact, target_true="Berlin") for fact in FACTS[:2]]
    table = baseline.lockstep_speed(bare, facts, [1, 3])
    assert list(table["what"]) == ["an edit in 1 sequence", "an edit in 3 sequences"]
    assert table["relative_error"][0] == 0 <= table["relative_error"][1] < 1e-3
    assert (table[["seconds_ours", "floor_seconds"]] > 0).all(axis=None) and table["seconds_batched"].nunique() == 1
