"""Run one notebook under a profile, and say what a profile will take.

python -m rrome.run notebook notebooks/02_disabling_edit.ipynb --profile laptop
python -m rrome.run plan --profile paper --model gpt2-xl --device cuda
"""

import ast
import contextlib
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nbformat
import pandas as pd
import papermill
import psutil
import torch
import typer
import yaml
from nbconvert.preprocessors import Preprocessor

from . import study
from .edit import Editor
from .facts import factbook_prose, load_facts
from .model.load import DEFAULT_MODEL, available, load
from .plots.save import git_commit
from .store.disk import RromeError
from .study.sequential import retained
from .study.single import facts_at_once
from .study.speed import peak_bytes, timed
from .update import NAMED_RULES, RULES, second_moment

GIB = 2**30
STUDIES = ("03_delta_scatter", "04_collapse_curves")
READERS = ("05_metrics_table", "06_claims", "08_key_choices")  # they read what notebooks 3 and 4 have made
WIDGET = "application/vnd.jupyter.widget-view+json"
app = typer.Typer(help=__doc__, add_completion=False)
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=40"]  # errors only: a kernel on this machine need not be encrypted


def profile_sections(folder: Path, profile: str) -> dict[str, Any]:
    """What a profile beside the notebooks in `folder` sets, by notebook and for `all`; RromeError for an unknown profile."""
    file = folder / "profiles" / f"{profile}.yaml"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise RromeError(f"there is no profile {profile!r} in {file.parent}: choose one of {there}")
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def profile_parameters(notebook: Path, profile: str) -> dict[str, Any]:
    """What a profile sets for a notebook: its keys under `all` that the notebook knows, then those under its own name.

    Raises RromeError for a profile that does not exist, a key that the notebook does not know, or a value of another
    type than the notebook's default.
    """
    sections, known = profile_sections(notebook.parent, profile), defaults(notebook)
    chosen = {name: value for name, value in (sections.get("all") or {}).items() if name in known}
    chosen |= sections.get(notebook.stem) or {}
    for name, value in chosen.items():
        check(name, value, known, f"{profile}.yaml, {notebook.stem}")
    return chosen


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook and their default values."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def check(name: str, value: Any, known: dict[str, Any], where: str) -> None:
    """RromeError unless the notebook knows the parameter and its default has the value's type (None fits any)."""
    if name not in known:
        raise RromeError(f"{where}: unknown parameter {name!r}; the notebook has {', '.join(known)}")
    default = known[name]
    number = isinstance(value, (int, float)) and isinstance(default, float) and not isinstance(value, bool)
    if default is not None and value is not None and not number and type(value) is not type(default):
        kind = type(default).__name__
        raise RromeError(f"{where}: {name} must be {kind} like its default {default!r}, not {value!r}")


def unfinished_path(notebook: Path, profile: str) -> Path:
    """Where a run writes until it is complete, and what stays when a cell fails: build/PROFILE/NAME.failed.ipynb."""
    return notebook.resolve().parent.parent / "build" / profile / f"{notebook.stem}.failed.ipynb"


def run(
    notebook: Path,
    profile: str,
    figures: Path | None = None,
    extra: dict[str, Any] | None = None,
    shared: dict[str, Any] | None = None,
) -> Path:
    """Execute a copy of `notebook` in its folder and return its path, build/PROFILE/NAME.ipynb beside the notebooks folder.

    `extra` sets parameters that this notebook must have, `shared` those that it may lack (a toy has no model). The
    source is never written to; the copy names the commit that made it. When a cell fails the partly executed copy stays,
    named NAME.failed.ipynb.
    """
    notebook, known = notebook.resolve(), defaults(notebook)
    parameters = profile_parameters(notebook, profile) | {"profile": profile}
    parameters["figures_dir"] = os.path.relpath(
        (figures or notebook.parent.parent / "figures").resolve(), notebook.parent
    )
    for name, value in (extra or {}).items():
        check(name, value, known, "--set")
    parameters |= (shared or {}) | (extra or {})
    parameters = {name: value for name, value in parameters.items() if name in known}
    unfinished = unfinished_path(notebook, profile)
    output = unfinished.with_name(notebook.name)
    output.parent.mkdir(parents=True, exist_ok=True)
    commit = git_commit()  # before: the code that runs, whatever is edited meanwhile
    settings = {"parameters": parameters, "kernel_name": "python3", "extra_arguments": KERNEL_ARGUMENTS}
    executed = papermill.execute_notebook(str(notebook), str(unfinished), cwd=str(notebook.parent), **settings)
    executed.metadata["rrome"] = {"git_commit": commit}
    nbformat.write(executed, unfinished)
    unfinished.replace(output)
    return output


def parse_setting(setting: str) -> tuple[str, Any]:
    """NAME=VALUE as (name, value), the value read as YAML; RromeError without "=" (None would fit any parameter)."""
    name, equals, value = setting.partition("=")
    if not equals:
        raise RromeError(f"--set: write NAME=VALUE, not {setting!r}")
    return name, yaml.safe_load(value)


