import errno
import json
import math

import pytest

from rrome import RromeError
from rrome.store.journal import Journal, read_journal, write_journal

SETTINGS = {"layer": 9, "prefixes": ["{}", "A. {}"]}


def write(path, *rows, settings=SETTINGS):
    """Open, append, close; returns all rows."""
    with Journal(path, settings) as journal:
        for row in rows:
            journal.append(row)
    return journal.rows


def test_rows_are_there_after_reopening(tmp_path):
    path = tmp_path / "deep" / "study.jsonl"
    rows = [{"fact": 0, "text": "Zürich\n"}, {"fact": 1, "size": None}]
    assert write(path, *rows) == write(path) == rows
    assert json.loads(path.read_text().splitlines()[0]) == {"settings": SETTINGS}


def test_every_line_is_json_that_others_read_and_infinity_stays(tmp_path):
    row = {"a": math.nan, "b": [[math.inf, -math.inf]], "c": 'NaN "Infinity" \\', "NaN": 1e300}
    write(tmp_path / "one.jsonl", row, settings={"limit": math.inf})
    write_journal(tmp_path / "other.jsonl", {"limit": math.inf}, [row])
    expected = row | {"a": None}
    for path in tmp_path.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)
        assert read_journal(path) == ({"limit": math.inf}, [expected])
    assert write(tmp_path / "one.jsonl", row, settings={"limit": math.inf}) == [expected] * 2
    path.write_text('{"settings": {}}\n{"a": NaN, "b": Infinity}\n')  # as version 0.1 wrote them
    (old,) = read_journal(path)[1]
    assert math.isnan(old["a"]) and old["b"] == math.inf


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_cut_off(tmp_path, cut):
    path = tmp_path / "study.jsonl"
    write(path, {"fact": 0}, {"fact": 1})
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert write(path) == [{"fact": 0}]
    write(path, {"fact": 1})
    assert path.read_bytes() == content


def test_a_torn_header_starts_anew(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text('{"settings": {"lay')
    write(path, {"fact": 0})
    assert write(path) == [{"fact": 0}]


@pytest.mark.parametrize("content", ["", '{"settings": {"lay'])
def test_a_journal_that_was_just_begun_is_no_damaged_one(tmp_path, content):
    (tmp_path / "study.jsonl").write_text(content)
    with pytest.raises(RromeError, match="study.jsonl has no whole line yet: wait for the study that writes it"):
        read_journal(tmp_path / "study.jsonl")


def test_other_settings_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "study.jsonl"
    write(path)
    with pytest.raises(RromeError, match=r"study.jsonl .*other settings \(layer: 9 there, 4 now\)"):
        Journal(path, SETTINGS | {"layer": 4})
    with pytest.raises(RromeError, match="seed: None there, 1 now"):
        Journal(path, SETTINGS | {"seed": 1})
    assert write(path) == []


def test_two_runs_on_one_journal_are_refused(tmp_path):
    path = tmp_path / "study.jsonl"
    with Journal(path, SETTINGS), pytest.raises(RromeError, match="study.jsonl is in use by another run"):
        Journal(path, SETTINGS)
    assert write(path, {"fact": 0}) == [{"fact": 0}]


def test_a_damaged_middle_is_named_and_kept(tmp_path):
    path = tmp_path / "study.jsonl"
    write(path)
    path.write_text(path.read_text() + "{{{\n{}\n")
    before = path.read_bytes()
    with pytest.raises(RromeError, match="study.jsonl is damaged"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == before


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path / "study.jsonl", SETTINGS) as journal:
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(RromeError, match="no disk space left"):
            journal.append({"fact": 0})
        assert journal.rows == []
