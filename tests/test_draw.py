"""What studies edit and read, and the one door to each study: found by its settings, read without a model."""

import json

import pytest
from facts_for_tests import FACTS

import rrome
from rrome import Fact, RromeError, load_facts, study
from rrome.edit import load_editor
from rrome.study import draw_sequence, mixed_probe, named_tasks, probe

MEASURED = [fact for fact in FACTS if fact.target_true]
FEW = {"rules": ["rome"], "measures": study.Measures(n_generated=0)}


def test_facts_are_drawn_by_seed_and_by_the_subjects_position(tiny, tmp_path):
    facts = [Fact("{} is", name, "Rome", "Paris") for name in ("I", "A", "Bill Gates", "The old town", "O")]
    (tmp_path / "facts.json").write_text(json.dumps([fact.to_record() for fact in facts]))
    asked = {"dataset": tmp_path / "facts.json", "n_known": 5, "seed": 1}
    drawn = [fact.subject for fact in study.draw_facts(tiny, **asked, n_ordinary=2, n_first_token=2)]
    assert set(drawn[:2]) == {"Bill Gates", "The old town"} and set(drawn[2:]) < {"I", "A", "O"}
    assert drawn == [fact.subject for fact in study.draw_facts(tiny, **asked, n_ordinary=2, n_first_token=2)]
    with pytest.raises(RromeError, match="9 ordinary facts asked, the 5 facts hold 2"):
        study.draw_facts(tiny, **asked, n_ordinary=9, n_first_token=1)


def test_a_longer_sequence_begins_with_the_shorter_one():
    long = draw_sequence("world", n_known=50, n_edits=20, order=3)
    assert draw_sequence("world", n_known=50, n_edits=5, order=3) == long[:5]
    assert long != draw_sequence("world", n_known=50, n_edits=20, order=4)
    known = load_facts("world", n=50)
    assert all(fact in known for fact in long) and len(set(long)) == 20
    with pytest.raises(RromeError, match="60 edits asked, of the first 50 facts"):
        draw_sequence("world", n_known=50, n_edits=60)
    with pytest.raises(RromeError, match="-1 edits asked"):
        draw_sequence("world", n_known=50, n_edits=-1)  # not all but the last


def test_recall_asks_for_no_subject_that_may_be_edited(tiny_llama):
    tasks = named_tasks(tiny_llama, "world", ["recall", "agreement"], n_known=100, n_items=40)
    assert [task.name for task in tasks] == ["recall", "agreement"] and len(tasks[1].choices) == 40
    subjects = {fact.subject for fact in load_facts("world", n=100)}
    assert len(tasks[0].choices) == 40
    assert not any(choice.prompt.startswith(tuple(subjects)) for choice in tasks[0].choices)


def test_a_task_of_glue_can_come_from_a_folder(tiny_llama, tmp_path):
    records = [{"sentence": f"The town was number {n}.", "label": n % 2} for n in range(20)]
    (tmp_path / "sst2.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    agreement, sst2 = named_tasks(tiny_llama, "world", ["agreement", f"{tmp_path}/sst2"], n_known=10, n_items=8)
    assert (agreement.name, sst2.name) == ("agreement", "sst2") and len(sst2.questions) == 8


def test_the_editor_reads_the_text_that_is_named(saved, texts, tmp_path, no_cache):
    (tmp_path / "mine.txt").write_text("\n\n".join(texts))
    mine = {"c0_text": str(tmp_path / "mine.txt"), "c0_tokens": 1500}
    editor = load_editor(str(saved), device="cpu", layer=1, **mine)
    assert editor.second_moment.count == 1500
    with pytest.raises(RromeError, match="no text 'absent.txt'"):
        load_editor(str(saved), device="cpu", layer=1, c0_text="absent.txt")


def test_probes_are_held_out_text():
    trained = "\n".join(rrome.facts.factbook_prose())
    assert len(probe()) == 600 and len(mixed_probe()) == 1200
    assert all(line not in trained for line in mixed_probe().split("\n"))


def test_a_study_without_a_path_is_found_by_its_settings_and_read_without_a_model(editor, tmp_path):
    made = rrome.single_edits(editor, MEASURED[:2], within=tmp_path, about={"dataset": "mine"}, **FEW)
    again = rrome.single_edits(editor, MEASURED[:2], within=tmp_path, about={"dataset": "mine"}, **FEW)
    rrome.single_edits(editor, MEASURED[:1], within=tmp_path, about={"dataset": "other"}, **FEW)
    assert made.equals(again) and len(list(tmp_path.glob("*.jsonl"))) == 2
    read = study.read_single_edits(tmp_path, model_name=editor.model.name, dataset="mine")
    assert read.equals(made) and read.attrs["settings"]["second_moment"] == editor.second_moment.key
    with pytest.raises(RromeError, match="no single_edits study .*dataset: 'mine' there, 'none' now"):
        study.read_single_edits(tmp_path, dataset="none")
    with pytest.raises(
        RromeError, match=r"2 single_edits studies .*say which \(.*dataset: 'other' there, 'mine' now|'mine'"
    ):
        study.read_single_edits(tmp_path, model_name=editor.model.name)


def test_a_sequence_without_a_folder_is_found_by_its_settings_and_prolonged(editor, tmp_path):
    run = {"checks": study.Checks(every=2, retest=False), "within": tmp_path, "about": {"order": 3}}
    made = {rule: rrome.sequential_edits(editor, MEASURED[:1], rule=rule, **run) for rule in ("rome", "r-rome")}
    longer = rrome.sequential_edits(editor, MEASURED[:2], rule="r-rome", **run)
    assert longer.folder == made["r-rome"].folder != made["rome"].folder and len(longer.edits) == 2
    read = study.read_sequential(tmp_path, rule="r-rome", order=3)
    assert read.edits.equals(longer.edits)
    assert len(rrome.EditLog(read.folder)) == 2
    with pytest.raises(RromeError, match="no sequential study"):
        study.read_sequential(tmp_path, rule="p-rome")


def test_studies_without_any_place_go_to_the_cache(editor, no_cache):
    rrome.single_edits(editor, MEASURED[:1], **FEW)
    assert len(list((no_cache / "studies").glob("single_edits-*.jsonl"))) == 1
