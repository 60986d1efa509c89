"""What an edit takes here: time beside matrix products alone, time by stage, growth, and memory; see also baseline.

    floor  =  FLOPs of a search / FLOPs per second of matrix products alone, run here with the model's own weights

Torch counts the FLOPs while a search runs, with attention as plain products: fused on a CPU it would count as nothing.
Normalisation and activations count nothing, so the floor cannot be reached. Times compare only within one run.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import pandas as pd
import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from ..edit import Editor, load_editor
from ..facts import Fact
from ..measure import fact_probabilities
from ..model import Model
from ..model.model import Branch
from ..model.site import blocks_of
from ..update import RULES, RankOneUpdate, Search, find_values
from ..update.batch import freeze


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of wall clock that `work` takes, an accelerator's queue included, and what it returns."""
    finish = partial(torch.accelerator.synchronize, device) if device.type != "cpu" else lambda: None
    finish()
    start = time.perf_counter()
    result = work()
    finish()
    return time.perf_counter() - start, result


def search_flops(
    model: Model, facts: Sequence[Fact], templates: Sequence[str], leading: str | None = None
) -> tuple[float, float]:
    """FLOPs of a search that come once, and those of one evaluation forward and back, from searches of one and of two."""
    counted = []
    for evaluations in (1, 2):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            find_values(model, facts, templates, Search(evaluations=evaluations, stop_loss=0.0), leading)
        counted.append(counter.get_total_flops())
    step = counted[1] - counted[0]
    return counted[0] - step / 2, step  # the last evaluation goes forward only


def search_floor(
    model: Model, facts: Sequence[Fact], templates: Sequence[str], evaluations: int, leading: str | None = None
) -> float:
    """Seconds of the products of a search alone: what comes once at the rate of whole prompts, the rest at that of a step."""
    once, step = search_flops(model, facts, templates, leading)
    batch = freeze(model, facts, templates, leading)[0]
    blocks = [[weight for weight in block.parameters() if weight.dim() == 2] for block in blocks_of(model.lm)]
    whole = [(weight, int(batch.mask.sum())) for block in blocks for weight in block]
    above = [(weight, batch.ids.numel()) for block in blocks[model.layer + 1 :] for weight in block]
    above.append((model.lm.get_output_embeddings().weight, len(batch.logit_positions.row)))
    return once / product_rate(whole) + (evaluations - 0.5) * step / product_rate(above)


@torch.no_grad()
def product_rate(products: Sequence[tuple[torch.Tensor, int]]) -> float:
    """FLOPs per second of products (weight, rows) alone, forward and back."""
    sides = {(rows, side): weight for weight, rows in products for side in weight.shape}
    inputs = {shape: torch.randn(shape, device=weight.device, dtype=weight.dtype) for shape, weight in sides.items()}

    def run() -> None:
        for weight, rows in products:  # in the order that the family's layout gives
            _ = inputs[rows, weight.shape[0]] @ weight, inputs[rows, weight.shape[1]] @ weight.T

    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return sum(4 * rows * weight.numel() for weight, rows in products) / timer.blocked_autorange().median


def stages(editor: Editor, fact: Fact) -> pd.DataFrame:
    """Where the time of one sequential edit under ROME goes: what, seconds, and its share of the search alone."""
    solution = editor.solve(fact)

    def measure(update: RankOneUpdate) -> None:
        with editor.applied(update):
            fact_probabilities(editor.model, fact, {"now": None})

    work: dict[str, Callable[[], Any]] = {
        "keys alone (preflight)": lambda: editor.preflight(fact),
        "what delta cannot change": lambda: freeze(editor.model, [fact], editor.prefixes, editor.leading),
        "search of v_e": lambda: editor.solve(fact),
        "update from keys and value": lambda: solution.update("rome"),
        "apply, measure the fact, revert": partial(measure, solution.update("rome")),
        "whole edit with its metrics": lambda: measure(editor.update(fact, "rome")),
    }
    rows = [(what, timed(part, editor.model.device)[0]) for what, part in work.items()]
    table = pd.DataFrame(rows, columns=["what", "seconds"])
    return table.assign(of_search=table["seconds"] / dict(rows)["search of v_e"])


def edit_memory(editor: Editor, fact: Fact, sequences: Sequence[int] = ()) -> pd.DataFrame:
    """Memory that an edit needs beside a loaded model: what, megabytes (10^6 bytes), of_model (share of its weights).

    Below it, the same for the searches of so many `sequences` in lockstep, each with a W of its own. On a CPU a new process
    loads the model by its name and does the work: by how much does its resident set rise?
    """
    model = editor.model
    weights = sum(weight.nbytes for weight in model.lm.parameters())
    held = {"the model's weights": weights, "W": model.site.weight.nbytes}
    held["one edit under 8 rules, measured"] = _rise(editor, fact, 1)
    held |= {f"{n} sequences in lockstep": _rise(editor, fact, n) for n in sequences}
    table = pd.Series(held).rename_axis("what").reset_index(name="megabytes")
    return table.assign(megabytes=table["megabytes"] / 1e6, of_model=table["megabytes"] / weights)


def _rise(editor: Editor, fact: Fact, n: int) -> int:
    model = editor.model
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        _edit(editor, fact, n)
        return torch.cuda.max_memory_allocated(model.device) - before
    again = (model.name, model.layer, editor.second_moment.count, editor.prefixes, editor.search)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        return child.submit(_edit_anew, *again, fact, n).result()


def _edit(editor: Editor, fact: Fact, n: int) -> None:
    if n == 1:
        fact_probabilities(editor.model, fact, editor.updates(fact, list(RULES)))
    else:
        editor.solve_each([fact] * n, [Branch(editor.model).weight for _ in range(n)])


def _edit_anew(name, layer, tokens, prefixes, search, fact, n) -> int:
    """Sampled: on Linux a new process's ru_maxrss starts at the size of its parent, which hides what the edit takes."""
    editor = load_editor(name, device="cpu", layer=layer, c0_tokens=tokens, prefixes=prefixes)
    editor.search = search
    resident = [psutil.Process().memory_info().rss]
    with ThreadPoolExecutor(1) as other:
        work = other.submit(_edit, editor, fact, n)
        while wait([work], timeout=0.002).not_done:
            resident.append(psutil.Process().memory_info().rss)
        work.result()
    return max(resident) - resident[0]


def scaling(cases: Sequence[tuple], search: Search) -> pd.DataFrame:
    """Seconds of a search per fact, and its floor, for cases (varied, size, model, facts, templates, leading).

    Columns: varied, size, seconds, floor_seconds. Every search makes all its evaluations.
    """
    search, rows = replace(search, stop_loss=0.0), []
    for varied, size, model, facts, templates, leading in cases:
        seconds, _ = timed(partial(find_values, model, facts, templates, search, leading), model.device)
        floor = search_floor(model, facts, templates, search.evaluations, leading)
        rows.append((varied, size, seconds / len(facts), floor / len(facts)))
    return pd.DataFrame(rows, columns=["varied", "size", "seconds", "floor_seconds"])
