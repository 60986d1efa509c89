"""Fixtures of the tests: tiny random models, the embedded default (session-wide, never left edited), and the naive search."""

import functools
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported, below

import pytest
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, model_of, random_texts

import rrome
from rrome import naive
from rrome.update import find_values

# Files that start processes, build large models, execute notebooks or read what they left: `make test-fast` leaves them out.
SLOW = {
    "test_accelerator",
    "test_book",
    "test_notebooks",
    "test_playground",
    "test_published",
    "test_run",
    "test_scale",
}
SLOW_FIXTURES = {"default_model", "family"}  # 135 million parameters; a test for each family


def pytest_collection_modifyitems(items):
    """Mark as slow what `make test-fast` leaves out."""
    for item in items:
        if item.path.stem in SLOW or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


@functools.cache
def naive_value(model, fact, templates=tuple(PREFIXES), leading="", **options):
    """The naive search's (v_e, delta, losses) in an unedited model, made once however many tests compare with it."""
    return naive.value(model, fact, templates, leading, **options)


def value_of(model, fact, templates, search=None, leading=None):
    """v_e of one fact, searched alone."""
    (value,) = find_values(model, [fact], templates, search, leading)
    if isinstance(value, rrome.RromeError):
        raise value
    return value


@pytest.fixture(scope="module", params=FAMILIES)  # each made once; a wider scope would reorder tests across files
def family(request) -> rrome.Model:
    """The tiny model of every family, for what a family can make different."""
    return model_of(request.param)


@pytest.fixture(scope="session")
def tiny() -> rrome.Model:
    """The tiny model of everything else: a GPT-2, which stores W transposed, has biases and learned positions."""
    return model_of("gpt2")


@pytest.fixture(scope="session")
def tiny_llama() -> rrome.Model:
    return model_of("llama")


@pytest.fixture(scope="session")
def saved(tiny_llama, tmp_path_factory) -> Path:
    """The tiny Llama as a transformers folder."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_llama.lm.save_pretrained(folder)
    tiny_llama.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def default_model() -> rrome.Model:
    """SmolLM2-135M at its default layer."""
    return rrome.load(device="cpu")


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """An empty cache folder of its own for one test."""
    monkeypatch.setenv("RROME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return random_texts()


@pytest.fixture(scope="session")
def editor(tiny, texts) -> rrome.Editor:
    """An editor of the tiny model with three prompts per fact."""
    return rrome.Editor(tiny, rrome.second_moment(tiny, texts, None, cache=False), prefixes=PREFIXES)


@pytest.fixture(scope="session")
def updates(editor) -> list[rrome.RankOneUpdate]:
    """ROME's updates of the first three facts."""
    return [editor.update(fact, "rome") for fact in FACTS[:3]]
