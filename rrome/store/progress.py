"""Progress bars with a time estimate: in terminals and notebooks, and nowhere else."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging


def bar(*args: Any, show: bool | None = None, **kwargs: Any) -> tqdm:
    """A tqdm bar; `show` None means where somebody can watch it: a terminal or a Jupyter kernel."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(*args, disable=not (watched if show is None else show), **kwargs)


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """No transformers progress bars inside, and whatever was set before afterwards."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
