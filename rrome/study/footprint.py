"""What an edit holds in memory beside the model: the tensors that it makes, counted as they come and go.

An edit holds the states of its live tokens above l*, which the gradient needs, and no second copy of the model. Applying
it keeps W as it was, so that it can be reverted bit for bit. What a library takes inside one operation is not seen.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..edit.editor import Editor
from ..facts.fact import Fact
from ..measure.scores import fact_probabilities
from ..update.rules import RULES
from .speed import measured_in_place

Made = TypeVar("Made")


def peak_bytes(work: Callable[[], Made]) -> tuple[Made, int]:
    """What `work` returns, and the most bytes of new tensors that exist at one time while it runs, on all devices together."""
    with _Counting() as counted:
        made = work()
    return made, counted.peak


def footprint(editor: Editor, fact: Fact, rules: Sequence[str] = tuple(RULES)) -> pd.DataFrame:
    """Memory of one edit beside the model, stage by stage: what, megabytes (10^6 bytes), of_model (share of its weights)."""
    model = editor.model
    solution, searching = peak_bytes(partial(editor.solve, fact))
    updates, updating = peak_bytes(lambda: {rule: solution.update(rule) for rule in rules})
    _, measuring = peak_bytes(partial(fact_probabilities, model, fact, updates))
    _, applying = peak_bytes(partial(measured_in_place, editor, fact, updates[rules[0]]))
    bytes_of = {
        "the model's weights": sum(weight.nbytes for weight in model.lm.parameters()),
        "W": model.site.weight.nbytes,
        "search of v_e": searching,
        f"updates under {len(rules)} rules": updating,
        "measuring them in one batch": measuring,
        "applying one and measuring it": applying,
    }
    table = pd.DataFrame({"what": list(bytes_of), "megabytes": [number / 1e6 for number in bytes_of.values()]})
    return table.assign(of_model=table["megabytes"] / table["megabytes"][0])


class _Counting(TorchDispatchMode):
    """Counts the storages that operations make until they are freed; those that were there before weigh nothing."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._note((args, kwargs), new=False)
        made = operation(*args, **(kwargs or {}))
        self._note(made, new=True)
        return made

    def _note(self, tree: Any, new: bool) -> None:
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                size = storage.nbytes() if new else 0
                self.known.add(storage._cdata)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, size)

    def _freed(self, address: int, size: int) -> None:
        self.now -= size
        self.known.discard(address)
