import json

import pytest

from rrome import Fact, RromeError
from rrome.facts.fact import read_facts

RECORD = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} is in",
        "relation_id": "P17",
        "subject": "Rome",
        "target_new": {"str": "Spain", "id": "Q29"},
        "target_true": {"str": "Italy"},
    },
    "paraphrase_prompts": ["It rained. Rome lies in"],
    "neighborhood_prompts": ["Milan is in"],
    "generation_prompts": ["Rome is known for"],
}


def test_the_subjects_place_is_the_hole_even_when_it_or_braces_occur_elsewhere():
    fact = Fact("{} is located in the continent of", "Italy", "Antarctica", target_true="Europe")
    assert fact.rewrite == "Italy is located in the continent of"
    fact = Fact("Rome, so {}, is in", "Rome", "Spain")
    start, end = fact.subject_span
    assert (start, fact.rewrite[start:end]) == (9, "Rome")
    assert Fact("In {x} or {} {0}", "Rome", "Spain").rewrite == "In {x} or Rome {0}"


def test_targets_lose_their_spaces():
    fact = Fact("{} is in", "Rome", " Spain ", " Italy")
    assert (fact.target_new, fact.target_true) == ("Spain", "Italy")
    bare = Fact("{} is in", "\u200bRome\u00a0\u2060", "\ufeffSpain\u200b", "Italy\u3000")
    assert bare == Fact("{} is in", "Rome", "Spain", "Italy")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("Rome is in", "Rome", "Spain"), "exactly one"),
        (("{} is in {}", "Rome", "Spain"), "exactly one"),
        (("", "Rome", "Spain"), "prompt must be a text"),
        (("{} is in", " ", "Spain"), "subject must be a text"),
        (("{} is in", "Rome", ""), "target_new must be a text"),
        (("{} is in", "Rome", None), "target_new must be a text"),
        (("{} is in", "Rome", "Spain", "spain "), "equals target_true"),
        (("{} is in", "Rome", "Caf\u00e9", "Cafe\u0301"), "equals target_true"),
        (("{} is in", "\u200b\ufeff", "Spain"), r"subject must be a text that is not empty, got '\\u200b\\ufeff'"),
        (("{} is in", "Rome", "Spain", " "), "Rome.*target_true must be a text"),
        (("{} is in", "Rome", "Spain", 5), "Rome.*target_true must be a text"),
    ],
)
def test_a_bad_fact_is_refused_by_name(arguments, message):
    with pytest.raises(RromeError, match=message):
        Fact(*arguments)


@pytest.mark.parametrize("prompts", ["Rome lies in", [1], None])
def test_prompts_to_measure_are_lists_of_texts(prompts):
    with pytest.raises(RromeError, match="Rome.*paraphrases must be a list of texts"):
        Fact("{} is in", "Rome", "Spain", paraphrases=prompts)
    assert Fact("{} is in", "Rome", "Spain", paraphrases=["Rome lies in"]).paraphrases == ("Rome lies in",)


def test_fields_for_measuring_go_by_name():
    with pytest.raises(TypeError):
        Fact("{} is in", "Rome", "Spain", "Italy", 7)


def test_line_separators_of_unicode_are_text(tmp_path):
    fact = Fact("{} is in", "Ro\u2028me", "Spain", "Italy", paraphrases=("Rome\x85lies in",))
    text = json.dumps(fact.to_record(), ensure_ascii=False)
    (tmp_path / "facts.jsonl").write_text(text, encoding="utf-8")
    assert read_facts(tmp_path / "facts.jsonl") == [fact]


