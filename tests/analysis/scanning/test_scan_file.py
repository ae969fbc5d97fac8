"""Scans as files: whole, damaged, of something else, and of other formats."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from stand_ins import assert_same

from saework import FeatureScan
from saework.analysis.scanning import scan_file
from saework.core.errors import WeightsError
from saework.core.files import DATA


def test_save_and_load(rowwise, tokens, whole, tmp_path):
    path = whole.save(tmp_path / "whole.safetensors")
    loaded = FeatureScan.load(str(path))
    assert_same(loaded, whole)
    assert_same(loaded + rowwise(tokens, first_row=6), whole + rowwise(tokens, first_row=6))


def test_damaged_files(whole, tmp_path):
    path = whole.save(tmp_path / "scan.safetensors")
    content = path.read_bytes()
    half, bad_header = content[: len(content) // 2], content[:8] + b"}" + content[9:]
    words = r"scan.safetensors is not a feature scan, or is damaged .*scan again"
    for broken in (half, b"", b"not a scan at all", bad_header):
        path.write_bytes(broken)
        with pytest.raises(WeightsError, match=words):
            FeatureScan.load(path)
    save_file({"count": whole.count}, path)
    with pytest.raises(WeightsError, match="is not a feature scan"):
        FeatureScan.load(path)
    with pytest.raises(FileNotFoundError):
        FeatureScan.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("file_format", "words"),
    [
        (
            None,
            "was written by an older saework. Its fingerprint 0123abcd is of a few of the SAE's "
            "weights only, .*; delete the file and scan again",
        ),
        (
            "2",
            "was written by an older saework, which did not record what text was scanned; delete",
        ),
        ("4", "is a scan of format 4, and this saework reads format 3; update saework, or scan"),
    ],
)
def test_files_of_other_formats(whole, tmp_path, file_format, words):
    arrays = {name: getattr(whole, name).contiguous() for name in scan_file.ARRAYS[:9]}
    metadata = {"n_tokens": "120", "rows": "[[0, 6]]", "fingerprint": "0123abcd"}
    if file_format:
        metadata["format"] = file_format
    save_file(arrays, tmp_path / "old.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match=f"old.safetensors {words}"):
        FeatureScan.load(tmp_path / "old.safetensors")


@pytest.fixture
def parts_of(tmp_path):
    """``parts_of(scan)``: the arrays and the metadata of its file."""

    def parts_of(scan, note=""):
        path = scan.save(tmp_path / "parts.safetensors", note=note)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()

    return parts_of


def test_what_is_in_a_file(whole, parts_of):
    arrays, metadata = parts_of(whole, note="of a test")
    small = {name for name, array in arrays.items() if array.dtype == torch.int32}
    assert small == {"histogram", "l0_histogram"}  # no cofiring feature was chosen
    for name, array in arrays.items():
        assert torch.equal(array.to(getattr(whole, name).dtype), getattr(whole, name)), name
    expected = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        expected.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        expected.update(array.numpy().tobytes())
    assert metadata == {
        "format": "3",
        "n_tokens": "120",
        "n_left_out": "0",
        "rows": "[[0, 6]]",
        "fingerprint": whole.fingerprint,
        "note": "of a test",
        "digest": expected.hexdigest(),
    }


def test_counts_too_large_for_int32_stay_as_they_are(whole, parts_of, tmp_path):
    # as if so many more tokens had come on which nothing fires but one feature
    more = 2**31
    feature = int(whole.count.argmax())
    count, histogram = whole.count.clone(), whole.histogram.clone()
    l0_histogram = whole.l0_histogram.clone()
    count[feature] += more
    histogram[feature, 0] += more
    l0_histogram[1] += more
    large = replace(
        whole,
        n_tokens=whole.n_tokens + more,
        count=count,
        histogram=histogram,
        l0_histogram=l0_histogram,
    )
    arrays, _ = parts_of(large)
    assert arrays["histogram"].dtype == torch.int64
    assert_same(FeatureScan.load(large.save(tmp_path / "large.safetensors")), large)


def test_numbers_that_were_changed(whole, parts_of, tmp_path):
    arrays, metadata = parts_of(whole)
    arrays["count"][3] += 1
    save_file(arrays, tmp_path / "changed.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match="its numbers are not those that were written"):
        FeatureScan.load(tmp_path / "changed.safetensors")


def test_an_array_too_many(whole, parts_of, tmp_path):
    arrays, metadata = parts_of(whole)
    arrays["labels"] = torch.zeros(3)
    metadata["digest"] = scan_file._digest(arrays)
    save_file(arrays, tmp_path / "more", metadata=metadata)
    with pytest.raises(WeightsError, match="it holds .*labels"):
        FeatureScan.load(tmp_path / "more")


@pytest.mark.parametrize("said", ["-1", "0.5", "true", '"3"', "[]"])
def test_a_wrong_number_of_tokens_left_out(said, whole, parts_of, tmp_path):
    arrays, metadata = parts_of(whole)
    save_file(arrays, tmp_path / "scan", metadata=metadata | {"n_left_out": said})
    with pytest.raises(WeightsError, match="it says that .* tokens were left out"):
        FeatureScan.load(tmp_path / "scan")


def test_a_file_that_does_not_say_how_many_tokens_were_left_out(whole, parts_of, tmp_path):
    arrays, metadata = parts_of(whole)
    del metadata["n_left_out"]
    save_file(arrays, tmp_path / "scan", metadata=metadata)
    scan = FeatureScan.load(tmp_path / "scan")
    assert_same(scan, whole, but=["n_left_out"])
    assert scan.n_left_out is None
    assert "(120 tokens, " in repr(scan)


@pytest.mark.parametrize("path", sorted(DATA.glob("*/scans/*.safetensors")), ids=lambda p: p.stem)
def test_the_bundled_scans_are_read(path):
    scan = FeatureScan.load(path)
    assert scan.n_tokens == 1_200_000 and scan.top_k == 0
    assert int(scan.l0_histogram.sum()) == scan.n_tokens
    assert torch.equal(scan.histogram.sum(1), scan.count)
