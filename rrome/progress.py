"""Progress bars with a time estimate: in terminals and notebooks, and nowhere else."""

import sys
from typing import Any

from tqdm.auto import tqdm


def bar(*args: Any, show: bool | None = None, **kwargs: Any) -> tqdm:
    """A tqdm bar; `show` None means where somebody can watch it: a terminal or a Jupyter kernel."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(*args, disable=not (watched if show is None else show), **kwargs)
