"""A Hub that does not answer: said, waited for once, and not asked again."""

from __future__ import annotations

import threading

import pytest
from local_hub import LocalHub, run_client

from saework.core.errors import NotAvailableError
from saework.loading import hub_patience, requirements
from saework.loading.hub import Repository
from saework.loading.hub_patience import Patience

SILENT = """
import json, shutil
from types import SimpleNamespace
import psutil
import saework
from saework.loading import hub_patience

hub_patience.NOTICE_S = 0.05
found = saework.preflight("gelu-1l", wait_s=0.5)
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


def test_questions_are_asked_at_one_time(capsys):
    both = threading.Barrier(2)

    def fails():
        both.wait(60)
        raise ZeroDivisionError

    patience = Patience(notice_s=30, limit_s=60)
    answers = patience.ask_all([lambda: both.wait(60) >= 0, fails])
    assert answers[0] is True and isinstance(answers[1], ZeroDivisionError)
    assert patience.ask_all([]) == [] and not patience.is_over
    released = threading.Event()
    patience = Patience(notice_s=0.01, limit_s=0.05)
    answer, silence = patience.ask_all([lambda: 3, released.wait])
    assert answer == 3 and isinstance(silence, NotAvailableError) and patience.is_over
    assert capsys.readouterr().err == "saework: waiting for huggingface.co\n"
    released.set()


def test_a_curated_release_is_waited_for_less_long(monkeypatch):
    limits = []
    patience = requirements.Patience

    def noted(*, limit_s):
        limits.append(limit_s)
        return patience(limit_s=limit_s)

    monkeypatch.setattr(requirements, "Patience", noted)
    for name in ("gelu-1l-mini", "gpt2-small-mlp-tm"):
        monkeypatch.setattr(Repository, "cached", lambda repository, file: True)
        requirements.preflight(name)
        requirements.preflight(name, wait_s=7)
    assert limits == [1.5, 7, None, 7]


def test_a_mirror_is_not_the_public_hub(monkeypatch):
    assert hub_patience.is_public_hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:8000")
    assert not hub_patience.is_public_hub() and hub_patience.hub_host() == "127.0.0.1:8000"


def test_preflight_of_a_silent_hub(tmp_path):
    with LocalHub() as hub:
        hub.is_silent = True
        done = run_client(SILENT, endpoint=hub.url, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "saework: waiting for 127.0.0.1" in done.stderr
    assert done.stderr.count("waiting for") == 1
    assert '[false, ["127.0.0.1' in done.stdout and done.stdout.count("did not answer") == 1
