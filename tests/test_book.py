"""The pages of the site before Sphinx reads them; `make check-book` reads the site itself in a browser."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book import landing, live, pages, stored

WIDGET = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "50 %"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The repository laid out with one notebook that seems to have been run."""
    root = tmp_path_factory.mktemp("root")
    for path in pages.ROOT.iterdir():
        if path.is_file() or path.name in (*pages.FOLDERS, "notebooks"):
            (root / path.name).symlink_to(path)
    (root / "build" / "laptop").mkdir(parents=True)
    (root / "build" / "laptop" / "01_the_update.ipynb").write_text(
        '{"cells": [{"cell_type": "markdown", "source": "# run"}]}'
    )
    pages.lay_out(root, "laptop", root / "out")
    return root / "out"


def picture(alt=None):
    return new_output("display_data", {"image/png": ""}, metadata={"image/png": {"alt": alt}} if alt else {})


def notebook(*outputs, **metadata):
    cells = [new_markdown_cell("# One\n\nWords.\n\n## Two"), new_code_cell("1", outputs=list(outputs))]
    return new_notebook(cells=cells, metadata=metadata)


def test_a_notebook_comes_from_the_profile_where_it_was_run_and_else_as_committed(source):
    assert json.loads((source / "notebooks" / "01_the_update.ipynb").read_text())["cells"][0]["source"] == "# run"
    committed, shown = (folder / "notebooks" / "02_disabling_edit.ipynb" for folder in (pages.ROOT, source))
    sources = [[cell["source"] for cell in json.loads(path.read_text())["cells"]] for path in (committed, shown)]
    assert sources[0] == sources[1] and shown.stat().st_size < committed.stat().st_size


@pytest.mark.parametrize("kind", ["notebooks/*.ipynb", "docs/*.md"])
def test_the_landing_page_lists_notebooks_and_guides_in_the_order_of_names(source, kind):
    listed = re.findall(r"^(\w+/\S+)$", (source / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in listed if name.startswith(kind[:4])] == sorted(
        f"{path.parent.name}/{path.stem}" for path in pages.ROOT.glob(kind)
    )


def test_every_page_is_in_the_sidebar(source):
    listed = re.findall(r"^([\w./-]+)$", pages.contents(source), re.MULTILINE)
    written = [*source.glob("*.md"), *source.glob("*/*.md"), *source.glob("notebooks/*.ipynb")]
    assert sorted(listed) == sorted(
        path.relative_to(source).with_suffix("").as_posix() for path in written if path.stem != "index"
    )


def test_what_readme_guides_and_notebooks_link_to_is_there(source):
    for page in [*source.glob("*.md"), *source.glob("docs/*.md"), *source.glob("notebooks/*.ipynb")]:
        text = page.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if ":" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_no_picture_comes_from_the_network(source):
    for page in [*source.glob("*.md"), *source.glob("*/*.md"), *source.glob("notebooks/*.ipynb")]:
        assert re.findall(r"!\[[^\]]*\]\(\w+://", page.read_text(encoding="utf-8")) == []


def test_a_picture_takes_its_words_from_the_notebook_or_else_from_the_heading_above():
    told = pages.readable(notebook(picture("A line goes up.")), Path("x.ipynb"))
    assert told["cells"][-1]["metadata"]["mystnb"]["image"]["alt"] == "A line goes up."
    untold = pages.readable(notebook(picture()), Path("x.ipynb"))
    assert untold["cells"][-1]["metadata"]["mystnb"]["image"]["alt"] == "Figure: Two"


def test_progress_bars_go_and_other_outputs_stay():
    outputs = [new_output("display_data", WIDGET), new_output("stream", name="stdout", text="kept")]
    page = pages.readable(notebook(*outputs, widgets={"state": {}}), Path("x.ipynb"))
    assert page["cells"][-1]["outputs"] == outputs[1:]
    assert "widgets" not in page["metadata"]  # with it, the page would ask the network for scripts


def test_a_styled_table_looks_like_any_other():
    table = new_output("display_data", {"text/html": ["<table id=", '"T_1"><td>1</td></table>']})
    page = pages.readable(notebook(table), Path("x.ipynb"))
    assert page["cells"][-1]["outputs"][0]["data"]["text/html"].startswith('<table class="dataframe" id="T_1">')


def test_a_page_says_which_run_it_shows():
    run = {"parameters": {"profile": "laptop"}, "end_time": "2026-11-23T16:15:00"}
    shown = notebook(papermill=run, rrome={"git_commit": "0123456789abcdef+changes"})
    line = pages.readable(shown, Path("x.ipynb"))["cells"][1]["source"]
    assert "**laptop** made on 2026-11-23, commit `0123456+changes`" in line and "<x.ipynb>" in line
    assert "not recorded" in pages.made_by({"papermill": run}, Path("x.ipynb"))


def test_a_committed_page_says_that_it_is_the_short_run(tmp_path):
    assert "**smoke**" in pages.made_by({}, pages.ROOT / "notebooks" / "01_the_update.ipynb")
    assert "before git" in pages.made_by({}, tmp_path / "x.ipynb")


def test_a_table_without_a_heading_gets_one():
    assert pages.with_title("| a |", "table1_metrics") == "# Table 1 metrics\n\n| a |"
    assert pages.with_title("# Claims\n", "claims") == "# Claims\n"


# --- the interactive figures and the landing page

ASKED = {"requested_rewrite": {"prompt": "{} is in", "target_new": {"str": "Rome"}}}


def journal(path, settings, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"settings": settings}, *rows]), encoding="utf-8")


