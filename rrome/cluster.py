"""A Dask cluster to work on: one that is there, or workers on this machine, and which accelerator each of them takes."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator

import dask
from distributed import Client, LocalCluster

from .errors import RromeError

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
