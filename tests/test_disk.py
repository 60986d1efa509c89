import errno

import pytest

from rrome.store.disk import RromeError, atomic, digest


def test_digest_sees_content_and_not_the_order_of_keys():
    assert digest({"a": 1, "b": "ü"}) == digest({"b": "ü", "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_atomic_leaves_the_whole_file_and_nothing_else(tmp_path):
    with atomic(tmp_path / "deep" / "file.txt") as scratch:
        scratch.write_text("all of it")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.txt"]
    assert (tmp_path / "deep" / "file.txt").read_text() == "all of it"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as scratch:
        scratch.write_text("half of the ne")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_replaces_a_damaged_folder(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").touch()
    with atomic(target) as scratch:
        scratch.mkdir()
        (scratch / "fresh").touch()
    assert [path.name for path in target.iterdir()] == ["fresh"]


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(RromeError, match="no disk space left.*file.bin.*RROME_CACHE"), atomic(tmp_path / "file.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RromeError, match="cannot write"), atomic(tmp_path / "file" / "below"):
        pass
