"""Values as JSON and tensors, and back: what a replay pack can hold.

Reading a value runs no code of its writer. The only classes that are called are those of results,
found by their public names.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import torch

import saework
import saework.core.torch_setup  # before the first work with torch
from saework.core.files import digest
from saework.core.unit_directions import UnitDirections
from saework.reproduction.pack_figures import figure_of
from saework.views.tables import Table

Tree = Any
"""JSON: a plain value, or an object whose first key is the kind of value (``list``, ``tensor``)."""
Tensors = dict[str, torch.Tensor]

LIMIT = 1_000_000
"""Bytes that one value may take. What is larger is not a result to pass on."""
MOST_NUMBERS = 500_000_000
"""Of a tensor that is stored as its non-zeros: it takes memory when it is read."""
DENSE_BYTES = 10_000
"""Up to this size, a tensor is stored with its zeros."""
INDEX_BYTES = 4
"""What the place of one non-zero takes."""
NUMBER_KINDS = "iufb"
"""Numpy's letters for integers, unsigned integers, floats and booleans."""
PLAIN = (bool, int, float, str, type(None))
COLLECTIONS = {"list": list, "tuple": tuple, "set": set}
OTHER_RESULTS: dict[str, type] = {"Table": Table, "UnitDirections": UnitDirections}
"""Results that notebooks show and ``saework`` does not export, by the name that a pack uses."""


class NotKeptError(ValueError):
    """A value that a pack cannot hold: of another kind, or too large."""


class Text(str):
    """What a value looked like, where the value itself was not kept."""

    __slots__ = ()
    __repr__ = str.__str__


def packed(value: object) -> tuple[Tree, Tensors]:
    """A value as JSON, and the tensors that the JSON names.

    A value is one of these, or a list, tuple, set or mapping of them:

    - a number, a string, None
    - a tensor (one that is mostly zeros is stored as its non-zeros), a numpy array of numbers
    - a frame or a series
    - a plotly figure
    - a result of saework's (see ``result_class``)

    Returns:
        The JSON, and tensors by the digest of their content.

    Raises:
        NotKeptError: for anything else (a model, a function), and above ``LIMIT`` bytes.
    """
    tensors: Tensors = {}
    try:
        tree = _pack(value, tensors)
        text = json.dumps(tree)
        _check_size(len(text) + _size(tensors))
    # What torch, pandas or json cannot take; and a list that holds itself.
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotKeptError(str(error)) from error
    return tree, tensors


def unpacked(tree: Tree, tensors: Tensors) -> Any:
    """The value again.

    Args:
        tree: the JSON that ``packed`` returned.
        tensors: all that it names; there may be more.

    Raises:
        ValueError: for a kind of value or a class that no pack holds.
    """
    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(tree.items()))
    if kind in COLLECTIONS:
        items = [unpacked(item, tensors) for item in content]
        return COLLECTIONS[kind](items)
    if kind == "dict":
        return _unpack_dict(content, tensors)
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "sparse":
        return _unpack_sparse(tree, tensors)
    if kind == "array":
        return tensors[content].numpy().copy()
    if kind == "frame":
        return _unpack_frame(tree, tensors)
    if kind == "series":
        series = unpacked(content, tensors)["value"]
        return series.rename(unpacked(tree["name"], tensors))
    if kind == "figure":
        return figure_of(content)
    if kind == "text":
        return Text(content)
    if kind == "class":
        fields = unpacked(tree["fields"], tensors)
        return _made(result_class(content), fields)
    raise ValueError(
        f"the pack holds a value of the kind {kind!r}, which is none that saework writes; "
        "it was made by another version, or by hand"
    )


def result_class(name: object) -> type:
    """The class of results that has this public name.

    That is a dataclass that ``saework`` exports, or one with ``from_dict``, or one of
    ``OTHER_RESULTS``.

    Raises:
        ValueError: for any other name.
    """
    found = _result_class(name)
    if found is None:
        raise ValueError(
            f"the pack names {name!r}, which is no result of saework's; "
            "it was made by another version, or by hand"
        )
    return found


def _result_class(name: object) -> type | None:
    if not isinstance(name, str):
        return None
    if name in OTHER_RESULTS:
        return OTHER_RESULTS[name]
    if name not in saework.__all__:
        return None
    public = getattr(saework, name)
    if hasattr(public, "from_dict") or dataclasses.is_dataclass(public):
        return public
    return None


def _made(kind: Any, fields: dict[str, Any]) -> object:
    if hasattr(kind, "from_dict"):
        return kind.from_dict(fields)
    return kind(**fields)


def _pack(value: Any, tensors: Tensors) -> Tree:
    if isinstance(value, Text):
        return {"text": str(value)}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, np.generic):
        return _pack(value.item(), tensors)
    # Only these very types: a named tuple would come back as a tuple.
    if type(value) in COLLECTIONS.values():
        items = [_pack(item, tensors) for item in value]
        return {type(value).__name__: items}
    if type(value) is dict:
        return _pack_dict(value, tensors)
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value.detach(), tensors)
    if isinstance(value, np.ndarray) and value.dtype.kind in NUMBER_KINDS:
        _check_size(value.nbytes)
        in_rows = np.array(value, order="C")
        tensor = torch.from_numpy(in_rows)
        return {"array": _add(tensor, tensors)}
    if isinstance(value, pd.Series):
        frame = value.to_frame("value")
        return {
            "series": _pack(frame, tensors),
            "name": _pack(value.name, tensors),
        }
    if isinstance(value, pd.DataFrame):
        return _pack_frame(value, tensors)
    if _is_figure(value):
        return {"figure": value.to_json()}
    return _pack_result(value, tensors)


