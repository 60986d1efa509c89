import json

import matplotlib
import numpy as np
import pandas as pd
import pytest

from rrome import plots
from rrome.measure.metrics import COLUMNS
from rrome.study import survival
from rrome.update.rules import NAMED_RULES, RULES

matplotlib.use("agg")

SAID = pd.DataFrame(
    {
        "subject": ["Italy"] * 4,
        "prompt": ["Italy is in"] * 4,
        "target_new": ["Antarctica"] * 4,
        "rule": ["unedited", *NAMED_RULES],
        "delta_frobenius": [None, 900.0, 190.0, 34.0],
        "entropy": [0.9, 0.1, 0.9, 0.9],
        "entropy_tokens": [0.8, 0.05, 0.8, float("nan")],
        "perplexity": [19.0, 210.0, 19.1, 18.9],
        "text": ["Europe. " * 40, "what $x$ \U0001f4a1 what", "", "日本 Antarctica"],
    }
)


def test_every_figure_of_speed_and_layers_can_be_drawn():
    cost = pd.DataFrame({"what": ["one edit"], "seconds_batched": [9.0], "seconds_ours": [1.0], "floor_seconds": [0.7]})
    growth = pd.DataFrame(
        {"varied": list("aabb"), "size": [1, 2] * 2, "seconds": [1.0] * 4, "floor_seconds": [0.5] * 4}
    )
    layers = pd.DataFrame(0.5, [7, 9], ["ES", "PS", "NS", "S", "S_low", "S_high", *(f"times_{r}" for r in NAMED_RULES)])
    depth = pd.DataFrame({"rule": [*RULES] * 2, "layer": [7] * 8 + [9] * 8, "norm_original": 1.0, "norm_v0": 2.0})
    figures = [
        plots.speed(cost, growth),
        plots.layer_choice(layers),
        plots.depth_map(depth.assign(perplexity_ratio=[1, 3, 999, 2e4, 9e7, 1, 1, 1] * 2)),
    ]
    for figure in figures:
        figure.canvas.draw()
    assert {text.get_text() for text in figures[-1].axes[1].texts} >= {"", "3", "999", "20k", "9e7"}


def test_saving_leaves_picture_vector_data_and_provenance(tmp_path):
    figure = plots.disabling_edit(SAID)
    files = plots.save_figure(figure, SAID, "fig", tmp_path / "new", alt="What it says", provenance={"layer": 9})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["fig.csv", "fig.json", "fig.pdf", "fig.png"]
    assert all(path.stat().st_size for path in files)
    table = pd.read_csv(tmp_path / "new" / "fig.csv", keep_default_na=False)
    assert list(table.columns) == list(SAID.columns) and list(table["text"]) == list(SAID["text"])
    record = json.loads((tmp_path / "new" / "fig.json").read_text())
    assert record["alt"] == "What it says" and record["layer"] == 9 and record["rows"] == 4
    assert b"/Type3" not in (tmp_path / "new" / "fig.pdf").read_bytes()


def test_the_same_data_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        plots.save_figure(plots.disabling_edit(SAID), SAID, "fig", tmp_path / folder, alt="x", provenance={})
    for suffix in ("png", "pdf", "csv", "json"):
        assert (tmp_path / "one" / f"fig.{suffix}").read_bytes() == (tmp_path / "two" / f"fig.{suffix}").read_bytes()


def test_text_is_shortened_to_what_the_font_can_show():
    assert plots.examples.shortened("", 20, 2) == "(nothing)"
    assert plots.examples.shortened("costs $5 \U0001f4a1\n\nnow", 40, 2) == "costs \\$5 \u25af now"
    lines = plots.examples.shortened("word " * 100, 20, 3).split("\n")
    assert len(lines) == 3 and all(len(line) <= 20 for line in lines) and lines[-1].endswith("\u2026")


