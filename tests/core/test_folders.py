"""Folders for results: what cannot be written to is said before any work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from saework.core.folders import LOCK, make_folder, only_writer


def test_a_folder_is_made_and_nothing_stays_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_folder("a/b c%#?🙂") == tmp_path / "a" / "b c%#?🙂"
    assert list((tmp_path / "a" / "b c%#?🙂").iterdir()) == []
    assert make_folder(tmp_path / "a") == tmp_path / "a"


@pytest.mark.parametrize("kind", ["file", "under a file", "pipe", "link to nowhere"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nowhere":
        path.symlink_to("/proc/none/such")
    else:
        path.write_text("mine")
    words = {
        "under a file": r"there/x cannot be written to \(Not a directory\); give a folder that",
        "link to nowhere": r"cannot be written to \(",
    }
    with pytest.raises(
        ValueError, match=words.get(kind, r"is a file; give a folder \(--out DIR\)")
    ):
        make_folder(path / "x" if kind == "under a file" else path)


@pytest.mark.parametrize("name, words", [("/proc/x/y", "No such file"), ("/proc", "written to")])
def test_a_folder_that_cannot_be_written_to_is_refused(name, words):
    with pytest.raises(ValueError, match=f"{name} cannot be written to.*{words}|{words}"):
        make_folder(name)


@pytest.mark.parametrize("path", ["a\0b", 3, None])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="folder"):
        make_folder(path)


def test_a_name_that_is_no_text_is_refused(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"caf\\udce9' is no text here.*or set PYTHONUTF8=1"):
        make_folder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_deleted_is_said(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match=r"this folder has been deleted; change to another one"):
        make_folder("out")


def test_one_process_writes_at_a_time(tmp_path):
    code = (
        "import sys; from pathlib import Path; from saework.core.folders import only_writer\n"
        "with only_writer(Path(sys.argv[1])): pass\n"
    )

    def another():
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600
        )

    with only_writer(tmp_path):
        said = another().stderr
        assert f"another saework writes to {tmp_path} at this moment; wait until it is" in said
    assert another().returncode == 0 and list(tmp_path.iterdir()) == []


def test_a_lock_that_a_killed_process_left_is_no_obstacle(tmp_path):
    (tmp_path / LOCK).write_text("")
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with only_writer(tmp_path):
        pass
