"""What an object holds, as lines whose digest is the same everywhere."""

from __future__ import annotations

import hashlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saework.core import content
from saework.core.content import Content, tensor_digest


def digest_of(value) -> str:
    found = Content()
    found.add("value", value)
    return found.digest()


def sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(5).bfloat16(),
        torch.tensor(1.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.arange(4.0, requires_grad=True),
    ],
    ids=["float", "transposed", "bfloat16", "one number", "bool", "empty", "trained"],
)
def test_a_tensor_is_its_dtype_shape_and_bytes(tensor):
    words = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    values = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        values = values.view(torch.int16)
    chunks = [hashlib.sha256(values.numpy().tobytes()).digest()] if tensor.numel() else []
    assert tensor_digest(tensor) == sha(words, *chunks)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_chunks_and_threads(monkeypatch, n_threads):
    monkeypatch.setattr(content, "CHUNK", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    tensor = torch.arange(21.0)
    raw = tensor.numpy().tobytes()
    chunks = [hashlib.sha256(raw[i : i + 16]).digest() for i in range(0, len(raw), 16)]
    assert len(chunks) == 6
    assert tensor_digest(tensor) == sha(b"torch.float32 (21,)", *chunks)


def test_every_bit_of_a_tensor_counts(monkeypatch):
    monkeypatch.setattr(content, "CHUNK", 16)
    values = np.arange(10, dtype=np.float32)
    digests = {tensor_digest(torch.from_numpy(values))}
    raw = bytearray(values.tobytes())
    for bit in range(len(raw) * 8):
        raw[bit // 8] ^= 1 << bit % 8
        changed = np.frombuffer(bytes(raw), dtype=np.float32)
        digests.add(tensor_digest(torch.from_numpy(changed.copy())))
        raw[bit // 8] ^= 1 << bit % 8
    assert len(digests) == 1 + 320


def scaled(x, by=2.0):
    return by * x


DIFFERENT = [
    None,
    False,
    0,
    0.0,
    -0.5,
    "0",
    "relu",
    "torch.float16",
    ["dtype", "torch.float16"],
    b"0",
    1,
    1.0 + 2**-52,
    float("nan"),
    float("inf"),
    torch.float16,
    torch.bfloat16,
    [],
    [0],
    [[0]],
    {},
    {"a": 0},
    {"b": 0},
    {1, 2},
    np.arange(3),
    np.arange(3.0),
    torch.zeros(2),
    torch.zeros(2, 1),
    torch.zeros(2, dtype=torch.float64),
    scaled,
    partial(scaled, by=3.0),
    partial(scaled, by=4.0),
    lambda x: x,
    lambda x: x > 0,
    lambda x: x > 1,
    lambda x, by=1: x > by,
    torch.relu,
    torch.nn.ReLU(),
    torch.nn.Linear(1, 1),
    SimpleNamespace(),
    SimpleNamespace(a=1),
    SimpleNamespace(a=SimpleNamespace(b=1)),
    SimpleNamespace(a=SimpleNamespace(b=2)),
    SimpleNamespace(_a=1),
]


def test_values_that_differ_have_other_digests():
    assert len({digest_of(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_what_a_lambda_encloses_counts():
    def above(threshold):
        return lambda x: x > threshold

    assert digest_of(above(1)) == digest_of(above(1)) != digest_of(above(2))
    assert digest_of(above(torch.zeros(2))) != digest_of(above(torch.ones(2)))


def test_a_method_holds_its_object():
    def method_of(**held):
        class Scale:
            def __init__(self):
                vars(self).update(held)

            def run(self, x):
                return x

        return Scale().run

    assert digest_of(method_of(by=1)) == digest_of(method_of(by=1)) != digest_of(method_of(by=2))


def test_slots_class_values_and_properties():
    def make(slot=1, of_class=2):
        class Own:
            __slots__ = ("held",)
            threshold = of_class

        own = Own()
        own.held = slot
        return digest_of(own)

    assert make() == make()
    assert len({make(), make(slot=5), make(of_class=5)}) == 3


def test_the_code_of_a_notebooks_class_counts():
    def make(source):
        names = {"__name__": "__main__"}
        exec(f"class Own:\n    def encode(self, x):\n        return {source}", names)
        return digest_of(names["Own"]())

    assert make("x > 0") == make("x > 0") != make("x > 1")
    assert make("x in {'a', 'b'}") != make("x in {'a', 'c'}")


def test_an_object_that_holds_itself_and_one_tensor_twice():
    def make(**changes):
        own = SimpleNamespace(a=torch.ones(2))
        own.b = own.a
        own.self = own
        vars(own).update(changes)
        return digest_of(own)

    assert make() == make() != make(b=torch.zeros(2))


def test_the_device_of_an_object_does_not_count():
    def make(device):
        return digest_of(SimpleNamespace(device=torch.device(device)))

    assert make("cpu") == make("meta")


def test_a_digest_that_files_hold_does_not_change():
    """A change here makes every stored scan unreadable."""
    own = SimpleNamespace(W=torch.arange(6.0).reshape(2, 3), k=8, names=["ä"], f=torch.float16)
    found = Content()
    found.add("sae", own)
    assert found.lines == [
        '["sae", ["object", "SimpleNamespace"]]',
        '["sae.W", ["tensor", "' + tensor_digest(own.W) + '"]]',
        '["sae.f", ["dtype", "torch.float16"]]',
        '["sae.k", 8]',
        '["sae.names", ["sequence", 1]]',
        '["sae.names[0]", "\\u00e4"]',
    ]
    assert found.digest() == sha("\n".join(found.lines).encode())
