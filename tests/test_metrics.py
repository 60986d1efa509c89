import pytest

from rrome.metrics import distinct_share, entropy, normalised_entropy, words_of


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
