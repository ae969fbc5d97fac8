"""Around a command: pipes, signals, warnings, full disks and memory, each in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from saework.core import terminal
from saework.core.terminal import EndedError, error_text, is_terminal, run_command

RUN = "from saework.core.terminal import run_command; import sys, os, signal, warnings\n"


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


def nothing_kept() -> str:
    return "nothing is kept"


def in_a_process(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", RUN + code], text=True, timeout=600, **options)


@pytest.mark.parametrize(
    "error, code, words",
    [
        (ValueError("a name"), 2, "saework: a name\n"),
        (OSError("no network"), 2, "saework: no network\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y"),
            2,
            "saework: x/y: No space left on device; make room on that disk",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"pages"),
            2,
            "saework: pages: Read-only file system; give a folder that you may write to (--out",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "z"),
            2,
            "z: No such file; check the path",
        ),
        (MemoryError(), 1, "saework: there is not enough memory; close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (UserWarning("an old file"), 1, "an old file (a warning; PYTHONWARNINGS or -W makes it"),
        (KeyboardInterrupt(), 130, "\nsaework: stopped; nothing is kept\n"),
        (EndedError(signal.SIGTERM), 143, "\nsaework: stopped; nothing is kept\n"),
    ],
)
def test_what_stops_a_command_is_one_line(error, code, words, capsys):
    assert run_command(raising(error), nothing_kept) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") <= 2


def test_an_error_of_the_programs_own_is_shown_whole():
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        run_command(raising(RuntimeError("a mistake in the code")), nothing_kept)


def test_a_code_is_passed_on_and_a_warning_has_no_line_of_code(capsys):
    before = warnings.showwarning

    def command() -> int:
        warnings.warn("took main instead", stacklevel=1)
        return 3

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest collects warnings itself, which is what a command takes the place of
        assert run_command(command, nothing_kept) == 3
    assert capsys.readouterr().err == "saework: took main instead\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_an_interrupt_does(name):
    code = f"""
def command():
    try:
        os.kill(os.getpid(), signal.{name})
    finally:
        print("cleaned up")

sys.exit(run_command(command, lambda: "the same command goes on"))
"""
    done = in_a_process(code, capture_output=True)
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stdout == "cleaned up\n"
    assert done.stderr == "\nsaework: stopped; the same command goes on\n"


def test_a_signal_that_is_ignored_stays_so():
    code = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def command():
    os.kill(os.getpid(), signal.SIGHUP)
    return 0
sys.exit(run_command(command, lambda: ""))
"""
    assert in_a_process(code, capture_output=True).returncode == 0
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda: 0, nothing_kept) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_pipe_whose_reader_has_gone_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    code = "sys.exit(run_command(lambda: print('x' * 10) or 0, lambda: ''))"
    done = in_a_process(code, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""


def test_another_broken_pipe_is_said(capfd):
    assert run_command(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), nothing_kept) == 2
    assert "Broken pipe" in capfd.readouterr().err


def test_a_full_disk_behind_the_output_is_said():
    with open("/dev/full", "w") as full:
        code = "sys.exit(run_command(lambda: print('x') or 0, lambda: ''))"
        done = in_a_process(code, stdout=full, stderr=subprocess.PIPE)
    assert "No space left on device; make room" in done.stderr
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_closed_streams_do_not_stop_a_command():
    command = [sys.executable, "-c", RUN + "sys.exit(run_command(lambda: print('x') or 5, str))"]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, timeout=600).returncode == 5


def test_only_a_terminal_is_one(tmp_path):
    with open(tmp_path / "f", "w") as file:
        assert not is_terminal(file)
    assert not is_terminal(file) and not is_terminal(None)
    terminal.say("a line")


def test_an_error_without_a_number_keeps_its_words():
    assert error_text(OSError("the Hub cannot be reached")) == "the Hub cannot be reached"
    assert error_text(ValueError("x")) == "x"
