import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from sequence_to_kill import CHECKS, make_editor, make_facts, run

from rrome import EditLog, Editor, RromeError
from rrome.edit import Solution
from rrome.measure.metrics import fact_metrics
from rrome.measure.scores import fact_probabilities, perplexity
from rrome.study import (
    Checks,
    collapse_edit,
    curve,
    read_sequential,
    read_single_edits,
    sequential_edits,
    single_edits,
    survival,
)


@pytest.fixture(scope="module")
def editor():
    return make_editor()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and the folder that it left."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def same(one, other):
    for name in ("edits", "checkpoints", "final"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=False, rtol=1e-6)


def same_weights(folder, other):
    """Both logs hold the same factors, bit for bit."""
    factors = [[log.update(edit) for edit in range(1, len(log) + 1)] for log in map(EditLog, (folder, other))]
    for one, there in zip(*factors, strict=True):
        assert torch.equal(one.left, there.left) and torch.equal(one.right, there.right)


def lines_of(folder):
    return sum(file.read_bytes().count(b"\n") for file in Path(folder).glob("*.jsonl"))


def test_each_edit_is_searched_in_the_model_that_the_earlier_ones_left(editor, whole):
    table, facts = whole[0], make_facts()
    assert list(table.edits["edit"]) == [1, 2, 3, 4, 5]
    for number, fact in enumerate(facts[:3]):
        update = editor.update(fact, "rome")
        row = table.edits.iloc[number]
        assert row["delta_before"] == pytest.approx(editor.model.edits.size)
        editor.apply(update)
        assert row["delta_frobenius"] == pytest.approx(update.norm, rel=1e-4)
        assert row["delta_after"] == pytest.approx(editor.model.edits.size, rel=1e-4)
        assert row["perplexity"] == pytest.approx(perplexity(editor.model, [CHECKS.probe]), rel=1e-3)
        measured = fact_metrics(fact_probabilities(editor.model, fact, {"now": None})["now"])
        assert row[list(measured)].to_dict() == pytest.approx(measured, rel=1e-3, abs=1e-4, nan_ok=True)
    editor.model.edits.set(())


def test_checkpoints_start_at_the_unedited_model_and_end_at_the_last_edit(editor, whole):
    table, folder = whole
    points = table.checkpoints.set_index("edits")
    assert list(points.index) == [0, 2, 4, 5]
    assert points.loc[0, "delta"] == 0 and pd.isna(points.loc[0, "retained"])
    assert points.loc[0, "perplexity"] == pytest.approx(perplexity(editor.model, [CHECKS.probe]), rel=1e-4)
    assert points.loc[0, "choice"] == CHECKS.tasks[0].scores(editor.model)["choice"]
    assert all(len(texts) == 1 for table in (points, table.edits) for texts in table["texts"])
    EditLog(folder).replay(editor.model)
    assert points.loc[5, "perplexity"] == pytest.approx(perplexity(editor.model, [CHECKS.probe]), rel=1e-3)
    final = table.final.set_index("edit")
    for number, fact in enumerate(make_facts(), 1):
        measured = fact_metrics(fact_probabilities(editor.model, fact, {"now": None})["now"])
        assert final.loc[number, "ES"] == measured["ES"]
    assert points.loc[5, "retained"] == pytest.approx(final["ES"].mean())
    editor.model.edits.set(())


def test_the_model_is_as_it_was_afterwards(editor, tmp_path):
    before = editor.model.site.weight.clone()
    sequential_edits(editor, make_facts(2), tmp_path, rule="p-rome")
    assert torch.equal(editor.model.site.weight, before) and not editor.applied_updates


def stopped(folder, lines, cut=0, error=KeyboardInterrupt):
    """A run that ends while it writes its journals' line number `lines`, of which the last `cut` bytes do not arrive."""
    written = []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) == lines:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - cut)
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rrome.store.journal.os.fsync", fsync)
        run(folder)


