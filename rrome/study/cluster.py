"""A Dask cluster to work on: one that is there, or workers on this machine, and which accelerator each of them takes.

The studies on many machines or GPUs, over Dask: workers edit and measure, this process alone keeps the books.

    cluster       a scheduler's address, "tcp://head:8786", or a number of workers to start on this machine
    make_editor   a function without arguments that workers can import, or functools.partial of one: each worker calls it
                  once and keeps its editor. Names travel, weights do not.

Start workers with one thread each, and numbered names where they shall share out the accelerators of a machine:

    dask worker tcp://head:8786 --nthreads 1 --nworkers 4 --name gpu --memory-limit 0

Dask lets OMP_NUM_THREADS be 1 in its workers where it is not set: set it for workers without an accelerator. What a worker
was at when it died, another one does again.
"""

import contextlib
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import dask
import pandas as pd
import torch
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, Worker, as_completed, get_worker

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..model.tokens import check_prompts
from ..store.disk import RromeError
from ..store.journal import differences
from ..store.progress import bar
from ..update.rules import NAMED_RULES, RULES, Rule, rule_named
from . import sequential, single
from .sequential import Checks, SequentialRun
from .single import Measures, Rows, study_settings

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def local_workers(n: int) -> Iterator[LocalCluster]:
    """Inside, `n` worker processes that share this machine's cores, with a `scheduler_address`.

    Dask writes their settings into this process's environment, where whatever is started next would find them: one
    thread, say. They are taken out again.
    """
    threads = max(1, (os.cpu_count() or 1) // n)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with (
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": threads for name in names}),
        _environment_kept(dask.config.get("distributed.nanny.pre-spawn-environ")) as restore,
        LocalCluster(n_workers=n, threads_per_worker=1, memory_limit=None, dashboard_address="127.0.0.1:0") as workers,
    ):
        restore()
        yield workers


@contextlib.contextmanager
def _environment_kept(names: Iterable[str]) -> Iterator[Callable[[], None]]:
    """These variables are on leaving what they were on entering, and so often as the function that is given is called."""
    before = {name: os.environ.get(name) for name in names}

    def restore():
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        yield restore
    finally:
        restore()


@contextlib.contextmanager
def connected(cluster: str | int) -> Iterator[Client]:
    """A client of the cluster at an address, or of as many workers on this machine; leaving drops its tasks."""
    quiet = {"distributed.admin.large-graph-warning-threshold": "1 GB"}  # the facts of a large study travel
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(quiet))
        address = cluster
        if isinstance(cluster, int):
            address = stack.enter_context(local_workers(cluster)).scheduler_address
        try:
            client = stack.enter_context(Client(address, set_as_default=False))
        except (OSError, ValueError) as error:
            raise RromeError(
                f"no Dask scheduler answers at {cluster!r} ({error}): start one with `dask scheduler`, or give a number "
                "of workers for this machine"
            ) from error
        if not client.scheduler_info()["workers"]:
            logger.warning("%s has no workers yet: start some with `dask worker`", address)
        yield client


def accelerator_of(name: str | int, count: int) -> int | None:
    """Which of a machine's `count` accelerators a worker takes: the one of the number that its name ends in ("gpu-3").

    None where there is none; RromeError for a worker without a number that sees several.
    """
    number = re.search(r"(?:^|-)(\d+)$", str(name))
    if count > 1 and not number:
        raise RromeError(
            f"worker {name} sees {count} accelerators and has no number: start it with --name gpu-0, or with --name gpu "
            "and --nworkers"
        )
    return (int(number[1]) if number else 0) % count if count else None


Label = TypeVar("Label")
MAX_RECIPE = 1_000_000  # bytes of a pickled make_editor; weights are larger


