"""Folders of the cache: whole or not there, and checked whenever they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from saework.core.errors import WeightsError
from saework.loading.cut_cache import (
    check_unchanged,
    cut_cache,
    make_folder,
    model_cache,
    write_chunks,
    write_text,
)
from saework.loading.hub import Repository

FILES = ("config.json", "model.safetensors")


def written(partial: Path) -> dict[str, object]:
    digests = {name: write_text(partial / name, name * 100) for name in FILES}
    return {"of": "a test", "sha256": digests}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "cache" / "one"
    make_folder(folder, FILES, written)
    return folder


def test_a_folder_is_made_once(folder):
    def never(partial: Path) -> dict[str, object]:
        raise AssertionError("it is there already")

    make_folder(folder, FILES, never)
    assert sorted(path.name for path in folder.iterdir()) == [*FILES, "saework.json"]
    assert (folder / "config.json").read_text() == "config.json" * 100


def test_an_error_leaves_nothing(tmp_path):
    def stopped(partial: Path) -> dict[str, object]:
        (partial / "config.json").write_text("half")
        raise KeyboardInterrupt

    folder = tmp_path / "one"
    with pytest.raises(KeyboardInterrupt):
        make_folder(folder, FILES, stopped)
    assert [path.name for path in tmp_path.iterdir()] == [".one.lock"]
    make_folder(folder, FILES, written)


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".one.12.partial", ".two.12.partial"):
        (tmp_path / name).mkdir()
    make_folder(tmp_path / "one", FILES, written)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".one.lock", ".two.12.partial", "one"], "another folder may be in the making"


def test_what_reached_the_disk_is_compared_with_what_was_sent(tmp_path):
    def cut_short(partial: Path) -> dict[str, object]:
        record = written(partial)
        cut_off(partial / "model.safetensors")
        return record

    with pytest.raises(WeightsError, match="model.safetensors is not what was written there"):
        make_folder(tmp_path / "one", FILES, cut_short)


def test_the_digest_of_a_file(tmp_path):
    digest = write_chunks(tmp_path / "file", [b"a", b"", b"bc"])
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # NIST's


def test_each_revision_has_a_place_of_its_own():
    repositories = [Repository("ours/a", revision=revision) for revision in ("1" * 40, "2" * 40)]
    one, other = map(model_cache, repositories)
    assert one == cut_cache() / "ours--a" / ("1" * 40) != other


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut_off, flipped])
def test_a_folder_that_was_changed(folder, name, damage):
    check_unchanged(folder, FILES)
    damage(folder / name)
    with pytest.raises(WeightsError, match=f"{name} is not what was .*delete {folder}, and load"):
        make_folder(folder, FILES, written)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "has no model.safetensors"),
        ("saework.json", "saework.json cannot be read"),
    ],
)
def test_a_file_that_is_missing(folder, name, words):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{words}; delete"):
        check_unchanged(folder, FILES)


@pytest.mark.parametrize("record", ["[]", '{"sha256": 3}', '{"sha256": {"config.json": "0"}}', "{"])
def test_a_record_that_cannot_be_read(folder, record):
    (folder / "saework.json").write_text(record)
    with pytest.raises(WeightsError, match="saework.json cannot be read"):
        check_unchanged(folder, FILES)
