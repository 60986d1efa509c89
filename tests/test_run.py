import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import typer
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from rrome import RromeError, run
from rrome.plots import save as provenance

APP = typer.Typer()
APP.command()(run.main)
PARAMETERS = """seed = 0  # int: a seed
rate = 0.5  # float: a rate
layer = None  # int | None
figures_dir = "x"  # str
profile = "smoke"  # str"""


@pytest.fixture
def project(tmp_path):
    """A notebooks folder with one small notebook and a function that writes a profile."""
    cells = [
        new_markdown_cell("# A notebook"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(
            "from pathlib import Path\nassert seed != 13\nprint(seed, rate, layer, profile)\n"
            "Path(figures_dir).mkdir(parents=True, exist_ok=True)\nPath(figures_dir, 'made.txt').write_text(str(seed))"
        ),
    ]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells, metadata=spec), folder / "01_small.ipynb")

    def profile(text, name="laptop"):
        (folder / "profiles" / f"{name}.yaml").write_text(text)
        return folder / "01_small.ipynb"

    return profile


def test_a_profile_sets_parameters_and_figures_go_where_they_should(project, tmp_path):
    notebook = project("all: {seed: 3, of_others: 1}\n01_small: {rate: 1.0e-3}")
    before = notebook.read_bytes()
    output = run.run(notebook, "laptop", tmp_path / "figures", {"layer": 4, "model_name": "a toy has none"})
    assert output == tmp_path / "build" / "laptop" / "01_small.ipynb"
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].text == "3 0.001 4 laptop\n"
    assert executed.metadata.rrome.git_commit == provenance.git_commit()
    assert (tmp_path / "figures" / "made.txt").read_text() == "3"
    assert notebook.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["01_small.ipynb"]


def test_a_run_uses_this_interpreters_kernel_whatever_jupyter_finds(project, tmp_path, monkeypatch):
    broken = tmp_path / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    argv = ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (broken / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "broken", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert run.run(project("all: {}"), "laptop", tmp_path / "figures").exists()
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "jupyter")


@pytest.mark.parametrize(
    "profile, message",
    [
        ("01_small: {sede: 1}", "laptop.yaml, 01_small: unknown parameter 'sede'; the notebook has seed"),
        ("01_small: {rate: 1e-3}", "rate must be float like its default 0.5, not '1e-3'"),
        ("01_small: {seed: 1.5}", "seed must be int"),
        ("all: {seed: true}", "seed must be int"),
        ("[1, 2]", "laptop.yaml must hold"),
        ("01_small: 3", "laptop.yaml must hold"),
        ("all: {b", "laptop.yaml is not YAML"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_runs(project, tmp_path, profile, message):
    with pytest.raises(RromeError, match=message):
        run.run(project(profile), "laptop", tmp_path)
    assert not (tmp_path / "build").exists()


def test_an_unknown_profile_lists_the_known_ones(project):
    with pytest.raises(RromeError, match="no profile 'paper' in .*laptop"):
        run.profile_parameters(project(""), "paper")


@pytest.mark.parametrize(
    "profile, model, device, folder",
    [
        ("laptop", None, "cpu", "figures"),
        ("long", "smollm2-135m", "cpu", "figures"),
        ("smoke", None, "cpu", "build/figures/smoke"),
        ("paper", "gpt2-xl", "cuda", "build/figures/gpt2-xl-paper-cuda"),
        ("paper", None, "cpu", "build/figures/smollm2-135m-paper-cpu"),
        ("laptop", "some/folder/mine", "cpu", "build/figures/mine-laptop-cpu"),
        ("laptop", None, "cuda:0", "build/figures/smollm2-135m-laptop-cuda"),
    ],
)
def test_only_the_default_model_on_a_cpu_writes_to_the_figures_that_are_kept(
    project, tmp_path, monkeypatch, profile, model, device, folder
):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 1)
    monkeypatch.setattr("torch.accelerator.current_device_index", lambda: 0)
    asked = ["--device", device, *(["--model", model] if model else [])]
    assert command(project("", profile), "--profile", profile, *asked).exit_code == 0
    made = [path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("made.txt")]
    assert made == [folder]


def command(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_a_failing_notebook_keeps_how_far_it_came_and_nothing_else(project, tmp_path):
    result = command(project("all: {seed: 13}"), "--profile", "laptop")
    unfinished = tmp_path / "build" / "laptop" / "01_small.failed.ipynb"
    assert result.exit_code == 1 and str(unfinished) in result.output.replace("\n", "")
    assert [path.name for path in (tmp_path / "build" / "laptop").iterdir()] == ["01_small.failed.ipynb"]
    assert not (tmp_path / "figures").exists()


def test_the_command_writes_where_it_is_told_and_gives_a_notebook_only_what_it_has(project, tmp_path):
    figures = tmp_path / "f"
    result = command(project("all: {seed: 5}"), "--profile", "laptop", "--figures", figures, "--model", "gpt2")
    assert result.exit_code == 0 and str(figures) in result.output.replace("\n", "")
    assert (figures / "made.txt").read_text() == "5"


def test_a_device_that_is_not_there_is_said_before_any_work(project, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available=False: None)
    for figures in ([], ["--figures", tmp_path]):
        wrong = command(project(""), "--profile", "laptop", "--device", "cuda", *figures)
        assert wrong.exit_code == 2 and "no device 'cuda' here" in wrong.output
    assert not (tmp_path / "build").exists()


def test_make_notebooks_keeps_clean_outputs_in_place(project):
    notebook = project("")
    source = nbformat.read(notebook, as_version=4)
    noisy = "import sys\nprint('noise', file=sys.stderr)\nprint('kept')"
    source.cells += [new_code_cell(noisy), new_code_cell("import ipywidgets\nipywidgets.IntSlider()")]
    nbformat.write(source, notebook)
    binaries = f"BIN={Path(sys.executable).parent}"
    root = Path(__file__).parent.parent
    command = ["make", "-o", ".venv/installed", "notebooks", f"NOTEBOOKS={notebook}", binaries]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    made = nbformat.read(notebook, as_version=4)
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3, 4]
    assert [output.text for output in made.cells[3].outputs] == ["kept\n"] and not made.cells[4].outputs
    assert [cell.id for cell in made.cells] == [cell.id for cell in source.cells]
    assert set(made.metadata) == {"kernelspec", "language_info"} and set(made.metadata.language_info) == {"name"}
    assert [cell.metadata for cell in made.cells] == [{}, {"tags": ["parameters"]}, {}, {}, {}]
