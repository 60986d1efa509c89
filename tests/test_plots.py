import json

import matplotlib
import pandas as pd
import pytest

from rrome import plots
from rrome.update.rules import NAMED_RULES

matplotlib.use("agg")

SAID = pd.DataFrame(
    {
        "subject": ["Italy"] * 4,
        "prompt": ["Italy is in"] * 4,
        "target_new": ["Antarctica"] * 4,
        "rule": ["unedited", *NAMED_RULES],
        "delta_frobenius": [None, 900.0, 190.0, 34.0],
        "entropy": [0.9, 0.1, 0.9, 0.9],
        "perplexity": [19.0, 210.0, 19.1, 18.9],
        "text": ["Europe. " * 40, "what $x$ \U0001f4a1 what", "", "日本 Antarctica"],
    }
)


@pytest.fixture
def figures():
    ahead = pd.DataFrame(
        {"cosine": [0.9, 0.6], "position": [1, 0]} | {f"amplification_{r}": [0.3, 9.0] for r in NAMED_RULES}
    )
    toy = pd.DataFrame({"degrees": [0, 90] * 3, "rule": [r for r in NAMED_RULES for _ in range(2)]})
    toy[["denominator", "size", "damage"]] = 1.0
    cost = pd.DataFrame({"what": ["one edit"], "seconds_naive": [9.0], "seconds_ours": [1.0], "floor_seconds": [0.7]})
    growth = pd.DataFrame(
        {"varied": list("aabb"), "size": [1, 2] * 2, "seconds": [1.0] * 4, "floor_seconds": [0.5] * 4}
    )
    effects = pd.DataFrame({"kind": ["hidden"] * 3 + ["mlp"] * 3, "layer": [0, 1, 2] * 2, "total": [0.4] * 6})
    effects[["effect", "low", "high"]] = 0.2
    return [
        plots.tracing(effects, chosen=1),
        plots.speed(cost, growth),
        plots.disabling_edit(SAID),
        plots.amplification_scatter(ahead),
        plots.toy_memory(toy),
    ]


def test_every_figure_can_be_drawn(figures):
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes


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
    assert plots.single.shortened("", 20, 2) == "(nothing)"
    assert plots.single.shortened("costs $5 \U0001f4a1\n\nnow", 40, 2) == "costs \\$5 \u25af now"
    lines = plots.single.shortened("word " * 100, 20, 3).split("\n")
    assert len(lines) == 3 and all(len(line) <= 20 for line in lines) and lines[-1].endswith("\u2026")


def test_every_named_rule_has_a_colour_and_a_second_channel():
    rules = ["unedited", *NAMED_RULES]
    for channel in (plots.save.COLOURS, plots.save.MARKERS, plots.save.DASHES, plots.save.NAMES):
        assert len({channel[rule] for rule in rules}) == len(rules)
