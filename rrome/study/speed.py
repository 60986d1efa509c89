"""How fast an edit is here: against the naive solver, against the machine's matrix products, and stage by stage.

    floor  =  FLOPs that a search cannot avoid / FLOPs per second of the same matrix products run alone

Unavoidable are the products with the weights above l*, forward and backward, for every token from the subject's last one
on, those of the last MLP and of the vocabulary where a distribution is read, and once what lies below or before.
Attention scores and everything elementwise are left out, so the floor cannot be reached.

Times compare only within one run on one machine. Nothing here is checked against a clock.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from .. import naive
from ..edit.editor import Editor
from ..facts.fact import Fact
from ..measure.scores import fact_probabilities
from ..model.model import Model
from ..model.site import blocks_of, find_site
from ..update.batch import Frozen, freeze
from ..update.rules import RULES, RankOneUpdate
from ..update.value import Search, find_values

COLUMNS = ["what", "seconds_naive", "seconds_ours", "ratio", "relative_error", "floor_seconds"]


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of wall clock that `work` takes, an accelerator's queue included, and what it returns."""
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - start, result


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def search_floor(model: Model, batch: Frozen, evaluations: int) -> tuple[float, float]:
    """FLOPs that a search of so many evaluations cannot avoid, and the seconds that they take as products alone."""
    tokens, places = int(batch.mask.sum()), batch.places
    live = int(batch.mask[:, -batch.ids.shape[1] :].sum())  # from the subject's last token on
    read = len(set(zip(places.row.tolist(), places.column.tolist(), strict=True)))
    work = search_products(model, tokens, live, read, evaluations)
    flops = sum(2 * weight.numel() * rows * times for products, _, times in work for weight, rows in products)
    return flops, sum(times * product_seconds(products, back) for products, back, times in work)


def search_products(
    model: Model, tokens: int, live: int, read: int, evaluations: int
) -> list[tuple[list[tuple[torch.Tensor, int]], bool, int]]:
    """What a search cannot avoid, as (products, back, times): products of (weight, rows), forward or back to the inputs.

    Of its `tokens`, `live` ones are computed anew in each evaluation, and the vocabulary is read at `read` of these.
    """
    blocks, last_mlp = blocks_of(model.lm), find_site(model.lm, model.depth - 1).path.rpartition(".")[0]
    in_mlp = linear_maps(model.lm.get_submodule(last_mlp))
    mlp = weights_of(in_mlp)
    attention = weights_of([part for part in linear_maps(blocks[-1]) if part not in in_mlp])
    middle = [weight for block in blocks[model.layer + 1 : -1] for weight in weights_of(linear_maps(block))]
    below = [weight for block in blocks[: model.layer + 1] for weight in weights_of(linear_maps(block))]
    head = [model.lm.get_output_embeddings().weight]
    step = [(weight, live) for weight in middle + attention] + [(weight, read) for weight in mlp + head]
    once = [(weight, tokens) for weight in below] + [(weight, tokens - live) for weight in middle + attention]
    return [(step, False, evaluations), (step, True, evaluations - 1), (once, False, 1)]


def linear_maps(module: nn.Module) -> list[nn.Linear | Conv1D]:
    """All linear maps inside a module."""
    return [part for part in module.modules() if isinstance(part, (nn.Linear, Conv1D))]


def weights_of(maps: Sequence[nn.Linear | Conv1D]) -> list[torch.Tensor]:
    """The matrices of linear maps, (out, in) each."""
    return [part.weight.T if isinstance(part, Conv1D) else part.weight for part in maps]


@torch.no_grad()
def product_seconds(products: Sequence[tuple[torch.Tensor, int]], back: bool, repeats: int = 3) -> float:
    """The median time of all products (weight, rows), forward (rows, in) -> (rows, out) or back to the inputs."""
    sides = {(rows, weight.shape[0 if back else 1]): weight for weight, rows in products}
    inputs = {side: torch.randn(*side, device=weight.device, dtype=weight.dtype) for side, weight in sides.items()}
    device = products[0][0].device

    def run():
        for weight, rows in products:
            _ = inputs[rows, weight.shape[0]] @ weight if back else linear(inputs[rows, weight.shape[1]], weight)

    run()
    return statistics.median(timed(run, device)[0] for _ in range(repeats))