class CommittedOutputs(Preprocessor):
    """For nbconvert (see `make notebooks`): what a committed notebook keeps, no widgets and nothing from stderr."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code":
            said = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in said if WIDGET not in output.get("data", {})]
        return cell, resources


def counts(folder: Path, profile: str) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Per notebook of a profile that edits: facts edited alone, edits in sequence and checkpoints; and all parameters.

    Raises RromeError for an unknown profile, notebook or parameter.
    """
    paths = [folder / f"{name}.ipynb" for name in sorted(profile_sections(folder, profile)) if name != "all"]
    if missing := [path.name for path in paths if not path.exists()]:
        raise RromeError(f"{profile}.yaml names notebooks that are not there: {', '.join(missing)}")
    parameters = {path.stem: defaults(path) | profile_parameters(path, profile) for path in paths}
    rows = {}
    for name, p in parameters.items():
        times = prod(len(p[each]) for each in ("leading", "times_d_k", "layers") if each in p)
        facts = 0 if name in READERS else times * (p.get("n_ordinary", 0) + p.get("n_first_token", 0))
        runs, edits = len(p.get("rules", NAMED_RULES)) * len(p.get("orders", [0])), p.get("n_edits", 0)
        rows[name] = (facts, runs * edits, runs * (1 + edits // p["every"]) if "every" in p else 0)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["facts", "edits", "checkpoints"])
    return table[table.any(axis=1)], parameters


def plan(folder: Path, profile: str, model_name: str, device: str | None = None) -> str:
    """What a profile takes with a model on a device: hours, memory and disk, from a few edits made now and counted up.

    The studies make one batch of facts, one edit of a sequence and one checkpoint with the profile's settings. Raises
    RromeError as `counts`, `load` and the studies do.
    """
    table, parameters = counts(folder, profile)
    single, sequence = (parameters.get(name) or defaults(folder / f"{name}.ipynb") for name in STUDIES)
    model = load(model_name, device=device, layer=single["layer"])
    prose, n_c0, where = factbook_prose("second-moment"), 2 * model.site.weight.shape[1], model.device
    c0_seconds, c0 = timed(lambda: second_moment(model, prose, n_c0, cache=False), where)
    editor, facts = Editor(model, c0, seed=single["seed"]), load_facts(single["dataset"], n=facts_at_once(where))
    half = load_facts(sequence["dataset"], n=max(1, sequence["n_edits"] // 2))
    draw = {"n_known": sequence["n_known"], "n_items": sequence["n_items"]}
    tasks = study.standard_tasks(sequence["dataset"], sequence["tasks"] if table["checkpoints"].any() else [], **draw)
    said, checks = {"n_generated": single["n_generated"], "spoken": list(RULES)}, study.standard_checks([], every=1)
    with TemporaryDirectory() as scratch:
        rows, log = Path(scratch, "rows"), Path(scratch, "log")
        batch, _ = timed(lambda: study.standard_study(editor, facts, rows, "plan", **said), where)
        edit, _ = timed(lambda: study.sequential_edits(editor, facts[:1], log, checks=checks), where)
        written = [sum(file.stat().st_size for file in made.rglob("*")) for made in (rows, log)]
    checkpoint, _ = timed(lambda: ([task.scores(model) for task in tasks], retained(model, half)), where)
    hours = table @ [batch / len(facts) / 3600, edit / 3600, checkpoint / 3600]
    disk = (table @ [written[0] / len(facts), written[1], 0]).sum() + c0.matrix.nbytes
    c0_hours = c0_seconds / n_c0 * max((p.get("c0_tokens", 0) for p in parameters.values()), default=0) / 3600
    size, has = sum(weight.nbytes for weight in model.lm.parameters()), psutil.virtual_memory().total
    has = torch.cuda.mem_get_info(where)[1] if where.type == "cuda" else has
    return f"""{model.name} on {where}, layer {model.layer}, profile {profile}

{table.assign(hours=hours).to_string(float_format="{:.2f}".format)}

hours   {hours.sum() + c0_hours:.2f} in all, {c0_hours:.2f} of them for C_0
memory  {peak_bytes(where) / GIB:.2f} GiB at most, {size / GIB:.2f} of them the model; {where} has {has / GIB:.2f}
disk    {disk / GIB:.2f} GiB of rows, factors and C_0, beside the model

What it rests on, measured here and now, each with all that its study measures:
- A fact edited alone under {len(RULES)} rules took {batch / len(facts):.1f} s, with {len(facts)} in one batch.
- An edit of a sequence under ROME took {edit:.1f} s, with what is measured at the two ends of a run.
- A checkpoint of notebook 4 took {checkpoint:.1f} s: its tasks, and half of its edits asked again.
- Notebooks 2, 9, 10 and A1 measure less of a fact, so their hours are too many. Notebooks without edits, starting,
  loading, drawing and downloads are not counted. Memory is that of these edits; C_0 was read from {n_c0:,} tokens."""


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """An RromeError as a line on stderr and exit status 2."""
    try:
        yield
    except RromeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command("plan")
def plan_command(
    profile: str = "laptop",
    model: Annotated[str, typer.Option(help="short name, hub id or folder")] = DEFAULT_MODEL,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; an accelerator when there is one")] = None,
    notebooks: Path = Path("notebooks"),
) -> None:
    """Say what PROFILE takes with this model on this device: a minute or two of edits are made and thrown away."""
    with _refusals():
        typer.echo(plan(notebooks, profile, model, device))


@app.command("notebook")
def notebook_command(
    notebook: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    profile: str = "smoke",
    figures: Path | None = None,
    model: Annotated[str | None, typer.Option(help="model_name, where the notebook has one")] = None,
    device: Annotated[str | None, typer.Option(help="device, where the notebook has one")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="one more parameter")] = None,
) -> None:
    """Run NOTEBOOK under a profile of notebooks/profiles and write its figures."""
    try:
        with _refusals():
            available(device)  # before any work, also of a notebook that needs none
            extra = dict(map(parse_setting, set_ or []))
            shared = {name: value for name, value in (("model_name", model), ("device", device)) if value is not None}
            output = run(notebook, profile, figures, extra, shared)
    except papermill.PapermillExecutionError as error:
        failed = unfinished_path(notebook, profile)
        typer.echo(f"{error}\nerror: {notebook.name} failed; how far it came is in {failed}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"done: {output}")


if __name__ == "__main__":
    app()
