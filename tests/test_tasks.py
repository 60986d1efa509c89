"""Downstream tasks: choices between continuations, and GLUE."""

import json
from dataclasses import replace

import pytest
import torch
from pytest import approx

from rrome import Fact, RromeError, load_facts
from rrome.measure import agreement_task, glue_task, recall_task, sentiment_task, tasks
from rrome.measure.scores import target_nll
from rrome.measure.tasks import Choice, ChoiceTask, GlueTask, SentimentTask, read_answer, weighted_f1

SENTENCES = {
    "sst2": {"sentence": "The old {town} was number"},
    "mrpc": {"sentence1": "A ship sailed at noon", "sentence2": "At noon a ship"},
    "cola": {"sentence": "Rome is its capital"},
    "rte": {"sentence1": "Italy is in Europe", "sentence2": "Rome is"},
}


@pytest.fixture
def folder(tmp_path):
    """Ten examples of each label for each task, numbered."""
    for name, fields in SENTENCES.items():
        first = next(iter(fields))
        records = [{**fields, first: f"{fields[first]} {n}.", "label": n % 2} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_a_choice_is_won_when_the_right_continuation_is_likelier(tiny):
    prompts, options = ["The old town", "A ship"], ["Rome", "Paris", "cold"]
    choices = tuple(Choice(prompt, options[0], tuple(options[1:])) for prompt in prompts)
    nll = target_nll(tiny, [prompt for prompt in prompts for _ in options], options * 2).view(2, 3)
    task = ChoiceTask("test", choices)
    assert task.scores(tiny) == {"test": (nll.argmin(1) == 0).double().mean().item()}
    assert task.floor == approx(1 / 3)


def test_a_choice_without_a_blank_is_read_so(tiny):
    prompts, options = ["The old tow"] * 2, ["n", "s"]
    nll = target_nll(tiny, prompts, options, separators=["", ""])
    choice = Choice("The old tow", "n", ("s",), separator="")
    assert not torch.equal(nll, target_nll(tiny, prompts, options))
    assert ChoiceTask("test", (choice,)).scores(tiny) == {"test": float(nll[0] < nll[1])}
    assert ChoiceTask("test", (choice,)).key != ChoiceTask("test", (replace(choice, separator=" "),)).key
    facts = [Fact("{}的首都是", f"S{n}", "北京", f"A{n}", separator="") for n in range(4)]
    assert {choice.separator for choice in recall_task(facts, n=4).choices} == {""}


def test_the_keys_of_tasks_are_those_that_earlier_journals_hold():
    assert agreement_task().key == "fb7928d7be690183" and recall_task(load_facts("world")).key == "bec044b5de589455"


def test_a_model_that_yields_nan_wins_nothing(tiny_llama):
    task = ChoiceTask("test", (Choice("The old town", "Rome", ("Paris",)),))
    weight = tiny_llama.site.weight
    before = weight.clone()
    weight[0, 0] = torch.nan
    assert task.scores(tiny_llama) == {"test": 0.0}
    weight.copy_(before)


def test_agreement_pairs_come_in_both_directions_and_differ_in_number_only():
    task = agreement_task(60)
    assert task.floor == 0.5 and len(task.choices) == 240 and len(set(task.choices)) == 240
    assert {choice.kind for choice in task.choices} == {
        "across a phrase", "across a clause", "reflexives", "determiners"
    }  # fmt: skip
    rights = {choice.right for choice in task.choices}
    assert {"is", "are", "was", "were", "himself", "herself"} <= rights
    one = next(choice for choice in task.choices if choice.kind == "across a phrase" and choice.right == "are")
    noun, *_, other = one.prompt.split()[1:]
    assert noun.endswith("s") != other.endswith("s") and one.wrong == ("is",)


def test_agreement_is_seeded_and_its_key_tells():
    assert agreement_task(20, seed=1) == agreement_task(20, seed=1)
    assert agreement_task(20, seed=1).key != agreement_task(20, seed=2).key
    with pytest.raises(RromeError, match="asked of the kind .*ask fewer"):
        agreement_task(100_000)


def test_recall_offers_true_answers_of_the_same_relation():
    facts = load_facts("world", n=300)
    answers = {(fact.relation, fact.target_true) for fact in facts}
    task = recall_task(facts, n=100)
    assert len(task.choices) == 100 and task.floor == 0.25
    for choice in task.choices:
        assert len({choice.right, *choice.wrong}) == 4
        assert all((choice.kind, answer) in answers for answer in (choice.right, *choice.wrong))
    with pytest.raises(RromeError, match="5 recall items asked, the 1 facts give 0"):
        recall_task([Fact("{} is", "Rome", "cold", "old")], n=5)


def test_an_empty_task_is_refused():
    with pytest.raises(RromeError, match="has no choices"):
        ChoiceTask("test", ())


def test_the_unedited_default_model_is_well_above_chance(default_model):
    agreement = agreement_task(30)
    assert agreement.scores(default_model)["agreement"] > agreement.floor + 0.3
    recall = recall_task(load_facts("world", n=400), n=60)
    assert recall.scores(default_model)["recall"] > recall.floor + 0.15


def test_sentiment_is_judged_against_a_threshold_of_other_reviews(tiny_llama, monkeypatch):
    odds = {
        "positive": 3.0,
        "negative": 1.0,
    }  # a model that prefers one word to the other everywhere, by more after praise

    def measured(model, prompts, options):
        return [odds["positive" if any(w in p for w in ("wonderful", "superb")) else "negative"] for p in prompts]

    monkeypatch.setattr(tasks, "log_odds", measured)
    task = sentiment_task(tiny_llama, 40)
    assert len(set(task.prompts)) == 40 and sorted(task.labels) == [0] * 20 + [1] * 20 and 1 <= task.threshold < 3
    praised = SentimentTask("sentiment", ("It was wonderful.", "It was poor."), (1, 0), 2.0)
    assert praised.scores(tiny_llama) == {"sentiment": 1} and praised.key != task.key
    assert SentimentTask("sentiment", praised.prompts, (1, 0), 9.0).scores(tiny_llama)["sentiment"] == approx(
        task.floor
    )
    monkeypatch.setattr(tasks, "log_odds", lambda model, prompts, options: [float("nan")] * len(prompts))
    assert task.scores(tiny_llama) == {"sentiment": 0}
    with pytest.raises(RromeError, match="an even number of reviews from 2 to 240, not 7"):
        sentiment_task(tiny_llama, 7)


def test_the_unedited_default_model_knows_praise_from_blame(default_model):
    assert sentiment_task(default_model, 40).scores(default_model)["sentiment"] > 0.8


@pytest.mark.parametrize("name", SENTENCES)
def test_prompts_hold_shots_and_an_open_question(folder, name):
    task = glue_task(name, folder, n_per_class=5)
    assert len(task.questions) == 10 and sorted(task.labels) == [0] * 5 + [1] * 5
    assert len(task.shots) == {"sst2": 4, "mrpc": 6, "cola": 6, "rte": 3}[name]
    assert all(shot.split()[-1] in task.options for shot in task.shots)
    for question in task.questions:
        assert question.endswith(":") and question.split("\n")[0] not in "".join(task.shots)
    assert task == glue_task(name, folder, n_per_class=5) != glue_task(name, folder, n_per_class=5, seed=1)


def test_shots_that_do_not_fit_into_the_context_are_left_out(tiny, folder, monkeypatch):
    task = glue_task("cola", folder, n_per_class=3)
    length = len(tiny.tokenizer("".join([*task.shots[4:], task.questions[0]]))["input_ids"])
    monkeypatch.setattr(type(tiny), "context", length + task.n_tokens + 2)
    assert task.prompts(tiny)[0] == "".join([*task.shots[4:], task.questions[0]])
    monkeypatch.setattr(type(tiny), "context", 5)
    with pytest.raises(RromeError, match="cola: a question is longer than the 5 tokens"):
        task.prompts(tiny)


def test_labels_keep_their_own_words(folder):
    """A shot's word must be the one of its record's label; RTE's 0 is entailment, which the public code turned round."""
    for name in SENTENCES:
        task, records = glue_task(name, folder), map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        labels = {record[next(iter(SENTENCES[name]))]: record["label"] for record in records}
        for shot in task.shots:
            (label,) = (label for sentence, label in labels.items() if f"{sentence}\n" in f"{shot}\n")
            assert shot.split()[-1] == task.options[label]
    assert glue_task("rte", folder).options == ("yes", "no")


@pytest.mark.parametrize(
    ("answer", "label"), [(" Yes, it", 1), (" no", 0), ("yes or no", -1), ("", -1), (" maybe", -1)]
)
def test_an_answer_names_one_option_or_is_invalid(answer, label):
    assert read_answer(answer, ("no", "yes")) == label


def test_weighted_f1_by_hand():
    labels = [0, 0, 1, 1]
    assert weighted_f1(labels, [1, 1, 1, 1]) == approx(1 / 3)
    assert weighted_f1(labels, [0, 0, 1, 1]) == 1
    assert weighted_f1(labels, [-1] * 4) == 0
    assert weighted_f1(labels, [0, -1, 1, -1]) == approx(2 / 3)  # precision 1, recall 1/2 for both labels


def test_a_constant_answer_gets_the_floor_and_the_log_odds_are_read_without_threshold(tiny_llama, monkeypatch):
    task = GlueTask("test", (), ("A", "B", "C", "D"), (0, 0, 1, 1), ("no", "yes"), 3)
    monkeypatch.setattr(tasks, "generate", lambda model, prompts, *_, **__: [" yes"] * len(prompts))
    odds = {"A": 0.1, "B": 3.0, "C": 2.0, "D": 4.0}
    nll = [option for prompt in task.questions for option in (odds[prompt], 0.0)]
    monkeypatch.setattr(tasks, "target_nll", lambda *_: torch.tensor(nll))
    assert task.scores(tiny_llama) == {"test": approx(task.floor), "test_auc": 0.75}


def test_a_real_model_is_scored(tiny, folder):
    scores = glue_task("cola", folder, n_per_class=3).scores(tiny)
    assert set(scores) == {"cola", "cola_auc"} and all(0 <= score <= 1 for score in scores.values())


def test_bad_sources_are_named(folder, monkeypatch):
    with pytest.raises(RromeError, match="no task 'mnli': choose one of sst2, mrpc, cola, rte"):
        glue_task("mnli", folder)
    with pytest.raises(RromeError, match="sst2.jsonl: give a folder"):
        glue_task("sst2", folder / "nowhere")
    for records, message in ((["x"], "record 0"), ([{"sentence": "a"}, {"text": "b"}], "record 1.*texts in sentence")):
        (folder / "sst2.jsonl").write_text(json.dumps(records))
        with pytest.raises(RromeError, match=f"sst2.jsonl, {message}"):
            glue_task("sst2", folder)
    (folder / "sst2.jsonl").write_text('{"sentence": "a", "label": 1}\n')
    with pytest.raises(RromeError, match="4 shots leave no examples, .* 0 of label 0, 1 of label 1"):
        glue_task("sst2", folder)


def test_offline_the_hub_is_explained(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(RromeError, match="could not be read .*give a folder with sst2.jsonl"):
        glue_task("sst2")
