import math

import numpy as np
import pandas as pd
import pytest

from rrome import RromeError
from rrome.study.collapse import collapse_edit, curve, disabling_edits, survival


def run(perplexities, deltas=None):
    n = len(perplexities)
    edits = pd.DataFrame({"edit": range(1, n + 1), "perplexity": perplexities, "delta": deltas or [1.0] * n})
    return edits.assign(delta_after=edits["delta"].cumsum())


@pytest.mark.parametrize(
    ("perplexities", "edit"),
    [([10, 11, 19], None), ([10, 21, 12], 2), ([10, 20, 30], 3), ([math.nan, 10], 1), ([10, math.inf], 2)],
)
def test_a_run_collapses_when_its_perplexity_doubles(perplexities, edit):
    assert collapse_edit(run(perplexities), unedited=10) == edit


def test_without_a_probe_there_is_no_collapse_to_find():
    with pytest.raises(RromeError, match="give Checks a probe"):
        collapse_edit(run([1]).drop(columns="perplexity"), 1)


def test_disabling_edits_are_the_large_ones():
    assert list(disabling_edits(run([1] * 5, [1, 2, 40, 1, 9]))["edit"]) == [3]


def test_a_curve_starts_at_the_unedited_model():
    points = pd.DataFrame(
        {"edits": [0, 2], "delta": [0, 2.0], "perplexity": [5, 7], "task": [0.9, 0.8], "texts": [[], []]}
    )
    table = curve(run([1, 2]), points)
    assert list(table["edits"]) == [0, 1, 2] and list(table["delta"]) == [0, 1, 2]
    assert list(table["perplexity"]) == [5, 1, 2]
    assert table.loc[0, "task"] == 0.9 and np.isnan(table.loc[1, "task"]) and "texts" not in table


def test_survival_by_hand():
    """Four runs: collapse at 2 and 5, two ended alive after 10 edits."""
    runs = pd.DataFrame({"rule": "rome", "collapse": [2, 5, np.nan, np.nan], "edits": 10})
    table = survival(runs).set_index("edits")
    assert list(table["survived"]) == [1, 0.75, 0.5, 0.5] and list(table.index) == [0, 2, 5, 10]
    assert (table["low"].dropna() <= table.loc[table["low"].notna(), "survived"]).all()
