import pandas as pd

from rrome.plots.sequential import collapse_curves, survival_curves
from rrome.study.collapse import survival


def curve(scale):
    return pd.DataFrame(
        {
            "edits": range(5),
            "delta": [0, *(scale * n for n in range(1, 5))],
            "perplexity": 10.0,
            "task": [0.9, None, None, None, 0.5],
        }
    )


def test_every_rule_has_a_column_on_common_axes_and_the_others_stand_behind():
    curves = {"rome": curve(100.0), "r-rome": curve(1.0), "p-rome": curve(2.0)}
    disabling = {rule: pd.DataFrame({"edit": [2], "delta": [9.0], "subject": ["Italy"]}) for rule in curves}
    figure = collapse_curves(curves, ["r-rome", "p-rome"], {"task": 0.5}, disabling)
    assert len(figure.axes) == 8
    delta = figure.axes[4]
    assert delta.get_ylim() == figure.axes[5].get_ylim() and delta.get_ylim()[1] >= 400
    assert [text.get_text() for text in delta.texts] == ["Italy"]
    assert len(collapse_curves(curves, ["rome"], {"task": 0.5}, disabling).axes) == 4


def test_survival_has_a_step_per_rule():
    runs = pd.DataFrame({"rule": ["rome", "rome", "r-rome", "r-rome"], "collapse": [2, 5, None, None], "edits": 10})
    figure = survival_curves(survival(runs))
    assert [line.get_label() for line in figure.axes[0].lines] == ["ROME", "r-ROME"]
