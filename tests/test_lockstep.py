"""Sequences that run beside each other end as each would alone."""

import json
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
from facts_for_tests import PREFIXES
from families import FAMILIES, make_model, random_texts
from sequence_to_kill import CHECKS, make_editor, make_facts

from rrome import EditLog, Editor, RromeError, Search, second_moment
from rrome.edit import Solution
from rrome.model import Edits
from rrome.study import Checks, lockstep, read_sequential, sequential_edits
from rrome.update import SPHERE

FACTS = make_facts()
RUNS = {  # rules, a memory of keys, W itself in the rule, another order, another length
    "rome": {"facts": FACTS, "rule": "rome"},
    "p-rome": {"facts": FACTS, "rule": "p-rome"},
    "betaedit": {"facts": FACTS[::-1], "rule": "betaedit"},
    "sphere": {"facts": FACTS[1:4], "rule": SPHERE("r-rome")},
}
TABLES = ("edits", "checkpoints", "final")


def runs(folder, **more):
    return {name: run | {"folder": folder / name, "checks": CHECKS} | more for name, run in RUNS.items()}


def alike(one, other, rtol=1e-3):
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=False, rtol=rtol, atol=1e-5)


def factors(folder):
    log = EditLog(folder)
    return [(update.left, update.right) for update in map(log.update, range(1, len(log) + 1))]


@pytest.fixture(scope="module")
def editor():
    return make_editor()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, editor):
    """Four sequences in lockstep, and the folder that they left."""
    folder = tmp_path_factory.mktemp("lockstep")
    return lockstep(editor, runs(folder), progress=False), folder


def test_each_sequence_is_the_one_that_runs_alone(editor, whole, tmp_path):
    made, folder = whole
    for name, run in runs(tmp_path).items():
        alike(made[name], sequential_edits(editor, **run, progress=False))
        for one, other in zip(factors(folder / name), factors(tmp_path / name), strict=True):
            assert all((here - there).norm() <= 1e-3 * there.norm() for here, there in zip(one, other, strict=True))
        files = [{file.name for file in (where / name).iterdir()} for where in (folder, tmp_path)]
        lines = [
            [json.loads((where / name / "edits.jsonl").read_text().splitlines()[0])] for where in (folder, tmp_path)
        ]
        assert files[0] == files[1] and lines[0] == lines[1]


@pytest.mark.parametrize("name", ["gpt2", "gptj", "bloom", "opt", "gemma2"])  # gemma2 normalises after the MLP
def test_rows_of_several_models_in_one_batch_equal_each_model(name):
    model = make_model(FAMILIES[name])
    editor = Editor(
        model, second_moment(model, random_texts(), None, cache=False), PREFIXES, search=Search(evaluations=5)
    )
    first, second = (editor.update(fact, "r-rome") for fact in FACTS[:2])
    edited, alone = [[], [first], [first, second]], []
    for updates in edited:
        model.edits.set(updates)
        alone.append((editor.solve(FACTS[2]), model.site.weight.clone()))
    model.edits.set(())
    found = editor.solve_each([FACTS[2]] * 3, [weight for _, weight in alone])
    assert len({round(solution.value.losses[0], 4) for solution, _ in alone}) == 3
    for (solution, _), other in zip(alone, found, strict=True):
        assert other.value.losses == pytest.approx(solution.value.losses, rel=1e-4)
        assert (other.value.delta - solution.value.delta).norm() <= 1e-4 * solution.value.delta.norm()
        assert (other.value.base - solution.value.base).norm() <= 1e-4 * solution.value.base.norm()


def test_each_sequence_stops_at_its_own_criterion(editor, tmp_path):
    ends = sorted(value.value.losses[-1] for value in editor.solve_all(FACTS))
    search = Search(stop_loss=ends[2] + 0.01)
    editor = Editor(editor.model, editor.second_moment, PREFIXES, search=search)
    made = lockstep(editor, runs(tmp_path), progress=False)
    steps = pd.DataFrame({name: run.edits["steps"] for name, run in made.items()}).dropna()
    assert (steps.nunique(axis=1) > 1).any()
    for name, run in runs(tmp_path / "alone").items():
        assert list(sequential_edits(editor, **run).edits["steps"]) == list(made[name].edits["steps"])


