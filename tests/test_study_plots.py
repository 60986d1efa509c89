import matplotlib
import numpy as np
import pandas as pd
import pytest

from rrome import plots as study_plots
from rrome.update.rules import NAMED_RULES, RULES

matplotlib.use("agg")


@pytest.fixture
def edits():
    rng = np.random.default_rng(0)
    rows = [
        {
            "fact": fact, "subject": f"Town {fact}", "rule": rule, "position": fact % 3, "delta": rng.random() / 10 + 0.1,
            "delta_frobenius": rng.random() + 0.1, "entropy": rng.random(), "perplexity": 20 + rng.random(),
            "amplification_rome": rng.random(), "ES": 1.0, "PS": rng.random(), "NS": rng.random(), "ES_prefixed": 0.5,
        }
        for fact in range(9)
        for rule in ("unedited", *RULES)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_every_figure_can_be_drawn(edits):
    named = edits[edits["rule"].isin(NAMED_RULES)]
    broken = edits["perplexity"] > 20.5
    survey = pd.DataFrame({"token": ["", "a"], "norm_leading": [None, 9.0], "norm_behind": [90.0, 5.0]})
    led = named.assign(leading="a", norm_leading=9.0, norm_original=5.0)
    sizes = pd.concat(
        [named.assign(tokens=n, seconds=n / 9, cosine=n / 200, refused=None) for n in (100, 200)]
        + [pd.DataFrame({"tokens": [50], "refused": ["too few"]})]
    )
    figures = [
        study_plots.delta_scatter(named),
        study_plots.key_grid(edits),
        study_plots.preflight_roc(edits, "rome", broken, (0.9, 0.8, 1.0)),
        study_plots.prefixed_efficacy(named),
        study_plots.sink_survey(survey, ["a"]),
        study_plots.leading_tokens(led),
        study_plots.text_sizes(sizes, 64, 150),
        study_plots.text_sizes(sizes[sizes["refused"].isna()], 64, 150),
    ]
    for figure in figures:
        figure.canvas.draw()


@pytest.mark.parametrize("outcome, says", [(False, "no edit breaks the model"), (True, "every edit breaks the model")])
def test_a_model_that_nothing_or_everything_breaks_has_no_roc_curve(edits, outcome, says):
    figure = study_plots.preflight_roc(edits, "rome", pd.Series(outcome, edits.index), (np.nan,) * 3)
    assert says in figure.axes[1].get_title(loc="left") and len(figure.axes[1].lines) == 1  # the diagonal


def test_the_largest_outliers_are_named_and_panels_share_their_axes(edits):
    edits.loc[edits["position"].eq(0) & edits["rule"].ne("p-rome"), "delta"] *= 100
    figure = study_plots.delta_scatter(edits[edits["rule"].isin(NAMED_RULES)], labels=2)
    panels = figure.axes[4:7]
    assert len({panel.get_xlim() for panel in panels}) == len({panel.get_ylim() for panel in panels}) == 1
    for rule, panel in zip(NAMED_RULES, panels, strict=True):
        largest = edits[edits["rule"].eq(rule)].nlargest(2, "delta")["subject"]
        assert [text.get_text() for text in panel.texts] == ([] if rule == "p-rome" else list(largest))
        assert panel.get_xscale() == "log"
