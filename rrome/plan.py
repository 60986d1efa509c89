"""What a profile will take: hours, memory and disk, from a few edits made now on the device at hand and counted up.

python -m rrome.plan --profile paper --model gpt2-xl --device cuda
"""

import resource
import sys
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import psutil
import torch
import typer

from . import study
from .edit import Editor
from .facts import factbook_prose, load_facts
from .measure import retained
from .model import DEFAULT_MODEL, load
from .run import defaults, profile_parameters, profile_sections, refusals
from .store import RromeError
from .study.single import facts_at_once
from .study.speed import timed
from .update import NAMED_RULES, RULES, second_moment

GIB = 2**30
STUDIES = ("03_delta_scatter", "04_collapse_curves")
KINDS = ("n_ordinary", "n_first_token", "n_companies")  # of facts that are edited alone
READERS = ("05_metrics_table", "06_claims", "08_key_choices")  # they read what notebooks 3 and 4 have made


def counts(folder: Path, profile: str, depth: int = 1) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Per notebook of a profile that edits: facts edited alone, edits in sequence and checkpoints; and all parameters.

    An empty list of layers stands for all of them, `depth`. Raises RromeError for an unknown profile, notebook or parameter.
    """
    paths = [folder / f"{name}.ipynb" for name in sorted(profile_sections(folder, profile)) if name != "all"]
    if missing := [path.name for path in paths if not path.exists()]:
        raise RromeError(f"{profile}.yaml names notebooks that are not there: {', '.join(missing)}")
    parameters = {path.stem: defaults(path) | profile_parameters(path, profile) for path in paths}
    rows = {}
    for name, p in parameters.items():
        times = prod(len(p[each]) or depth for each in ("leading", "times_d_k", "layers") if each in p)
        facts = 0 if name in READERS else times * sum(p.get(each, 0) for each in KINDS) + 3 * p.get("n_each", 0)
        runs, edits = len(p.get("rules", NAMED_RULES)) * len(p.get("orders", [0])), p.get("n_edits", 0)
        more = 3 * p.get("n_sink", 0)  # at a second layer, three rules
        rows[name] = (facts, runs * edits + more, runs * (1 + edits // p["every"]) if edits else 0)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["facts", "edits", "checkpoints"])
    return table[table.any(axis=1)], parameters


def plan(folder: Path, profile: str, model_name: str, device: str | None = None) -> str:
    """What a profile takes with a model: one batch of facts, one edit of a sequence and one checkpoint, counted up."""
    _, parameters = counts(folder, profile)
    single, sequence = (parameters.get(name) or defaults(folder / f"{name}.ipynb") for name in STUDIES)
    model = load(model_name, device=device, layer=single["layer"])
    table, _ = counts(folder, profile, model.depth)
    prose, n_c0, where = factbook_prose("second-moment"), 2 * model.site.weight.shape[1], model.device
    c0_seconds, c0 = timed(lambda: second_moment(model, prose, n_c0, cache=False), where)
    editor, facts = Editor(model, c0, seed=single["seed"]), load_facts(single["dataset"], n=facts_at_once(where))
    half = load_facts(sequence["dataset"], n=max(1, sequence["n_edits"] // 2))
    draw = {"n_known": sequence["n_known"], "n_items": sequence["n_items"]}
    names = sequence["tasks"] if table["checkpoints"].any() else []
    tasks = study.named_tasks(model, sequence["dataset"], names, **draw)
    measures = study.Measures.standard(editor, n_generated=single["n_generated"], generated=list(RULES))
    checks = study.Checks(probe=study.mixed_probe(), every=1)
    with TemporaryDirectory() as scratch:
        rows, log = Path(scratch, "rows"), Path(scratch, "log")
        batch, _ = timed(lambda: study.single_edits(editor, facts, within=rows, measures=measures), where)
        edit, _ = timed(lambda: study.sequential_edits(editor, facts[:1], log, checks=checks), where)
        written = [sum(file.stat().st_size for file in made.rglob("*")) for made in (rows, log)]
    checkpoint, _ = timed(lambda: ([task.scores(model) for task in tasks], retained(model, half)), where)
    hours = table @ [batch / len(facts) / 3600, edit / 3600, checkpoint / 3600]
    disk = (table @ [written[0] / len(facts), written[1], 0]).sum() + c0.matrix.nbytes
    c0_hours = c0_seconds / n_c0 * max((p.get("c0_tokens", 0) for p in parameters.values()), default=0) / 3600
    size, has = sum(weight.nbytes for weight in model.lm.parameters()), psutil.virtual_memory().total
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if where.type == "cuda":
        has, peak = torch.cuda.mem_get_info(where)[1], torch.cuda.max_memory_allocated(where)
    return f"""{model.name} on {where}, layer {model.layer}, profile {profile}

{table.assign(hours=hours).to_string(float_format="{:.2f}".format)}

hours   {hours.sum() + c0_hours:.2f} in all, {c0_hours:.2f} of them for C_0
memory  {peak / GIB:.2f} GiB at most, {size / GIB:.2f} of them the model; {where} has {has / GIB:.2f}
disk    {disk / GIB:.2f} GiB of rows, factors and C_0, beside the model

What it rests on, measured here and now, each with all that its study measures:
- A fact edited alone under {len(RULES)} rules took {batch / len(facts):.1f} s, with {len(facts)} in one batch.
- An edit of a sequence under ROME took {edit:.1f} s, with what is measured at the two ends of a run.
- A checkpoint of notebook 4 took {checkpoint:.1f} s: its tasks, and half of its edits asked again.
- Notebooks 2, 9, 10 and A1 measure less of a fact, so their hours are too many. Notebooks without edits, starting,
  loading, drawing and downloads are not counted. Memory is that of these edits; C_0 was read from {n_c0:,} tokens."""


def main(
    profile: str = "laptop",
    model: Annotated[str, typer.Option(help="short name, hub id or folder")] = DEFAULT_MODEL,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; an accelerator when there is one")] = None,
    notebooks: Path = Path("notebooks"),
) -> None:
    """Say what PROFILE takes with this model on this device: a minute or two of edits are made and thrown away."""
    with refusals():
        typer.echo(plan(notebooks, profile, model, device))


if __name__ == "__main__":
    typer.run(main)
