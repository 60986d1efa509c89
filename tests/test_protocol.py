import json
import pickle

import pytest
from conftest import make_tokenizer

from rrome import RromeError, load_facts
from rrome.study.protocol import (
    standard_checks,
    standard_editor,
    standard_evidence,
    standard_recipe,
    standard_sequence,
    standard_tasks,
)
from rrome.study.single import study_settings


def test_a_longer_sequence_begins_with_the_shorter_one():
    long = standard_sequence("world", n_known=50, n_edits=20, order=3)
    assert standard_sequence("world", n_known=50, n_edits=5, order=3) == long[:5]
    assert long != standard_sequence("world", n_known=50, n_edits=20, order=4)
    known = load_facts("world", n=50)
    assert all(fact in known for fact in long) and len(set(long)) == 20
    with pytest.raises(RromeError, match="60 edits asked, of the first 50 facts"):
        standard_sequence("world", n_known=50, n_edits=60)


def test_recall_asks_for_no_subject_that_may_be_edited():
    tasks = standard_tasks("world", ["recall", "agreement"], n_known=100, n_items=40)
    assert [task.name for task in tasks] == ["recall", "agreement"] and len(tasks[1].choices) == 40
    subjects = {fact.subject for fact in load_facts("world", n=100)}
    assert len(tasks[0].choices) == 40
    assert not any(choice.prompt.startswith(tuple(subjects)) for choice in tasks[0].choices)


def test_a_task_of_glue_can_come_from_a_folder(tmp_path):
    records = [{"sentence": f"The town was number {n}.", "label": n % 2} for n in range(20)]
    (tmp_path / "sst2.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    agreement, sst2 = standard_tasks("world", ["agreement", f"{tmp_path}/sst2"], n_known=10, n_items=8)
    assert (agreement.name, sst2.name) == ("agreement", "sst2") and len(sst2.questions) == 8


def test_the_editor_reads_the_text_that_is_named(tiny_llama, texts, tmp_path, no_cache):
    tiny_llama.lm.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "mine.txt").write_text("\n\n".join(texts))
    mine = {"c0_text": str(tmp_path / "mine.txt"), "c0_tokens": 1500}
    editor = standard_editor(str(tmp_path / "model"), device="cpu", layer=1, **mine)
    assert editor.second_moment.count == 1500
    with pytest.raises(RromeError, match="no text 'absent.txt'"):
        standard_editor(str(tmp_path / "model"), device="cpu", layer=1, c0_text="absent.txt")


def test_the_probe_is_held_out_text():
    checks = standard_checks([], every=5)
    assert checks.every == 5 and len(checks.probe) == 1200


def test_evidence_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RromeError, match=r"no journal at .*sequential-m-laptop/rome-0/edits\.jsonl.*run the study"):
        standard_evidence(tmp_path, "m", "laptop", order=0)


@pytest.mark.slow
def test_a_standard_editor_can_be_made_again_on_a_worker():
    editor = standard_editor("smollm2-135m", layer=4, c0_tokens=2000, seed=3, prefixes=["{}", "So. {}"])
    recipe = pickle.dumps(standard_recipe(editor))
    assert study_settings(pickle.loads(recipe)()) == study_settings(editor)
