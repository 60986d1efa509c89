"""NAS, SPHERE and PRUNE against their formulas, and the later methods' options of the search."""

from dataclasses import replace

import pytest
import torch
from conftest import value_of
from facts_for_tests import FACTS, PREFIXES
from sequence_to_kill import make_editor, make_facts

from rrome import EditLog, Editor, RromeError, Search, naive
from rrome.model.tokens import read_row
from rrome.study import sequential_edits, single_edits
from rrome.update import NAS, SPHERE, anchor_norm, pruned


@pytest.fixture(scope="module")
def editor():
    return make_editor()


@pytest.fixture(scope="module")
def solution(editor):
    return editor.solve(FACTS[0])


def test_the_anchor_is_the_mean_length_of_the_values_without_the_longest(solution):
    def of(length):
        return replace(
            solution.value, delta=length * solution.value.target / solution.value.target.norm() - solution.value.base
        )

    assert anchor_norm([of(float(n)) for n in range(1, 41)]) == pytest.approx(sum(range(1, 39)) / 38, rel=1e-5)
    assert anchor_norm([of(3.0)]) == pytest.approx(3.0, rel=1e-5)
    with pytest.raises(RromeError, match="search v_e of some facts first"):
        anchor_norm([])


@pytest.mark.parametrize("rule", ["p-rome", "alphaedit", "rome"])
def test_nas_gives_the_value_the_anchor_s_length_and_leaves_the_rest(editor, solution, rule):
    value = solution.value
    norm = 0.7 * value.target.norm().item()
    plain, anchored = solution.update(rule), solution.update(NAS(rule, norm))
    assert torch.allclose(anchored.left, value.target * (norm / value.target.norm()) - value.base, rtol=1e-4, atol=1e-5)
    assert torch.equal(anchored.right, plain.right) and anchored.rule == f"NAS({rule}, norm={norm}, skip=2.0)"
    if rule == "p-rome":
        with editor.applied(anchored):
            assert editor.model.site.value(value.keys.original).norm() == pytest.approx(norm, rel=1e-4)


def test_nas_leaves_out_what_is_far_longer_than_the_anchor_unless_it_is_told_not_to(solution):
    norm = solution.value.target.norm().item()
    assert solution.update(NAS("r-rome", norm / 2.1)).norm == 0
    assert solution.update(NAS("r-rome", norm / 1.9)).norm > 0
    assert solution.update(NAS("r-rome", norm / 2.1, skip=None)).norm > 0


def test_what_nas_left_out_is_counted_and_leaves_no_key(editor, tmp_path):
    facts = make_facts(3)
    lengths = [solution.value.target.norm().item() for solution in editor.solve_all(facts)]
    norm = sorted(lengths)[-1] / 2.0001  # below half of the longest
    rule = NAS("alphaedit", norm)
    table = single_edits(editor, facts, tmp_path / "rows.jsonl", rules=[rule])
    made = table.query("rule != 'unedited'")
    sizes = made["delta_frobenius"]
    assert [size == 0 for size in sizes] == [length > 2 * norm for length in lengths] and (sizes == 0).any()
    assert made["share_written"].eq(0).tolist() == (sizes == 0).tolist()  # an edit left out writes nothing
    nothing = NAS("alphaedit", min(lengths) / 100)
    run = sequential_edits(editor, facts, tmp_path / "run", rule=nothing)
    assert (run.edits["delta_frobenius"] == 0).all() and run.edits["error"].isna().all()
    remembered = editor.remembering(NAS("alphaedit", 1.0), facts)
    assert len(remembered.rule) == 3 and remembered.name == "NAS(alphaedit, norm=1.0, skip=2.0)"
    follows = replace(nothing, norm=min(lengths))
    alone = editor.update(facts[2], follows).right
    assert not torch.equal(alone, editor.update(facts[2], follows, earlier=facts[:2]).right)