# Lines 1 to 3 are settings, 4 the first checkpoint, 5 and 6 edits, 7 a checkpoint, 12 the last one, 13 to 17 re-tests.
DRAW = random.Random(0)
POINTS = [(line, DRAW.choice([0, DRAW.randint(1, 40)])) for line in DRAW.sample(range(1, 18), 10)]


@pytest.mark.slow
@pytest.mark.parametrize(("lines", "cut"), POINTS)
def test_a_run_stopped_at_any_line_ends_as_if_it_had_not_been(tmp_path, whole, lines, cut):
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path, lines, cut)
    assert lines_of(tmp_path) == lines - bool(cut) <= lines_of(whole[1]) == 17
    same(run(tmp_path), whole[0])
    same_weights(tmp_path, whole[1])


def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(tmp_path, whole, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RromeError, match="no disk space left to write .*edits.jsonl"):
        stopped(tmp_path, 6, error=full)
    assert lines_of(tmp_path) == 5
    with monkeypatch.context() as patch, pytest.raises(RromeError, match="no disk space left to write .*00002.safe"):
        patch.setattr("rrome.model.site.save_file", Mock(side_effect=full))
        run(tmp_path)
    assert lines_of(tmp_path) == 5  # the edit did not fail, it was not made
    same(run(tmp_path), whole[0])
    same_weights(tmp_path, whole[1])


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_nobody_writes_beside_it(tmp_path, whole):
    script = Path(__file__).with_name("sequence_to_kill.py")
    process = subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.DEVNULL)
    while process.poll() is None and lines_of(tmp_path) < 6:
        time.sleep(0.0005)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RromeError, match="edits.jsonl is in use by another run: wait for it"):
        run(tmp_path)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    same(run(tmp_path), whole[0])
    same_weights(tmp_path, whole[1])


def test_a_finished_run_is_only_read(whole, monkeypatch):
    monkeypatch.setattr(Editor, "solve_each", lambda *_: pytest.fail("searched again"))
    same(run(whole[1]), whole[0])
    same(read_sequential(whole[1]), whole[0])


def test_a_run_can_be_prolonged_and_cut(editor, whole, tmp_path):
    facts = make_facts()
    sequential_edits(editor, facts[:3], tmp_path, rule="rome", checks=CHECKS)  # with a checkpoint of its own at its end
    same(sequential_edits(editor, facts, tmp_path, rule="rome", checks=CHECKS), whole[0])
    same_weights(tmp_path, whole[1])
    short = sequential_edits(editor, facts[:4], tmp_path, rule="rome", checks=CHECKS)
    assert len(short.edits) == len(short.final) == 4 and list(short.checkpoints["edits"]) == [0, 2, 4]


def as_version_0_1(file, renamed=()):
    """Give a journal the first line that version 0.1 wrote, which knew neither the model's name nor its dtype."""
    first, rest = file.read_text().split("\n", 1)
    settings = json.loads(first)["settings"]
    old = {name: value for name, value in settings.items() if name not in ("model_name", "dtype", *dict(renamed))}
    old |= {there: settings[here] for here, there in renamed}
    file.write_text(json.dumps({"settings": old}) + "\n" + rest)


def test_a_run_of_version_0_1_is_read_and_replayed_and_not_continued(editor, whole, tmp_path):
    table, folder = whole
    shutil.copytree(folder, tmp_path / "old")
    for file in (tmp_path / "old").glob("*.jsonl"):
        as_version_0_1(file)
    same(read_sequential(tmp_path / "old"), table)
    EditLog(tmp_path / "old").replay(editor.model, 2)
    assert editor.model.edits.size == pytest.approx(table.edits["delta_after"][1])
    editor.model.edits.set(())
    with pytest.raises(RromeError, match="holds a study with other settings .*dtype: None there"):
        sequential_edits(editor, make_facts(), tmp_path / "old", rule="rome", checks=CHECKS)