def single_edits(
    cluster: str | int,
    make_editor: Callable[[], Editor],
    facts: Sequence[Fact],
    path: str | Path,
    *,
    rules: Sequence[str | Rule] = tuple(RULES),
    measures: Measures | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """The study `single.single_edits` with its facts mapped over a cluster: the same table, the same journal at `path`.

    Numbers differ by rounding alone, as between two numbers of threads (the tests allow 1e-4, relative; 1e-7, absolute).
    A study begun in one process goes on here, and the other way round. Each task is `at_once` facts (None: what the
    first worker's device likes). Raises RromeError for workers whose editors differ, and what a worker raises; rows that
    came before stay in the journal.
    """
    measures, chosen, recipe = measures or Measures(), dict(map(rule_named, rules)), _recipe(make_editor)
    with connected(cluster) as client:
        begun = client.submit(_begin, recipe, facts, pure=False)  # C_0 is cached for the others
        settings, suited, lengths = _result(begun)

        def make(batches: Sequence[list[int]]) -> Iterator[tuple[int, Rows]]:
            parts = [[facts[n] for n in batch] for batch in batches]
            work = partial(_measured, recipe, settings, chosen, measures)
            tasks = dict(zip(client.map(work, parts, pure=False), batches, strict=True))
            for batch, made in _results(client, tasks):
                yield from zip(batch, made, strict=True)

        header = settings | single.chosen_settings(facts, chosen, measures)
        return single.record_edits(path, header, lengths, make, at_once=at_once or suited, progress=progress)


def sequential_edits(
    cluster: str | int,
    make_editor: Callable[[], Editor],
    sequences: Mapping[int, Sequence[Fact]],
    folder: str | Path,
    *,
    rules: Sequence[str | Rule] = NAMED_RULES,
    checks: Checks | None = None,
    progress: bool | None = None,
) -> dict[tuple[str, int], SequentialRun]:
    """Rules x seeds of `sequential.sequential_edits`, each run a task of its own in FOLDER/RULE-SEED, on a disk that all share.

    `sequences` holds the facts in the order that each seed draws. Runs go on where they stopped, on whichever worker. A
    run that this process leaves behind, on its own end or another run's error, keeps its folder until its worker is
    done with it or is stopped.
    """
    recipe, chosen = _recipe(make_editor), dict(map(rule_named, rules))
    runs = [(rule, seed) for rule in chosen for seed in sequences]
    places = [Path(folder).resolve() / f"{rule}-{seed}" for rule, seed in runs]
    every = list(dict.fromkeys(fact for facts in sequences.values() for fact in facts))
    with connected(cluster) as client:
        settings, *_ = _result(client.submit(_begin, recipe, every, pure=False))
        work = partial(_run, recipe, settings, checks)
        given = [chosen[rule] for rule, _ in runs], [sequences[seed] for _, seed in runs], places
        tasks = dict(zip(client.map(work, *given, pure=False), runs, strict=True))
        ended = bar(_results(client, tasks), total=len(runs), desc="runs", unit="run", show=progress)
        made = dict(ended)
    return {run: made[run] for run in runs}


def _recipe(make_editor: Callable[[], Editor]) -> bytes:
    """`make_editor` as it travels; the same bytes mean the same editor."""
    remedy = "give a function that workers can import and functools.partial its arguments, names rather than objects"
    try:
        recipe = cloudpickle.dumps(make_editor)
    except (pickle.PicklingError, TypeError) as error:
        raise RromeError(f"make_editor cannot be sent to workers ({error}): {remedy}") from error
    if len(recipe) > MAX_RECIPE:
        raise RromeError(f"make_editor carries {len(recipe) / 1e6:.0f} MB to every worker: {remedy}")
    return recipe


def _results(client: Client, tasks: dict[Future, Label]) -> Iterator[tuple[Label, Any]]:
    """(label, result) of each task as it ends; it is let go of, else it would be done again when its worker dies later."""
    for task in as_completed(tasks, loop=client.loop):
        label, result = tasks.pop(task), _result(task)
        del task
        yield label, result


def _result(task: Future) -> Any:
    """What a task returned, or the error that it raised; RromeError when workers or the scheduler were lost."""
    remedy = "what was done is on disk, so call again to go on"
    try:
        return task.result()
    except KilledWorker as error:
        deaths = error.allowed_failures + 1
        raise RromeError(
            f"{deaths} workers died at the same task: see their logs (out of memory?); {remedy}"
        ) from error
    except CancelledError as error:
        raise RromeError(f"the cluster was lost ({error}): {remedy}") from error


# What follows runs on workers.
@contextlib.contextmanager
def _at_work(recipe: bytes, settings: Mapping[str, Any] | None = None) -> Iterator[Editor]:
    """Inside, this worker's editor on this worker's accelerator; RromeError when it is not the editor of `settings`."""
    worker = get_worker()
    if (threads := worker.state.nthreads) != 1:
        raise RromeError(
            f"worker {worker.name} has {threads} threads, its editor serves one: start it with --nthreads 1"
        )
    with torch.accelerator.device_index(accelerator_of(worker.name, torch.accelerator.device_count())):
        editor = _kept_editor(worker, recipe)
        if settings is not None and (changes := differences(study_settings(editor), settings)):
            raise RromeError(
                f"the editor of worker {worker.name} is not the study's ({changes}): let make_editor give the same "
                "everywhere, with prefixes=[...] for example, and the same files on every machine"
            )
        yield editor


def _kept_editor(worker: Worker, recipe: bytes) -> Editor:
    """The editor that a worker keeps until a study with another one comes."""
    kept = vars(worker)
    if kept.get("rrome_recipe") != recipe:
        kept["rrome_recipe"] = kept["rrome_editor"] = None  # the old model goes before the new one comes
        kept["rrome_editor"] = pickle.loads(recipe)()
        kept["rrome_recipe"] = recipe
    return kept["rrome_editor"]


def _begin(recipe: bytes, facts: Sequence[Fact]) -> tuple[dict[str, Any], int, list[int]]:
    """A study's settings, how many facts make a task, and their lengths, once the facts are known to be measurable."""
    with _at_work(recipe) as editor:
        check_prompts(editor.model, facts)
        model = editor.model
        return study_settings(editor), single.facts_at_once(model.device), single.search_lengths(model, facts)


def _measured(
    recipe: bytes, settings: Mapping[str, Any], rules: Mapping[str, Rule], measures: Measures, facts: Sequence[Fact]
) -> list[Rows]:
    with _at_work(recipe, settings) as editor:
        return list(single.measured_edits(editor, facts, rules, measures))


def _run(
    recipe: bytes, settings: Mapping[str, Any], checks: Checks | None, rule: Rule, facts: Sequence[Fact], folder: Path
) -> SequentialRun:
    with _at_work(recipe, settings) as editor:
        return sequential.sequential_edits(editor, facts, folder, rule=rule, checks=checks, progress=False)
