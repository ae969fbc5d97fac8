"""A Hub that does not answer: said, waited for once, and not asked again."""

from __future__ import annotations

import threading

import pytest
from local_hub import LocalHub, run_client

from saework.core.errors import NotAvailableError
from saework.loading import hub_patience
from saework.loading.hub_patience import Patience

SILENT = """
import json, shutil
from types import SimpleNamespace
import psutil
import saework
from saework.loading import hub_patience

hub_patience.NOTICE_S, hub_patience.LIMIT_S = 0.05, 0.5
found = saework.preflight("gelu-1l")
print(json.dumps([found.ok, found.access_problems]))
"""


def test_an_answer_and_an_error_are_passed_on(capsys):
    patience = Patience()
    assert patience.ask(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        patience.ask(lambda: 1 / 0)
    assert not patience.is_over and capsys.readouterr().err == ""


def test_silence_is_said_and_remembered(capsys):
    released = threading.Event()
    asked = []

    def question():
        asked.append(1)
        released.wait()

    patience = Patience(notice_s=0.01, limit_s=0.02)
    words = "huggingface.co did not answer within 0.02 s.*check the network, and try again"
    for _ in range(3):
        with pytest.raises(NotAvailableError, match=words):
            patience.ask(question)
    assert asked == [1] and patience.is_over
    assert capsys.readouterr().err == "saework: waiting for huggingface.co\n"
    released.set()


def test_a_mirror_is_not_the_public_hub(monkeypatch):
    assert hub_patience.is_public_hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:8000")
    assert not hub_patience.is_public_hub() and hub_patience.hub_host() == "127.0.0.1:8000"


def test_preflight_of_a_silent_hub(tmp_path):
    with LocalHub() as hub:
        hub.is_silent = True
        done = run_client(SILENT, endpoint=hub.url, cache=tmp_path)
        asked = {path.split("/resolve")[0] for path in hub.waiting}
    assert done.returncode == 0, done.stderr
    assert "saework: waiting for 127.0.0.1" in done.stderr
    assert done.stderr.count("waiting for") == 1
    assert '[false, ["127.0.0.1' in done.stdout and done.stdout.count("did not answer") == 1
    assert len(asked) == 1, "one repository of four was asked for"
