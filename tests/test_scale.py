import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from threading import Lock
from types import SimpleNamespace
from unittest import mock

import dask
import pandas as pd
import pytest
import torch
from distributed import LocalCluster
from editors_for_workers import make_failing_editor, make_mortal_editor, make_own_editor
from sequence_to_kill import make_editor, make_facts

from rrome import Editor, RromeError
from rrome.store.journal import Journal, read_journal
from rrome.study import Checks, read_sequential, sequential_edits
from rrome.study import cluster as scale
from rrome.study.single import Measures, single_edits

MEASURES = Measures(n_generated=4)
FACTS = make_facts(generation=("The town",))
STUDY = {"measures": MEASURES, "at_once": 1}  # every fact a task of its own


@pytest.fixture(scope="module")
def workers():
    """Two workers, as processes of their own, that several studies use."""
    options = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": "127.0.0.1:0"}
    patient = {
        "distributed.deploy.lost-worker-timeout": "10 minutes"
    }  # a killed one starts again, slowly on a busy machine
    with mock.patch.dict(os.environ), dask.config.set(patient), LocalCluster(n_workers=2, **options) as workers:
        yield workers


@pytest.fixture(scope="module")
def cluster(workers):
    return workers.scheduler_address


@pytest.fixture(scope="module")
def editor():
    return make_editor()


@pytest.fixture(scope="module")
def whole(editor, tmp_path_factory):
    """The table of one process, and its journal."""
    path = tmp_path_factory.mktemp("whole") / "study.jsonl"
    return single_edits(editor, FACTS, path, **STUDY), path


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-4, atol=1e-7)


def keys(path):
    return sorted((row["fact"], row["rule"]) for row in read_journal(path)[1])


def test_two_workers_and_one_process_give_the_same_table_and_journal(cluster, whole, tmp_path):
    table, path = whole
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "0.1s"}):  # workers that are there are waited for
        same(scale.single_edits(cluster, make_editor, FACTS, tmp_path / "study.jsonl", **STUDY), table)
    assert keys(tmp_path / "study.jsonl") == keys(path)
    assert read_journal(tmp_path / "study.jsonl")[0] == read_journal(path)[0]


def test_a_study_goes_on_from_one_process_to_a_cluster_and_back(cluster, editor, whole, tmp_path, monkeypatch):
    table, path = whole
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "study.jsonl").write_text("".join(lines[:16]))  # one fact, and one half
    same(scale.single_edits(cluster, make_editor, FACTS, tmp_path / "study.jsonl", **STUDY), table)
    assert (tmp_path / "study.jsonl").read_text().startswith("".join(lines[:16]))
    monkeypatch.setattr(Editor, "solve_all", lambda *_: pytest.fail("searched again"))
    same(single_edits(editor, FACTS, tmp_path / "study.jsonl", **STUDY), table)


def test_a_killed_worker_loses_nothing(cluster, whole, tmp_path):
    mortal = partial(make_mortal_editor, tmp_path, FACTS[2].subject)
    same(scale.single_edits(cluster, mortal, FACTS, tmp_path / "study.jsonl", **STUDY), whole[0])
    assert (tmp_path / "death-0").exists()
    assert keys(tmp_path / "study.jsonl") == keys(whole[1])
    searched = (tmp_path / "searched").read_text().splitlines()
    assert sorted(searched) == sorted(fact.subject for fact in FACTS)


def test_a_fact_that_kills_its_workers_is_given_up_and_the_others_are_kept(workers, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.scheduler, "allowed_failures", 0)
    mortal = partial(make_mortal_editor, tmp_path, FACTS[-1].subject)
    study = workers.scheduler_address, mortal, FACTS, tmp_path / "study.jsonl"
    with pytest.raises(RromeError, match="workers were lost or never came .*died.*call again to go on"):
        scale.single_edits(*study, **STUDY)
    assert len(keys(tmp_path / "study.jsonl")) % 9 == 0
    same(scale.single_edits(*study, **STUDY), whole[0])


