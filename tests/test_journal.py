import errno
import json
import math

import numpy as np
import pytest

from rrome import RromeError
from rrome.store.journal import Journal, read_journal, study_path

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
def test_a_torn_last_line_is_cut_off_and_a_torn_header_starts_anew(tmp_path, cut):
    path = tmp_path / "study.jsonl"
    path.write_text('{"settings": {"lay')
    write(path, {"fact": 0}, {"fact": 1})
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert write(path) == [{"fact": 0}]
    write(path, {"fact": 1})
    assert path.read_bytes() == content


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


def test_numbers_and_arrays_of_numpy_are_ordinary_ones_and_other_objects_are_refused(tmp_path):
    plain = {"n": 3, "sizes": list(range(2000)), "share": 0.5, "yes": True}
    of_numpy = {"n": np.int64(3), "sizes": np.arange(2000), "share": np.float32(0.5), "yes": np.bool_(True)}
    assert study_path("study", of_numpy, tmp_path) == study_path("study", plain, tmp_path)
    other = of_numpy | {"sizes": np.r_[:1000, 0, 1001:2000]}  # of which NumPy's own text shows the ends only
    assert study_path("study", other, tmp_path) != study_path("study", plain, tmp_path)
    write(tmp_path / "study.jsonl", of_numpy, settings=of_numpy)
    assert write(tmp_path / "study.jsonl", settings=plain) == [plain]
    for wrong in ({"a", "b"}, tmp_path, {(1, 2): 3}, {1: 2, "a": 3}):
        with pytest.raises(RromeError, match="cannot be written as JSON .*: give texts, numbers"):
            study_path("study", {"wrong": wrong}, tmp_path)


def test_a_journal_joined_with_a_copy_of_itself_holds_each_row_once(tmp_path):
    rows = [{"fact": 0}, {"fact": 1}]
    write(tmp_path / "study.jsonl", *rows)
    content = (tmp_path / "study.jsonl").read_bytes()
    (tmp_path / "study.jsonl").write_bytes(content + content)
    assert read_journal(tmp_path / "study.jsonl") == (SETTINGS, rows)
    write(tmp_path / "other.jsonl", {"fact": 2}, settings={"layer": 3})
    (tmp_path / "study.jsonl").write_bytes(content + (tmp_path / "other.jsonl").read_bytes())
    with pytest.raises(RromeError, match="damaged .*layer"):
        read_journal(tmp_path / "study.jsonl")
