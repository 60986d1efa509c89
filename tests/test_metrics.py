import math

import numpy as np
import pandas as pd
import pytest

from rrome import RromeError
from rrome.measure.metrics import (
    auc,
    distinct_share,
    entropy,
    fact_metrics,
    harmonic_score,
    interval,
    largest_difference,
    metrics_table,
    ngram_entropy,
    normalised_entropy,
    paired_differences,
    score,
    token_entropy,
    words_of,
)


def test_words_are_lower_case_and_without_full_stops():
    assert words_of("Italy is. italy IS.\n") == ["italy", "is", "italy", "is"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("italy Italy ITALY. Italy italy", 0.0),
        ("all these five words differ", 1.0),
        ("a a b b a a b b", 1.0),
        ("a a a b a a a b", 0.8112781244591328),
        ("a a b c a a b c", 1.5 / 1.584962500721156),
        ("four words are few", math.nan),
        ("", math.nan),
        ("意大利位于欧洲，首都是罗马，风景优美。", math.nan),  # healthy, in a language without spaces
        ("ISTORY" * 20, math.nan),  # broken, without spaces
    ],
)
def test_normalised_entropy_by_hand(text, expected):
    assert normalised_entropy(text) == pytest.approx(expected, nan_ok=True)


def test_the_entropy_of_tokens_tells_a_healthy_text_from_few_tokens_over_and_over():
    assert token_entropy(list("意大利位于欧洲首都是罗马")) == pytest.approx(1)
    assert token_entropy([7] * 20) == 0 and token_entropy([1, 1, 2, 2]) == 0.5
    for broken in (["IST", "ORY"] * 10, list("罗马" * 10), ["the", "city", "of", "Rome", "is"] * 8):
        assert token_entropy(broken) < 0.5
    assert np.isnan(token_entropy([])) and np.isnan(token_entropy([7]))


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


def test_entropy_and_score_are_what_their_formulas_say():
    counts = np.random.default_rng(0).integers(1, 50, 200).tolist()
    by_hand = sum(-count / sum(counts) * math.log2(count / sum(counts)) for count in counts)
    assert entropy(counts) == pytest.approx(by_hand, abs=1e-12)
    es, ps, ns = np.random.default_rng(0).random((3, 1000))
    assert score(es, ps, ns) == pytest.approx(3 / (1 / es + 1 / ps + 1 / ns), abs=1e-12)
    some = score([1, 0, 0.5, np.nan], [1, 1, 0, 1], [0.5, 0, 1, 1])
    assert some[:3].tolist() == pytest.approx([0.75, 0, 0]) and math.isnan(some[3])


RNG = np.random.default_rng(0)


@pytest.fixture
def edits():
    """Twenty facts; rome's PS is 0.2 below r-rome's on every fact, all else equal; only rome is spoken."""
    base = pd.DataFrame({"fact": range(20), "ES": 1.0, "NS": RNG.random(20), "EM": 0.9, "PM": 0.5, "NM": 0.1})
    ps = 0.3 + 0.5 * RNG.random(20)
    rome = base.assign(rule="rome", PS=ps, GE=400 + 10 * RNG.random(20))
    return pd.concat([rome, base.assign(rule="r-rome", PS=ps + 0.2)], ignore_index=True)


def test_an_interval_holds_the_mean_and_is_seeded():
    sample = RNG.normal(3, 1, 200)
    value, low, high = interval([sample], np.mean)
    assert low < value < high and value == pytest.approx(sample.mean())
    assert high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)
    assert interval([sample], np.mean) == (value, low, high) != interval([sample], np.mean, seed=1)


def test_one_fact_has_no_interval():
    value, low, high = interval([[0.5]], np.mean)
    assert value == 0.5 and np.isnan(low) and np.isnan(high)


def test_facts_that_are_all_alike_have_an_interval_where_their_bounds_are_known():
    assert interval([np.ones(30)], np.mean, bounds=(0, 1)) == pytest.approx((1, 0.9, 1))
    assert interval([np.full(30, 0.5)], np.mean, bounds=(0, 1)) == pytest.approx((0.5, 0.45, 0.55))
    assert interval([np.ones(30)], np.mean) == (1, 1, 1)
    perfect = auc(pd.Series(range(100)), pd.Series([False] * 84 + [True] * 16))
    assert perfect == pytest.approx((1, 0.926, 1), abs=1e-3)  # Newcombe's score interval


def test_s_is_the_harmonic_mean_of_means_and_zero_when_one_is_zero():
    assert harmonic_score([1, 1], [1, 1], [0, 1]) == pytest.approx(0.75)
    assert harmonic_score([1], [0], [1]) == 0


def test_the_table_is_in_per_cent_with_intervals(edits):
    table = metrics_table(edits).set_index("rule")
    assert table.loc["rome", "ES"] == 100 and table.loc["rome", "EM"] == pytest.approx(90)
    rome = edits[edits["rule"].eq("rome")]
    expected = 300 / sum(1 / rome[name].mean() for name in ("ES", "PS", "NS"))
    assert table.loc["rome", "S"] == pytest.approx(expected)
    assert (table["NS_low"] < table["NS"]).all() and (table["NS"] < table["NS_high"]).all()
    assert table.loc["rome", "GE"] == pytest.approx(rome["GE"].mean()) and np.isnan(table.loc["r-rome", "GE"])
    assert table.loc["rome", "facts"] == 20


