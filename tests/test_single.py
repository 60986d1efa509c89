import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study_to_kill
import torch
from facts_for_tests import FACTS, PREFIXES
from families import byte_level, model_of

import rrome
from rrome import RULES, Editor, RromeError, study
from rrome.measure.metrics import fact_metrics, token_entropy
from rrome.measure.scores import fact_probabilities, perplexity
from rrome.model.tokens import read_row
from rrome.study import Measures, examples, single
from rrome.update import rules

SHORT = Measures(n_generated=4)


@pytest.fixture(scope="module")
def facts():
    """Two facts with every kind of prompt."""
    prompts = {
        "paraphrases": ("Rome. Where is it?",),
        "neighbourhood": ("Paris is", "A ship is"),
        "generation": ("The town",),
    }
    return [replace(fact, target_true="Paris", case_id=n, **prompts) for n, fact in enumerate(FACTS[:2])]


@pytest.fixture(scope="module")
def whole(editor, facts, tmp_path_factory):
    """An uninterrupted study and its journal."""
    path = tmp_path_factory.mktemp("whole") / "study.jsonl"
    return study.single_edits(editor, facts, path, measures=SHORT), path


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-6)


def test_what_it_says_measures_each_edited_model(editor, facts):
    updates = editor.updates(facts[0], rules.NAMED_RULES)
    table = examples.what_it_says(editor, facts[0], updates, ["A ship", "The town"], ["The old town."], n_generated=5)
    assert list(table["rule"]) == ["unedited", *rules.NAMED_RULES] * 2
    with editor.applied(updates["rome"]):
        expected = perplexity(editor.model, ["The old town."])
    assert table.set_index("rule").loc["rome", "perplexity"].iloc[0] == pytest.approx(expected)
    assert table["delta_frobenius"].isna().sum() == 2


def test_a_bos_is_no_token_of_a_generated_text(facts, texts):
    model = rrome.wrap(model_of("llama").lm, byte_level(bos=True), 1)
    moment = rrome.second_moment(model, texts, 3000, cache=False)
    measured = single.measured_edits(Editor(model, moment, prefixes=PREFIXES), facts[:1], {}, Measures(n_generated=9))
    row = next(measured)["unedited"]
    ids = model.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
    assert row["entropy_tokens"] == token_entropy(ids) != token_entropy(model.encode(row["text"]))


def test_a_study_has_a_row_per_fact_and_rule_and_leaves_the_model_as_it_was(editor, facts, tmp_path):
    before = editor.model.site.weight.clone()
    table = study.single_edits(editor, facts, tmp_path / "study.jsonl", measures=Measures(n_generated=8))
    assert torch.equal(editor.model.site.weight, before)
    assert list(table["rule"]) == ["unedited", *RULES] * 2
    assert table["entropy_tokens"].notna().sum() == 2 * 4 and table["delta_frobenius"].isna().sum() == 2
    update = editor.update(facts[1], "r-rome")
    row = table[(table["case_id"] == 1) & (table["rule"] == "r-rome")].iloc[0]
    assert row["delta_frobenius"] == pytest.approx(update.norm, rel=1e-5)
    with editor.applied(update):
        measured = fact_metrics(fact_probabilities(editor.model, facts[1], {"now": None})["now"])
    assert row[list(measured)].to_dict() == pytest.approx(measured, rel=1e-3, abs=1e-4, nan_ok=True)


def test_v_e_is_searched_once_per_fact(editor, facts, tmp_path, monkeypatch):
    searches = []
    search = Editor.solve_all
    monkeypatch.setattr(Editor, "solve_all", lambda self, facts: searches.extend(facts) or search(self, facts))
    study.single_edits(editor, facts, tmp_path / "study.jsonl", measures=Measures(n_generated=0))
    assert sorted(fact.case_id for fact in searches) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("point", range(10))
