"""Run one notebook under a profile: papermill with its parameters checked, and nothing half-written left behind.

python -m rrome.run notebooks/02_disabling_edit.ipynb --profile laptop
"""

import ast
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import nbformat
import papermill
import typer
import yaml

from .model.load import DEFAULT_MODEL, available
from .plots.save import git_commit
from .store.disk import RromeError

KEPT = ("laptop", "long")  # profiles whose figures the repository keeps


def profile_sections(folder: Path, profile: str) -> dict[str, Any]:
    """What a profile beside the notebooks in `folder` sets, by notebook and for `all`; RromeError for an unknown profile."""
    file = folder / "profiles" / f"{profile}.yaml"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise RromeError(f"there is no profile {profile!r} in {file.parent}: choose one of {there}")
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RromeError(f"{file} is not YAML: {error}") from error
    if not isinstance(sections, dict) or not all(isinstance(each, dict | None) for each in sections.values()):
        raise RromeError(f"{file} must hold, for `all` and for notebooks by name, parameters as NAME: VALUE")
    return sections


def profile_parameters(notebook: Path, profile: str) -> dict[str, Any]:
    """What a profile sets for a notebook; RromeError for an unknown profile or key, or a value not of its default's type."""
    sections, known = profile_sections(notebook.parent, profile), defaults(notebook)
    chosen = {name: value for name, value in (sections.get("all") or {}).items() if name in known}
    chosen |= sections.get(notebook.stem) or {}
    where = f"{profile}.yaml, {notebook.stem}"
    for name, value in chosen.items():
        if name not in known:
            raise RromeError(f"{where}: unknown parameter {name!r}; the notebook has {', '.join(known)}")
        default = known[name]
        number = isinstance(value, (int, float)) and isinstance(default, float) and not isinstance(value, bool)
        if default is not None and value is not None and not number and type(value) is not type(default):
            kind = type(default).__name__
            raise RromeError(f"{where}: {name} must be {kind} like its default {default!r}, not {value!r}")
    return chosen


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook and their default values."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def unfinished_path(notebook: Path, profile: str) -> Path:
    """Where a run writes until it is complete, and what stays when a cell fails: build/PROFILE/NAME.failed.ipynb."""
    return notebook.resolve().parent.parent / "build" / profile / f"{notebook.stem}.failed.ipynb"


def figures_folder(notebook: Path, profile: str, model: str | None = None, device: str | None = None) -> Path:
    """Where a run writes its figures: `figures` under profiles laptop and long with the default model on a CPU only.

    Profile smoke then writes to build/figures/smoke; all else goes to build/figures/MODEL-PROFILE-DEVICE.
    """
    root, kind = notebook.resolve().parent.parent, str(available(device)).partition(":")[0]
    if model in (None, DEFAULT_MODEL) and kind == "cpu" and profile in (*KEPT, "smoke"):
        return root / "figures" if profile in KEPT else root / "build" / "figures" / profile
    return root / "build" / "figures" / f"{Path(model or DEFAULT_MODEL).name}-{profile}-{kind}"


def run(notebook: Path, profile: str, figures: Path, given: Mapping[str, Any] | None = None) -> Path:
    """Execute a copy of `notebook` in its folder and return its path, build/PROFILE/NAME.ipynb beside the notebooks folder.

    `given` sets parameters where the notebook has them (a toy has no model). The source is never written to; the copy names
    the commit that made it. When a cell fails the partly executed copy stays, named NAME.failed.ipynb.
    """
    notebook, known = notebook.resolve(), defaults(notebook)
    parameters = profile_parameters(notebook, profile) | {"profile": profile}
    parameters |= {"figures_dir": os.path.relpath(figures.resolve(), notebook.parent)} | dict(given or {})
    unfinished = unfinished_path(notebook, profile)
    output = unfinished.with_name(notebook.name)
    output.parent.mkdir(parents=True, exist_ok=True)
    commit = git_commit()  # of the code that runs, which may be edited meanwhile
    kernels = filter(None, [os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")])
    with mock.patch.dict(os.environ, JUPYTER_PATH=os.pathsep.join(kernels)):  # this interpreter's python3 comes first
        executed = papermill.execute_notebook(
            str(notebook),
            str(unfinished),
            parameters={name: value for name, value in parameters.items() if name in known},
            cwd=str(notebook.parent),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors only: a local kernel need not be encrypted
        )
    executed.metadata["rrome"] = {"git_commit": commit}
    nbformat.write(executed, unfinished)
    unfinished.replace(output)
    return output


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """An RromeError as a line on stderr and exit status 2."""
    try:
        yield
    except RromeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def main(
    notebook: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    profile: str = "smoke",
    figures: Path | None = None,
    model: Annotated[str | None, typer.Option(help="model_name, where the notebook has one")] = None,
    device: Annotated[str | None, typer.Option(help="device, where the notebook has one")] = None,
) -> None:
    """Run NOTEBOOK under a profile of notebooks/profiles and write its figures."""
    try:
        with refusals():
            folder = figures_folder(notebook, profile, model, device)  # which checks the device
            figures = figures or folder
            given = {"model_name": model, "device": device}
            output = run(notebook, profile, figures, {name: value for name, value in given.items() if value})
    except papermill.PapermillExecutionError as error:
        failed = unfinished_path(notebook, profile)
        typer.echo(f"{error}\nerror: {notebook.name} failed; how far it came is in {failed}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"done: {output}; its figures, if it draws any: {figures}")


if __name__ == "__main__":
    typer.run(main)
