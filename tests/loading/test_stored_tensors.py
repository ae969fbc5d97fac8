"""Bytes of tensors in safetensors files, against the safetensors library."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saework.core.errors import WeightsError
from saework.loading.stored_tensors import BITS, LocalFile, copied, runs, tensors_in

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@pytest.fixture
def files(tmp_path):
    """Two files; of each dtype one tensor, with odd shapes, an empty one and a single number."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{name}.weight": torch.randint(0, 2, (3, 5), generator=generator).to(dtype)
        for name, dtype in DTYPES.items()
    }
    state |= {"one": torch.tensor(2.5), "none": torch.zeros(0, 4)}
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file(state, first, metadata={"format": "pt"})
    save_file({"layers.10.w": torch.arange(7.0), "layers.2.w": -torch.arange(4.0)}, second)
    return first, second


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in ours
    )


def test_every_dtype_is_known(files):
    found = tensors_in(LocalFile(files[0]))
    assert {found[f"{name}.weight"].dtype for name in DTYPES} == set(BITS)
    with safe_open(files[0], "pt") as stored:
        assert found.keys() == set(stored.keys())
        for name in stored.keys():
            assert list(found[name].shape) == stored.get_slice(name).get_shape()


def test_a_copy_is_equal_bit_by_bit(files, tmp_path):
    """Some tensors of two files in one, under other names."""
    first, second = (tensors_in(LocalFile(path)) for path in files)
    wanted = {f"a.{name}": tensor for name, tensor in first.items() if name != "F32.weight"}
    wanted |= {"b": second["layers.2.w"]}
    sizes = []
    path = tmp_path / "copy.safetensors"
    path.write_bytes(b"".join(copied(wanted, advance=sizes.append)))
    expected = {f"a.{name}": value for name, value in load_file(files[0]).items()}
    del expected["a.F32.weight"]
    expected["b"] = load_file(files[1])["layers.2.w"]
    assert same(load_file(path), expected)
    assert sum(sizes) == sum(tensor.n_bytes for tensor in wanted.values())


def test_what_lies_end_to_end_is_one_request(files):
    first = tensors_in(LocalFile(files[0]))
    assert len(runs(first)) == 1
    ordered = runs(first)[0]
    middle = ordered[len(ordered) // 2]
    assert first[middle].n_bytes
    rest = {name: tensor for name, tensor in first.items() if name != middle}
    assert len(runs(rest)) == 2
    assert len(runs(rest | tensors_in(LocalFile(files[1])))) == 3


@dataclass
class Counting:
    """A file that writes down what was read of it."""

    file: LocalFile
    read: int = 0

    name = "counted"

    @property
    def size(self):
        return self.file.size

    def chunks(self, start, stop):
        self.read += stop - start
        return self.file.chunks(start, stop)


def test_only_the_header_is_read(tmp_path):
    path = tmp_path / "large.safetensors"
    save_file({"w": torch.zeros(1_000_000)}, path)
    source = Counting(LocalFile(path))
    assert tensors_in(source)["w"].n_bytes == 4_000_000
    assert source.read < 200


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has 0 bytes"),
        (b"PK\x03\x04" * 10, "header would be"),
        ((10**7).to_bytes(8, "little") + b"{}", "header would be 10,000,000 bytes"),
        ((9).to_bytes(8, "little") + b"not JSON!", "header cannot be read"),
        ((2).to_bytes(8, "little") + b"[]", "header cannot be read"),
        (header(w={"dtype": "F32"}), "header cannot be read"),
        (header(w=ENTRY) + b"1234567", "w lies outside of the file"),
        (header(w=ENTRY | {"data_offsets": [-8, 0]}) + b"12345678", "w lies outside"),
        (header(w=ENTRY | {"shape": [3]}) + b"12345678", r"w of shape \[3\] and dtype F32 takes 8"),
        (header(w=ENTRY | {"dtype": "F3"}) + b"12345678", "dtype F3 takes 8"),
        (header(w=ENTRY | {"shape": [-2]}) + b"12345678", "takes 8"),
    ],
)
def test_damaged_files(tmp_path, content, why):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"is not a whole safetensors file: .*{why}"):
        tensors_in(LocalFile(path))


def test_a_file_that_is_cut_off_while_it_is_read(files):
    found = tensors_in(LocalFile(files[1]))
    files[1].write_bytes(files[1].read_bytes()[:-9])
    with pytest.raises(WeightsError, match="cut off; delete it and download it again"):
        b"".join(copied(found))
