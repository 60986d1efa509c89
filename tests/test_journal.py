import errno
import json

import pytest

from rrome import RromeError
from rrome.journal import Journal

SETTINGS = {"layer": 9, "prefixes": ["{}", "A. {}"]}


def test_rows_are_there_after_reopening(tmp_path):
    journal = Journal(tmp_path / "deep" / "study.jsonl", SETTINGS)
    journal.append({"fact": 0, "text": "Zürich\n"})
    journal.append({"fact": 1, "size": None})
    again = Journal(journal.path, SETTINGS)
    assert again.rows == journal.rows == [{"fact": 0, "text": "Zürich\n"}, {"fact": 1, "size": None}]
    assert json.loads(journal.path.read_text().splitlines()[0]) == {"settings": SETTINGS}


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_cut_off(tmp_path, cut):
    journal = Journal(tmp_path / "study.jsonl", SETTINGS)
    journal.append({"fact": 0})
    journal.append({"fact": 1})
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[:-cut])
    again = Journal(journal.path, SETTINGS)
    assert again.rows == [{"fact": 0}]
    again.append({"fact": 1})
    assert journal.path.read_bytes() == content


def test_a_torn_header_starts_anew(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text('{"settings": {"lay')
    Journal(path, SETTINGS).append({"fact": 0})
    assert Journal(path, SETTINGS).rows == [{"fact": 0}]


def test_other_settings_are_refused_with_the_difference(tmp_path):
    Journal(tmp_path / "study.jsonl", SETTINGS)
    with pytest.raises(RromeError, match=r"study.jsonl .*other settings \(layer: 9 there, 4 now\)"):
        Journal(tmp_path / "study.jsonl", SETTINGS | {"layer": 4})
    with pytest.raises(RromeError, match="seed: None there, 1 now"):
        Journal(tmp_path / "study.jsonl", SETTINGS | {"seed": 1})


def test_a_damaged_middle_is_named_and_kept(tmp_path):
    path = tmp_path / "study.jsonl"
    Journal(path, SETTINGS)
    path.write_text(path.read_text() + "{{{\n{}\n")
    before = path.read_bytes()
    with pytest.raises(RromeError, match="study.jsonl is damaged"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == before


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "study.jsonl", SETTINGS)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RromeError, match="no disk space left"):
        journal.append({"fact": 0})
    assert journal.rows == []