def test_a_record_comes_back_as_it_went(tmp_path):
    fact = Fact.from_record(RECORD)
    assert (fact.case_id, fact.relation, fact.target_new) == (7, "P17", "Spain")
    assert Fact.from_record(fact.to_record()) == fact
    (tmp_path / "facts.jsonl").write_text(f"{json.dumps(fact.to_record())}\n" * 2)
    (tmp_path / "facts.json").write_text(json.dumps([RECORD]))
    assert read_facts(tmp_path / "facts.jsonl") == [fact, fact]
    assert read_facts(tmp_path / "facts.json") == [fact]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"requested_rewrite": {"prompt": "{} is in"}}, r"record 0 \(case_id 7\): subject, target_new missing"),
        ({"requested_rewrite": None}, "requested_rewrite must be one JSON object, not 'None'"),
        ({"requested_rewrite": [RECORD["requested_rewrite"]] * 2}, "requested_rewrite must be one JSON object"),
        ({"paraphrase_prompts": "one text"}, "'paraphrase_prompts' must be a list"),
        ({"neighborhood_prompts": [1]}, "'neighborhood_prompts' must be a list"),
        (
            {"requested_rewrite": {**RECORD["requested_rewrite"], "target_true": {"str": 5}}},
            r"record 0 \(case_id 7\).*target_true must be a text",
        ),
        ({"requested_rewrite": {**RECORD["requested_rewrite"], "prompt": "no hole"}}, "record 0.*exactly one"),
        ({"requested_rewrite": {**RECORD["requested_rewrite"], "prompt": 5}}, "record 0.*prompt must be a text"),
        ({"requested_rewrite": {**RECORD["requested_rewrite"], "subject": ["Rome"]}}, "subject must be a text"),
        (
            {"requested_rewrite": {**RECORD["requested_rewrite"], "target_new": ["Rome", "Milan"]}},
            "target_new must be a text",
        ),
        ({"rephrase_prompt": {"a": 1}}, "'rephrase_prompt' must be a list of texts"),
    ],
)
def test_a_bad_record_is_named_with_its_field(tmp_path, change, message):
    (tmp_path / "facts.jsonl").write_text(json.dumps(RECORD | change))
    with pytest.raises(RromeError, match=message):
        read_facts(tmp_path / "facts.jsonl")


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(RromeError, match="no fact file .*absent.json"):
        read_facts(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RromeError, match="bad.json cannot be read"):
        read_facts(tmp_path / "bad.json")
    (tmp_path / "bad.jsonl").write_text(json.dumps(RECORD) + '\n\n{"case_id"\n')
    with pytest.raises(RromeError, match="bad.jsonl cannot be read.*line 3"):
        read_facts(tmp_path / "bad.jsonl")
    for content, message in (
        ("{}", "record 0.*prompt, subject, target_new missing"),
        ("", "holds no records"),
        ("[]", "holds no records"),
        ("[3]", "record 0: a JSON object was expected, not '3'"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(RromeError, match=message):
            read_facts(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(json.dumps([RECORD]).encode("utf-16"))
    with pytest.raises(RromeError, match="bad.json cannot be read .*utf-8"):
        read_facts(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_list_and_lines_are_read_under_either_name_with_or_without_a_mark(tmp_path, name, start):
    fact, path = Fact.from_record(RECORD), tmp_path / name
    for content in (json.dumps([RECORD, RECORD], indent=1), f"{json.dumps(RECORD)}\r\n" * 2):
        path.write_bytes((start + content).encode())
        assert read_facts(path) == [fact, fact]


def test_records_of_other_toolkits_are_read():
    asked = RECORD["requested_rewrite"]
    fact = Fact.from_record(RECORD)
    plain = {**asked, "target_new": "Spain", "target_true": asked["target_true"]["str"]}
    for rewrite in ([asked], plain, [plain]):
        assert Fact.from_record(RECORD | {"requested_rewrite": rewrite}) == fact
    flat = {"case_id": 7, "prompt": fact.rewrite, "subject": fact.subject, "target_new": fact.target_new}
    flat |= {
        "ground_truth": [fact.target_true, "Italia"],
        "rephrase_prompt": "Where is it?",
        "locality": {"neighborhood": {}},
    }
    read = Fact.from_record(flat)
    assert (read.prompt, read.rewrite, read.target_true) == (fact.prompt, fact.rewrite, fact.target_true)
    assert read.paraphrases == ("Where is it?",)
    assert Fact.from_record(flat | {"subject": f"{fact.subject} ", "rephrase_prompt": ["Where is it?"]}) == read
    for prompt, why in (
        (f"{fact.subject} and {fact.subject}", "there 2 times"), ("Milan is in", "there 0 times"), ("rome is in", "capitals"),
    ):  # fmt: skip
        with pytest.raises(RromeError, match=f"must hold the subject 'Rome', or {{}}, exactly one time: .*{why}"):
            Fact.from_record(flat | {"prompt": prompt})


def test_a_subject_with_other_accents_than_the_prompts_is_refused_with_the_difference():
    flat = {"prompt": "Caf\u00e9 is in", "subject": "Cafe\u0301", "target_new": "Rome"}
    with pytest.raises(RromeError, match=r"prompt 'Caf\\xe9 is in' .* subject 'Cafe\\u0301'.*form of accents differ"):
        Fact.from_record(flat)


def test_a_separator_is_kept_in_records_where_it_is_not_one_space():
    assert "separator" not in Fact.from_record(RECORD).to_record()["requested_rewrite"]
    fact = Fact("{}的首都是", "法国", "罗马", "巴黎", separator="")
    assert Fact.from_record(json.loads(json.dumps(fact.to_record()))) == fact
    with pytest.raises(RromeError, match="separator must be white space or empty"):
        Fact("{}的首都是", "法国", "罗马", separator="-")
