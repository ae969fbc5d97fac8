"""What an object holds, as lines of text whose digest is the same on every machine.

Only names, plain values and the bytes of tensors count: no pickles, no addresses, no devices.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

CHUNK = 2**24  # bytes that one thread hashes at a time
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, PurePath, Enum, np.generic)
FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, functools.partial)
MODULE_MACHINERY = frozenset(vars(torch.nn.Module())) - {"training"}
LIBRARIES = ("builtins", "torch", "typing", "abc")
NOTEBOOK = "__main__"


class Content:
    """Named values, in an order that depends on nothing but the objects they are taken from."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        # objects by their address; they are kept, so that no address is used twice
        self._met: dict[int, tuple[str, Any]] = {}

    def digest(self) -> str:
        """The SHA-256 of all that was added, 64 hexadecimal digits."""
        text = "\n".join(self.lines)
        return hashlib.sha256(text.encode()).hexdigest()

    def line(self, name: str, value: object) -> None:
        """Add a value that JSON can hold, or a list whose first word says what it is."""
        self.lines.append(json.dumps([name, value]))

    def add(self, name: str, value: Any) -> None:
        """Add any value, with all that is in it."""
        if isinstance(value, (torch.device, ModuleType)):
            return
        if isinstance(value, PLAIN):
            self.line(name, _plain(value))
        elif isinstance(value, Mapping):
            self.line(name, ["mapping", len(value)])
            for key in sorted(value, key=str):
                self.add(f"{name}[{key}]", value[key])
        elif isinstance(value, (list, tuple)):
            self.line(name, ["sequence", len(value)])
            for i, item in enumerate(value):
                self.add(f"{name}[{i}]", item)
        elif isinstance(value, (set, frozenset)):
            self.line(name, ["set", sorted(str(item) for item in value)])
        elif not self.was_met(name, value):
            self._add_new(name, value)

    def was_met(self, name: str, value: object) -> bool:
        """Whether the same object was added before; then only its first name is added."""
        before, _ = self._met.setdefault(id(value), (name, value))
        if before != name:
            self.line(name, ["as", before])
        return before != name

    def _add_new(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self.line(name, ["tensor", tensor_digest(value)])
        elif isinstance(value, np.ndarray):
            self.add(
                name, torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
            )
        elif isinstance(value, FUNCTIONS):
            self.add_function(name, value)
        elif isinstance(value, type):
            self.line(name, ["class", value.__qualname__])
        else:
            self.add_object(name, value)

    def add_function(self, name: str, function: Any, *, deep: bool = True) -> None:
        """Add a function by its name; its code too, if it cannot be imported.

        Args:
            name: its name here.
            function: the function.
            deep: also what it encloses: the object of a method, the variables of a lambda.
        """
        if isinstance(function, functools.partial):
            self.add_function(f"{name}.func", function.func, deep=deep)
            self.add(f"{name}.args", function.args)
            self.add(f"{name}.keywords", function.keywords)
            return
        self.line(name, ["function", function.__qualname__])
        if isinstance(function, MethodType):
            if deep:
                self.add(f"{name}.self", function.__self__)
            function = function.__func__
        if not isinstance(function, FunctionType):
            return
        is_nested = "<" in function.__qualname__
        if is_nested or function.__module__ == NOTEBOOK:
            self.line(f"{name}.code", _code(function.__code__))
            self.add(f"{name}.defaults", [function.__defaults__, function.__kwdefaults__])
            for i, cell in enumerate(function.__closure__ or ()):
                held = cell.cell_contents
                if deep or isinstance(held, (*PLAIN, torch.Tensor)):
                    self.add(f"{name}.closure[{i}]", held)

    def add_object(self, name: str, value: Any, *, without: Collection[str] = ()) -> None:
        """Add an object: its class, its tensors and modules, and its other attributes.

        Args:
            name: its name here.
            value: the object.
            without: attributes that do not count.
        """
        self.line(name, ["object", type(value).__qualname__])
        self._add_class(name, type(value))
        if isinstance(value, torch.nn.Module):
            for part in (value._parameters, value._buffers, value._modules):
                for key in sorted(part):
                    self.add(f"{name}.{key}", part[key])
            without = {*without, *MODULE_MACHINERY}
        for key, held in attributes(value):
            if key not in without:
                self.add(f"{name}.{key}", held)

    def _add_class(self, name: str, cls: type) -> None:
        """What a class itself holds; the code of its functions too, if it is a notebook's."""
        for base in cls.__mro__:
            if base.__module__.partition(".")[0] in LIBRARIES:
                continue
            for key in sorted(vars(base)):
                held = vars(base)[key]
                where = f"{name}:{base.__name__}.{key}"
                function = getattr(held, "fget", getattr(held, "__func__", held))
                if isinstance(function, FunctionType):
                    if base.__module__ == NOTEBOOK:
                        self.line(where, _code(function.__code__))
                elif isinstance(held, (*PLAIN, torch.Tensor, list, tuple, dict)):
                    if not key.startswith("__"):
                        self.add(where, held)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object itself holds, by name, slots too."""
    held = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for key in (slots,) if isinstance(slots, str) else slots:
            if key not in ("__dict__", "__weakref__") and hasattr(value, key):
                held[key] = getattr(value, key)
    for key in sorted(held):
        yield key, held[key]


def tensor_digest(tensor: torch.Tensor) -> str:
    """64 hexadecimal digits of dtype, shape and every byte.

    Time: that of SHA-256, divided by as many threads as torch uses. Memory: none beside a tensor on
    the CPU that is contiguous; else one copy of it.
    """
    values = tensor.detach()
    if values.layout != torch.strided:
        values = values.to_dense()
    flat = values.cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy()
    chunks = [content[start : start + CHUNK].data for start in range(0, len(content), CHUNK)]
    n_threads = min(len(chunks), torch.get_num_threads())
    digests: Iterable[bytes] = map(_sha256, chunks)
    if n_threads > 1:
        with ThreadPoolExecutor(n_threads) as pool:  # other threads run while one hashes
            digests = list(pool.map(_sha256, chunks))
    whole = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for chunk_digest in digests:
        whole.update(chunk_digest)
    return whole.hexdigest()


def _sha256(chunk: memoryview) -> bytes:
    return hashlib.sha256(chunk).digest()


def _plain(value: Any) -> object:
    """A plain value as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        return [type(value).__qualname__, value.name]
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    return [type(value).__name__, str(value)]


def _code(code: CodeType) -> str:
    """A function's instructions, constants and names, as text."""
    constants = [_constant(constant) for constant in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _constant(constant: object) -> str:
    if isinstance(constant, CodeType):
        return _code(constant)
    if isinstance(constant, frozenset):  # its order changes from one process to the next
        return str(sorted(repr(item) for item in constant))
    return repr(constant)
