"""Which device a run is on."""

import torch

from .errors import RromeError


def available(device: str | torch.device | None) -> str | torch.device:
    """A device that can be used: the one asked for, else an accelerator that torch sees, else the CPU; "auto" stays.

    Raises RromeError for a device that is not there.
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return here or "cpu"
    try:
        asked = torch.device("cpu" if device == "auto" else device)
    except RuntimeError as error:
        raise RromeError(f"there is no device {str(device)!r}: give cpu, cuda, cuda:1, mps, xpu or auto") from error
    of_kind = 0 if here is None or here.type != asked.type else torch.accelerator.device_count()
    if asked.type != "cpu" and (asked.index or 0) >= of_kind:
        seen = "no accelerator" if here is None else f"{torch.accelerator.device_count()} of type {here.type}"
        raise RromeError(
            f"there is no device {str(device)!r} here: torch {torch.__version__} sees {seen}; leave the device out, or "
            "install a build of torch that was made for it"
        )
    return device