def edit(subject, delta, perplexity, text=" fine"):
    sizes = {"delta": delta, "delta_after": delta, "perplexity": perplexity, "texts": [text]}
    return {"subject": subject, "fact": ASKED} | sizes


@pytest.fixture
def studies(tmp_path):
    """Two sequences of three edits, the second of which is a disabling one under ROME; one fact under eight rules."""
    runs = {"rome": [edit("A", 1.0, 10.5), edit("B", 50.0, math.inf, " </script> B"), edit("C", 1.0, None)]}
    runs["r-rome"] = [edit("A", 1.0, 10.1), edit("B", 2.0, 10.2), edit("C", 1.0, 10.3)]
    for rule, rows in runs.items():
        settings = {"rule": rule, "layer": 7, "model_name": "tiny", "prompts": ["The weather"]}
        start = {"edits": 0, "perplexity": 10.0, "texts": [" sunny"]}
        journal(tmp_path / f"sequential-{rule}" / "edits.jsonl", settings, rows)
        journal(tmp_path / f"sequential-{rule}" / "checkpoints.jsonl", settings, [start])
    journal(tmp_path / "single_edits-1.jsonl", {}, single_edit())
    return tmp_path


def single_edit():
    """The rows of one fact as the formula makes them from random keys, C_0 and W: nothing of the site's own algebra."""
    random = np.random.default_rng(0)
    k = {"a": random.normal(size=6), "o": random.normal(size=6)}
    half, weight, delta = random.normal(size=(6, 6)), random.normal(size=(4, 6)), random.normal(size=4)
    inverse = np.linalg.inv(half @ half.T + np.eye(6))
    about = {"case_id": 1, "subject": "A", "prompt": "{} is in", "target_new": "Rome", "layer": 7}
    rows = [about | {"rule": "unedited", "perplexity": 10.0}]
    for rule, (u, d, r) in live.CHOICES.items():
        denominator, residual = k[u] @ inverse @ k[d], delta + weight @ (k["o"] - k[r])
        size = np.linalg.norm(np.outer(residual, inverse @ k[u]) / denominator)
        rows.append(about | {"rule": rule, "perplexity": 20.0, "denominator": denominator, "delta_frobenius": size})
    return rows


def test_a_sequence_is_read_from_the_unedited_model_on(studies):
    rome, other = stored.sequences(studies)
    assert [rome["rule"], other["rule"]] == ["rome", "r-rome"]
    assert [state["large"] for state in rome["states"]] == [False, False, True, False]
    assert [state["perplexity"] for state in rome["states"]] == [10.0, 10.5, None, None]  # a page has no infinity
    assert rome["states"][0]["text"] == " sunny" and rome["states"][2]["fact"] == "B is in → Rome"


def test_the_layer_with_the_longest_runs_comes_first(studies):
    settings = {"rule": "rome", "layer": 3, "model_name": "tiny", "prompts": ["The weather"]}
    journal(studies / "sequential-3" / "edits.jsonl", settings, [edit("A", 1.0, 10.5)])
    journal(studies / "sequential-3" / "checkpoints.jsonl", settings, [{"perplexity": 10.0, "texts": [""]}])
    found = [(run["layer"], run["rule"]) for run in stored.sequences(studies)]
    assert found == [(7, "rome"), (7, "r-rome"), (3, "rome")]


def test_the_sizes_of_all_eight_rules_follow_from_the_two_mismatches(studies):
    (fact,) = stored.singles(studies)
    assert -1 < fact["cos"] < 1 and fact["layer"] == 7
    for rule, (_, _, size) in live.sizes(fact).items():
        assert size == pytest.approx(fact["stored"][rule]["size"])
        assert fact["stored"][rule]["times"] == 2