def test_a_stopped_coordinator_goes_on(cluster, whole, tmp_path, monkeypatch):
    append = Journal.append

    def stop(self, row):
        if len(self.rows) == 13:
            raise KeyboardInterrupt
        append(self, row)

    study = partial(make_mortal_editor, tmp_path, "", 0)
    monkeypatch.setattr(Journal, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        scale.single_edits(cluster, study, FACTS, tmp_path / "study.jsonl", **STUDY)
    monkeypatch.setattr(Journal, "append", append)
    (first,) = {row["fact"] for row in read_journal(tmp_path / "study.jsonl")[1][:9]}
    (tmp_path / "searched").unlink()
    same(scale.single_edits(cluster, study, FACTS, tmp_path / "study.jsonl", **STUDY), whole[0])
    assert keys(tmp_path / "study.jsonl") == keys(whole[1])
    assert FACTS[first].subject not in (tmp_path / "searched").read_text().splitlines()


def test_an_error_stops_the_study_and_keeps_what_was_done(cluster, tmp_path):
    facts = [
        *FACTS[:-1],
        replace(FACTS[-1], target_new="a town on the river and in the harbour"),
    ]  # the longest comes last
    study = cluster, partial(make_failing_editor, facts[-1].subject), facts, tmp_path / "study.jsonl"
    with pytest.raises(RromeError, match=re.escape(f"no value for {facts[-1].subject}")):
        scale.single_edits(*study, rules=["rome"], **STUDY)
    made = keys(tmp_path / "study.jsonl")
    assert made and len(made) % 2 == 0 and (4, "rome") not in made


def test_what_the_keys_refuse_is_refused_before_any_search(cluster, editor, tmp_path):
    sizes = {fact: editor.preflight(fact).amplification["rome"] for fact in FACTS}
    worst, limit = max(sizes, key=sizes.get), sum(sorted(sizes.values())[-2:]) / 2
    study = cluster, partial(make_editor, max_amplification=limit), FACTS, tmp_path / "study.jsonl"
    with pytest.raises(RromeError, match=re.escape(f"{worst.rewrite!r} under 'rome' is likely to disable")):
        scale.single_edits(*study, rules=["rome"], **STUDY)
    assert not (tmp_path / "study.jsonl").exists()


def test_a_study_is_not_continued_with_another_limit(cluster, tmp_path):
    path = tmp_path / "study.jsonl"
    scale.single_edits(cluster, partial(make_editor, max_amplification=1e9), FACTS[:1], path, rules=["rome"], **STUDY)
    before = path.read_text()
    with pytest.raises(RromeError, match=r"other settings \(max_amplification: .* there, None now"):
        scale.single_edits(cluster, make_editor, FACTS[:1], path, rules=["rome"], **STUDY)
    assert path.read_text() == before


def test_rules_and_seeds_are_runs_of_their_own_that_a_killed_worker_does_not_lose(cluster, editor, tmp_path):
    sequences, checks = {7: FACTS[:3], 2: FACTS[2::-1]}, Checks(every=2, probe="The old town lies on the river.")
    mortal = partial(make_mortal_editor, tmp_path, FACTS[1].subject)
    study = cluster, mortal, sequences, tmp_path / "runs"
    runs = scale.sequential_edits(*study, rules=["r-rome", "rome"], checks=checks)
    assert (tmp_path / "death-0").exists()
    assert list(runs) == [("r-rome", 7), ("r-rome", 2), ("rome", 7), ("rome", 2)]
    for (rule, seed), run in runs.items():
        alone = sequential_edits(
            editor, sequences[seed], tmp_path / "alone" / f"{rule}-{seed}", rule=rule, checks=checks
        )
        kept = read_sequential(tmp_path / "runs" / f"{rule}-{seed}")
        for name in ("edits", "checkpoints", "final"):
            same(getattr(run, name), getattr(alone, name))
            same(getattr(kept, name), getattr(run, name))


def test_workers_whose_editors_differ_are_refused(cluster, tmp_path):
    with pytest.raises(RromeError, match=r"the editor of worker \d is not the study's \(prefixes: .* there, .* now\)"):
        scale.single_edits(cluster, make_own_editor, FACTS, tmp_path / "study.jsonl", **STUDY)


def test_facts_that_cannot_be_measured_are_refused_before_anything_is_written(cluster, tmp_path):
    facts = [*FACTS, replace(FACTS[0], target_true=None)]
    with pytest.raises(RromeError, match="has no target_true"):
        scale.single_edits(cluster, make_editor, facts, tmp_path / "study.jsonl")
    with pytest.raises(RromeError, match="has no target_true"):
        scale.sequential_edits(cluster, make_editor, {0: FACTS, 1: facts}, tmp_path / "runs")
    facts[-1] = replace(FACTS[0], generation=("The town " * 1100,))
    with pytest.raises(RromeError, match="longer than"):
        scale.single_edits(cluster, make_editor, facts, tmp_path / "study.jsonl", **STUDY)
    with pytest.raises(RromeError, match="unknown rule 'mend'"):
        scale.sequential_edits(cluster, make_editor, {0: FACTS}, tmp_path / "runs", rules=["mend"])
    assert not list(tmp_path.iterdir())


def test_a_worker_that_would_run_two_tasks_at_once_is_refused(tmp_path):
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as workers,
        pytest.raises(RromeError, match="worker 0 has 2 threads: start it with --nthreads 1"),
    ):
        scale.single_edits(workers.scheduler_address, make_editor, FACTS, tmp_path / "study.jsonl")


