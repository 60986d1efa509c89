import os

import pytest

from rrome import RromeError
from rrome.study.cluster import accelerator_of, local_workers


def test_workers_do_not_settle_how_many_threads_the_next_process_has(monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    before = {name: os.environ.get(name) for name in names}
    with local_workers(1):
        assert {name: os.environ.get(name) for name in names} == before
        os.environ["OMP_NUM_THREADS"] = "1"  # what Dask does when it starts a worker again
    assert {name: os.environ.get(name) for name in names} == before


@pytest.mark.parametrize(
    "name, count, number",
    [(0, 0, None), (3, 4, 3), ("gpu-2", 4, 2), ("gpu-5", 4, 1), ("tcp://10.0.0.2:4001", 1, 0), ("node7", 1, 0)],
)
def test_a_worker_takes_the_accelerator_of_its_number(name, count, number):
    assert accelerator_of(name, count) == number


def test_a_worker_without_a_number_cannot_choose_among_accelerators():
    with pytest.raises(RromeError, match="worker tcp://10.0.0.2:4001 sees 4 accelerators and has no number"):
        accelerator_of("tcp://10.0.0.2:4001", 4)
