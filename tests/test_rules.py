from dataclasses import dataclass

import pytest
import torch
from conftest import naive_value
from facts_for_tests import FACTS, PREFIXES
from safetensors.torch import save_file

from rrome import RULES, Editor, Fact, KeyChoice, RankOneUpdate, RromeError, naive, second_moment
from rrome.facts.text import factbook_prose
from rrome.update.keys import Keys
from rrome.update.rules import Rule, rank_one_update, rule_named


@pytest.fixture(scope="module", params=FACTS[:2], ids=lambda fact: fact.subject)
def edit(request, editor):
    """(fact, keys, value, updates under all rules)."""
    fact = request.param
    solution = editor.solve(fact)
    return fact, solution.keys, solution.value, {rule: solution.update(rule) for rule in RULES}


def test_there_are_eight_rules_and_three_have_names():
    assert len(RULES) == len(set(RULES.values())) == 8
    assert RULES["rome"] == KeyChoice("average", "original", "original")
    assert RULES["r-rome"] == KeyChoice("average", "average", "average")
    assert RULES["p-rome"] == KeyChoice("original", "original", "original")
    assert all(name == choice.initials for name, choice in list(RULES.items())[3:])


def test_delta_equals_the_naive_solver(editor, edit):
    fact, _, _, updates = edit
    target = naive_value(editor.model, fact)[0]
    for rule, update in updates.items():
        expected = naive.delta_matrix(
            editor.model, fact, PREFIXES, editor.second_moment.matrix, RULES[rule], target=target
        )
        assert (update.matrix() - expected).norm() <= 1e-4 * expected.norm(), rule


def test_the_promised_key_gets_the_value(editor, edit):
    _, keys, value, updates = edit
    weight, _ = naive.weight_and_bias(editor.model)
    for rule, choice in RULES.items():
        with editor.applied(updates[rule]):
            got = {which: editor.model.site.value(getattr(keys, which)) for which in ("average", "original")}
        shift = weight @ (getattr(keys, choice.denominator) - getattr(keys, choice.residual))
        expected = value.target + shift  # zero shift where the rule is exact
        assert (got[choice.denominator] - expected).norm() <= 1e-3 * value.target.norm(), rule
        if choice.exact_at:
            assert (got[choice.exact_at] - value.target).norm() <= 1e-3 * value.target.norm(), rule
        else:
            assert shift.norm() > 1e-3 * value.target.norm(), rule


def test_delta_has_rank_one_and_its_norm_is_known_from_the_factors(edit):
    for update in edit[3].values():
        singular = torch.linalg.svdvals(update.matrix().double())
        assert singular[1] <= 1e-6 * singular[0]
        assert update.norm == pytest.approx(update.matrix().norm().item(), rel=1e-5)
        assert update.size == pytest.approx(update.norm / update.matrix().numel())


def test_all_rules_agree_when_the_only_prefix_is_the_bare_prompt(tiny, editor):
    bare = Editor(tiny, editor.second_moment, prefixes=["{}"])
    updates = bare.updates(FACTS[0], list(RULES))
    for update in updates.values():
        assert torch.equal(update.left, updates["rome"].left) and torch.equal(update.right, updates["rome"].right)


def test_preflight_predicts_denominator_and_size(editor, edit):
    fact, _, _, updates = edit
    ahead = editor.preflight(fact)
    for rule, update in updates.items():
        assert ahead.denominator[rule] == pytest.approx(update.denominator)
        assert ahead.amplification[rule] * update.left.norm().item() == pytest.approx(update.norm, rel=1e-5)


def test_preflight_shows_both_mismatches(editor, edit):
    fact, keys, _, updates = edit
    ahead, site = editor.preflight(fact), editor.model.site
    inverse = editor.second_moment.matrix.double().inverse()
    average, original = keys.average.double(), keys.original.double()
    a, o = (key @ inverse @ key for key in (average, original))
    assert ahead.cos_c == pytest.approx((average @ inverse @ original / (a * o).sqrt()).item(), rel=1e-4)
    shift = site.weight.double() @ (original - average)
    assert ahead.shift == pytest.approx(shift.norm().item(), rel=1e-5)
    mended = updates["r-rome"].left.double() - updates["p-rome"].left.double()  # residuals at k_e and at k_e^o
    assert torch.allclose(mended, shift, atol=1e-4 * shift.norm().item())


def test_denominators_of_consistent_rules_are_positive(edit):
    assert all(
        edit[3][rule].denominator > 0 for rule, choice in RULES.items() if choice.direction == choice.denominator
    )