def test_a_fact_needs_four_rules_and_shows_those_that_it_has(studies):
    journal(studies / "single_edits-2.jsonl", {}, [row for row in single_edit() if row["rule"] != "aao"])
    journal(studies / "single_edits-1.jsonl", {}, [row for row in single_edit() if row["rule"] != "ooa"])
    (fact,) = stored.singles(studies)
    assert fact["file"] == "single_edits-1.jsonl" and live.was(fact, "ooa", "size") == "" != live.was(
        fact, "aao", "size"
    )


def test_the_verdict_table_shows_the_core_statement(tmp_path):
    lines = ["id,role,statement", "C1,premise,it collapses", "C1,core,it jumps", "C2,core,it is large"]
    (tmp_path / "claims.csv").write_text("\n".join(lines), encoding="utf-8")
    assert [row["statement"] for row in stored.claims(tmp_path / "claims.csv")] == ["it jumps", "it is large"]


def test_the_figures_stand_without_a_script_and_carry_their_rows(studies):
    page = live.fill("{{edits}}\n{{sequences}}", studies)
    assert 'After edit <b class="n">2</b>' in page and "&lt;/script&gt; B" in page  # at the first disabling edit
    assert page.count("</script>") == 1  # no text of a model ends the rows
    rows = json.loads(re.search(r'class="rows">(.*)</script>', page)[1])
    assert rows == stored.sequences(studies)
    assert "[ROME at layer 7](figures/data/studies/sequential-rome/edits.jsonl.gz)" in page
    page = live.fill("{{mismatches}}\n{{singles}}", studies)
    assert "[single edits at layer 7](figures/data/studies/single_edits-1.jsonl.gz)" in page
    assert json.loads(re.search(r'class="rows">(.*)</script>', page)[1])["facts"] == stored.singles(studies)


def test_a_page_says_that_rows_are_missing(tmp_path):
    assert "not stored yet" in live.fill("{{edits}}", tmp_path) and "not stored yet" in live.fill(
        "{{mismatches}}", tmp_path
    )


NUMBERS = [(0, "0"), (18.0872, "18.1"), (2714.99, "2,710"), (4.742e-05, "4.74e-05"), (0.00251, "0.00251")]


@pytest.mark.parametrize(("number", "text"), [*NUMBERS, (None, "no number")])
def test_numbers_have_three_digits(number, text):
    assert live.shown(number) == text


def test_the_landing_page_has_a_verdict_per_claim_and_a_thumbnail_per_figure_of_a_notebook(source):
    page = (source / "index.md").read_text(encoding="utf-8")
    for row in stored.claims(pages.ROOT / "figures" / "data" / "claims.csv"):
        assert f"| {row['id']} |" in page and f"[{row['verdict']}](notebooks/" in page
    assert {path for path, _ in landing.sources(source).values()} == {
        source / link for link in re.findall(r"^  .*\]\((notebooks/\S+)\)$", page, re.MULTILINE)
    }


def test_cards_filters_and_run_times_are_those_of_the_stored_rows(source):
    names = ("index.md", "two_mismatches.md", "figures/all_figures.md", "figures/data/fig1_disabling_edit.csv")
    index, mismatches, figures, rows = ((source / name).read_text(encoding="utf-8") for name in names)
    edited = list(csv.DictReader(rows.splitlines(keepends=True)))[-3:]
    assert re.findall(r'class="perplexity">(.+?)<', index) == [live.shown(float(row["perplexity"])) for row in edited]
    assert "](figures/spectrum.png)" in mismatches
    made = json.loads((pages.ROOT / "figures" / "layer_tracing.json").read_text(encoding="utf-8"))
    assert f"| long | {made['run_seconds'] / 60:.0f} min |" in figures


def test_every_figure_is_on_the_page_of_figures(source):
    page = (source / "figures" / "all_figures.md").read_text(encoding="utf-8")
    missing = [path.name for path in (pages.ROOT / "figures").glob("*.png") if f"]({path.name})" not in page]
    made_by_a_run = {"fig0_toy_memory.png"}  # its notebook is a stand-in here
    assert set(missing) <= made_by_a_run


STUDIES = pages.ROOT / "figures" / "data" / "studies"


@pytest.mark.skipif(not STUDIES.exists(), reason="no rows of studies are stored yet")
def test_what_the_pages_say_of_the_two_layers_is_what_the_stored_rows_say():
    runs = {(run["layer"], run["rule"]): run["states"] for run in stored.sequences(STUDIES)}
    last = {key: states[-1]["perplexity"] / states[0]["perplexity"] for key, states in runs.items()}
    assert last[7, "rome"] > 2 and last[11, "r-rome"] > 2
    assert max(last[7, "r-rome"], last[7, "aao"], last[11, "rome"], last[11, "aao"]) < 2
    (late,) = [fact for fact in stored.singles(STUDIES) if fact["layer"] == 28]
    assert late["swell"] > 10 and late["stored"]["r-rome"]["times"] > 2 > late["stored"]["aao"]["times"]
