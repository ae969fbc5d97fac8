"""A pack's file: read as it was written; damaged, foreign and old files are refused."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from saework import cli
from saework.reproduction import pack
from saework.reproduction.pack import ABOUT, Pack
from saework.reproduction.pack_values import packed

ABOUT_ONE = {**dict.fromkeys(ABOUT, ""), "notebook": "one", "parameters": {}}


def write(folder, kept, tensors=None):
    tree = {"about": ABOUT_ONE, "kept": kept}
    return pack.write(folder / "one.safetensors", tree, tensors or {})


def test_what_was_written_is_read(tmp_path):
    tree, tensors = packed({"x": torch.arange(3), "y": [1, "two", None]})
    read_tree, read_tensors = pack.read(pack.write(tmp_path / "x.safetensors", tree, tensors))
    assert read_tree == tree and read_tensors.keys() == tensors.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_values_of_a_statement(tmp_path):
    tree, tensors = packed(torch.arange(3))
    kept = {
        "0.1": {"values": {"x": tree}},
        "0.2": {"values": {"a": 1, "b": "two"}, "shown": {"text": "three"}},
        "10.1": {"values": {}},
    }
    one = Pack(write(tmp_path, kept, tensors))
    assert torch.equal(one.take("0.1"), torch.arange(3))
    assert one.take("0.2") == (1, "two") and repr(one.shown("0.2")) == "three"
    assert one.kept_in(0).keys() == {"1", "2"} and one.kept_in(10).keys() == {"1"}
    assert one.kept_in(1) == {} and one.about["notebook"] == "one"


@pytest.mark.parametrize("part", [*ABOUT, "kept"])
def test_a_file_that_lacks_a_part_is_no_pack(part, tmp_path):
    tree = {"about": dict(ABOUT_ONE), "kept": {}}
    (tree if part == "kept" else tree["about"]).pop(part)
    path = pack.write(tmp_path / "x.safetensors", tree, {})
    with pytest.raises(
        ValueError, match=rf"x\.safetensors is no replay pack \(it lacks '{part}'\)"
    ):
        Pack(path)


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_a_damaged_file(keep, tmp_path):
    path = pack.write(tmp_path / "x.safetensors", *packed(torch.ones(1000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(
        ValueError,
        match=r"x\.safetensors is no replay pack, or is damaged .*; give a file that saework "
        "reproduce wrote",
    ):
        pack.read(path)


@pytest.mark.parametrize(
    "metadata", [None, {"saework": "{"}, {"saework": "[" * 100_000}, {"other": "1"}]
)
def test_a_foreign_file(metadata, tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="is no replay pack"):
        pack.read(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is no replay pack"):
        pack.read(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("version", [None, "1", "3"])
def test_a_pack_of_another_version_says_what_to_run(version, tmp_path, capsys):
    """Version 1, made by hand: it stored no version, and named classes by their modules."""
    values = {"score": {"class": "saework.core.ledger.Claim", "fields": {"dict": []}}}
    tree = {"about": ABOUT_ONE, "kept": {"0.0": {"values": values}}}
    metadata = {"saework": json.dumps(tree)}
    if version:
        metadata["version"] = version
    path = tmp_path / "old.safetensors"
    save_file({}, path, metadata=metadata)
    assert cli.main(["replay", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"old.safetensors is a replay pack of version {version or '1'}" in error
    assert "this saework reads version 2; run saework reproduce NAME again" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"about": [1]},
        {"about": {**ABOUT_ONE, "parameters": "RELEASE"}},
        {"about": {**ABOUT_ONE, "notebook": ["one"]}},
        {"kept": [1]},
        {"kept": {"0.0": 3}},
        {"kept": {"0.0": {"shown": 1}}},
        {"kept": {"0.0": {"values": [1]}}},
    ],
)
def test_parts_of_another_kind_are_refused(change, tmp_path, capsys):
    path = pack.write(tmp_path / "x.safetensors", {"about": ABOUT_ONE, "kept": {}} | change, {})
    assert cli.main(["replay", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "x.safetensors is no replay pack" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tree, words",
    [
        ({"tensor": "no such"}, "KeyError"),
        (
            {"sparse": "t", "at": "t", "shape": [10**6, 10**6]},
            "numbers; saework keeps none of more",
        ),
        ({"sparse": "t", "at": "t", "shape": [2]}, "IndexError|RuntimeError"),
        ({"sparse": "t", "at": "t", "shape": [-1]}, "RuntimeError"),
        ({"sparse": "t", "at": "t", "shape": "x"}, "TypeError"),
        (
            {"frame": [[1, "no type"]], "columns": 1, "index": 2, "name": None},
            "TypeError|ValueError",
        ),
        ({"figure": "[]"}, "AttributeError|ValueError"),
        ({"class": "Claim", "fields": {"dict": [["no field", 1]]}}, "TypeError"),
        ({"class": "Ledger", "fields": {"dict": []}}, "KeyError"),
        ({"os.system": "ls"}, "kind 'os.system'"),
        ({"list": 3}, "TypeError"),
        ({}, "StopIteration"),
    ],
)
def test_a_value_that_saework_did_not_write_is_named(tree, words, tmp_path):
    kept = {"0.0": {"values": {"x": tree}, "shown": tree}}
    one = Pack(write(tmp_path, kept, {"t": torch.tensor([3, 4])}))
    for read in (one.take, one.shown):
        with pytest.raises(ValueError, match=f"the pack holds a value that cannot be.*({words})"):
            read("0.0")


def test_a_key_with_two_values_is_refused(tmp_path):
    text = '{"about": {}, "kept": {}, "kept": {"0.0": 1}}'
    save_file({}, tmp_path / "x.safetensors", metadata={"saework": text, "version": "2"})
    with pytest.raises(ValueError, match="damaged .it gives 'kept' twice, so it cannot be told"):
        pack.read(tmp_path / "x.safetensors")


def test_a_pipe_is_no_pack(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no replay pack.*there is no such file"):
        pack.read(tmp_path / "pipe")