def test_a_cluster_without_workers_is_not_waited_for_without_end(tmp_path):
    """As one whose workers died when they started, or all die later."""
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as workers,
        dask.config.set({"distributed.scheduler.no-workers-timeout": "0.2s"}),
        pytest.raises(
            RromeError,
            match="workers were lost or never came .*0/1.*start some .*dask worker.*see their logs, then call again to go on",
        ),
    ):
        scale.single_edits(workers.scheduler_address, make_editor, FACTS, tmp_path / "study.jsonl")


def test_no_scheduler_at_the_address_is_named(tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(RromeError, match=r"no Dask cluster at 'tcp://127\.0\.0\.1:9'.*`dask scheduler`"),
    ):
        scale.single_edits("tcp://127.0.0.1:9", make_editor, FACTS, tmp_path / "study.jsonl")


def test_an_editor_is_not_sent_to_workers(editor, tmp_path):
    with pytest.raises(RromeError, match="make_editor cannot be sent to workers.*names, not objects"):
        scale.single_edits(2, partial(make_editor, Lock()), FACTS, tmp_path / "study.jsonl")
    with pytest.raises(RromeError, match="make_editor cannot be sent to workers .8 MB."):
        scale.single_edits(2, partial(make_editor, bytes(8_000_000)), FACTS, tmp_path / "study.jsonl")


def test_workers_are_started_here_and_leave_the_environment_as_it_was(editor, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    same(scale.single_edits(1, make_editor, FACTS, tmp_path / "study.jsonl", **STUDY), whole[0])
    assert os.environ == before


def test_a_script_that_workers_cannot_import_is_told_how(tmp_path, monkeypatch):
    monkeypatch.setattr(
        multiprocessing.current_process(), "_inheriting", True, raising=False
    )  # as in a worker's import
    with pytest.raises(RromeError, match='in a script put the call under `if __name__ == "__main__":`'):
        scale.single_edits(1, make_editor, FACTS, tmp_path / "study.jsonl")


WITHOUT_DASK = """
import sys
sys.modules |= dict.fromkeys(["dask", "distributed"])  # as if they were not installed
import rrome.study
try:
    import rrome.study.cluster
except rrome.RromeError as error:
    print(error)
"""


def test_only_a_study_on_a_cluster_needs_dask():
    said = subprocess.run([sys.executable, "-c", WITHOUT_DASK], capture_output=True, text=True, check=True).stdout
    assert 'pip install "rrome[cluster]"' in said


def accelerator_of(name, count, monkeypatch):
    """The accelerator that is chosen for a worker's task where the machine has so many."""
    chosen = []
    worker = SimpleNamespace(name=name, state=SimpleNamespace(nthreads=1))
    monkeypatch.setattr(scale, "get_worker", lambda: worker)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    scale._work(pickle.dumps(list), {}, len)
    return chosen


@pytest.mark.parametrize(
    "name, count, number",
    [(0, 0, []), (3, 4, [3]), ("gpu-2", 4, [2]), ("gpu-5", 4, [1]), ("tcp://10.0.0.2:4001", 1, [0]), ("node7", 1, [0])],
)
def test_a_worker_takes_the_accelerator_of_its_number(name, count, number, monkeypatch):
    assert accelerator_of(name, count, monkeypatch) == number


def test_a_worker_without_a_number_cannot_choose_among_accelerators(monkeypatch):
    with pytest.raises(RromeError, match="worker tcp://10.0.0.2:4001 sees 4 accelerators and has no number"):
        accelerator_of("tcp://10.0.0.2:4001", 4, monkeypatch)
