import json

import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, SIGNS, TOKENISERS, byte_level, make_model, make_tokenizer, model_of
from tokenizers import normalizers, processors

import rrome
from rrome import Editor, Fact, RromeError, Search, naive, second_moment, study
from rrome.measure.scores import fact_probabilities, retained, target_nll
from rrome.model.tokens import (
    check_templates,
    read_row,
    sample_prefixes,
    subject_position,
    with_target,
)
from rrome.update.batch import search_rows
from rrome.update.rules import NAMED_RULES

CASES = {
    "start": Fact("{} is located in the continent of", "Italy", "Antarctica"),
    "middle": Fact("The mother tongue of {} is", "Bill Gates", "old, cold language"),
    "end": Fact("A cold town called {}", "Paris", "Rome"),
    "twice": Fact("{} or the other {{Paris}}: is Paris in", "Paris", "Rome"),
    "again after": Fact("In Rome they say that {} is near Rome and", "Rome", "Paris"),
    "before": FACTS[1],
    "quoted": Fact('They call it "{}". It lies on the', "Eiffel Tower", "river"),
    "brackets": FACTS[4],
    "not Latin": Fact("{} is the capital of", "東京", "日本"),
    "not Latin, middle": Fact("The town of {} is in", "Москва", "Россия"),
    "right to left": Fact("People say {} is in", "القاهرة", "Africa"),
    "accents": Fact("The lake of {} is", "Zürich", "très froid"),
    "emoji": Fact("The sign {} is said to mean", "👩‍🚀", "a ship 🚢"),
    "digits": Fact("The ship {} sailed in", "U-96", "1941"),
}
TEMPLATES = ["{}", "A ship {sailed} at noon. {}", "«Où?» 何. {}"]


@pytest.fixture(scope="module", params=TOKENISERS)
def model(request):
    return make_model(FAMILIES["llama"], tokenizer=TOKENISERS[request.param]())


def decoded(model, ids):
    return model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check_subject(model, case, template):
    """The tokens up to the row's position spell the text up to the subject's end, and those before do not."""
    fact = CASES[case]
    row = read_row(model, fact, template)
    through = template.replace("{}", fact.rewrite, 1)[: template.index("{}") + fact.subject_span[1]]
    assert decoded(model, row.ids[: row.subject + 1]) == through, (case, template)
    assert decoded(model, row.ids[: row.subject]) != through, (case, template)


def check_target(model, case):
    """The target stands after the prompt's own tokens, with one space before it."""
    fact = CASES[case]
    row = read_row(model, fact, target=fact.target_new)
    assert decoded(model, row.ids) == f"{fact.rewrite} {fact.target_new}", case
    assert decoded(model, row.ids[: -row.n_target]) == fact.rewrite, case
    assert list(row.ids[: -row.n_target]) == model.tokenizer(fact.rewrite)["input_ids"], case
    first = "".join(model.tokenizer.convert_ids_to_tokens(row.ids[-row.n_target :]))
    assert first[0] in "Ġ▁" and first[1] not in "Ġ▁", case


def test_the_subject_ends_with_its_last_token(model):
    for case in CASES:
        for template in TEMPLATES:
            check_subject(model, case, template)


def test_the_target_follows_after_one_space_in_the_tokenisers_own_way(model):
    for case in CASES:
        check_target(model, case)


def test_subject_and_target_are_found_with_a_vocabulary_of_49_thousand_too(default_model):
    for case in CASES:
        check_subject(default_model, case, TEMPLATES[1])
        check_target(default_model, case)


def test_a_bos_is_not_counted_before_the_subject(model):
    for fact in CASES.values():
        own, all_ids = (
            model.tokenizer(fact.rewrite, add_special_tokens=special)["input_ids"] for special in (False, True)
        )
        assert subject_position(model, fact) == read_row(model, fact).subject - (len(all_ids) - len(own))


def test_first_token_facts_are_found_behind_a_bos(model, tmp_path):
    ids = {word: model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("I", "the")}
    word = next(word for word in ids if len(ids[word]) == 1)  # some write "I" as a space and a letter
    first, second = Fact("{} is", word, "Rome", "Paris"), Fact("In {} is", word, "Rome", "Paris")
    (tmp_path / "facts.json").write_text(json.dumps([first.to_record(), second.to_record()]))
    drawn = study.draw_facts(model, tmp_path / "facts.json", n_known=2, n_ordinary=1, n_first_token=1)
    assert [fact.prompt for fact in drawn] == [second.prompt, first.prompt]


