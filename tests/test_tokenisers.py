import pytest
from conftest import CONFIGS, make_model
from tokenisers import SIGNS, TOKENISERS, byte_level
from tokenizers import processors

import rrome
from rrome import Editor, Fact, RromeError, Search, naive, second_moment, study
from rrome.model.tokens import read_row, subject_position, with_target
from rrome.update.rules import NAMED_RULES

CASES = {
    "start": Fact("{} is located in the continent of", "Italy", "Antarctica"),
    "middle": Fact("The mother tongue of {} is", "Bill Gates", "old, cold language"),
    "end": Fact("A cold town called {}", "Paris", "Rome"),
    "twice": Fact("{} or the other {{Paris}}: is Paris in", "Paris", "Rome"),
    "again after": Fact("In Rome they say that {} is near Rome and", "Rome", "Paris"),
    "quoted": Fact('They call it "{}". It lies on the', "Eiffel Tower", "river"),
    "not Latin": Fact("{} is the capital of", "東京", "日本"),
    "not Latin, middle": Fact("The town of {} is in", "Москва", "Россия"),
    "right to left": Fact("People say {} is in", "القاهرة", "Africa"),
    "accents": Fact("The lake of {} is", "Zürich", "très froid"),
    "emoji": Fact("The sign {} is said to mean", "👩‍🚀", "a ship 🚢"),
    "digits": Fact("The ship {} sailed in", "U-96", "1941"),
}
TEMPLATES = ["{}", "A ship sailed at noon. {}", "«Où?» 何. {}"]


@pytest.fixture(scope="module", params=TOKENISERS)
def model(request):
    return make_model(CONFIGS["llama"], tokenizer=TOKENISERS[request.param]())


def decoded(model, ids):
    return model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("case", CASES)
def test_the_subject_ends_with_its_last_token(model, case, template):
    fact = CASES[case]
    row = read_row(model, fact, template)
    through = template.replace("{}", fact.rewrite, 1)[: template.index("{}") + fact.subject_span[1]]
    assert decoded(model, row.ids[: row.subject + 1]) == through
    assert decoded(model, row.ids[: row.subject]) != through


@pytest.mark.parametrize("case", CASES)
def test_the_target_follows_after_one_space_in_the_tokenisers_own_way(model, case):
    fact = CASES[case]
    row = read_row(model, fact, target=fact.target_new)
    assert decoded(model, row.ids) == f"{fact.rewrite} {fact.target_new}"
    assert decoded(model, row.ids[: -row.n_target]) == fact.rewrite
    assert list(row.ids[: -row.n_target]) == model.tokenizer(fact.rewrite)["input_ids"]
    first = "".join(model.tokenizer.convert_ids_to_tokens(row.ids[-row.n_target :]))
    assert first[0] in "Ġ▁" and first[1] not in "Ġ▁"


@pytest.mark.parametrize("case", CASES)
def test_a_bos_is_not_counted_before_the_subject(model, case):
    fact = CASES[case]
    row = read_row(model, fact)
    own = model.tokenizer(fact.rewrite, add_special_tokens=False)["input_ids"]
    assert subject_position(model, fact) == row.subject - (len(model.tokenizer(fact.rewrite)["input_ids"]) - len(own))


def test_first_token_facts_are_found_behind_a_bos(model):
    first, second = Fact("{} is", "I", "Rome", "Paris"), Fact("In {} is", "I", "Rome", "Paris")
    if len(model.tokenizer("I", add_special_tokens=False)["input_ids"]) > 1:
        pytest.skip("this tokeniser writes the letter as a space and a letter")
    assert study.strata(model, [first, second], 1, 1) == ([second], [first])


def test_a_prompt_that_ends_with_a_space_gets_no_second_one(model):
    assert with_target(model, "The town is ", "Rome") == with_target(model, "The town is", "Rome")


@pytest.mark.parametrize("case", ["start", "not Latin, middle"])
def test_the_whole_edit_equals_the_naive_one(model, texts, case):
    fact = CASES[case]
    if len(model.tokenizer) > 1000:
        pytest.skip("a tiny model of a large vocabulary is large")
    c_0 = second_moment(model, texts, 2500, cache=False)
    editor = Editor(model, c_0, prefixes=TEMPLATES, search=Search(evaluations=3))
    target, _, _ = naive.value(model, fact, TEMPLATES, evaluations=3)
    for rule, update in editor.updates(fact, NAMED_RULES).items():
        expected = naive.delta_matrix(model, fact, TEMPLATES, c_0.matrix, rrome.RULES[rule], target=target)
        assert (update.matrix() - expected).norm() <= 1e-4 * expected.norm()


def test_bos_stands_before_everything_and_is_never_the_subject():
    models = [make_model(CONFIGS["llama"], tokenizer=byte_level(bos)) for bos in (False, True)]
    without, behind = (read_row(model, CASES["start"]) for model in models)
    assert behind.ids == (SIGNS.index("<s>"), *without.ids)
    assert behind.subject == without.subject + 1


def test_a_tokeniser_that_ends_every_text_is_refused(tiny_llama):
    tokenizer = byte_level(False)
    end = ("</s>", SIGNS.index("</s>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    with pytest.raises(RromeError, match="ends every text with </s>: load it with add_eos_token=False"):
        rrome.wrap(tiny_llama.lm, tokenizer, 1)
