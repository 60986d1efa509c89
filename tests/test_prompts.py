import pytest
from facts_for_tests import FACTS, PREFIXES

from rrome import Fact, RromeError
from rrome.model.tokens import check_templates, read_row, read_subject_is, sample_prefixes


@pytest.mark.parametrize("template", PREFIXES)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.subject)
def test_the_position_is_the_subjects_last_token(tiny, fact, template):
    row = read_row(tiny, fact, template)
    text = template.replace("{}", fact.rewrite, 1)
    end = template.index("{}") + fact.prompt.index("{}") + len(fact.subject)
    assert tiny.tokenizer.decode(row.ids[: row.subject + 1]) == text[:end]
    assert tiny.tokenizer.decode(row.ids) == text


def test_a_leading_text_moves_the_position(tiny):
    plain, led = read_row(tiny, FACTS[0]), read_row(tiny, FACTS[0], leading="<|end|>")
    assert led.ids == (0, *plain.ids)
    assert led.subject == plain.subject + 1


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.subject)
def test_the_target_follows_after_exactly_one_space(tiny, fact):
    row = read_row(tiny, fact, target=fact.target_new)
    assert tiny.tokenizer.decode(row.ids[-row.n_target :]) == f" {fact.target_new}"


def test_the_kl_prompt_puts_the_subject_first(tiny):
    row = read_subject_is(tiny, FACTS[2])
    assert tiny.tokenizer.decode(row.ids) == "Bill Gates is a"
    assert tiny.tokenizer.decode(row.ids[: row.subject + 1]) == "Bill Gates"


def test_a_subject_without_tokens_is_named_with_the_tokens_seen(tiny, monkeypatch):
    fact = Fact("{} is in", "Italy", "Rome")
    encode = type(tiny.tokenizer).__call__

    def blind(self, text, **kwargs):
        encoded = encode(self, text, **kwargs)
        if "offset_mapping" in encoded:
            encoded["offset_mapping"] = [(0, 0)] * len(encoded["input_ids"])
        return encoded

    monkeypatch.setattr(type(tiny.tokenizer), "__call__", blind)
    with pytest.raises(RromeError, match="subject 'Italy' cannot be located in 'Italy is in'"):
        read_row(tiny, fact)


def test_the_bare_prompt_comes_first_and_once():
    assert check_templates(["A. {}", "{}", "B. {}"]) == ("{}", "A. {}", "B. {}")
    assert check_templates([]) == ("{}",)


@pytest.mark.parametrize("templates", [["no hole"], ["{} and {}"], [None], "{}"])
def test_templates_without_exactly_one_hole_are_refused(templates):
    with pytest.raises(RromeError, match="prefix"):
        check_templates(templates)


def test_sampled_prefixes_are_seeded_text_with_one_hole(default_model):
    prefixes = sample_prefixes(default_model, seed=0)
    assert len(prefixes) == 21 and prefixes[0] == "{}"
    assert prefixes == sample_prefixes(default_model, seed=0) != sample_prefixes(default_model, seed=1)
    assert all(prefix.count("{}") == 1 and "\n" not in prefix for prefix in prefixes)
    words = " ".join(prefixes[1:]).replace("{}", "").split()
    assert sum(any(letter.isalpha() for letter in word) for word in words) / len(words) > 0.9