def test_sphere_takes_half_of_the_leading_directions_of_w_out_of_the_update(editor, solution):
    weight = editor.model.site.weight.double()
    rows = weight / weight.norm(dim=1, keepdim=True)
    sizes, vectors = torch.linalg.eigh(rows.T @ rows)
    sizes, vectors = sizes.flip(0), vectors.flip(1)
    n = next(n for n in range(1, 65) if sizes[:n].sum() >= 0.5 * sizes.sum())
    plain, shaped = solution.update("memit"), solution.update(SPHERE("memit", strength=0.8))
    leading = vectors[:, :n]
    expected = plain.right.double() - 0.8 * leading @ (leading.T @ plain.right.double())
    assert (shaped.right.double() - expected).norm() < 1e-5 * expected.norm() and torch.equal(shaped.left, plain.left)
    assert (plain.right - shaped.right).norm() > 0.01 * plain.right.norm()
    same = solution.update(SPHERE("memit", strength=0.0))
    assert torch.equal(same.right, plain.right)


def test_sphere_reads_w_as_it_is_now(editor, solution):
    before = solution.update(SPHERE("p-rome"))
    big = replace(before, left=1000 * before.left)
    with editor.applied(big):
        plain, now = solution.update("p-rome").right.double(), solution.update(SPHERE("p-rome")).right.double()
    rows = editor.model.site.weight.double() + big.matrix().double()
    _, _, directions = torch.linalg.svd(rows / rows.norm(dim=1, keepdim=True))
    assert (now - plain + 0.5 * directions[0] * (directions[0] @ plain)).norm() < 0.1 * plain.norm()
    assert (now - before.right.double()).norm() > 0.1 * plain.norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NAS("rome", 0.0), "norm and skip of NAS are positive numbers, not 0.0"),
        (lambda: NAS("rome", 1.0, skip=-2), "not 1.0 and -2"),
        (lambda: NAS("rme", 1.0), "unknown rule 'rme'"),
        (lambda: SPHERE("rome", share=2.0), "share and strength of SPHERE lie in 0 to 1, not 2.0"),
    ],
)
def test_wrappers_without_sense_are_refused(make, message):
    with pytest.raises(RromeError, match=message):
        make()


def test_pruning_damps_the_singular_values_of_the_sum(editor, tmp_path):
    updates = [editor.update(fact, "rome") for fact in FACTS[:3]]
    weight, base = editor.model.site.weight.clone(), 1.5
    largest = torch.linalg.svdvals(weight.double())[0]
    updates[0] = replace(updates[0], left=updates[0].left * (30 * largest / updates[0].norm).float())
    total = sum(update.matrix().double() for update in updates)
    left, sizes, right = torch.linalg.svd(total, full_matrices=False)
    assert sizes[0] > largest > sizes[2] > 0
    damped = torch.where(sizes >= largest, torch.log(sizes / largest) / torch.log(torch.tensor(base)) + largest, sizes)
    expected = (left * damped) @ right
    made = pruned(updates, weight, base)
    assert len(made) == 3
    try:
        editor.model.edits.set(made)
        got = editor.model.site.weight - weight
        assert (got - expected).norm() < 1e-5 * expected.norm()
        editor.model.edits.set([*updates, *made])  # as the most used port has it
        got = editor.model.site.weight - weight
        assert (got - total - expected).norm() < 1e-5 * total.norm()
        editor.save(tmp_path / "adapter")
        assert [update.rule for update in map(EditLog(tmp_path / "adapter").update, (1, 4))] == [
            "rome",
            "PRUNE(rome, base=1.5)",
        ]
    finally:
        editor.model.edits.set(())
    assert torch.equal(editor.model.site.weight, weight)
    with pytest.raises(RromeError, match="PRUNE needs updates and a base above 1, got 0"):
        pruned([], weight)


def test_small_sums_are_not_pruned_and_more_updates_than_rows_are_no_trouble(editor):
    updates = [editor.update(fact, "p-rome") for fact in FACTS[:3]] * 15  # 45 of them, W has 32 rows
    small = [replace(update, left=1e-4 * update.left) for update in updates]
    total = sum(update.matrix() for update in small)
    assert torch.allclose(sum(update.matrix() for update in pruned(small, editor.model.site.weight)), total, atol=1e-7)


# --- options of the search ---


