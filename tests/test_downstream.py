import pytest
import torch

from rrome import Fact, RromeError, load_facts
from rrome.measure.scores import target_nll
from rrome.measure.tasks import Choice, ChoiceTask, agreement_task, recall_task


def test_a_choice_is_won_when_the_right_continuation_is_likelier(tiny):
    prompts, options = ["The old town", "A ship"], ["Rome", "Paris", "cold"]
    choices = tuple(Choice(prompt, options[0], tuple(options[1:])) for prompt in prompts)
    nll = target_nll(tiny, [prompt for prompt in prompts for _ in options], options * 2).view(2, 3)
    task = ChoiceTask("test", choices)
    assert task.won(tiny) == (nll.argmin(1) == 0).tolist()
    assert task.scores(tiny) == {"test": (nll.argmin(1) == 0).double().mean().item()}
    assert task.floor == pytest.approx(1 / 3)


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
