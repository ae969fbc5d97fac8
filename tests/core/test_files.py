"""Files that are whole or not there, JSON that is damaged, and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import saework
from saework.core import files
from saework.core.errors import WeightsError
from saework.core.files import DATA, PACKAGE, digest, partial_file, read_json, readable, write_whole


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


def test_each_writer_has_a_partial_file_of_its_own(tmp_path):
    path = tmp_path / "some.txt"
    mine = tmp_path / ".some.txt.partial"
    mine.write_text("a reader's own")
    with partial_file(path) as first, partial_file(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second and not path.exists()
    assert path.read_text() == "first"  # the outer one is done last
    assert mine.read_text() == "a reader's own"
    assert sorted(tmp_path.iterdir()) == [mine, path]


def test_two_writers_and_a_reader(tmp_path):
    path = tmp_path / "some.txt"
    texts = ["a" * 100_000, "b" * 100_000]
    write_whole(path, texts[0])
    with ThreadPoolExecutor(2) as pool:
        writers = [
            pool.submit(lambda t=t: [write_whole(path, t) for _ in range(50)]) for t in texts
        ]
        read = set()
        while not all(writer.done() for writer in writers):
            read.add(path.read_text())
        for writer in writers:
            writer.result()
    assert read <= set(texts)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path):
    path = tmp_path / "some.txt"
    old, new = (tmp_path / f".some.txt.{digit * 16}.partial" for digit in "01")
    other = tmp_path / ".other.txt.0000000000000000.partial"
    for left in (old, new, other):
        left.write_text("half")
    for left in (old, other):
        os.utime(left, (time.time() - 3601,) * 2)
    write_whole(path, "text")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other])


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_this_process_lets_them(tmp_path, mask):
    path = tmp_path / "some.bin"
    before = os.umask(mask)
    try:
        with partial_file(path) as partial:
            partial.unlink()  # as a library does that writes a private file of its own
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    assert write_whole(path, "text").read_text() == "text"


def test_half_a_character_is_said_before_the_file_is_touched(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("older")
    words = r"some.txt cannot be written: the text has a lone surrogate, at the end of 'a note"
    with pytest.raises(ValueError, match=words):
        write_whole(path, "a note \ud800 here")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


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
    path.write_text('{"d_in": 3}', encoding="utf-8-sig")  # Windows editors put a mark in front
    assert read_json(path) == {"d_in": 3}


def test_a_digest_is_the_head_of_the_sha256_of_all_parts():
    whole = hashlib.sha256("two ↩parts".encode()).hexdigest()
    assert digest("two ", "↩parts".encode()) == whole[:16]
    assert digest() == hashlib.sha256().hexdigest()[:16]
    assert digest("a") != digest("b")


def test_only_a_page_of_saework_is_written_over(tmp_path):
    path = tmp_path / "index.html"
    files.check_own_page(path)
    path.write_text(f"<html><head>{files.GENERATOR}</head>")
    files.check_own_page(path)
    path.write_text('<head><meta content="saework" name="generator"/>')
    files.check_own_page(path)
    path.write_text('<meta name="generator" content="other"><p>content="saework"</p>')
    for other in (path, tmp_path):
        with pytest.raises(ValueError, match="was not written by saework, and is left as it is"):
            files.check_own_page(other)


@pytest.mark.parametrize("path", [None, 5, b"x", "", "a\0b"])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="path is .*(give a path|which no file can have)"):
        write_whole(path, "text")


def test_a_folder_or_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file in it"):
        write_whole(tmp_path, "text")
    with pytest.raises(
        FileNotFoundError, match="cannot be written: there is no folder .*none; make"
    ):
        write_whole(tmp_path / "none" / "file", "text")


def test_what_can_be_read(tmp_path):
    (tmp_path / "file").write_text("text")
    assert readable(str(tmp_path / "file")) == tmp_path / "file"
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        ".": "is a folder; give the path of a file in it",
        "none": "there is no file .*none; check the path",
        "pipe": "pipe is a pipe or a device; give a file",
    }.items():
        with pytest.raises(OSError, match=words):
            readable(tmp_path / name)


def test_json_that_says_two_things_of_one_name(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"d_in": 3, "inner": {"k": 1, "k": 2}}')
    with pytest.raises(WeightsError, match="gives 'k' twice, so it cannot be told which holds"):
        read_json(path)
    path.write_text('{"d_in": 3, "d_in": 3}')
    assert read_json(path) == {"d_in": 3}
    path.write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="nests too deeply; give a JSON file"):
        read_json(path)
    with pytest.raises(WeightsError, match="is a folder; give a JSON file"):
        read_json(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_device_is_not_replaced(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "link to a device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match="there is a pipe or a device; give the path of a file"):
        write_whole(path, "x")
    with pytest.raises(WeightsError, match="there is no file; check the path"):
        read_json(path)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "mine").write_text("my thesis")
    (tmp_path / "ledger.json").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "ledger.json", "new")
    assert (tmp_path / "mine").read_text() == "my thesis"
    assert (tmp_path / "ledger.json").read_text() == "new"


def test_an_error_of_the_disk_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/some.txt'"):
        write_whole(tmp_path / "some.txt", "x")
    assert list(tmp_path.iterdir()) == []
