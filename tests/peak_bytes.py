"""The memory of work, counted tensor by tensor."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors made inside that exist at one time; those that were there before weigh nothing."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count((args, kwargs), new=False)
        made = operation(*args, **(kwargs or {}))
        self.count(made, new=True)
        return made

    def count(self, tree, new):
        for tensor in (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)):
            storage = tensor.untyped_storage()
            if (address := storage._cdata) not in self.known:
                size = storage.nbytes() if new else 0
                self.known.add(address)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, address, size)

    def freed(self, address, size):
        self.now -= size
        self.known.discard(address)