def test_facts_without_a_kind_of_prompt_are_left_out_of_its_measures_and_of_s(edits):
    edits.loc[edits["fact"].lt(15), "PS"] = np.nan
    table = metrics_table(edits).set_index("rule").loc["rome"]
    there = edits[edits["rule"].eq("rome") & edits["fact"].ge(15)]
    assert table["PS"] == pytest.approx(100 * there["PS"].mean()) and table["ES_low"] == pytest.approx(85)
    assert table["S"] == pytest.approx(100 * harmonic_score(*there[["ES", "PS", "NS"]].to_numpy().T))
    assert np.isnan(metrics_table(edits.assign(NS=np.nan)).set_index("rule").loc["rome", "S"])


def test_paired_differences_see_what_unpaired_intervals_do_not(edits):
    edits.loc[edits["rule"].eq("r-rome"), "PS"] += np.resize([0.01, -0.01], 20)
    found = paired_differences(edits, "r-rome", "rome", ["PS", "NS", "S"])
    table = metrics_table(edits).set_index("rule")
    assert found.loc["PS", "difference"] == pytest.approx(20)
    assert (
        found.loc["PS", "high"] - found.loc["PS", "low"]
        < 3
        < table.loc["rome", "PS_high"] - table.loc["rome", "PS_low"]
    )
    assert found.loc["NS"].to_list() == pytest.approx([0, -15, 15])  # alike: three of twenty could differ by 100 points
    assert found.loc["S", "difference"] == pytest.approx(table.loc["r-rome", "S"] - table.loc["rome", "S"])
    with pytest.raises(RromeError, match="no rule 'p-rome'"):
        paired_differences(edits, "p-rome", "rome")


def test_facts_of_one_subject_do_not_make_an_interval_narrower(edits):
    once = metrics_table(edits.assign(subject=edits["fact"]))
    twice = pd.concat(
        [edits.assign(subject=edits["fact"]), edits.assign(subject=edits["fact"], fact=edits["fact"] + 20)]
    )
    columns = [f"{name}{end}" for name in ("ES", "PS", "NM", "GE", "S") for end in ("", "_low", "_high")]
    pd.testing.assert_frame_equal(metrics_table(twice)[columns], once[columns])
    found = [paired_differences(each, "r-rome", "rome", ["PS", "S"]) for each in (twice, edits)]
    pd.testing.assert_frame_equal(*found)
    untold = edits.assign(subject=edits["fact"].where(edits["rule"].eq("rome")))  # as in a table joined of two
    pd.testing.assert_frame_equal(metrics_table(untold)[columns], once[columns])


def test_best_are_the_rules_not_seen_to_lie_below_the_first(edits):
    rome = edits[edits["rule"].eq("rome")]
    ones = {rule: rome.assign(rule=rule, PS=PS) for rule, PS in {"a": 0.9, "b": 0.9, "c": 0.2, "unedited": 1.0}.items()}
    table = metrics_table(pd.concat(ones.values()).assign(perplexity=20.0)).set_index("rule")
    assert table["PS_best"].to_dict() == {"a": True, "b": True, "c": False, "unedited": False}  # a tie is told alike
    assert not table["ES_best"].any()  # all alike: none is better
    assert table["perplexity"].eq(20).all() and "perplexity" not in metrics_table(edits)
    missing = pd.concat([ones["a"], ones["c"].assign(PS=np.nan)])
    assert not metrics_table(missing)["PS_best"].any()


def test_auc_by_hand():
    area, low, high = auc(pd.Series([1, 2, 3, 4]), pd.Series([False, False, True, True]))
    assert area == high == 1 and 0.3 < low < 0.5  # perfect, of two and two
    assert auc(pd.Series([4, 3, 2, 1]), pd.Series([False, False, True, True]))[0] == 0
    assert auc(pd.Series([1, 2, 1, 2]), pd.Series([False, True, True, False]))[0] == 0.5
    for outcome in (False, True):  # nothing to tell apart, as in a model that no edit breaks
        assert np.isnan(auc(pd.Series([1, 2]), pd.Series([outcome, outcome]))).all()


def test_rows_made_again_are_compared_with_the_stored_ones():
    stored = pd.DataFrame({"case": [1, 2, 3], "size": [10.0, 20.0, np.nan], "ppl": [5.0, 5.0, 5.0]})
    again = pd.DataFrame({"case": [2, 1], "size": [20.2, 10.0], "ppl": [5.0, 5.0]})
    apart = largest_difference(again, stored, ["size", "ppl"], on=["case"])
    assert apart["size"] == pytest.approx(0.01) and apart["ppl"] == 0
    alike = pd.DataFrame({"case": [3], "size": [np.nan], "ppl": [5.0]})
    assert largest_difference(alike, stored, ["size"], on=["case"])["size"] == 0  # measured in neither
    for other in ({"case": [4], "size": [1.0]}, {"case": [3], "size": [1.0]}, {"case": [1], "size": [np.nan]}):
        assert np.isinf(largest_difference(pd.DataFrame(other), stored, ["size"], on=["case"])["size"])


def test_joined_studies_are_no_table_of_more_facts():
    table = pd.DataFrame({"rule": "rome", "fact": [0, 1, 0, 1], "ES": [1.0, 1.0, 0.0, 0.0], "PS": 1.0, "NS": 1.0})
    with pytest.raises(RromeError, match="fact 0 has two rows under rome"):
        metrics_table(table)
    assert metrics_table(table[:2])["facts"].item() == 2
