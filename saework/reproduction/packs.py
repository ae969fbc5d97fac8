"""Results of a notebook in one safetensors file: tensors as they are, the rest as JSON. Reading one runs no code of its writer's."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

LIMIT = 1_000_000
"""Bytes that one value may take; what is larger is not a result to pass on."""
_PLAIN = (bool, int, float, str, type(None))


class NotKeptError(ValueError):
    """A value that a pack does not hold: of another kind, or too large."""


class Text(str):
    """What a value looked like, where the value itself was not kept."""

    __slots__ = ()
    __repr__ = str.__str__


def packed(value) -> tuple[object, dict[str, torch.Tensor]]:
    """A value as JSON, and the tensors that it names.

    Tensors, arrays and frames of numbers, plotly figures, saework's own results, and lists, tuples,
    sets and mappings of all these; a tensor that is mostly zeros as its non-zeros.

    Raises: NotKeptError for anything else (a model, a function), and above ``LIMIT`` bytes.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        tree = _pack(value, tensors)
        _check_size(len(json.dumps(tree)) + sum(tensor.nbytes for tensor in tensors.values()))
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # what torch, pandas or json cannot take; a list that holds itself
        raise NotKeptError(str(error)) from error
    return tree, tensors


def unpacked(tree, tensors: dict[str, torch.Tensor]):
    """The value again."""
    if not isinstance(tree, dict):
        return tree
    (kind, content), read = next(iter(tree.items())), lambda part: unpacked(part, tensors)
    if kind in ("list", "tuple", "set"):
        return {"list": list, "tuple": tuple, "set": set}[kind](map(read, content))
    if kind == "dict":
        return {read(key): read(item) for key, item in content}
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "sparse":
        whole = torch.zeros(tree["shape"], dtype=tensors[content].dtype)
        whole.view(-1)[tensors[tree["at"]].long()] = tensors[content]
        return whole
    if kind == "array":
        return tensors[content].numpy().copy()
    if kind == "frame":
        columns = [pd.Series(read(column), dtype=dtype) for column, dtype in content]
        frame = pd.DataFrame(dict(enumerate(columns)))
        return frame.set_axis(read(tree["columns"]), axis=1).set_axis(
            pd.Index(read(tree["index"]), name=tree["name"])
        )
    if kind == "series":
        return read(content)["value"].rename(read(tree["name"]))
    if kind == "figure":
        import plotly.io

        return plotly.io.from_json(content)
    if kind == "text":
        return Text(content)
    return _result(tree["class"])(read(tree["fields"]))


def write(path: str | Path, tree, tensors: dict[str, torch.Tensor]) -> Path:
    """A file of both; it takes the place of an old one only when it is whole."""
    from safetensors.torch import save_file

    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata={"saework": json.dumps(tree)})
    return partial.replace(path)


def read(path: str | Path) -> tuple[object, dict[str, torch.Tensor]]:
    """What ``write`` wrote. Raises: ValueError if the file is something else, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["saework"]), {
                name: file.get_tensor(name) for name in file.keys()
            }
    except (SafetensorError, KeyError, OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no replay pack, or is damaged ({error}); give a file that saework reproduce wrote"
        ) from error


def _pack(value, tensors):
    if isinstance(value, Text):
        return {"text": str(value)}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return _pack(value.item(), tensors)
    if type(value) in (list, tuple, set):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if type(value) is dict:
        return {
            "dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]
        }
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value.detach(), tensors)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        _check_size(value.nbytes)
        return {"array": _named(torch.from_numpy(np.array(value, order="C")), tensors)}
    if isinstance(value, pd.Series):
        return {
            "series": _pack(value.to_frame("value"), tensors),
            "name": _pack(value.name, tensors),
        }
    if isinstance(value, pd.DataFrame):
        return _pack_frame(value, tensors)
    if type(value).__module__.startswith("plotly.") and hasattr(value, "to_json"):
        return {"figure": value.to_json()}
    return _pack_result(value, tensors)


def _check_size(size: int) -> None:
    if size > LIMIT:
        raise NotKeptError(
            f"the value takes {size:,} bytes; a pack keeps at most {LIMIT:,} of each"
        )


def _pack_tensor(value: torch.Tensor, tensors):
    size = int(value.count_nonzero()) * (4 + value.element_size())
    if value.nbytes > 10_000 and size < value.nbytes / 2:
        _check_size(size)
        places = value.flatten().nonzero()[:, 0]
        kept = _named(value.flatten()[places], tensors)
        return {"sparse": kept, "at": _named(places.int(), tensors), "shape": list(value.shape)}
    return {"tensor": _named(value, tensors)}


def _pack_frame(frame: pd.DataFrame, tensors):
    if frame.index.nlevels > 1 or frame.columns.nlevels > 1:
        raise NotKeptError("a frame with headings of several levels")
    numbers = lambda column: column.dtype.kind in "iufb"
    columns = [
        (column.to_numpy() if numbers(column) else column.tolist(), str(column.dtype))
        for _, column in frame.items()
    ]
    content = [[_pack(values, tensors), dtype] for values, dtype in columns]
    return {
        "frame": content,
        "columns": _pack(frame.columns.tolist(), tensors),
        "index": _pack(frame.index.tolist(), tensors),
        "name": frame.index.name,
    }


def _pack_result(value, tensors):
    """One of saework's own results: its class by name, and what it is made from."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if not kind.startswith("saework."):
        raise NotKeptError(f"a {kind}")
    if hasattr(value, "to_dict"):
        return {"class": kind, "fields": _pack(value.to_dict(), tensors)}
    if not dataclasses.is_dataclass(value):
        raise NotKeptError(f"a {kind}")
    fields = {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init
    }
    return {"class": kind, "fields": _pack(fields, tensors)}


def _result(name: str):
    """What makes one of saework's results from its fields; no other class is ever called."""
    module, _, kind = name.rpartition(".")
    ours = module.startswith("saework.") and importlib.util.find_spec(module) is not None
    found = getattr(importlib.import_module(module), kind, None) if ours else None
    if isinstance(found, type) and found.__module__ == module:
        if hasattr(found, "from_dict"):
            return found.from_dict
        if dataclasses.is_dataclass(found):
            return lambda fields: found(**fields)
    raise ValueError(
        f"the pack names {name!r}, which is no result of saework's; it was made by another version, or by hand"
    )


def _named(tensor: torch.Tensor, tensors) -> str:
    """A tensor's name is what it holds, so that a value kept twice is stored once."""
    _check_size(tensor.nbytes + sum(other.nbytes for other in tensors.values()))
    tensor = tensor.cpu().clone(memory_format=torch.contiguous_format)
    content = tensor.flatten().view(torch.uint8).numpy().tobytes()
    name = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + content).hexdigest()[
        :16
    ]
    tensors[name] = tensor
    return name
