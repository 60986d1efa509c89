"""What a profile takes, estimated before anything starts: memory, hours and disk of each of its notebooks.

python -m rrome.plan --profile paper --model gpt2-xl --device cuda

    hours   = arithmetic / rate of such products on the device, measured now * (search / its floor)
    memory  = weights and what the notebook's largest batch holds (see costs)
    disk    = weights, 8 d_k^2 for C_0, 4 (d_v + d_k) per logged edit, and a line of a journal per result

In bytes, for float32. The last factor of hours is measured too: figures/speed.csv has a search and its products alone.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import psutil
import torch
import typer
import yaml

from .model.load import DEFAULT_MODEL, available, outline
from .run import defaults, profile_parameters
from .store.disk import RromeError, cache_dir
from .study.costs import FLOAT, Costs, Load, Rates, times
from .study.single import N_TEST_PREFIXES, facts_at_once
from .update.rules import NAMED_RULES, RULES

GIB, HOUR = 2**30, 3600
SPEED = "speed.csv"  # what notebook 7 measured
PROBE, SEQUENTIAL_PROBE = 600 / 4.5, 1200 / 4.5  # tokens, of 4.5 letters each
LINE = 2_100  # bytes of a journal's line: the mean of the laptop profile's single-edit study
SPOKEN = 2  # generation prompts of a fact
GLUE = {"tokens": 250, "said": 5, "batch": 16}  # of a few-shot prompt, and its answers


@dataclass(frozen=True)
class Work:
    """What a notebook does: its load, the bytes it writes, and how many facts and edited models it has in one batch."""

    load: Load = field(default_factory=Counter)
    disk: float = 0
    at_once: int = 1
    models: int = 1


def _disabling(costs: Costs, p: Mapping[str, Any]) -> Work:
    edits, models = p["n_ordinary"] + 2, 1 + len(NAMED_RULES)
    said = costs.speak(models, p["n_generated"]) + costs.text(models * p["perplexity_tokens"])
    return Work(costs.keys(p["n_facts"]) + costs.edits(edits, len(NAMED_RULES)) + times(3, said), models=models)


def _single(costs: Costs, p: Mapping[str, Any]) -> Work:
    n, models = p["n_ordinary"] + p["n_first_token"], 1 + len(RULES)
    each = costs.measure(1, models, N_TEST_PREFIXES) + costs.probe(PROBE, models)
    each += costs.speak(SPOKEN * models, p["n_generated"])
    load = costs.edits(n, len(RULES), costs.at_once) + times(n, each) + costs.keys(p.get("n_preflight", 0))
    return Work(load, n * models * LINE, costs.at_once, models)


def _sequence(costs: Costs, n: int) -> Load:
    return costs.keys(n) + costs.edits(n, 1) + costs.measure(n, 1) + costs.probe(n * SEQUENTIAL_PROBE, 1)


def _logged(costs: Costs, n: int) -> float:
    return n * (LINE + FLOAT * sum(costs.model.site.weight.shape))


def _collapse(costs: Costs, p: Mapping[str, Any]) -> Work:
    n, checks, rules = p["n_edits"], 1 + p["n_edits"] / p["every"], len(NAMED_RULES)
    choices = sum(task in ("agreement", "recall") for task in p["tasks"])
    questions = (len(p["tasks"]) - choices) * p["n_items"]
    asked = costs.text(questions * 2 * GLUE["tokens"] + choices * p["n_items"] * 3 * costs.prompt)
    asked += times(questions / GLUE["batch"], costs.speak(GLUE["batch"], GLUE["said"]))
    retests = costs.text(checks * n / 2 * 2 * costs.prompt) + costs.measure(n, 1)
    return Work(times(rules, _sequence(costs, n) + times(checks, asked) + retests), _logged(costs, rules * n))


def _speed(costs: Costs, p: Mapping[str, Any]) -> Work:
    share, searches = p["n_templates"] / 21 * p["evaluations"] / 20, 6 + sum(p["facts_at_once"])
    searches += len(p["leading_words"]) + len(p["prompts_per_fact"]) + len(p["layers"])
    return Work(times(share, costs.search(searches) + costs.naive_search()))


def _sinks(costs: Costs, p: Mapping[str, Any]) -> Work:
    edits = len(p["leading"]) * (p["n_first_token"] + p["n_ordinary"])
    return Work(costs.edits(edits, len(NAMED_RULES)) + costs.keys(p["n_survey"] / 100))  # a token, not 21 prompts


def _moments(costs: Costs, p: Mapping[str, Any]) -> Work:
    n, models = p["n_ordinary"] + p["n_first_token"], len(NAMED_RULES) * len(p["times_d_k"])
    load = costs.second_moment(sum(p["times_d_k"]) * costs.d_k) + costs.edits(n, models) + costs.measure(n, models)
    return Work(load)


def _layers(costs: Costs, p: Mapping[str, Any]) -> Work:
    n, models, layers = p["n_ordinary"] + p["n_first_token"], 1 + len(NAMED_RULES), len(p["layers"])
    here = costs.second_moment(p["c0_tokens"]) + costs.edits(n + 1, models) + costs.measure(n, models)
    here += times(n, costs.speak(2 * SPOKEN, p["n_generated"])) + costs.text(models * p["perplexity_tokens"])
    return Work(times(layers, here), n * models * layers * LINE, models=models)


def _survival(costs: Costs, p: Mapping[str, Any]) -> Work:
    runs = len(p["orders"]) * len(p["rules"])
    return Work(times(runs, _sequence(costs, p["n_edits"])), _logged(costs, runs * p["n_edits"]))


def _reads(costs: Costs, p: Mapping[str, Any]) -> Work:
    return Work()  # a toy, or what another notebook of the profile has made


WORK: dict[str, Callable[[Costs, Mapping[str, Any]], Work]] = {
    "01_the_update": _reads,
    "02_disabling_edit": _disabling,
    "03_delta_scatter": _single,
    "04_collapse_curves": _collapse,
    "05_metrics_table": _reads,
    "06_claims": _reads,
    "07_speed": _speed,
    "08_key_choices": _reads,
    "09_attention_sink": _sinks,
    "10_second_moment": _moments,
    "A1_choosing_the_layer": _layers,
    "A2_edits_survived": _survival,
}


def plan(folder: Path, profile: str, costs: Costs, rates: Rates, overhead: float) -> pd.DataFrame:
    """Per notebook of a profile: `memory` in bytes, `hours`, `disk` in bytes; first what all share, the model and C_0.

    `overhead` is search / floor. A notebook that has no estimate has NaN. Raises RromeError for an unknown profile or a
    parameter that its notebook does not know.
    """
    parameters = {path.stem: defaults(path) | profile_parameters(path, profile) for path in named(folder, profile)}
    weights = FLOAT * costs.model.lm.num_parameters()
    c_0 = Work(
        costs.second_moment(max((p.get("c0_tokens", 0) for p in parameters.values()), default=0)), 8 * costs.d_k**2
    )
    works = {"C_0": c_0} | {name: WORK[name](costs, p) if name in WORK else None for name, p in parameters.items()}
    rows: list[tuple[str, float, float, float]] = [("the model", weights, 0.0, weights)]
    for name, work in works.items():
        if work is None:
            rows.append((name, math.nan, math.nan, math.nan))
            continue
        hours = overhead * rates.seconds(work.load) / HOUR
        rows.append((name, costs.memory(work.at_once, work.models * PROBE) if work.load else 0.0, hours, work.disk))
    return pd.DataFrame(rows, columns=["what", "memory", "hours", "disk"])


def named(folder: Path, profile: str) -> list[Path]:
    """The notebooks that a profile names, in the order of their names; RromeError for one that is not there."""
    file = folder / "profiles" / f"{profile}.yaml"
    if not file.exists():
        raise RromeError(f"there is no profile {profile!r} in {file.parent}")
    paths = [
        folder / f"{name}.ipynb" for name in sorted(yaml.safe_load(file.read_text("utf-8")) or {}) if name != "all"
    ]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise RromeError(f"{file.name} names notebooks that are not there: {', '.join(missing)}")
    return paths


def measured_overhead(figures: Path) -> float:
    """search / floor of figures/speed.csv; RromeError when it is missing."""
    try:
        table = pd.read_csv(figures / SPEED)
        return float(table["seconds_ours"].iloc[0] / table["floor_seconds"].iloc[0])
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise RromeError(f"{figures / SPEED} has no measured search ({error}): call make bench") from error


def report(table: pd.DataFrame, costs: Costs, rates: Rates, device: torch.device, overhead: float) -> str:
    """The table, its sums against what is free, and what it rests on."""
    model, search = costs.model, costs.search(1)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    disk_free = shutil.disk_usage(next(path for path in [cache_dir(), *cache_dir().parents] if path.exists())).free
    peak, disk = table["memory"].max(), table["disk"].sum()
    shown = table.assign(memory=table["memory"] / GIB, disk=table["disk"] / GIB)
    shown.columns = ["what", "memory, GiB", "hours", "disk, GiB"]
    flops = sum(search.values())
    lines = [
        f"{model.name} on {device}: {model.lm.num_parameters() / 1e6:,.0f} million parameters, layer {model.layer}",
        "",
        shown.to_string(index=False, float_format="{:.2f}".format, na_rep="unknown"),
        "",
        f"hours        {table['hours'].sum():.1f} in all",
        f"memory       {peak / GIB:.1f} GiB at most, {free / GIB:.1f} free on {device}: {_enough(peak, free)}",
        f"host memory  {16 * costs.d_k**2 / GIB:.2f} GiB for C_0 and its factor",
        f"disk         {disk / GIB:.1f} GiB, {disk_free / GIB:.1f} free: {_enough(disk, disk_free)}",
        "",
        "What it rests on:",
        f"- A search is {flops:.2e} FLOPs: {costs.tokens} tokens, {costs.live} of them from the subject's last one on.",
        f"- {device} makes {flops / rates.seconds(search):.2e} of them a second in matrix products alone, measured now.",
        f"- All takes {overhead:.2f} times its products, as a search did in {SPEED}; on another device: make bench.",
        f"- Prompts are as long as the embedded facts', GLUE's {GLUE['tokens']} tokens; no search ends early.",
        "- All is float32 and done anew. Not counted: starting, loading, drawing (half a minute a notebook), downloads.",
    ]
    return "\n".join(lines)


def _enough(needed: float, free: float) -> str:
    return "enough" if needed < free else "TOO LITTLE"


def main(
    profile: str = "laptop",
    model: Annotated[str, typer.Option(help="short name, hub id or folder")] = DEFAULT_MODEL,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; an accelerator when there is one")] = None,
    notebooks: Path = Path("notebooks"),
    figures: Annotated[Path, typer.Option(help="where speed.csv is")] = Path("figures"),
) -> None:
    """Say what PROFILE takes with this model on this device; only the model's configuration and tokenizer are read."""
    try:
        where = torch.device(available(None if device == "auto" else device))
        costs = Costs(outline(model), facts_at_once(where))
        overhead, rates = measured_overhead(figures), Rates(costs.model, where)
        table = plan(notebooks, profile, costs, rates, overhead)
    except RromeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(report(table, costs, rates, where, overhead))


if __name__ == "__main__":
    typer.run(main)
