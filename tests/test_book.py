"""The pages of the site before Sphinx reads them; `make check-book` reads the site itself in a browser."""

import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book import pages

WIDGET = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "50 %"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The repository laid out with one notebook that seems to have been run."""
    root = tmp_path_factory.mktemp("root")
    for path in pages.ROOT.iterdir():
        if path.is_file() or path.name in (*pages.FOLDERS, "notebooks"):
            (root / path.name).symlink_to(path)
    (root / "build" / "laptop").mkdir(parents=True)
    (root / "build" / "laptop" / "01_the_update.ipynb").write_text("run")
    pages.lay_out(root, "laptop", root / "out")
    return root / "out"


def picture(alt=None):
    return new_output("display_data", {"image/png": ""}, metadata={"image/png": {"alt": alt}} if alt else {})


def notebook(*outputs, **metadata):
    cells = [new_markdown_cell("# One\n\nWords.\n\n## Two"), new_code_cell("1", outputs=list(outputs))]
    return new_notebook(cells=cells, metadata=metadata)


def test_a_notebook_comes_from_the_profile_where_it_was_run_and_else_as_committed(source):
    assert (source / "notebooks" / "01_the_update.ipynb").read_text() == "run"
    committed = pages.ROOT / "notebooks" / "02_disabling_edit.ipynb"
    assert (source / "notebooks" / committed.name).read_bytes() == committed.read_bytes()


def test_the_landing_page_lists_every_notebook_in_the_order_of_names(source):
    listed = re.findall(r"^notebooks/(\S+)$", (source / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == sorted(path.stem for path in (pages.ROOT / "notebooks").glob("*.ipynb"))


def test_the_landing_page_lists_every_guide(source):
    listed = re.findall(r"^docs/(\S+)$", (source / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == sorted(path.stem for path in (pages.ROOT / "docs").glob("*.md"))


def test_a_link_to_the_readme_leads_to_the_landing_page(source):
    assert "](../index.md)" in (source / "docs" / "running.md").read_text(encoding="utf-8")


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
