import pytest
import torch

from rrome import RromeError
from rrome.model.load import available


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


def test_what_is_there_is_taken(no_accelerator):
    assert available(None) == "cpu" and available("cpu") == "cpu" and available("auto") == "auto"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", torch.device("cuda")])
def test_an_accelerator_that_is_not_there_is_refused(no_accelerator, device):
    with pytest.raises(
        RromeError, match=f"no device '{device}' here: torch .* sees no accelerator; leave the device out"
    ):
        available(device)


def test_an_accelerator_is_taken_by_itself_and_checked_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert available(None) == torch.device("cuda") and available("cuda:1") == "cuda:1"
    with pytest.raises(RromeError, match="no device 'cuda:2' here: torch .* sees 2 of type cuda"):
        available("cuda:2")


def test_a_word_that_names_no_device_is_refused(no_accelerator):
    with pytest.raises(RromeError, match="no device 'gpu': give cpu, cuda"):
        available("gpu")