def test_single_edits_of_version_0_1_are_read_and_not_continued(editor, tmp_path):
    facts, path = make_facts(1), tmp_path / "rows.jsonl"
    table = single_edits(editor, facts, path, rules=["rome"])
    as_version_0_1(path, [("generated", "spoken")])
    pd.testing.assert_frame_equal(read_single_edits(path), table)
    with pytest.raises(RromeError, match="other settings .*dtype: None there"):
        single_edits(editor, facts, path, rules=["rome"])


def test_a_run_that_has_measured_nothing_yet_says_so(editor, tmp_path):
    sequential_edits(editor, make_facts(1), tmp_path, rule="rome", checks=CHECKS)
    for file in tmp_path.glob("*.jsonl"):
        file.write_text(file.read_text().splitlines(keepends=True)[0])
    with pytest.raises(RromeError, match="has measured nothing yet: wait for its first checkpoint"):
        read_sequential(tmp_path)


def test_nan_does_not_stop_a_run(editor, tmp_path, monkeypatch):
    update, calls = Solution.update, []

    def broken(self, rule):
        calls.append(rule)
        found = update(self, rule)
        return replace(found, left=found.left * torch.nan) if len(calls) == 2 else found

    monkeypatch.setattr(Solution, "update", broken)
    table = sequential_edits(editor, make_facts(3), tmp_path, rule="rome")
    assert "NaN" in table.edits.loc[1, "error"] and table.edits["error"].isna().sum() == 2
    assert table.edits.loc[1, "delta_before"] == table.edits.loc[1, "delta_after"] > 0
    assert table.edits["ES"].notna().all()
    EditLog(tmp_path).replay(editor.model)
    assert [stored.subject for stored in editor.applied_updates] == ["Italy", "Bill Gates"]
    editor.model.edits.set(())


def test_a_collapsed_model_is_measured_and_edited_on(editor, tmp_path, monkeypatch):
    """An update near the end of float32 makes every later number NaN or infinite."""
    update = Solution.update

    def huge(self, rule):
        found = update(self, rule)
        return replace(found, left=found.left * 1e30) if self.fact.subject == "Italy" else found

    monkeypatch.setattr(Solution, "update", huge)
    checks = replace(CHECKS, every=1)
    table = sequential_edits(editor, make_facts(3), tmp_path, rule="rome", checks=checks)
    assert len(table.edits) == 3 and len(table.checkpoints) == 4
    same(sequential_edits(editor, make_facts(3), tmp_path, rule="rome", checks=checks), table)


