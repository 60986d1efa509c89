"""The studies over a Dask cluster: workers edit and measure, this process alone writes the single-edit journal.

`cluster` is a number of workers to start here, or a scheduler's address, "tcp://head:8786", with one worker a GPU:
`dask worker tcp://head:8786 --nthreads 1 --nworkers 4 --name gpu --memory-limit 0`. Each worker calls `make_editor` once.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch

from ..edit import Editor
from ..facts import Fact
from ..store import RromeError, bar
from ..store.journal import differences
from ..update import NAMED_RULES, RULES, Rule, rule_named
from ..update.rules import rules_named
from . import sequential, single
from .runs import SequentialRun
from .sequential import Checks

try:
    import cloudpickle
    import dask
    from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, as_completed, get_worker
except ImportError as error:
    raise RromeError(f'studies on a cluster need Dask ({error}): pip install "rrome[cluster]"') from error


def single_edits(
    cluster: str | int, make_editor: Callable[[], Editor], facts: Sequence[Fact], path: str | Path, *,
    rules: Sequence[str | Rule] = tuple(RULES), measures: single.Measures | None = None, at_once: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """As `single.single_edits`, `at_once` facts a task: the same table up to rounding, in a journal that both continue."""
    chosen = rules_named(rules, remembering=False, recorded=True)
    given: dict[str, Any] = {"rules": chosen, "measures": measures or single.Measures()}

    def task(batch: single.Batch) -> Callable[[Editor], Iterator[single.Rows]]:
        return partial(single.measured_edits, facts=[facts[n] for n in batch], **given)

    prepare = partial(single.prepared, facts=facts, **given)
    with _workers(cluster, make_editor, prepare) as (run, settings, lengths, suited):
        return single.record_edits(
            path, settings, lengths, lambda batches: run({b: task(b) for b in batches}), at_once=at_once or suited
        )


def sequential_edits(
    cluster: str | int, make_editor: Callable[[], Editor], sequences: Mapping[int, Sequence[Fact]], folder: str | Path, *,
    rules: Sequence[str | Rule] = NAMED_RULES, checks: Checks | None = None,
) -> dict[tuple[str, int], SequentialRun]:  # fmt: skip
    """`sequential.sequential_edits` of each rule on each seed's facts, a task each, in FOLDER/RULE-SEED on a shared disk."""
    work, tasks = partial(sequential.sequential_edits, checks=checks, progress=False), {}
    for name, rule in map(rule_named, rules):
        for seed, facts in sequences.items():
            tasks[name, seed] = partial(work, facts=facts, folder=Path(folder).resolve() / f"{name}-{seed}", rule=rule)
    every = [fact for facts in sequences.values() for fact in facts]
    prepare = partial(single.prepared, facts=every, rules={}, measures=single.Measures(n_generated=0))
    with _workers(cluster, make_editor, prepare) as (run, *_):
        made = dict(bar(run(tasks), total=len(tasks), desc="runs", unit="run"))
    return {label: made[label] for label in tasks}


@contextlib.contextmanager
def _workers(cluster: str | int, make_editor: Callable, prepare: Callable[[Editor], tuple]) -> Iterator[tuple]:
    """(run, *prepare(editor)): `run` takes tasks by label and yields each (label, task(editor)) as it ends."""
    try:
        if len(recipe := cloudpickle.dumps(make_editor)) > 1_000_000:
            raise TypeError(f"{len(recipe) / 1e6:.0f} MB, as if it held weights")
    except Exception as error:  # whatever its objects raise
        remedy = "give a function that workers can import, or functools.partial of one with names, not objects"
        raise RromeError(f"make_editor cannot be sent to workers ({error}): {remedy}") from error
    n = cluster if isinstance(cluster, int) else 0
    local = {"n_workers": n, "threads_per_worker": 1, "memory_limit": None, "dashboard_address": "127.0.0.1:0"}
    environ = {"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": max(1, (os.cpu_count() or 1) // max(1, n))}}
    with mock.patch.dict(os.environ), dask.config.set(environ), contextlib.ExitStack() as stack:
        try:
            workers = stack.enter_context(LocalCluster(**local)) if n else cluster
            client = stack.enter_context(Client(workers, set_as_default=False))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            remedy = 'in a script put the call under `if __name__ == "__main__":`' if n else "start `dask scheduler`"
            raise RromeError(f"there is no Dask cluster at {cluster!r} ({error}): {remedy}") from error

        def run(tasks: Mapping[Any, Callable], settings: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
            sent = {client.submit(_work, recipe, settings, task, pure=False): label for label, task in tasks.items()}
            # nobody keeps a future that ended: it would be done again when its worker dies later
            return map(lambda future: (sent.pop(future), future.result()), _ended(client, sent))  # noqa: C417

        try:
            ((_, (settings, *search)),) = run({"": prepare}, {})
            yield partial(run, settings=settings), settings, *search
        except (KilledWorker, CancelledError, TimeoutError) as error:
            remedy = "start some (`dask worker ADDRESS --nthreads 1`) or see their logs, then call again to go on"
            raise RromeError(f"workers were lost or never came ({error}): {remedy}") from error


def _ended(client: Client, sent: Mapping[Future, Any]) -> Iterator[Future]:
    """Each future of `sent`, from which the caller takes it, as it ends; TimeoutError after 5 minutes without a worker."""
    patience: Any = dask.config.get("distributed.scheduler.no-workers-timeout") or "5 minutes"
    while sent:
        client.wait_for_workers(1, timeout=patience)
        with contextlib.suppress(TimeoutError):  # workers are looked for now and then
            yield from as_completed(list(sent), loop=client.loop, timeout=patience)


def _work(recipe: bytes, settings: Mapping[str, Any], task: Callable[[Editor], Any]) -> Any:
    """On a worker: `task(editor)` with its own editor, on the accelerator of the number at the end of its name ("gpu-3")."""
    worker, count = get_worker(), torch.accelerator.device_count()
    number, editors = str(worker.name).rpartition("-")[2], vars(worker).setdefault("rrome_editors", {})
    if worker.state.nthreads != 1:
        raise RromeError(f"worker {worker.name} has {worker.state.nthreads} threads: start it with --nthreads 1")
    if count > 1 and not number.isdecimal():
        raise RromeError(f"worker {worker.name} sees {count} accelerators and has no number: add --name gpu-0, say")
    if count:
        torch.accelerator.set_device_index(int(number) % count if number.isdecimal() else 0)
    if recipe not in editors:
        editors.clear()  # frees the old model first
        editors[recipe] = cloudpickle.loads(recipe)()
    mine = single.study_settings(editors[recipe]) if settings else {}
    if changes := differences(mine, {name: settings.get(name) for name in mine}):
        raise RromeError(f"the editor of worker {worker.name} is not the study's ({changes}): fix prefixes and files")
    return list(result) if isinstance(result := task(editors[recipe]), Iterator) else result