def lines_of(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/*.jsonl"))


def stopped(editor, folder, lines):
    """A run that ends while it writes line number `lines` of all its journals."""
    written = []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) == lines:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rrome.store.journal.os.fsync", fsync)
        lockstep(editor, runs(folder), progress=False)


@pytest.mark.parametrize("lines", random.Random(1).sample(range(13, 56), 6))  # 12 are settings
def test_sequences_stopped_at_any_line_end_as_if_they_had_not_been(editor, whole, tmp_path, lines):
    made, folder = whole
    before = editor.model.site.weight.clone()
    with pytest.raises(KeyboardInterrupt):
        stopped(editor, tmp_path, lines)
    assert torch.equal(editor.model.site.weight, before) and not editor.applied_updates
    assert lines_of(tmp_path) == lines < lines_of(folder)
    again = lockstep(editor, runs(tmp_path), progress=False)
    for name in RUNS:
        alike(again[name], made[name], rtol=1e-6)
        for one, other in zip(factors(tmp_path / name), factors(folder / name), strict=True):
            assert all(map(torch.equal, one, other))


def test_a_finished_run_is_only_read(editor, whole, monkeypatch):
    made, folder = whole
    for solve in ("solve", "solve_all", "solve_each"):
        monkeypatch.setattr(Editor, solve, lambda *_: pytest.fail("searched again"))
    for name, run in lockstep(editor, runs(folder), progress=False).items():
        alike(run, made[name], rtol=1e-6)
        alike(read_sequential(folder / name), made[name], rtol=1e-6)
        alike(sequential_edits(editor, **runs(folder)[name]), made[name], rtol=1e-6)


def test_a_sequence_that_fails_leaves_the_others_alone(editor, tmp_path, monkeypatch):
    """An update beyond float32, let in by hand, makes every later number of its sequence NaN."""
    update = Solution.update

    def huge(self, rule):
        found = update(self, rule)
        first_of_rome = (self.fact.subject, rule.name) == ("Italy", "rome")
        return replace(found, left=found.left * 1e37, right=found.right * 1e9) if first_of_rome else found

    monkeypatch.setattr(Solution, "update", huge)
    monkeypatch.setattr(Edits, "check", lambda *_: None)
    made = lockstep(editor, runs(tmp_path, facts=FACTS), progress=False)
    failed = {name: run.edits["error"].notna().sum() for name, run in made.items()}
    assert failed.pop("rome") == 4 and "the loss of" in made["rome"].edits["error"][1] and set(failed.values()) == {0}
    alike(made["p-rome"], sequential_edits(editor, **runs(tmp_path / "alone", facts=FACTS)["p-rome"]))


def test_what_lies_below_is_read_once_for_equal_rows(editor, tmp_path, monkeypatch):
    rows = []
    attention = editor.model.lm.model.layers[0].self_attn
    hook = attention.register_forward_hook(lambda _module, _args, out: rows.append(len(out[0])))
    W = editor.model.site.weight.clone()
    editor.solve_each(FACTS[:1] * 3, [W, 2 * W, 3 * W])
    hook.remove()
    assert rows and max(rows) == len(PREFIXES)  # of which each of the three has one row


def test_settings_name_the_same_folder_as_alone(editor, tmp_path):
    given = {"checks": Checks(retest=False), "within": tmp_path, "about": {"order": 3}}
    made = lockstep(editor, {rule: {"facts": FACTS[:1], "rule": rule, **given} for rule in ("rome", "r-rome")})
    assert {run.folder for run in made.values()} == set(tmp_path.iterdir())
    for rule, run in made.items():
        assert sequential_edits(editor, FACTS[:1], rule=rule, **given).folder == run.folder
    assert lockstep(editor, {}) == {}


def test_two_sequences_in_one_folder_are_refused(editor, tmp_path):
    with pytest.raises(RromeError, match="edits.jsonl is in use by another run"):
        lockstep(editor, {rule: {"facts": FACTS[:1], "rule": "rome", "folder": tmp_path} for rule in "ab"})