def test_every_named_rule_has_a_colour_and_a_second_channel():
    rules = ["unedited", *NAMED_RULES]
    for channel in (plots.save.COLOURS, plots.save.MARKERS, plots.save.DASHES, plots.save.NAMES):
        assert len({channel[rule] for rule in rules}) == len(rules)


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


def test_figure_2_has_a_row_for_each_measure_that_was_taken(edits):
    tokens = edits.assign(entropy_tokens=0.5)
    for table, says in (
        (tokens, ["entropy of words", "entropy of tokens", "perplexity (log scale)"]),
        (tokens.assign(entropy=np.nan), ["entropy of tokens", "perplexity (log scale)"]),
        (edits, ["entropy of words", "perplexity (log scale)"]),
    ):
        figure = plots.delta_scatter(table)
        figure.canvas.draw()
        assert [panel.get_ylabel() for panel in figure.axes[::3]] == ["edits", *says]
        assert [sum(bar.get_height() for bar in panel.patches) for panel in figure.axes[:3]] == [9, 9, 9]


def test_every_figure_of_the_single_edits_can_be_drawn(edits):
    named = edits[edits["rule"].isin(NAMED_RULES)]
    broken = edits["perplexity"] > 20.5
    led = named.assign(leading="a", norm_leading=9.0, norm_original=5.0)
    sizes = pd.concat(
        [named.assign(tokens=n, seconds=n / 9, cosine=n / 200, refused=None) for n in (100, 200)]
        + [pd.DataFrame({"tokens": [50], "refused": ["too few"]})]
    )
    figures = [
        plots.delta_scatter(edits),
        plots.key_grid(edits),
        plots.preflight_roc(edits, "rome", broken, (0.9, 0.8, 1.0)),
        plots.prefixed_efficacy(named),
        plots.amplification_scatter(named.assign(cos_c=0.5, **{f"amplification_{r}": 0.3 for r in NAMED_RULES})),
        plots.leading_tokens(led),
        plots.text_sizes(sizes, 64, 150),
        plots.text_sizes(sizes[sizes["refused"].isna()], 64, 150),
    ]
    for figure in figures:
        figure.canvas.draw()


def test_a_filter_is_drawn_at_the_eigenvalues_that_it_keeps():
    table = pd.DataFrame({"eigenvalue": [1e-4, 1e-2, 1.0], "all": [1e4, 1e2, 1.0], "small": [5.0, 5.0, 0.0]})
    figure = plots.spectrum(table)
    figure.canvas.draw()
    everything, small = (np.isfinite(line.get_ydata(orig=False)).sum() for line in figure.axes[1].lines[:2])
    assert (everything, small) == (3, 2)