def test_memory_does_not_grow_with_the_edits(editor, tmp_path):
    """The factors of a logged edit are read where they lie on the disk: they take no memory of their own."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists the files that a process has mapped into its memory")
    sequential_edits(editor, make_facts(3), tmp_path, rule="rome")
    EditLog(tmp_path).replay(editor.model)
    try:
        for number, update in enumerate(editor.applied_updates, 1):
            assert f"0000{number}.safetensors" in maps.read_text() and update.norm > 0
    finally:
        editor.model.edits.set(())


def test_other_settings_and_facts_are_refused(editor, tmp_path):
    facts = make_facts(2)
    sequential_edits(editor, facts, tmp_path, rule="rome", checks=CHECKS)
    with pytest.raises(RromeError, match="rule: 'rome' there, 'p-rome' now"):
        sequential_edits(editor, facts, tmp_path, rule="p-rome", checks=CHECKS)
    with pytest.raises(RromeError, match="every: 2 there, 3 now"):
        sequential_edits(editor, facts, tmp_path, rule="rome", checks=replace(CHECKS, every=3))
    with pytest.raises(RromeError, match="edit 1 in .* is 'Italy', the list of facts has 'The Eiffel Tower'"):
        sequential_edits(editor, facts[::-1], tmp_path, rule="rome", checks=CHECKS)


def test_an_edited_model_and_bad_settings_are_refused(editor, tmp_path):
    with pytest.raises(RromeError, match="at least one edit in between"):
        Checks(every=0)
    with editor.applied(editor.update(make_facts()[0], "r-rome")), pytest.raises(RromeError, match="edited already"):
        sequential_edits(editor, make_facts(1), tmp_path)
    with pytest.raises(RromeError, match="unknown rule 'mend'"):
        sequential_edits(editor, make_facts(1), tmp_path, rule="mend")
    facts = make_facts(2)
    with pytest.raises(RromeError, match="has no target_true"):
        sequential_edits(editor, [facts[0], replace(facts[1], target_true=None)], tmp_path)
    with pytest.raises(RromeError, match="tokens is too long for tiny-llama, which reads 2048: 'A ship A ship"):
        sequential_edits(editor, [facts[0], replace(facts[1], paraphrases=("A ship " * 1100,))], tmp_path)
    assert not list(tmp_path.iterdir())


def table_of(perplexities, deltas=None):
    n = len(perplexities)
    edits = pd.DataFrame({"edit": range(1, n + 1), "perplexity": perplexities, "delta": deltas or [1.0] * n})
    return edits.assign(delta_after=edits["delta"].cumsum())


@pytest.mark.parametrize(
    ("perplexities", "edit"),
    [([10, 11, 19], None), ([10, 21, 12], 2), ([10, 20, 30], 3), ([math.nan, 10], 1), ([10, math.inf], 2)],
)
def test_a_run_collapses_when_its_perplexity_doubles(perplexities, edit):
    assert collapse_edit(table_of(perplexities), unedited=10) == edit


def test_without_a_probe_there_is_no_collapse_to_find():
    with pytest.raises(RromeError, match="give Checks a probe"):
        collapse_edit(table_of([1]).drop(columns="perplexity"), 1)


def test_a_curve_starts_at_the_unedited_model():
    points = pd.DataFrame(
        {"edits": [0, 2], "delta": [0, 2.0], "perplexity": [5, 7], "task": [0.9, 0.8], "texts": [[], []]}
    )
    table = curve(table_of([1, 2]), points)
    assert list(table["edits"]) == [0, 1, 2] and list(table["delta"]) == [0, 1, 2]
    assert list(table["perplexity"]) == [5, 1, 2]
    assert table.loc[0, "task"] == 0.9 and np.isnan(table.loc[1, "task"]) and "texts" not in table


def test_survival_by_hand():
    """Four runs: collapse at 2 and 5, two ended alive after 10 edits."""
    runs = pd.DataFrame({"rule": "rome", "collapse": [2, 5, np.nan, np.nan], "edits": 10})
    table = survival(runs).set_index("edits")
    assert list(table["survived"]) == [1, 0.75, 0.5, 0.5] and list(table.index) == [0, 2, 5, 10]
    assert (table["low"].dropna() <= table.loc[table["low"].notna(), "survived"]).all()


def test_a_log_joined_with_another_is_refused_and_measures_made_twice_count_once(whole, tmp_path):
    expected, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    for name, column in {"checkpoints.jsonl": "delta", "final.jsonl": "ES"}.items():
        header, *rows = (tmp_path / "run" / name).read_text().splitlines()
        again = [json.dumps(json.loads(row) | {column: 0.5}) for row in rows]
        (tmp_path / "run" / name).write_text("\n".join([header, *rows, *again]) + "\n")
    same(read_sequential(tmp_path / "run"), expected)
    log = tmp_path / "run" / "edits.jsonl"
    header, first, *rows = log.read_text().splitlines()
    log.write_text("\n".join([header, first, *rows, first.replace("{", "{ ", 1)]) + "\n")
    with pytest.raises(RromeError, match="does not count its edits 1, 2, 3"):
        read_sequential(tmp_path / "run")
