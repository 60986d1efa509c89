import errno

import pytest
import torch
from facts_for_tests import FACTS

from rrome import EditLog, RromeError


@pytest.fixture
def log(tiny, updates, tmp_path):
    """Three edits, the second one failed; the model is unedited afterwards."""
    with EditLog(tmp_path / "log", tiny, {"rule": "rome"}) as log:
        log.append(updates[0], FACTS[0], delta=1.5)
        log.append(None, FACTS[1], error="NaN")
        log.append(updates[2], FACTS[2])
    yield log
    tiny.edits.set(())


def test_replay_brings_any_state_back_bit_for_bit(tiny, updates, log):
    states = [tiny.site.weight.clone()]
    for applied in ([0], [0], [0, 2]):
        tiny.edits.set([updates[n] for n in applied])
        states.append(tiny.site.weight.clone())
    reader = EditLog(log.folder)
    for n in (3, 1, 0, 2, 3):
        reader.replay(tiny, n)
        assert torch.equal(tiny.site.weight, states[n])
    tiny.edits.set(())
    reader.replay(tiny)
    assert torch.equal(tiny.site.weight, states[3])


def test_a_log_tells_what_was_done(log):
    reader = EditLog(log.folder)
    assert [(row["edit"], row["rule"], row["subject"]) for row in reader.rows] == [
        (1, "rome", "Italy"), (2, None, "The Eiffel Tower"), (3, "rome", "Bill Gates"),
    ]  # fmt: skip
    assert reader.rows[0]["delta"] == 1.5 and reader.rows[1]["error"] == "NaN" and reader.settings["rule"] == "rome"
    assert reader.update(2) is None and reader.update(3).subject == "Bill Gates" and len(reader) == 3


def test_the_factors_take_their_floats_and_no_more(tiny, log):
    size = sum(tiny.site.weight.shape) * 4
    assert size <= (log.folder / "00001.safetensors").stat().st_size < size + 1024


@pytest.mark.parametrize("n", [-1, 4])
def test_replay_beyond_the_log_is_refused(tiny, log, n):
    with pytest.raises(RromeError, match=f"has 3 edits: cannot replay {n}"):
        log.replay(tiny, n)


def test_another_layer_and_other_settings_are_refused(tiny, log):
    with pytest.raises(RromeError, match="another model .layer 1 there, 2 here"):
        log.replay(tiny.at_layer(2))
    with pytest.raises(RromeError, match="rule: 'rome' there, 'r-rome' now"):
        EditLog(log.folder, tiny, {"rule": "r-rome"})


def test_two_writers_are_refused_and_readers_are_not(tiny, tmp_path, updates):
    with EditLog(tmp_path, tiny) as log:
        log.append(updates[0], FACTS[0])
        with pytest.raises(RromeError, match="in use by another run"):
            EditLog(tmp_path, tiny)
        assert len(EditLog(tmp_path)) == 1


def test_a_reader_cannot_write(log, updates):
    with pytest.raises(RromeError, match="open for reading"):
        EditLog(log.folder).append(updates[0], FACTS[0])


def test_damaged_factors_are_named(tiny, log):
    file = log.folder / "00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RromeError, match="00003.safetensors, the update of edit 3, is missing or damaged"):
        log.replay(tiny)
    assert not tiny.edits.updates
    log.replay(tiny, 2)


def test_there_is_no_log_in_an_empty_folder(tmp_path):
    with pytest.raises(RromeError, match="no journal at"):
        EditLog(tmp_path)


def test_a_full_disk_is_said_and_nothing_is_lost(tiny, tmp_path, updates, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with EditLog(tmp_path, tiny) as log:
        log.append(updates[0], FACTS[0])
        for name in ("rrome.model.site.save_file", "rrome.store.journal.os.fsync"):
            with monkeypatch.context() as patch, pytest.raises(RromeError, match="no disk space left"):
                patch.setattr(name, full)
                log.append(updates[1], FACTS[1])
        assert len(log) == 1
    with EditLog(tmp_path, tiny) as log:
        log.append(updates[1], FACTS[1])
        assert [row["edit"] for row in EditLog(tmp_path).rows] == [1, 2]


def test_an_update_is_not_logged_as_that_of_another_fact(tiny, tmp_path, updates):
    with EditLog(tmp_path, tiny) as log:
        with pytest.raises(RromeError, match="give its fact"):
            log.append(updates[0], FACTS[1])
        log.append(updates[0], FACTS[0])
    assert EditLog(tmp_path).update(1).fact == FACTS[0]