def test_every_method_has_a_line_and_every_second_moment_and_layer_a_panel(edits):
    table = edits.assign(method=edits["rule"], stratum=np.where(edits["position"].eq(0), "first-token", "ordinary"))
    table = table.assign(share_written=0.5, preservation=2.0)
    figure = plots.what_came_after(table[table["method"].isin(["unedited", "rome", "aao"])])
    figure.canvas.draw()
    assert [panel.get_title("left") for panel in figure.axes][:2] == ["share written", "ES"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["unedited", "rome", "aao"]
    pair = edits[edits["rule"].isin(["rome", "r-rome"])].assign(gain=0.1, perplexity_ratio=2.0)
    moments = pd.concat([pair.assign(second_moment=name, layer=layer) for layer in (7, 9) for name in "CI"])
    figure = plots.identity_second_moment(moments)
    figure.canvas.draw()
    titles = ["layer 7, C", "layer 7, I", "layer 9, C", "layer 9, I"]
    assert [panel.get_title("left") for panel in figure.axes] == titles


@pytest.mark.parametrize("outcome, says", [(False, "no edit breaks the model"), (True, "every edit breaks the model")])
def test_a_model_that_nothing_or_everything_breaks_has_no_roc_curve(edits, outcome, says):
    figure = plots.preflight_roc(edits, "rome", pd.Series(outcome, edits.index), (np.nan,) * 3)
    assert says in figure.axes[1].get_title(loc="left") and len(figure.axes[1].lines) == 1  # the diagonal


def test_the_largest_outliers_are_named_once_and_panels_share_their_axes(edits):
    edits.loc[edits["position"].eq(0) & edits["rule"].ne("p-rome"), "delta"] *= 100
    edits.loc[edits["subject"].isin(["Town 0", "Town 3"]), "subject"] = "Town"
    figure = plots.delta_scatter(edits)
    panels = figure.axes[-3:]
    assert len({panel.get_xlim() for panel in panels}) == len({panel.get_ylim() for panel in panels}) == 1
    for rule, panel in zip(NAMED_RULES, panels, strict=True):
        assert {text.get_text() for text in panel.texts} == (set() if rule == "p-rome" else {"Town", "Town 6"})
        assert panel.get_xscale() == panel.get_yscale() == "log"


def scorecard(**changes):
    """Statements of one unit, as a scorecard holds them."""
    row = {"id": "C2", "role": "core", "statement": "so it is", "unit": "times", "side": "above", "threshold": 10.0}
    return pd.DataFrame([row | {"value": 20.0, "low": 15.0, "high": 30.0, "outcome": "true"} | changes])


def test_a_statement_is_drawn_with_its_interval_and_threshold_and_a_premise_is_not():
    table = pd.concat([scorecard(), scorecard(unit="points", low=np.nan, high=np.nan), scorecard(role="premise")])
    figure = plots.verdicts(table)
    assert len(figure.axes) == 2 and all(len(panel.get_yticks()) == 1 for panel in figure.axes)
    threshold, interval = (lines.get_segments()[0][:, 0] for lines in figure.axes[0].collections[:2])
    assert set(threshold) == {10} and list(interval) == [15, 30]
    (side,) = figure.axes[0].patches
    assert side.get_x() == 10 and side.get_width() > 0


def test_statements_about_which_nothing_was_measured_can_be_drawn():
    nothing = scorecard(value=np.nan, low=np.nan, high=np.nan, outcome="open", unit="area")
    plots.verdicts(pd.concat([nothing, scorecard(value=1e30, low=np.nan)])).canvas.draw()


def test_an_interval_is_drawn_as_it_was_given():
    rows = pd.DataFrame({"kind": "mlp", "layer": [0, 1], "effect": [0.2, 0.9], "low": [0.1, 0.3], "high": [0.7, 0.8]})
    _, panel = plots.save.subplots()  # at layer 1 the value lies outside its interval, and stays so
    looks = {"sort": False, **plots.INTERVAL}
    plots.save.lines(panel, plots.with_interval(rows, "effect"), "layer", "effect", "kind", **looks)
    assert list(panel.lines[0].get_xdata()) == [0, 1] and list(panel.lines[0].get_ydata()) == [0.2, 0.9]
    edges = {tuple(point) for point in panel.collections[0].get_paths()[0].vertices.tolist()}
    assert {(0, 0.1), (0, 0.7), (1, 0.3), (1, 0.8)} <= edges


def test_drawing_leaves_numpys_generator_alone_and_jitter_does_not_change(edits, tmp_path):
    state = np.random.get_state()[1].copy()
    files = [plots.save_figure(plots.key_grid(edits), edits, name, tmp_path, alt="x", provenance={}) for name in "ab"]
    assert files[0][1].read_bytes() == files[1][1].read_bytes()
    assert (np.random.get_state()[1] == state).all()


def test_a_page_is_saved_with_its_table_and_provenance(tmp_path):
    files = plots.save_files({".md": "# Page\n"}, SAID, "page", tmp_path, provenance={"seed": 0})
    assert [file.name for file in files] == ["page.csv", "page.md", "page.json"]
    assert files[1].read_text() == "# Page\n" and json.loads(files[2].read_text())["seed"] == 0


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
    figure = plots.collapse_curves(curves, ["r-rome", "p-rome"], {"task": 0.5}, disabling)
    assert len(figure.axes) == 8
    delta = figure.axes[4]
    assert delta.get_ylim() == figure.axes[5].get_ylim() and delta.get_ylim()[1] >= 400
    assert [text.get_text() for text in delta.texts] == ["Italy"]
    assert len(plots.collapse_curves(curves, ["rome"], {"task": 0.5}, disabling).axes) == 4


def test_survival_has_a_panel_per_kind_and_a_step_per_rule():
    runs = pd.DataFrame({"rule": ["rome", "rome", "emmet", "emmet"], "collapse": [2, 5, None, None], "edits": 10})
    table = pd.concat([survival(runs).assign(what=what) for what in ("the model", "its edits")])
    figure = plots.survival_curves(table)
    assert [text.get_text() for text in figure.legends[0].texts] == ["ROME", "emmet"]
    assert [panel.get_title("left") for panel in figure.axes] == ["the model", "its edits"]
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [line.get_drawstyle() for line in drawn] == ["steps-post"] * 2
    assert list(drawn[0].get_ydata()) == [1, 0.5, 0]


@pytest.fixture
def measured():
    """A table of metrics: r-rome's PS is the better one, and its GE is not known."""
    columns = [f"{name}{end}" for name in COLUMNS for end in ("", "_low", "_high")]
    table = pd.DataFrame(50.0, index=[0, 1], columns=columns).assign(rule=["rome", "r-rome"], facts=7)
    table = table.assign(**{f"{name}_best": False for name in COLUMNS} | {"PS_best": [False, True]})
    return table.assign(PS=[40.0, 60.0], GE=[400.0, None], GE_low=[390.0, None], GE_high=[410.0, None])


def test_the_table_is_written_in_four_forms(measured, tmp_path):
    table = measured
    published = {
        "model": "GPT2-XL",
        "table": {"rome": dict.fromkeys(COLUMNS, 50.0)},
    }
    files = plots.save_table(
        table, "table1", tmp_path, sample="facts of a test", published=published, provenance={"seed": 0}
    )
    assert sorted(path.name for path in files) == ["table1.csv", "table1.json", "table1.md", "table1.tex"]
    assert {"rule", "ES", "ES_low", "S_high"} <= set(pd.read_csv(tmp_path / "table1.csv").columns)
    markdown = (tmp_path / "table1.md").read_text()
    assert markdown.startswith("7 facts of a test. Per cent,")
    assert "ROME, GPT2-XL (published)" in markdown and markdown.count("**") == 2
    latex = (tmp_path / "table1.tex").read_text()
    assert r"95 \% intervals" in latex and "\\toprule" in latex and "\\textbf{" in latex and "\\bottomrule" in latex


def test_the_best_of_a_column_is_marked(measured):
    unedited = measured[measured["rule"].eq("rome")].assign(rule="unedited", PS=100.0)
    table = pd.concat([unedited, measured])
    text = plots.as_text(table, mark="<{}>")
    assert (
        text.loc["r-ROME", "PS"].startswith("<")
        and text.loc["unedited", "PS"].startswith("100.0")
        and text.loc["r-ROME", "GE"] == "–"
    )


def test_predicted_damage_has_a_panel_per_rule_and_three_lines():
    edits = pd.DataFrame(
        {"rule": ["rome", "rome", "aao"], "position": [0, 3, 0], "amplification_rome": [20.0, 0.5, 20.0]}
    )
    figure = plots.predicted_damage(edits.assign(ratio=[50.0, 1.0, 1.0]), safe=2, alarm=10)
    assert [panel.get_title("left") for panel in figure.axes] == ["ROME", "aao"]
    points = [points.get_offsets().tolist() for points in figure.axes[0].collections]
    assert points == [[[0.5, 1.0]], [[20.0, 50.0]]]
    assert sorted(line.get_xdata()[0] for line in figure.axes[0].lines) == [0, 2, 10]
