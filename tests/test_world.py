from collections import Counter

import pytest

from rrome import load_facts
from rrome.store.disk import digest
from tools.make_data import DATA, make_data
from tools.world import read_rules, world_facts


@pytest.fixture(scope="module")
def facts():
    return load_facts("world")


def test_the_data_files_are_made_again_byte_for_byte(tmp_path):
    made = make_data(tmp_path)
    assert [path.name for path in made] == ["world.jsonl.bz2", "companies.jsonl.bz2", "factbook.jsonl.bz2"]
    for path in made:
        assert path.read_bytes() == (DATA / path.name).read_bytes(), f"{path.name}: run python -m tools.make_data"


def test_the_set_is_the_same_on_every_machine(facts):
    assert digest(*(fact.to_record() for fact in facts)) == "84a77753119528df"


def test_it_is_large_varied_and_numbered(facts):
    relations = Counter(fact.relation for fact in facts)
    assert len(facts) >= 2000 and len(relations) >= 6 and min(relations.values()) >= 50
    assert len({fact.case_id for fact in facts}) == len(facts)
    assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts)
    assert len({fact.relation for fact in facts[:20]}) == len(relations)


def test_a_record_does_not_depend_on_unrelated_ones(facts):
    rules = read_rules()
    rules["skip"]["all"] = [*rules["skip"]["all"], "China"]
    fewer = {fact.case_id: fact for fact in world_facts(rules)}
    unrelated = [fact for fact in facts if fact.target_true in ("Europe", "Portuguese", "Christianity")]
    assert len(fewer) < len(facts) and len(unrelated) > 300
    assert all(fewer[fact.case_id].to_record() == fact.to_record() for fact in unrelated)


def test_every_record_is_complete(facts):
    sentences = read_rules()["sentences"]
    for fact in facts:
        plain, after_sentence = fact.paraphrases
        assert len(fact.generation) >= 2 and len(set(fact.neighbourhood)) == 10
        assert any(after_sentence.startswith(sentence) for sentence in sentences)
        assert not any(plain.startswith(sentence) for sentence in sentences)
        name = fact.subject.removeprefix("The ").removeprefix("the ")
        assert all(name in prompt for prompt in (*fact.paraphrases, *fact.generation))
        assert fact.rewrite not in fact.paraphrases + fact.neighbourhood


def test_a_new_target_is_never_true_and_of_the_same_kind(facts):
    truths, answers = {}, {}
    for fact in facts:
        truths.setdefault((fact.relation, fact.subject), set()).add(fact.target_true)
        answers.setdefault(fact.relation.split("-")[1], set()).add(fact.target_true)
    for fact in facts:
        kind = fact.relation.split("-")[1]
        assert fact.target_new not in truths[fact.relation, fact.subject]
        if fact.relation == "country-continent":
            assert fact.target_new in answers[kind] | {"Antarctica"}
    forbidden = [f for f in facts if f.subject == "Belgium" and f.target_new in ("Dutch", "French", "German")]
    assert not forbidden


def test_neighbours_share_the_true_answer(facts):
    for relation in ("country-continent", "country-religion"):
        answer = {fact.subject: fact.target_true for fact in facts if fact.relation == relation}
        fact = next(fact for fact in facts if fact.relation == relation and fact.subject == "Italy")
        named = [name for name in answer for prompt in fact.neighbourhood if f" {name} " in f" {prompt} "]
        assert len(named) >= 9 and {answer[name] for name in named} == {fact.target_true}


@pytest.mark.parametrize(
    "relation, subject, answer",
    [
        ("country-continent", "Italy", "Europe"),
        ("country-continent", "The Philippines", "Asia"),
        ("country-language", "Brazil", "Portuguese"),
        ("country-religion", "Thailand", "Buddhism"),
        ("country-currency", "Germany", "euro"),
        ("city-country", "Osaka", "Japan"),
        ("city-country", "Chicago", "the United States"),
        ("city-continent", "Nairobi", "Africa"),
        ("city-currency", "Mumbai", "rupee"),
        ("city-currency", "Riyadh", "riyal"),
        ("city-country", "Cologne", "Germany"),
        ("city-country", "Can Tho", "Vietnam"),
        ("city-language", "Istanbul", "Turkish"),
    ],
)
def test_well_known_answers(facts, relation, subject, answer):
    assert [fact.target_true for fact in facts if (fact.relation, fact.subject) == (relation, subject)] == [answer]


def test_disputed_and_ambiguous_subjects_are_left_out(facts):
    subjects = {(fact.relation, fact.subject) for fact in facts}
    for absent in [
        ("country-continent", "Turkey"),
        ("city-continent", "Istanbul"),
        ("country-language", "Switzerland"),
    ]:
        assert absent not in subjects
    names = {subject for _, subject in subjects}
    assert not names & {"Hyderabad", "Tripoli", "Valencia", "Taiwan", "Jerusalem", "Srinagar", "Donetsk", "Brooklyn"}
    asked = {prompt for fact in facts for prompt in fact.neighbourhood}
    assert not [prompt for prompt in asked if "Sevastopol" in prompt or "Tenerife" in prompt]


def test_subjects_open_the_prompt_at_a_natural_rate(facts):
    first = sum(fact.prompt.startswith("{}") for fact in facts) / len(facts)
    assert 0.25 < first < 0.6
    assert ("{} is located in the continent of", "Italy") in {(fact.prompt, fact.subject) for fact in facts}