def leaving(model, fact):
    """What leaves block l* at the bare prompt's subject, (d,)."""
    row, seen = read_row(model, fact, "{}"), []
    handle = model.site.block.register_forward_hook(lambda _module, _args, out: seen.append(out))
    model.lm(input_ids=torch.tensor([row.ids]))
    handle.remove()
    out = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return out.reshape(-1, out.shape[-1])[row.subject].detach()


@pytest.mark.parametrize("name", ["tiny", "tiny_llama"])
def test_the_clamp_of_memit_is_relative_to_what_leaves_the_block(name, request):
    model = request.getfixturevalue(name)
    for fact in FACTS[:2]:
        stream = leaving(model, fact).norm().item()
        search = Search(clamp=1e-3, relative_to="stream", evaluations=4, stop_loss=0)
        assert value_of(model, fact, PREFIXES, search).delta.norm() == pytest.approx(1e-3 * stream, rel=1e-4)


def test_the_decay_of_memit_is_relative_to_it_too(tiny_llama):
    fact, settings = FACTS[1], {"evaluations": 3, "stop_loss": 0.0, "weight_decay": 30.0}
    value = value_of(tiny_llama, fact, PREFIXES, Search(relative_to="stream", **settings))
    ratio = (value.base.norm() / leaving(tiny_llama, fact).norm()).item()
    decay = settings["weight_decay"] * ratio**2
    _, delta, losses = naive.value(tiny_llama, fact, PREFIXES, evaluations=3, stop=0.0, decay=decay)
    assert value.losses == pytest.approx(losses, rel=1e-4)
    assert (value.delta - delta).norm() <= 1e-4 * delta.norm()


def prefixed_targets_are_likeliest(model, fact, delta):
    for template in PREFIXES[1:]:
        row = read_row(model, fact, template, target=fact.target_new)
        logits, _, _ = naive.run(model, list(row.ids[:-1]), row.subject, delta)
        if not torch.equal(logits[-row.n_target :].argmax(-1), torch.tensor(row.ids[-row.n_target :])):
            return False
    return True


FREE = {"stop_loss": 0.0, "learning_rate": 0.3, "clamp": 1e3, "weight_decay": 0.0}


def test_encore_stops_when_every_prefixed_target_was_likeliest_so_often(tiny_llama):
    fact = FACTS[3]
    until = [value_of(tiny_llama, fact, PREFIXES, Search(evaluations=n, **FREE)).delta for n in range(1, 13)]
    hits = [prefixed_targets_are_likeliest(tiny_llama, fact, delta) for delta in until]
    assert sum(hits) >= 3 and not hits[0]  # else there is nothing to test
    for wanted in (1, 3):
        last = next(n for n in range(12) if sum(hits[: n + 1]) == wanted)
        value = value_of(tiny_llama, fact, PREFIXES, Search(stop_hits=wanted, evaluations=12, **FREE))
        assert len(value.losses) == last + 1 and torch.allclose(value.delta, until[last], rtol=1e-4, atol=1e-5)


def test_all_tokens_of_a_longer_target_must_be_likeliest(tiny_llama):
    value = value_of(tiny_llama, FACTS[0], PREFIXES, Search(stop_hits=1, evaluations=8, **FREE))
    assert len(value.losses) == 8 and not prefixed_targets_are_likeliest(tiny_llama, FACTS[0], value.delta)


def test_a_fact_with_the_bare_prompt_alone_stops_by_that_one(tiny_llama):
    search = Search(stop_hits=1, evaluations=20, **FREE)
    assert 1 < len(value_of(tiny_llama, FACTS[3], ["{}"], search).losses) < 20


def test_options_without_sense_are_refused_and_those_left_out_leave_no_trace(editor):
    with pytest.raises(RromeError, match="relative_to is None or 'stream', stop_hits is None or at least 1"):
        Search(stop_hits=0)
    with pytest.raises(RromeError, match="not 'hidden'"):
        Search(relative_to="hidden")
    assert set(editor.settings["search"]) == {
        "learning_rate", "evaluations", "stop_loss", "clamp", "kl", "weight_decay"
    }  # fmt: skip
    search = Search(stop_hits=2)
    assert Editor(editor.model, editor.second_moment, PREFIXES, search=search).settings["search"]["stop_hits"] == 2
