"""What every notebook of the kit keeps to; the notebooks themselves are executed by nbval."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from rrome import run

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PROFILES = sorted((FOLDER / "profiles").glob("*.yaml"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_profiles():
    assert NOTEBOOKS and {path.stem for path in PROFILES} >= {"smoke", "laptop"}


def test_a_reader_is_told_where_and_how_long_and_what_to_try(notebook):
    first, *_, last = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert all(f"*{part}:*" in first for part in ("Where you are", "What you need", "How long"))
    assert "## Try it\n\n1. " in last or "## Exercises: change this, predict that\n\n1. " in last


def test_every_exercise_has_a_folded_answer(notebook):
    exercises = re.split(r"^## (?:Try it|Exercises).*$", notebook.cells[-1].source, flags=re.MULTILINE)[-1]
    for exercise in re.split(r"^\d+\. ", exercises, flags=re.MULTILINE)[1:]:
        question, _, answer = exercise.strip().partition("\n\n   <details><summary>Answer</summary>\n\n   ")
        assert len(question) > 20 and answer.endswith("\n\n   </details>") and answer.count("details>") == 1


def test_the_kernel_is_python3_and_no_run_left_its_metadata(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata


def test_outputs_are_of_one_clean_run(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_no_cell_shows_its_picture_twice(code):
    assert all(sum("image/png" in output.get("data", {}) for output in cell.outputs) <= 1 for cell in code)


def test_every_picture_is_described_in_words(code):
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert all(len(picture.metadata.get("image/png", {}).get("alt", "").split()) > 5 for picture in pictures)


def test_the_first_code_cell_holds_all_parameters_as_literals(code):
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert all("#" in line for line in tagged[0].source.splitlines())


def test_cells_are_short_and_stand_under_text(notebook, code):
    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(texts) >= len(code)
    for cell in code:
        tree = ast.parse(cell.source)
        limit = 20 if "parameters" in cell.metadata.get("tags", []) else 15  # a knob a line
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= limit
        assert not [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def test_what_is_imported_from_the_kit_is_there(code):
    statements = [
        node for cell in code for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ImportFrom)
    ]
    for statement in statements:
        if statement.module.split(".")[0] == "rrome":
            exec(ast.unparse(statement), {})


def test_a_claim_is_compared_with_the_committed_run(code):
    checked = [cell for cell in code if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked and all(cell.outputs for cell in checked)


def test_no_claim_of_the_committed_run_is_false(code):
    for cell in code:
        for output in cell.outputs:
            assert not output.get("text", "").startswith("NO:") and "\nNO:" not in output.get("text", "")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_set_only_what_the_notebook_knows(path, profile):
    run.profile_parameters(path, profile.stem)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_notebooks_and_parameters_that_exist(profile):
    sections = yaml.safe_load(profile.read_text())
    assert set(sections) <= {"all", *(path.stem for path in NOTEBOOKS)}
    known = set().union(*(run.defaults(path) for path in NOTEBOOKS))
    assert set(sections.get("all") or {}) <= known
