"""Every later method equals the literal solve of its own paper or code, with and without the keys of earlier edits."""

import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from sequence_to_kill import CHECKS, make_editor, make_facts

from rrome import METHODS, RULES, EditLog, Editor, RromeError, Rule, SecondMoment
from rrome.edit import Solution
from rrome.study import sequential_edits, single_edits
from rrome.update import Filter, Keys, Method, rule_named

D_K = 32


def moment_of(scale=1.0, seed=0):
    """A C_0 with eigenvalues on both sides of 0.02, in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(D_K, D_K, generator=generator, dtype=torch.float64))
    return SecondMoment((basis * scale * torch.logspace(-3, 1, D_K, dtype=torch.float64)) @ basis.T, D_K, "a model", 0)


MOMENT = moment_of()
C_0, I = MOMENT.matrix, torch.eye(D_K, dtype=torch.float64)  # noqa: E741


def random_keys(n, seed=0):
    """Keys of n facts with 5 prompts each, float64."""
    return [Keys(keys) for keys in torch.randn(n, 5, D_K, generator=torch.Generator().manual_seed(seed)).double()]


def half(keys):
    return 0.5 * keys.all[0] + 0.5 * keys.all[1:].mean(0)


def projector():
    eigenvalues, vectors = torch.linalg.eigh(C_0)
    return vectors[:, eigenvalues < 0.02] @ vectors[:, eigenvalues < 0.02].T


def emmet(k, past):
    inverse = torch.linalg.inv(1000 * C_0)
    return inverse @ k / (k @ inverse @ k)


LITERAL = {  # the right factor from this fact's key (d_k,) and the earlier ones (d_k, n), as papers and code have it
    "emmet": emmet,
    "memit": lambda k, past: torch.linalg.solve(15000 * C_0 + k.outer(k), k),
    "memit-seq": lambda k, past: torch.linalg.solve(15000 * C_0 + past @ past.T + k.outer(k), k),
    "alphaedit": lambda k, past: torch.linalg.solve(
        projector() @ (k.outer(k) + past @ past.T) + 10 * I, projector() @ k
    ),
    "alphaedit-no-memory": lambda k, past: torch.linalg.solve(projector() @ k.outer(k) + 10 * I, projector() @ k),
    "encore": lambda k, past: torch.linalg.solve(15000 * C_0 + 20 * I + past @ past.T + k.outer(k), k),
    "betaedit": lambda k, past: torch.linalg.solve(
        projector() @ (k.outer(k) + past @ past.T + 3000 * C_0) + 10 * I, projector() @ k
    ),
}


def right_of(rule, keys, earlier=(), moment=MOMENT):
    rule = rule.remembering(moment)
    for each in earlier:
        rule.add(each)
    u, denominator = rule.solve(keys, moment)
    return u / denominator


def close(one, other, error=1e-9):
    assert (one - other).norm() <= error * other.norm()


@pytest.mark.parametrize("n", [0, 1, 7, 100])
@pytest.mark.parametrize("name", LITERAL)
def test_delta_is_that_of_the_methods_own_paper(name, n):
    *earlier, keys = random_keys(n + 1)
    past = torch.stack([half(each) for each in earlier], dim=1) if earlier else torch.zeros(D_K, 0).double()
    left = torch.randn(8, generator=torch.Generator().manual_seed(1)).double()
    close(left.outer(right_of(METHODS[name], keys, earlier)), left.outer(LITERAL[name](half(keys), past)))
    assert METHODS[name].choose(keys)[2] is keys.original or torch.equal(METHODS[name].choose(keys)[2], keys.original)


def test_with_the_identity_for_c_0_rome_and_r_rome_are_what_easyedit_ships():
    (keys,) = random_keys(1)
    average, original = keys.all.mean(0), keys.all[0]
    close(right_of(METHODS["identity-rome"], keys), average / (average @ original))
    close(right_of(METHODS["identity-r-rome"], keys), average / (average @ average))
    assert [
        torch.equal(METHODS[f"identity-{name}"].choose(keys)[2], key)
        for name, key in (("rome", original), ("r-rome", average))
    ]


def test_the_methods_are_the_named_ones_and_their_names_lead_to_them():
    assert set(METHODS) == {*LITERAL, "identity-rome", "identity-r-rome"} and not set(METHODS) & set(RULES)
    for name, method in METHODS.items():
        assert (
            rule_named(name) == rule_named(method) == rule_named(pickle.loads(pickle.dumps(method))) == (name, method)
        )
    assert Method(tau=3.0, remembers=True).name == "Method(tau=3.0, remembers=True)"
    assert Method(Filter(below=0.5)).name == "Method(filter=Filter(below=0.5))"


@pytest.mark.parametrize("name", RULES)
def test_without_filter_ridge_and_memory_a_method_is_the_rule_of_its_choice(name):
    (keys,) = random_keys(1)
    close(right_of(Method(choice=name, average="equal"), keys), right_of(RULES[name], keys))


@dataclass(frozen=True)
class HalfBare(Rule):
    """aao with MEMIT's average, written as a rule of a reader's own."""

    def choose(self, keys):
        return half(keys), half(keys), keys.original


def test_emmet_of_one_fact_is_aao_with_the_average_of_memit():
    for keys in random_keys(3):
        close(right_of(METHODS["emmet"], keys), right_of(HalfBare(), keys))
    bare = Keys(keys.all[:1])
    close(right_of(METHODS["emmet"], bare), right_of(RULES["p-rome"], bare))


@pytest.mark.parametrize("n", [0, 5])
def test_memit_tends_to_emmet_and_to_nothing(n):
    *earlier, keys = random_keys(n + 1)
    soft, exact = METHODS["memit-seq"], replace(METHODS["emmet"], remembers=True)
    close(right_of(replace(soft, tau=1e-9), keys, earlier), right_of(exact, keys, earlier), 1e-8)
    assert right_of(replace(soft, tau=1e15), keys, earlier).norm() < 1e-9 * right_of(exact, keys).norm()


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize("filter", [Filter(), Filter(offset=0.1)])
def test_with_one_key_everywhere_a_sequence_is_one_batch_from_the_original_weights(tau, filter):
    method, every = Method(filter, tau, remembers=True, average="equal", choice="r-rome"), random_keys(20)
    generator = torch.Generator().manual_seed(2)
    values, start = (torch.randn(6, n, generator=generator).double() for n in (20, D_K))
    weight, rule = start.clone(), method.remembering(MOMENT)
    for value, keys in zip(values.T, every, strict=True):
        u, denominator = rule.solve(keys, MOMENT)
        weight += (value - weight @ keys.average).outer(u / denominator)
        rule.add(keys)
    stacked = torch.stack([keys.average for keys in every], dim=1)  # (d_k, n)
    filtered = torch.linalg.inv(C_0 + filter.offset * I)
    gram = stacked.T @ filtered @ stacked + tau * torch.eye(20, dtype=torch.float64)
    close(weight, start + (values - start @ stacked) @ torch.linalg.solve(gram, stacked.T @ filtered))


def test_alphaedit_leaves_w_as_it_was_on_the_directions_kept_out():
    eigenvalues, vectors = torch.linalg.eigh(C_0)
    *earlier, keys = random_keys(8)
    for name in ("alphaedit", "alphaedit-no-memory", "betaedit"):
        right = right_of(METHODS[name], keys, earlier)
        assert (vectors[:, eigenvalues >= 0.02].T @ right).abs().max() < 1e-14 < right.norm() / 10


def test_a_key_that_earlier_ones_span_has_no_exact_update_and_a_soft_one():
    earlier = random_keys(4)
    exact = Method(remembers=True).remembering(MOMENT)
    for keys in [*earlier, *earlier]:  # the same again adds nothing
        exact.add(keys)
    assert exact.solve(earlier[0], MOMENT)[1] == 0 and len(exact) == 4
    assert right_of(replace(METHODS["memit-seq"], tau=1e-3), earlier[0], earlier).isfinite().all()


def test_an_exact_memory_keeps_earlier_keys_that_are_nearly_one():
    (common,), every = random_keys(1), random_keys(12, seed=1)
    *earlier, keys = [Keys(common.all + 1e-5 * each.all) for each in every]
    right = right_of(Method(remembers=True), keys, earlier)
    assert max(abs(right @ half(each)) for each in earlier) < 1e-8 and right @ half(keys) == pytest.approx(1.0)


def test_scaled_methods_write_the_same_share_whatever_the_unit_of_the_keys():
    (keys,), large = random_keys(1), moment_of(scale=9.0)
    for name, method in METHODS.items():
        shares = [
            right_of(method.scaled(moment), Keys(size * keys.all), moment=moment) @ (size * method.choose(keys)[1])
            for size, moment in ((1, MOMENT), (3, large))
        ]
        assert shares[0] == pytest.approx(shares[1].item(), rel=1e-9), name
    assert METHODS["memit"].scaled(MOMENT).tau == pytest.approx(15000 * D_K / 16384)
    kept = METHODS["alphaedit"].scaled(MOMENT).filter(MOMENT.eigen[0])
    assert kept.mean().item() == pytest.approx(0.7, abs=1 / D_K) and METHODS["emmet"].scaled(MOMENT) == METHODS["emmet"]
    assert METHODS["identity-rome"].scaled(MOMENT).name == "identity-rome"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1.0}, "tau of a method is a number from 0 on, not -1.0"),
        ({"tau": float("nan")}, "not nan"),
        ({"average": "mean"}, "an average is one of equal, half"),
        ({"choice": "rme"}, "a choice one of rome, r-rome, p-rome"),
        ({"choice": "rome", "remembers": True}, "one key as direction and denominator, 'rome' has two"),
    ],
)
def test_settings_that_make_no_method_are_refused(settings, message):
    with pytest.raises(RromeError, match=message):
        Method(**settings)


@pytest.mark.parametrize(
    "values", [lambda e: e * float("nan"), lambda e: -e, lambda e: e[:2]], ids=["nan", "negative", "short"]
)
def test_a_filter_that_is_none_is_refused(values, editor):
    with pytest.raises(RromeError, match=r"the filter .* does not give each eigenvalue of C_0 a number >= 0"):
        editor.update(FACTS[0], Method(values))
    with pytest.raises(RromeError, match=r"only a method with a rrome.update.Filter can be scaled"):
        Method(values).scaled(MOMENT)


def test_keys_of_another_model_are_refused(editor):
    remembered = make_editor().remembering("memit-seq", make_facts(1))
    with pytest.raises(RromeError, match="the keys that memit-seq remembers are of layer 1 of model"):
        editor.update(FACTS[0], remembered)


def test_all_methods_of_a_fact_share_one_search_and_go_where_rules_go(editor, tmp_path, monkeypatch):
    solve, calls = Editor.solve_all, []
    monkeypatch.setattr(Editor, "solve_all", lambda self, facts: calls.append(facts) or solve(self, facts))
    scaled = METHODS["memit"].scaled(editor.second_moment)
    made = editor.updates(FACTS[0], [*RULES, *METHODS, scaled])
    assert list(made) == [*RULES, *METHODS, scaled.name] and len(calls) == 1
    facts = make_facts(2)
    table = single_edits(editor, facts, tmp_path / "rows.jsonl", rules=["rome", "alphaedit", scaled])
    assert set(table["rule"]) == {"unedited", "rome", "alphaedit", scaled.name}
    update = made["alphaedit"]
    assert update.norm == pytest.approx(editor.update(FACTS[0], "alphaedit").norm, rel=1e-5)
    with editor.applied(update):
        editor.save(tmp_path / "adapter")
    assert EditLog(tmp_path / "adapter").update(1).rule == "alphaedit"
    careful = Editor(editor.model, editor.second_moment, PREFIXES, max_amplification=1e-9)
    with pytest.raises(RromeError, match="under 'memit' is likely to disable"):
        careful.update(FACTS[0], "memit")


def test_an_update_after_earlier_facts_is_delta_along_the_solve_with_their_keys(editor):
    *earlier, fact = FACTS[:3]
    value = editor.value(fact)
    c_0 = editor.second_moment.matrix
    past = torch.stack([half(editor.keys(each)).double() for each in earlier], dim=1)
    key = half(value.keys).double()
    right = torch.linalg.solve(15000 * c_0 + past @ past.T + key.outer(key), key)
    update = editor.update(fact, "memit-seq", earlier=earlier)
    close(update.matrix().double(), value.delta.double().outer(right), 1e-4)
    alone = editor.update(fact, "memit-seq")
    assert torch.equal(alone.right, editor.update(fact, "memit").right) and not torch.equal(alone.right, update.right)


# --- sequences ---

STRONG = Method(tau=0.1, remembers=True)


def run(folder, facts=None, rule=STRONG):
    return sequential_edits(make_editor(), facts or make_facts(), folder, rule=rule, checks=CHECKS, progress=False)


def factors(folder):
    log = EditLog(folder)
    return [(update.left, update.right) for update in map(log.update, range(1, len(log) + 1)) if update]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def equal(folder, other):
    made = factors(folder), factors(other)
    assert len(made[0]) == len(made[1])
    return all(torch.equal(a, b) for one, there in zip(*made, strict=True) for a, b in zip(one, there, strict=True))


def test_a_sequence_remembers_by_itself(whole):
    editor, facts = make_editor(), make_facts()
    try:
        for number, (left, right) in enumerate(factors(whole)):
            update = editor.update(facts[number], STRONG, earlier=facts[:number])
            assert torch.equal(update.right, right) and torch.equal(update.left, left)
            editor.apply(update)
        assert not torch.equal(editor.update(facts[1], STRONG).right, factors(whole)[1][1])
    finally:
        editor.model.edits.set(())


@pytest.mark.parametrize("writes", [5, 8])
def test_a_sequence_with_memory_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, writes):
    append, left = EditLog.append, [writes - 4]

    def stopped(self, *args, **kwargs):
        append(self, *args, **kwargs)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(EditLog, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    assert 0 < len(EditLog(tmp_path)) < 5
    run(tmp_path)
    assert equal(tmp_path, whole)


def test_a_sequence_with_memory_can_be_prolonged(whole, tmp_path):
    run(tmp_path, make_facts(2))
    run(tmp_path)
    assert equal(tmp_path, whole)


def test_a_failed_edit_leaves_no_key(tmp_path, monkeypatch):
    update = Solution.update

    def failing(self, rule):
        if self.fact.subject == "Bill Gates":
            raise RromeError("no")
        return update(self, rule)

    facts = make_facts()
    monkeypatch.setattr(Solution, "update", failing)
    table = run(tmp_path / "whole").edits
    assert table["error"].notna().sum() == 1
    run(tmp_path / "stopped", facts[:3])
    run(tmp_path / "stopped")
    run(tmp_path / "without", [fact for fact in facts if fact.subject != "Bill Gates"])
    assert equal(tmp_path / "whole", tmp_path / "without") and equal(tmp_path / "stopped", tmp_path / "without")
