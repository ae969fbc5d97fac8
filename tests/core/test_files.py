"""Files that are whole or not there, JSON that is damaged, and digests."""

from __future__ import annotations

import hashlib

import pytest

import saework
from saework.core import files
from saework.core.errors import WeightsError
from saework.core.files import DATA, PACKAGE, digest, partial_file, read_json, write_whole


def test_the_packages_own_folders():
    assert (PACKAGE / "__init__.py").samefile(saework.__file__)
    assert DATA.is_dir() and (DATA / "gelu-1l-mini").is_dir()


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "some.txt"
    assert write_whole(str(path), "a note with ↩\n") == path
    assert path.read_bytes() == "a note with ↩\n".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("older")
    with partial_file(path) as partial:
        partial.write_text("newer")
        assert path.read_text() == "older"
    assert path.read_text() == "newer"


def test_a_write_that_fails_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("older")
    with pytest.raises(RuntimeError, match="no more"):
        with partial_file(path) as partial:
            partial.write_text("new")
            raise RuntimeError("no more")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(OSError):
        write_whole(tmp_path / "missing" / "some.txt", "text")


def test_what_was_written_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / "some.txt"
    existed_at_sync = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: existed_at_sync.append(path.exists()))
    write_whole(path, "text")
    assert existed_at_sync == [False]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist; check the path, or download the whole folder"),
        (b"{", "is not JSON .*; delete it and download it again"),
        (b"\xff{}", "is not JSON .*; delete it"),
        (b"[1, 2]", "holds a list, not an object; delete it and download it again"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "cfg.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"cfg.json {words}"):
        read_json(path)


def test_json_that_can_be_read(tmp_path):
    path = tmp_path / "cfg.json"
    path.write_text('{"sign": "↩", "sizes": [1, 2]}', encoding="utf-8")
    assert read_json(path) == read_json(str(path)) == {"sign": "↩", "sizes": [1, 2]}


def test_a_digest_is_the_head_of_the_sha256_of_all_parts():
    whole = hashlib.sha256("two ↩parts".encode()).hexdigest()
    assert digest("two ", "↩parts".encode()) == whole[:16]
    assert digest() == hashlib.sha256().hexdigest()[:16]
    assert digest("a") != digest("b")
