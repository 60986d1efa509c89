"""A pretend accelerator: a device of torch on which every operation is computed by the CPU, but under an accelerator's rules.

Operations refuse tensors of two devices (but for numbers and indices), float64 is refused where `float64` is False, as on a
Mac, and every time that the host waits for a value is counted in `waits`. Registering the device changes the whole process.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
DEVICE = torch.device("privateuseone", 0)
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}


class OnDevice(torch.Tensor):
    """A tensor of the pretend device; `raw` is the CPU tensor that holds its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, function, _types, args=(), kwargs=None):
        raise AssertionError(f"{function} on the pretend device outside of Accelerator")


class Accelerator(TorchDispatchMode):
    """Inside, tensors can be made on, moved to and computed on the pretend device."""

    def __init__(self, float64: bool = True):
        super().__init__()
        self.float64, self.waits, self._functions = float64, 0, _Functions(self)

    def __enter__(self):
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._functions.__exit__(*error)

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        wanted = kwargs.get("device")
        there = wanted is not None and torch.device(wanted).type == DEVICE.type
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        hosts = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
        if here and hosts and function not in MOVES | INDEXED:
            raise RuntimeError(f"{function} was given tensors of two devices")
        if function is aten._local_scalar_dense.default:
            self.waits += bool(here)
            return function(*self._raw(args))
        result = function(*self._raw(args), **self._raw(kwargs))
        if function in MOVES:
            leaves = not there and (wanted is not None or not isinstance(args[0], OnDevice))
            self.waits += bool(here) and leaves
        else:
            leaves = not here and not there
        return result if leaves else self._made(function, args, kwargs, result)

    @staticmethod
    def _raw(tree: Any) -> Any:
        return _pytree.tree_map(lambda leaf: leaf.raw if isinstance(leaf, OnDevice) else leaf, tree)

    def _made(self, function, args, kwargs, result) -> Any:
        """The result on the device: what was changed in place, or new tensors."""
        given = {id(leaf.raw): leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, OnDevice)}

        def on_device(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if leaf.dtype == torch.float64 and not self.float64:
                raise TypeError(f"{function}: this device has no float64")
            return given[id(leaf)] if id(leaf) in given else OnDevice(leaf)

        return _pytree.tree_map(on_device, result)


class _Functions(TorchFunctionMode):
    """What reads or makes a tensor's memory without an operation that a dispatch mode sees."""

    def __init__(self, device: Accelerator):
        super().__init__()
        self.device = device

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        if function in (torch.Tensor.tolist, torch.Tensor.numpy) and isinstance(args[0], OnDevice):
            self.device.waits += 1
            return function(args[0].detach().raw, *args[1:], **(kwargs or {}))
        if function is torch.tensor and str((kwargs or {}).get("device", "")).startswith((NAME, DEVICE.type)):
            return function(*args, **(kwargs | {"device": "cpu"})).to(DEVICE)
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], OnDevice):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(map(_index, index)), *args[2:])
        return function(*args, **(kwargs or {}))


def _index(part: Any) -> Any:
    """A list as torch turns it into a tensor of the device."""
    return torch.tensor(list(part), dtype=torch.long).to(DEVICE) if isinstance(part, (list, range)) else part


def register() -> None:
    """Make torch know the device; once a process, and for good."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)


def moved(lm: torch.nn.Module) -> torch.nn.Module:
    """The model with its weights and buffers on the device, inside an Accelerator."""
    done: dict[int, torch.nn.Parameter] = {}
    for module in lm.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                done.setdefault(id(weight), torch.nn.Parameter(weight.data.to(DEVICE), requires_grad=False))
                module._parameters[name] = done[id(weight)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
    return lm
