"""No program is started while a model is booted, and no code of a repository is run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from conftest import weights_error

from saework.loading.outside_code import no_programs_started, refuse_own_code

COMMAND = [sys.executable, "-c", "pass"]


def test_no_program_starts_inside_and_nothing_stays_patched():
    before = subprocess.Popen.__init__
    for start in (subprocess.check_call, subprocess.run, subprocess.Popen):
        with no_programs_started(), pytest.raises(OSError, match="starts no program"):
            start(COMMAND)
    assert subprocess.Popen.__init__ is before
    assert subprocess.check_call(COMMAND) == 0


def test_it_is_put_back_after_an_error():
    before = subprocess.Popen.__init__
    with pytest.raises(KeyError), no_programs_started():
        raise KeyError
    assert subprocess.Popen.__init__ is before


def test_other_threads_start_what_they_like():
    codes = []
    with no_programs_started():
        thread = threading.Thread(target=lambda: codes.append(subprocess.call(COMMAND)))
        thread.start()
        thread.join()
    assert codes == [0]


def test_code_of_another_kind_is_let_pass(tmp_path):
    """A repository may have code for a class that is not asked for here."""
    path = tmp_path / "config.json"
    config = {"auto_map": {"AutoModelForImageClassification": "own.Own"}}
    path.write_text(json.dumps(config))
    assert refuse_own_code(path, ("AutoConfig",)) == config
    text = weights_error(refuse_own_code, path, ("AutoModelForImageClassification",))
    assert str(path) in text and "AutoModelForImageClassification" in text
    assert refuse_own_code(tmp_path / "nothing.json", ("AutoConfig",)) == {}