def _is_figure(value: Any) -> bool:
    """Whether it is a plotly figure, without an import of plotly."""
    modules = [kind.__module__ for kind in type(value).__mro__]
    return hasattr(value, "to_json") and any(name.startswith("plotly.") for name in modules)


def _pack_dict(value: dict[Any, Any], tensors: Tensors) -> Tree:
    pairs = []
    for key, item in value.items():
        # Pairs, since JSON has no keys but strings.
        pair = [_pack(key, tensors), _pack(item, tensors)]
        pairs.append(pair)
    return {"dict": pairs}


def _unpack_dict(pairs: list[list[Tree]], tensors: Tensors) -> dict[Any, Any]:
    value = {}
    for key_tree, item_tree in pairs:
        key = unpacked(key_tree, tensors)
        value[key] = unpacked(item_tree, tensors)
    return value


def _size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _check_size(size: int) -> None:
    if size > LIMIT:
        raise NotKeptError(
            f"the value takes {size:,} bytes; a pack keeps at most {LIMIT:,} of each"
        )


def _pack_tensor(value: torch.Tensor, tensors: Tensors) -> Tree:
    n_nonzero = int(value.count_nonzero())
    sparse_bytes = n_nonzero * (INDEX_BYTES + value.element_size())
    if value.nbytes <= DENSE_BYTES or sparse_bytes >= value.nbytes / 2:
        return {"tensor": _add(value, tensors)}
    _check_size(sparse_bytes)
    if value.numel() > MOST_NUMBERS:
        raise NotKeptError(f"a tensor of {value.numel():,} numbers")
    flat = value.flatten()
    places = flat.nonzero()[:, 0]
    return {
        "sparse": _add(flat[places], tensors),
        "at": _add(places.int(), tensors),
        "shape": list(value.shape),
    }


def _unpack_sparse(tree: Tree, tensors: Tensors) -> torch.Tensor:
    values = tensors[tree["sparse"]]
    places = tensors[tree["at"]].long()
    n_numbers = math.prod(tree["shape"])
    if n_numbers > MOST_NUMBERS:
        raise ValueError(
            f"a tensor of {n_numbers:,} numbers; saework keeps none of more than {MOST_NUMBERS:,}"
        )
    whole = torch.zeros(tree["shape"], dtype=values.dtype)
    whole.view(-1)[places] = values
    return whole


def _pack_frame(frame: pd.DataFrame, tensors: Tensors) -> Tree:
    if frame.index.nlevels > 1 or frame.columns.nlevels > 1:
        raise NotKeptError("a frame with headings of several levels")
    content = []
    for _, column in frame.items():
        is_numbers = column.dtype.kind in NUMBER_KINDS
        values = column.to_numpy() if is_numbers else column.tolist()
        tree = _pack(values, tensors)
        content.append([tree, str(column.dtype)])
    return {
        "frame": content,
        "columns": _pack(frame.columns.tolist(), tensors),
        "index": _pack(frame.index.tolist(), tensors),
        "name": frame.index.name,
    }


def _unpack_frame(tree: Tree, tensors: Tensors) -> pd.DataFrame:
    # The columns are numbered first, since two may have one name.
    columns = {}
    for number, (content, dtype) in enumerate(tree["frame"]):
        values = unpacked(content, tensors)
        columns[number] = pd.Series(values, dtype=dtype)
    names = unpacked(tree["columns"], tensors)
    labels = unpacked(tree["index"], tensors)
    index = pd.Index(labels, name=tree["name"])
    frame = pd.DataFrame(columns)
    return frame.set_axis(names, axis=1).set_axis(index)


def _pack_result(value: Any, tensors: Tensors) -> Tree:
    """One of saework's own results: the public name of its class, and what it is made from."""
    kind = type(value)
    name = kind.__name__
    if _result_class(name) is not kind:
        raise NotKeptError(f"a {kind.__module__}.{name}")
    if hasattr(value, "to_dict"):
        fields = value.to_dict()
    else:
        fields = _arguments(value)
    return {
        "class": name,
        "fields": _pack(fields, tensors),
    }


def _arguments(value: Any) -> dict[str, Any]:
    """What a dataclass's object was made from."""
    arguments = {}
    for field in dataclasses.fields(value):
        if field.init:
            arguments[field.name] = getattr(value, field.name)
    return arguments


def _add(tensor: torch.Tensor, tensors: Tensors) -> str:
    """Add a tensor under a digest of its content, so that a value kept twice is stored once."""
    _check_size(tensor.nbytes + _size(tensors))
    tensor = tensor.cpu().clone(memory_format=torch.contiguous_format)
    content = tensor.flatten().view(torch.uint8).numpy()
    shape = tuple(tensor.shape)
    name = digest(f"{tensor.dtype}{shape}", content.tobytes())
    tensors[name] = tensor
    return name
