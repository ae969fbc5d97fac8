"""A GPU that is not there: tensors in host memory that name another device and keep its rules.

In ``pretended_gpu()``, what is made on or moved to ``GPU`` is a ``GpuTensor``. As on a real GPU, it
does not become a numpy array, and it is not mixed with a host tensor. Three mixtures are right, as
torch has it: a copy, a host tensor that indexes it, a host tensor of one number beside it.
Generators stay on the host, so numbers drawn from one belong to the host too.

The device is torch's ``lazy``, whose kernels no build has: no number comes from anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("lazy:0")
HOST = torch.device("cpu")

_aten = torch.ops.aten
COPIES = (_aten.copy_, _aten._to_copy)
INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
# Besides those that torch calls pointwise: what takes a host tensor of one number.
TAKE_A_NUMBER = (_aten.where, _aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_)
# Whose result belongs to the first tensor's device, whatever the others are on.
FOLLOW_THE_FIRST = (_aten.copy_, *INDEXING)


class DeviceMixUp(RuntimeError):
    """What a GPU would have refused."""


class _PlainTensor(type(Tensor)):
    """``type(x) == torch.Tensor``, as libraries ask, holds for a GPU's tensors too."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is Tensor

    __hash__ = type.__hash__


class GpuTensor(Tensor, metaclass=_PlainTensor):
    """Says that it is on ``GPU``; its numbers are in ``host``."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> GpuTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=GPU,
        )

    def __init__(self, host: Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: tuple, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})

    def __array__(self, *args: object, **options: object) -> None:
        raise DeviceMixUp(f"can't convert {GPU} device type tensor to numpy; use Tensor.cpu()")

    numpy = __array__

    def tolist(self) -> Any:
        return self.host.tolist()

    def __repr__(self, **options: object) -> str:
        return f"{self.host!r} on {GPU}"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def follow_host(self) -> None:
        """Take over the shape that its host has by now."""
        with torch.inference_mode(self.is_inference()):
            Tensor.data.__set__(self, GpuTensor(self.host))

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: GpuTensor) -> None:
        Tensor.data.__set__(self, new)
        self.host = new.host


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Do in host memory what torch would do on the devices of the arguments.

    Raises:
        DeviceMixUp: where torch would refuse.
    """
    if _is_composed(func):
        with _OnDispatch():
            return func.decompose(*args, **kwargs)
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check_devices(func, args, given)
    wrappers = {id(tensor.host): tensor for tensor in given if isinstance(tensor, GpuTensor)}
    is_gpu = bool(wrappers)
    if kwargs.get("device") is not None:
        is_gpu = torch.device(kwargs["device"]).type == GPU.type
        kwargs = {**kwargs, "device": HOST} if is_gpu else kwargs
    elif func.overloadpacket in FOLLOW_THE_FIRST:
        is_gpu = isinstance(args[0], GpuTensor)
    if is_gpu:
        _check_generator(kwargs.get("generator"))
    args, kwargs = tree_map(_in_host_memory, (args, kwargs))

    def placed(leaf: Any) -> Any:
        """An argument is itself again (after ``add_``); what is new goes to the device."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in wrappers:
            return wrappers[id(leaf)]
        if not is_gpu:
            return leaf
        # In inference mode, a view of an ordinary tensor is an ordinary one.
        with torch.inference_mode(leaf.is_inference()):
            return GpuTensor(leaf)

    result = tree_map(placed, func(*args, **kwargs))
    if torch.Tag.inplace_view in func.tags and isinstance(result, GpuTensor):
        result.follow_host()
    return result


@cache
def _is_composed(func: Any) -> bool:
    """In inference mode, an operation that consists of others arrives whole."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return has_kernel(func.name(), "CompositeImplicitAutograd")


def _in_host_memory(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, GpuTensor) else leaf


def _check_devices(func: Any, args: tuple, given: list[Tensor]) -> None:
    name = func.overloadpacket
    if name in COPIES:
        return
    if name in INDEXING and isinstance(args[0], GpuTensor):
        given = [tensor for tensor in tree_leaves((args[0], args[2:])) if _is_many(tensor)]
    elif torch.Tag.pointwise in func.tags or name in TAKE_A_NUMBER:
        given = [tensor for tensor in given if isinstance(tensor, GpuTensor) or _is_many(tensor)]
    devices = {str(tensor.device) for tensor in given}
    if len(devices) > 1:
        raise DeviceMixUp(f"{func}: all tensors must be on one device; found {sorted(devices)}")


def _is_many(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None:
        raise DeviceMixUp(f"Expected a {GPU.type!r} generator but found {generator.device.type!r}")


class _OnDispatch(TorchDispatchMode):
    """Catches what makes a tensor on the GPU, or moves one there."""

    def __torch_dispatch__(
        self, func: Any, types: tuple, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


class _OnCall(TorchFunctionMode):
    """``torch.tensor([x[0], x[1]])`` reads its numbers below the dispatcher: here they are read."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (torch.tensor, torch.as_tensor) and isinstance(args[0], list | tuple):
            args = tree_map(lambda leaf: leaf.item() if isinstance(leaf, GpuTensor) else leaf, args)
        return func(*args, **(kwargs or {}))


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """A machine with ``GPU``, until the block's end."""
    lifted_on_host = torch._C._only_lift_cpu_tensors()
    # torch.tensor(numbers, device=GPU) then makes them in host memory, and moves them.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _OnDispatch(), _OnCall():
            yield GPU
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted_on_host)