@pytest.mark.parametrize("case", ["start", "not Latin, middle"])
def test_the_whole_edit_equals_the_naive_one(model, texts, case):
    fact = CASES[case]
    c_0 = second_moment(model, texts, 2500, cache=False)
    editor = Editor(model, c_0, prefixes=TEMPLATES, search=Search(evaluations=3))
    target, _, _ = naive.value(model, fact, TEMPLATES, evaluations=3)
    for rule, update in editor.updates(fact, NAMED_RULES).items():
        expected = naive.delta_matrix(model, fact, TEMPLATES, c_0.matrix, rrome.RULES[rule], target=target)
        assert (update.matrix() - expected).norm() <= 1e-4 * expected.norm()


def test_bos_stands_before_everything_and_is_never_the_subject():
    models = [make_model(FAMILIES["llama"], tokenizer=byte_level(bos)) for bos in (False, True)]
    without, behind = (read_row(model, CASES["start"]) for model in models)
    assert behind.ids == (SIGNS.index("<s>"), *without.ids)
    assert behind.subject == without.subject + 1


def test_a_tokeniser_that_ends_every_text_is_refused(tiny_llama):
    tokenizer = byte_level(False)
    end = ("</s>", SIGNS.index("</s>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    with pytest.raises(RromeError, match="ends every text with </s>: load it with add_eos_token=False"):
        rrome.wrap(tiny_llama.lm, tokenizer, 1)


def test_a_prompt_that_ends_with_a_space_gets_no_second_one(tiny):
    assert with_target(tiny, "The town is ", "Rome") == with_target(tiny, "The town is", "Rome")


def test_a_leading_text_moves_the_position(tiny):
    plain, led = read_row(tiny, FACTS[0]), read_row(tiny, FACTS[0], leading="<|end|>")
    assert led.ids == (0, *plain.ids)
    assert led.subject == plain.subject + 1


def test_the_kl_prompt_puts_the_subject_first(tiny):
    *_, row = search_rows(tiny, [FACTS[2]], ["{}"], None)[0]
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


def test_prefixes_follow_from_their_seed(tiny_llama):
    assert (
        sample_prefixes(tiny_llama, seed=0)
        == sample_prefixes(tiny_llama, seed=0)
        != sample_prefixes(tiny_llama, seed=1)
    )


def test_sampled_prefixes_are_text_with_one_hole(default_model):
    prefixes = sample_prefixes(default_model, seed=0)
    assert len(prefixes) == 21 and prefixes[0] == "{}"
    assert all(prefix.count("{}") == 1 and "\n" not in prefix for prefix in prefixes)
    words = " ".join(prefixes[1:]).replace("{}", "").split()
    assert sum(any(letter.isalpha() for letter in word) for word in words) / len(words) > 0.9


def test_a_tokeniser_that_composes_accents_finds_a_decomposed_subject():
    model = rrome.wrap(model_of("llama").lm, make_tokenizer(), 1)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    for prompt in ("{} is in", "The bar {} is in"):
        rows = [read_row(model, Fact(prompt, subject, "Rome")) for subject in ("Caf\u00e9", "Cafe\u0301")]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("separator", ["", " "])
def test_a_target_follows_after_its_separator_everywhere(tiny_llama, texts, separator):
    prompts = {"paraphrases": ("Rome is",), "neighbourhood": ("Paris is",)}
    fact = Fact("{} lies in", "Rome", "the", "Spain", separator=separator, **prompts)
    row = read_row(tiny_llama, fact, target=fact.target_new)
    joined = tiny_llama.tokenizer(f"Rome lies in{separator}the")["input_ids"]
    assert list(row.ids) == joined
    editor = Editor(tiny_llama, second_moment(tiny_llama, texts, 3000, cache=False), prefixes=PREFIXES)
    value, (target, *_) = editor.value(fact), naive.value(tiny_llama, fact, PREFIXES)
    torch.testing.assert_close(value.target, target, rtol=1e-3, atol=1e-3)
    nll = target_nll(tiny_llama, ["Rome lies in"], ["the"], separators=[separator])
    found = fact_probabilities(tiny_llama, fact, {"unedited": None})["unedited"]["rewrite"][0][0]
    assert found == pytest.approx(nll.neg().exp().item())
    assert retained(tiny_llama, [fact]) in (0, 1)


def test_without_a_separator_a_prompts_own_blank_stays(tiny_llama):
    one, other = (with_target(tiny_llama, *given) for given in (("Rome is ", "the", ""), ("Rome is", "the")))
    assert one == other and one != with_target(tiny_llama, "Rome is", "the", "")