def against_naive(editor: Editor, fact: Fact, rule: str = "rome") -> pd.DataFrame:
    """The naive solver and the kit on one fact: the search alone, the edit under one rule, and under all eight.

    Columns: what, seconds_naive, seconds_ours, ratio, relative_error (of delta, or the largest of any Delta), and
    floor_seconds of the search. The naive time of eight rules is eight searches, made once and counted eight times.
    """
    model, device = editor.model, editor.model.device
    given = (model, fact, editor.prefixes)
    settings = _naive_settings(editor.search)
    value_seconds, (target, delta, losses) = timed(
        lambda: naive.value(*given, editor.leading or "", **settings), device
    )
    c_0, expected, matrix_seconds = editor.second_moment.matrix, {}, {}
    for name, choice in RULES.items():
        matrix_seconds[name], expected[name] = timed(
            partial(naive.delta_matrix, *given, c_0, choice, editor.leading or "", target), device
        )
    batch = freeze(model, [fact], editor.prefixes, editor.leading)[0]
    floors = [search_floor(model, batch, len(losses))[1]]
    search_seconds, value = timed(lambda: editor.value(fact), device)
    floors.append(search_floor(model, batch, len(losses))[1])  # before and after, for a machine that others use too
    one_seconds, one = timed(lambda: editor.updates(fact, [rule]), device)
    all_seconds, every = timed(lambda: editor.updates(fact, list(RULES)), device)
    naive_all = 8 * value_seconds + sum(matrix_seconds.values())
    rows = [
        ("search of v_e", value_seconds, search_seconds, _error(value.delta, delta)),
        (f"one edit, {rule}", value_seconds + matrix_seconds[rule], one_seconds, _largest_error(one, expected)),
        ("one edit, all 8 rules", naive_all, all_seconds, _largest_error(every, expected)),
    ]
    floor = statistics.mean(floors)
    return pd.DataFrame([(*row[:3], row[1] / row[2], row[3], floor) for row in rows], columns=COLUMNS)


def _naive_settings(search: Search) -> dict[str, float]:
    names = {"learning_rate": "lr", "stop_loss": "stop", "weight_decay": "decay"}
    return {names.get(name, name): setting for name, setting in vars(search).items()}


def _error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours - expected).norm() / expected.norm()).item()


def _largest_error(updates: Mapping[str, RankOneUpdate], expected: Mapping[str, torch.Tensor]) -> float:
    return max(_error(update.matrix(), expected[name]) for name, update in updates.items())


def stages(editor: Editor, fact: Fact, rule: str = "rome") -> pd.DataFrame:
    """Where the time of one sequential edit goes: what, seconds, and its share of the search alone."""
    model, device = editor.model, editor.model.device
    search, solution = timed(lambda: editor.solve(fact), device)
    update_seconds, update = timed(lambda: solution.update(rule), device)
    rows = {
        "keys alone (preflight)": timed(lambda: editor.preflight(fact), device)[0],
        "what delta cannot change": timed(lambda: freeze(model, [fact], editor.prefixes, editor.leading), device)[0],
        "search of v_e": search,
        "update from keys and value": update_seconds,
        "apply, measure the fact, revert": timed(lambda: measured_in_place(editor, fact, update), device)[0],
        "whole edit with its metrics": timed(
            lambda: measured_in_place(editor, fact, editor.update(fact, rule)), device
        )[0],
    }
    return pd.DataFrame({"what": list(rows), "seconds": list(rows.values())}).assign(
        of_search=lambda table: table["seconds"] / search
    )


def measured_in_place(editor: Editor, fact: Fact, update: RankOneUpdate) -> dict[str, list[tuple[float, float]]]:
    """The probabilities at a fact's prompts with the update in W, which is afterwards as it was."""
    with editor.applied(update):
        return fact_probabilities(editor.model, fact, {update.rule: None})[update.rule]


def scaling(
    editor: Editor,
    facts: Sequence[Fact],
    *,
    evaluations: int,
    leading_words: Sequence[int],
    prefixes: Sequence[int],
    layers: Sequence[int],
    at_once: Sequence[int],
) -> pd.DataFrame:
    """Seconds of a search per fact, and its floor, as one thing grows: columns varied, size, seconds, floor_seconds."""
    search = replace(editor.search, evaluations=evaluations, stop_loss=0.0)
    model, templates, device = editor.model, editor.prefixes, editor.model.device
    cases = [
        *(("words before every prompt", n, model, facts[:1], templates, "and " * n) for n in leading_words),
        *(("prompts per fact", n, model, facts[:1], templates[:n], None) for n in prefixes),
        *(("blocks above l*", model.depth - 1 - n, model.at_layer(n), facts[:1], templates, None) for n in layers),
        *(("facts at once", n, model, facts[:n], templates, None) for n in at_once),
    ]
    rows = []
    for varied, size, where, some, prompts, leading in cases:
        batch = freeze(where, some, prompts, leading)[0]
        seconds, _ = timed(partial(find_values, where, some, prompts, search, leading), device)
        floor = search_floor(where, batch, evaluations)[1]
        rows.append((varied, size, seconds / len(some), floor / len(some)))
    return pd.DataFrame(rows, columns=["varied", "size", "seconds", "floor_seconds"])
