"""A pretend accelerator: a device of torch's own kind, whose tensors are computed on the CPU.

It is as strict as a real one. An operation on tensors of two devices fails (single numbers, copies and indices apart, as on
CUDA), and so does a dtype in `refused`: float64, say, as on a Mac. `waits` counts what makes the host wait for the device.
Registering a device changes its process for good, so test_accelerator.py does it in another one.
"""

from collections import Counter
from functools import partial

import torch
from torch.utils import backend_registration

NAME = "pretend"
COPIES = {"_to_copy", "copy_", "_copy_from"}
WAITING = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "unique_dim", "_unique2"}
waits: Counter[str] = Counter()
refused: set[torch.dtype] = set()
registered: list[torch.library.Library] = []  # what is registered lasts as long as this


class OnDevice(torch.Tensor):
    """A tensor on the device; `held` is the CPU tensor with the same numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        if held.dtype in refused:
            raise TypeError(f"{NAME} has no {held.dtype}")
        like = {"dtype": held.dtype, "device": f"{NAME}:0"}
        return cls._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(), **like)

    def __init__(self, held: torch.Tensor):
        self.held = held

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return compute(operation, *args, **(kwargs or {}))


def compute(operation, *args, **kwargs):
    """The result of an operation that reads, or makes, tensors on the device."""
    name = operation._schema.name.removeprefix("aten::")
    tensors: list[torch.Tensor] = []
    mapped((args, *kwargs.values()), lambda leaf: tensors.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    here = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    if here and elsewhere and name not in COPIES | {"index"}:
        raise RuntimeError(f"{operation} on tensors of two devices")
    if here and refused & {kwargs.get("dtype"), *(tensor.dtype for tensor in elsewhere)}:
        raise TypeError(f"{operation} to or from a dtype that {NAME} does not have")
    stays = torch.device(kwargs.get("device") or NAME).type == NAME
    crosses = name in COPIES and tensors[0].numel() and (elsewhere or not stays)
    picks = name == "index" and (elsewhere or any(tensor.dtype == torch.bool for tensor in tensors[1:]))
    if name in WAITING or crosses or picks:
        waits[name] += 1

    def on_cpu(leaf):
        return (
            leaf.held if isinstance(leaf, OnDevice) else torch.device("cpu") if isinstance(leaf, torch.device) else leaf
        )

    def placed(leaf):
        made_anew = isinstance(leaf, torch.Tensor) and id(leaf) not in here
        return OnDevice(leaf) if made_anew else here.get(id(leaf), leaf)

    args, kwargs = mapped(args, on_cpu), {key: mapped(value, on_cpu) for key, value in kwargs.items()}
    made = args[1].copy_(args[0]) if name == "_copy_from" else operation(*args, **kwargs)
    return mapped(made, placed) if stays else made


def mapped(tree, change):
    """A tree of lists and tuples with every leaf changed."""
    return type(tree)(mapped(each, change) for each in tree) if type(tree) in (list, tuple) else change(tree)


class Module(backend_registration._DummyBackendModule):
    """torch.pretend, with a random state of its own."""

    seed = 0

    def manual_seed_all(self, seed):
        self.seed = seed

    def get_rng_state(self, _device=0):
        return torch.tensor(self.seed)

    def set_rng_state(self, state, _device=0):
        self.seed = int(state)


def register() -> None:
    """Make the device known to torch."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    registered.extend((every, aten))
    every.fallback(compute, "PrivateUse1")
    ops = torch.ops.aten  # those that would not get here as they are
    own = [ops.arange.default, ops.arange.start, ops.arange.start_step]
    own += [ops.empty_strided.default, ops._copy_from.default, ops.silu_backward.default]
    for operation in own:
        aten.impl(operation.name(), partial(compute, operation), "PrivateUse1")
    torch.accelerator.synchronize = lambda _device=None: None