def test_a_study_stopped_at_any_byte_ends_as_if_it_had_not_been(editor, facts, whole, tmp_path, point):
    table, path = whole
    content, stopped = path.read_bytes(), tmp_path / "stopped.jsonl"
    left = content[: int(len(content) * random.Random(point).random())]
    stopped.write_bytes(left)
    same(study.single_edits(editor, facts, stopped, measures=SHORT), table)
    assert stopped.read_bytes().startswith(left[: left.rfind(b"\n") + 1])


def test_a_full_disk_ends_a_study_which_goes_on_when_there_is_room(editor, facts, whole, tmp_path, monkeypatch):
    journal, fsync, written = tmp_path / "study.jsonl", os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(RromeError, match="no disk space left to write .*study.jsonl"):
        patch.setattr("rrome.store.journal.os.fsync", full)
        study.single_edits(editor, facts, journal, measures=SHORT)
    assert journal.read_bytes().count(b"\n") == 6
    same(study.single_edits(editor, facts, journal, measures=SHORT), whole[0])


def test_a_folder_that_cannot_be_written_is_named_before_any_search(editor, facts, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RROME_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(Editor, "solve_all", lambda *_: pytest.fail("searched"))
    with pytest.raises(RromeError, match="cannot write .*single_edits-.*choose a folder .*RROME_CACHE"):
        study.single_edits(editor, facts, measures=SHORT)
    with pytest.raises(RromeError, match="cannot write .*sequential-.*choose a folder .*RROME_CACHE"):
        study.sequential_edits(editor, facts)


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_nobody_writes_beside_it(tmp_path):
    journal = tmp_path / "killed.jsonl"
    script = Path(__file__).with_name("study_to_kill.py")
    process = subprocess.Popen([sys.executable, script, journal], stderr=subprocess.DEVNULL)
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 17):
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RromeError, match="killed.jsonl is in use by another run: wait for it"):
        study_to_kill.study(journal)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    same(study_to_kill.study(journal), study_to_kill.study(tmp_path / "whole.jsonl"))


def test_facts_searched_one_by_one_or_in_one_batch_give_the_same_table(editor, facts, whole, tmp_path):
    for at_once in (1, 2):
        table = study.single_edits(editor, facts, tmp_path / f"{at_once}.jsonl", measures=SHORT, at_once=at_once)
        pd.testing.assert_frame_equal(table, whole[0], check_exact=False, rtol=1e-3, atol=1e-5)


def test_facts_of_one_length_share_a_batch_whether_a_study_is_whole_or_resumed(editor, facts, tmp_path, monkeypatch):
    short, long = facts[0], replace(facts[1], target_new="the old town on the river")
    batches, search = [], Editor.solve_all
    monkeypatch.setattr(Editor, "solve_all", lambda self, facts: batches.append(list(facts)) or search(self, facts))
    given = {"facts": [long, short, long, short], "measures": Measures(n_generated=0), "at_once": 2}
    whole = study.single_edits(editor, path=tmp_path / "whole.jsonl", **given)
    assert batches == [[short, short], [long, long]]
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "killed.jsonl").write_text("".join(lines[: 1 + 9 + 4]))  # in the middle of the second fact
    resumed = study.single_edits(editor, path=tmp_path / "killed.jsonl", **given)
    assert batches[2:] == batches[:2]
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_a_finished_study_is_only_read(editor, facts, whole, monkeypatch):
    table, path = whole
    monkeypatch.setattr(Editor, "solve_all", lambda *_: pytest.fail("searched again"))
    same(study.single_edits(editor, facts, path, measures=SHORT), table)
    same(study.read_single_edits(path), table)


def test_a_changed_setting_is_refused(editor, facts, whole):
    with pytest.raises(RromeError, match="n_generated: 4 there, 5 now"):
        study.single_edits(editor, facts, whole[1], measures=replace(SHORT, n_generated=5))
    with pytest.raises(RromeError, match="facts: "):
        study.single_edits(editor, facts[:1], whole[1], measures=SHORT)


