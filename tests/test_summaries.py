import numpy as np
import pandas as pd
import pytest

from rrome import RromeError
from rrome.measure.metrics import auc, harmonic_score, interval, metrics_table, paired_differences
from rrome.plots import save as tables

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
    assert table["PS"] == pytest.approx(100 * there["PS"].mean()) and table["ES_low"] == 100
    assert table["S"] == pytest.approx(100 * harmonic_score(*there[["ES", "PS", "NS"]].to_numpy().T))
    assert np.isnan(metrics_table(edits.assign(NS=np.nan)).set_index("rule").loc["rome", "S"])


def test_paired_differences_see_what_unpaired_intervals_do_not(edits):
    found = paired_differences(edits, "r-rome", "rome", ["PS", "NS", "S"])
    assert (
        found.loc["PS", "difference"] == pytest.approx(20) and found.loc["PS", "high"] - found.loc["PS", "low"] < 1e-6
    )
    assert found.loc["NS", ["difference", "low", "high"]].abs().max() < 1e-9
    table = metrics_table(edits).set_index("rule")["S"]
    assert found.loc["S", "difference"] == pytest.approx(table["r-rome"] - table["rome"])
    with pytest.raises(RromeError, match="no rule 'p-rome'"):
        paired_differences(edits, "p-rome", "rome")


def test_auc_by_hand():
    area, low, high = auc(pd.Series([1, 2, 3, 4]), pd.Series([False, False, True, True]))
    assert area == low == high == 1
    assert auc(pd.Series([4, 3, 2, 1]), pd.Series([False, False, True, True]))[0] == 0
    assert auc(pd.Series([1, 2, 1, 2]), pd.Series([False, True, True, False]))[0] == 0.5
    for outcome in (False, True):  # nothing to tell apart, as in a model that no edit breaks
        assert np.isnan(auc(pd.Series([1, 2]), pd.Series([outcome, outcome]))).all()


def test_the_table_is_written_in_four_forms(edits, tmp_path):
    table = metrics_table(edits)
    published = {
        "model": "GPT2-XL",
        "table": {"rome": dict.fromkeys(("ES", "PS", "NS", "EM", "PM", "NM", "GE", "S"), 50.0)},
    }
    files = tables.save_table(table, "table1", tmp_path, published=published, provenance={"seed": 0})
    assert sorted(path.name for path in files) == ["table1.csv", "table1.json", "table1.md", "table1.tex"]
    assert {"rule", "ES", "ES_low", "S_high"} <= set(pd.read_csv(tmp_path / "table1.csv").columns)
    markdown = (tmp_path / "table1.md").read_text()
    assert "ROME, GPT2-XL (published)" in markdown and markdown.count("**") >= 2
    latex = (tmp_path / "table1.tex").read_text()
    assert "\\toprule" in latex and "\\textbf{" in latex and "\\bottomrule" in latex
    assert "font-weight: bold" in tables.styled(table, published).to_html()


def test_the_best_of_a_column_is_marked_and_the_unedited_model_does_not_compete(edits):
    unedited = edits[edits["rule"].eq("rome")].assign(rule="unedited", PS=1.0)
    table = metrics_table(pd.concat([unedited, edits]))
    assert tables.best_rules(table)["PS"] == "r-rome"
    text = tables.as_text(table, mark="<{}>")
    assert text.loc["r-ROME", "PS"].startswith("<") and text.loc["r-ROME", "GE"] == "–"
