import math

import pytest

from rrome.measure.metrics import (
    distinct_share,
    entropy,
    fact_metrics,
    ngram_entropy,
    normalised_entropy,
    score,
    words_of,
)


def test_words_are_lower_case_and_without_full_stops():
    assert words_of("Italy is. italy IS.\n") == ["italy", "is", "italy", "is"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", 0.0),
        ("italy Italy ITALY. Italy", 0.0),
        ("all four words differ", 1.0),
        ("a a b b", 1.0),
        ("a a a b", 0.8112781244591328),
        ("a a b c", 1.5 / 1.584962500721156),
    ],
)
def test_normalised_entropy_by_hand(text, expected):
    assert normalised_entropy(text) == pytest.approx(expected)


def test_entropy_in_bits():
    assert entropy([1, 1, 1, 1]) == 2 and entropy([5]) == 0 and entropy([]) == 0


def test_distinct_share_sees_a_repeated_phrase_that_entropy_misses():
    assert distinct_share("the answer is 1. " * 10) == pytest.approx(4 / 40)
    assert normalised_entropy("the answer is 1. " * 10) == pytest.approx(1)
    assert distinct_share("") == 0


def test_generation_entropy_by_hand():
    # "a b c d": three 2-grams and two 3-grams, all different
    assert ngram_entropy("a b c d") == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * 1) / 2)
    assert ngram_entropy("Italy " * 50) == 0
    assert ngram_entropy("") == 0


def test_metrics_of_one_fact_by_hand():
    measured = fact_metrics(
        {
            "rewrite": [(0.9, 0.1)],
            "paraphrase": [(0.6, 0.2), (0.1, 0.3)],
            "neighbourhood": [(0.1, 0.5), (0.2, 0.6), (0.4, 0.4), (0.5, 0.1)],
        }
    )
    assert math.isnan(measured.pop("ES_prefixed"))
    assert measured == pytest.approx({"ES": 1, "PS": 0.5, "NS": 0.5, "EM": 0.8, "PM": 0.1, "NM": 0.1})


def test_efficacy_after_prefixes_is_counted_apart():
    measured = fact_metrics({"rewrite": [(0.1, 0.9)], "prefixed": [(0.9, 0.1), (0.9, 0.1), (0.1, 0.9), (0.5, 0.5)]})
    assert (measured["ES"], measured["ES_prefixed"]) == (0, 0.5)


def test_metrics_without_prompts_are_not_zero_but_missing():
    assert math.isnan(fact_metrics({"rewrite": [(0.9, 0.1)]})["PS"])


def test_the_score_is_the_harmonic_mean():
    assert score(1, 1, 0.5) == pytest.approx(0.75)
    assert score(1, 0, 1) == 0