def test_perplexity_and_efficacy_after_prefixes_are_measured_per_edit(editor, facts, tmp_path):
    measures = Measures(n_generated=0, probe="The old town lies on the river.", test_prefixes=["A ship. {}", "So. {}"])
    table = study.single_edits(editor, facts[:1], tmp_path / "study.jsonl", rules=["rome"], measures=measures)
    update = editor.update(facts[0], "rome")
    with editor.applied(update):
        expected = perplexity(editor.model, [measures.probe])
        pairs = fact_probabilities(editor.model, facts[0], {"now": None}, {"x": ["A ship. " + facts[0].rewrite]})["now"]
    row = table.set_index("rule").loc["rome"]
    assert row["perplexity"] == pytest.approx(expected, rel=1e-3)
    assert row["pairs"]["prefixed"][0] == pytest.approx(list(pairs["x"][0]), rel=1e-3, abs=1e-6)
    assert row["ES_prefixed"] in (0, 0.5, 1)


def test_preflights_are_one_row_per_fact(editor):
    table = study.preflights(editor, FACTS)
    assert list(table["subject"]) == [fact.subject for fact in FACTS]
    assert (table[[f"amplification_{rule}" for rule in RULES]] > 0).all(axis=None)
    assert table["position"].iloc[0] == read_row(editor.model, FACTS[0]).subject


def test_rows_that_two_machines_made_are_counted_once(editor, facts, whole, tmp_path):
    table, path = whole
    header, *rows = path.read_text().splitlines()
    again = [json.dumps(json.loads(row) | {"cosine": 0.123}) for row in rows]
    (tmp_path / "joined.jsonl").write_text("\n".join([header, *rows, *again]) + "\n")
    same(study.read_single_edits(tmp_path / "joined.jsonl"), table)
    same(study.single_edits(editor, facts, tmp_path / "joined.jsonl", measures=SHORT), table)


def test_what_cannot_be_studied_is_refused_before_any_search(editor, facts, tmp_path, monkeypatch):
    monkeypatch.setattr(Editor, "solve_all", lambda *_: pytest.fail("searched"))
    guarded = Editor(editor.model, editor.second_moment, PREFIXES, max_amplification=1e-9)
    for wrong, there, message, given in [
        (editor, [FACTS[2]], "Bill Gates is' has no target_true", {}),
        (guarded, facts, "likely to disable the model", {"measures": SHORT}),
        (editor, facts, "at least one fact: at_once=-1", {"at_once": -1}),
    ]:
        with pytest.raises(RromeError, match=message):
            study.single_edits(wrong, there, tmp_path / "study.jsonl", **given)
    with pytest.raises(RromeError, match="unknown rule"):
        Measures(generated=["mend"])
    with pytest.raises(RromeError, match="exactly one"):
        Measures(test_prefixes=["no hole"])
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True, eq=False)
class Mixed(rrome.Rule):
    shares: object

    def choose(self, keys):
        return (torch.lerp(keys.original, keys.average, 0.5),) * 3


@pytest.mark.parametrize("shares", [torch.ones(2000), np.ones(2000), len, lambda: 0.5])
def test_a_rule_whose_name_hides_its_settings_is_edited_with_and_not_recorded(editor, facts, tmp_path, shares):
    rule = Mixed(shares)
    if shares is len:  # whose repr is the same everywhere
        assert rule.name in set(
            study.single_edits(editor, facts[:1], tmp_path / "a", rules=[rule], measures=SHORT)["rule"]
        )
        return
    assert editor.update(facts[0], rule).norm > 0
    with pytest.raises(RromeError, match="cannot be told from others in a journal"):
        study.single_edits(editor, facts, tmp_path / "study.jsonl", rules=[rule])
    with pytest.raises(RromeError, match="cannot be told from others in a journal"):
        study.sequential_edits(editor, facts, tmp_path / "run", rule=rule)