def test_a_denominator_of_zero_is_an_error_that_names_rule_and_subject(editor, edit):
    nothing = Keys(torch.zeros_like(edit[1].all))
    with pytest.raises(RromeError, match=r"denominator of rule 'rome' for 'Italy' is 0\.0: the update is undefined"):
        rank_one_update(editor.model.site, nothing, edit[2], editor.second_moment, "rome", "Italy")


def test_an_update_survives_saving(edit, tmp_path):
    update = edit[3]["r-rome"]
    update.save(tmp_path / "edit.safetensors")
    again = RankOneUpdate.load(tmp_path / "edit.safetensors")
    assert torch.equal(again.left, update.left) and torch.equal(again.right, update.right)
    assert again.notes == update.notes and again.fact == update.fact is not None
    (tmp_path / "edit.safetensors").write_bytes(b"junk")
    with pytest.raises(RromeError, match="edit.safetensors is not a saved update"):
        RankOneUpdate.load(tmp_path / "edit.safetensors")


def test_an_update_saved_before_updates_knew_their_facts_is_read_without_one(tmp_path):
    factors = {"left": torch.ones(2), "right": torch.ones(3)}
    notes = {"rule": "rome", "subject": "Rome", "denominator": "-0.5", "cosine": "0.25"}
    save_file(factors, tmp_path / "edit.safetensors", metadata=notes)
    again = RankOneUpdate.load(tmp_path / "edit.safetensors")
    notes = {"rule": "rome", "subject": "Rome", "denominator": -0.5, "cosine": 0.25}
    assert again.notes == notes | {"fact": None, "origin": None}


@pytest.mark.parametrize("rule", ["ROME ", None])
def test_an_unknown_rule_lists_the_known_ones(rule):
    with pytest.raises(RromeError, match="unknown rule.*rome, r-rome, p-rome"):
        rule_named(rule)


def test_a_rule_can_be_given_as_a_value():
    assert rule_named(KeyChoice("average", "average", "average"))[0] == "r-rome"
    with pytest.raises(RromeError, match="residual of a rule is 'average' or 'original'"):
        KeyChoice("average", "average", "mean")


@dataclass(frozen=True)
class Between(Rule):
    """A rule of a reader's own: one key everywhere, between the original (0) and the averaged (1)."""

    share: float

    def choose(self, keys):
        return (torch.lerp(keys.original, keys.average, self.share),) * 3


def test_a_rule_of_ones_own_goes_wherever_a_name_does(editor):
    fact = FACTS[0]
    made = editor.updates(fact, [Between(0.0), "p-rome", Between(1.0), "r-rome", Between(0.5)])
    assert list(made) == ["Between(share=0.0)", "p-rome", "Between(share=1.0)", "r-rome", "Between(share=0.5)"]
    matrix = {name: update.matrix() for name, update in made.items()}
    assert torch.allclose(matrix["Between(share=0.0)"], matrix["p-rome"], rtol=1e-4, atol=1e-8)
    assert torch.allclose(matrix["Between(share=1.0)"], matrix["r-rome"], rtol=1e-4, atol=1e-8)
    value, update = editor.value(fact), made["Between(share=0.5)"]
    key = (value.keys.average + value.keys.original) / 2
    with editor.applied(update):
        assert torch.allclose(editor.model.site.value(key), value.target, rtol=1e-3, atol=1e-4)


def test_a_rule_without_places_and_one_that_is_likely_to_ruin_are_refused(editor):
    with pytest.raises(NotImplementedError, match="Rule has no method `choose`"):
        editor.update(FACTS[0], Rule())
    careful = Editor(editor.model, editor.second_moment, editor.prefixes, max_amplification=1e-9)
    with pytest.raises(RromeError, match=r"under 'Between\(share=0.5\)' is likely to disable"):
        careful.update(FACTS[0], Between(0.5))


def test_on_the_default_model_too_delta_equals_the_naive_solver(default_model):
    fact = Fact("{} is located in the continent of", "Italy", "Antarctica", target_true="Europe")
    prefixes = ["{}", "The sun had set. {}", "He said to me: (a {b} c) {}"]
    editor = Editor(default_model, second_moment(default_model, factbook_prose(), 4000), prefixes=prefixes)
    before = default_model.site.weight.clone()
    target, _, _ = naive.value(default_model, fact, prefixes)
    for rule, update in editor.updates(fact, list(RULES)).items():
        expected = naive.delta_matrix(
            default_model, fact, prefixes, editor.second_moment.matrix, RULES[rule], target=target
        )
        assert (update.matrix() - expected).norm() <= 1e-4 * expected.norm(), rule
        with editor.applied(update):
            assert not torch.equal(default_model.site.weight, before)
        assert torch.equal(default_model.site.weight, before)
