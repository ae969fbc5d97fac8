"""Ranges of a file on the Hub: what was asked for, and every wrong answer a server can give."""

from __future__ import annotations

import pytest
from local_hub import TRIED, LocalHub, result_of

from saework.loading.hub_ranges import ATTEMPTS

COMMIT = "7" * 40
CONTENT = bytes(range(256)) * 40_000  # ten megabytes
WRONG = ("whole", "416", "short", "shifted", "moved", "changed", "long")

CLIENT = (
    TRIED
    + """
import hashlib
from saework.loading.hub import Repository
from saework.loading.hub_ranges import HubFile

COMMIT = "7" * 40

def given(name, start, stop, file="w.bin", commit=COMMIT):
    source = HubFile(Repository(name), commit, file)
    content = b"".join(source.chunks(start, stop))
    return [source.size, len(content), hashlib.sha256(content).hexdigest()]

def asked(*arguments, **keywords):
    return tried(given, *arguments, **keywords)
"""
)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "w.bin").write_bytes(CONTENT)
    with LocalHub() as hub:
        hub.add("ours/right", folder, commits=(COMMIT,))
        hub.add("ours/dropped", folder, commits=(COMMIT,), drop={"w.bin": 3_000_000})
        hub.add("ours/gated", folder, commits=(COMMIT,), gated=403)
        for wrong in (*WRONG, "broken"):
            hub.add(f"ours/{wrong}", folder, commits=(COMMIT,), ranges=wrong)
        answers = result_of(
            CLIENT
            + f"""
answers = {{name: asked("ours/" + name, 100, 5_000_000) for name in {(*WRONG, "broken")!r}}}
report(answers | {{
    "right": asked("ours/right", 100, 5_000_000),
    "all": asked("ours/right", 0, {len(CONTENT)}),
    "dropped": asked("ours/dropped", 1000, 9_000_000),
    "gated": asked("ours/gated", 0, 10),
    "missing": asked("ours/nothing", 0, 10),
    "no file": asked("ours/right", 0, 10, file="other.bin"),
    "no commit": asked("ours/right", 0, 10, commit="8" * 40),
}})
""",
            cache=tmp_path_factory.mktemp("cache"),
            endpoint=hub.url,
            HF_TOKEN="hf_secretOfSomeone",
        )
        return answers, hub.requests


def digest(start: int, stop: int) -> list:
    import hashlib

    return [len(CONTENT), stop - start, hashlib.sha256(CONTENT[start:stop]).hexdigest()]


def test_the_bytes_asked_for(session):
    answers, requests = session
    assert answers["right"]["value"] == digest(100, 5_000_000)
    assert answers["all"]["value"] == digest(0, len(CONTENT))
    sent = [r.size for r in requests if r.method == "GET" and r.path.startswith("/ours/right/")]
    assert sent == [5_000_000 - 100, len(CONTENT)]


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(session):
    answers, requests = session
    assert answers["dropped"]["value"] == digest(1000, 9_000_000)
    sent = [r.size for r in requests if r.method == "GET" and "/ours/dropped/" in r.path]
    assert len(sent) == 2 and sent[1] == 9_000_000 - 3_000_000


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("whole", "NoRangesError", ""),
        ("416", "WeightsError", "no bytes 100 to 5,000,000, though it is 10,240,000 bytes long"),
        ("short", "WeightsError", "asked for bytes 100-4999999/10240000 of w.bin of ours/short"),
        ("shifted", "WeightsError", "answered with bytes 101-5000000/10240000; load again"),
        ("moved", "WeightsError", "at revision 77777777, the Hub answered for bbbbbbbb"),
        ("changed", "WeightsError", "changed while it was downloaded; load again"),
        (
            "long",
            "WeightsError",
            "asked for 4,999,900 bytes of w.bin of ours/long, more came; load",
        ),
        ("broken", "WeightsError", "asked for 4,999,900 bytes of w.bin of ours/broken, fewer came"),
        ("gated", "NotAvailableError", "ours/gated is gated: accept its licence"),
        ("missing", "NotAvailableError", "the Hub has no model ours/nothing"),
        ("no file", "NotAvailableError", "has no file other.bin at this revision"),
    ],
)
def test_wrong_answers(session, case, error, words):
    answer = session[0][case]
    assert answer.get("error") == error, answer
    assert words in answer["text"]
    assert "hf_secret" not in answer["traceback"]


def test_a_revision_that_does_not_exist(session):
    assert session[0]["no commit"]["error"] == "NotAvailableError"


def test_of_a_wrong_answer_nothing_is_read(session):
    """Of the whole file only what the connection had in it: it is closed at the header."""
    _, requests = session
    for wrong in WRONG:
        gets = [r for r in requests if r.method == "GET" and f"/ours/{wrong}/" in r.path]
        assert len(gets) == 1, wrong
    assert len([r for r in requests if r.method == "GET" and "/broken/" in r.path]) == ATTEMPTS
