"""A Hub that falls silent, drips, or asks for pauses: said, and given up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from local_hub import LocalHub, result_of

from saework.core.errors import NotAvailableError
from saework.loading.hub_watch import ANSWER_S, LIMIT_S, MOST_LISTS, PROGRESS_BYTES, Watch


class SyncByteStream:
    """As httpx names it."""


class Stream(SyncByteStream):
    def __init__(self, parts):
        self.parts, self.is_closed = parts, False

    def __iter__(self):
        yield from self.parts

    def close(self):
        self.is_closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    watch = Watch(clock)
    watch.say_nothing()
    return watch


def request(host="hub", path="/owner/name/resolve/main/config.json"):
    url = SimpleNamespace(host=host, path=path)
    return SimpleNamespace(url=url, extensions={}, headers={"Authorization": "Bearer x"})


def response(status=200, parts=(), **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(
        status_code=status, headers=headers, request=request(), stream=Stream(list(parts))
    )


def test_a_question_without_a_time_limit_gets_one(watch):
    asked = request()
    asked.extensions["timeout"] = {"connect": None, "read": 3.0}
    watch.asked(asked)
    assert asked.extensions == {"timeout": {"connect": ANSWER_S, "read": 3.0}}


@pytest.mark.parametrize(
    "host, endpoint, is_sent",
    [
        ("huggingface.co", "https://huggingface.co", True),
        ("cdn-lfs.hf.co", "https://huggingface.co", True),
        ("evilhuggingface.co", "https://huggingface.co", False),
        ("huggingface.co.evil.org", "https://huggingface.co", False),
        ("127.0.0.2", "http://127.0.0.1:80", False),
        ("127.0.0.1", "http://127.0.0.1:80", True),
        ("cdn.mirror.org", "https://mirror.org", False),
    ],
)
def test_the_token_goes_to_the_hub_only(watch, monkeypatch, host, endpoint, is_sent):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    asked = request(host)
    watch.asked(asked)
    assert ("Authorization" in asked.headers) == is_sent


def test_a_list_without_an_end_is_refused(watch):
    with watch.call():
        for _ in range(MOST_LISTS):
            watch.asked(request(path="/api/models/x/tree/main"))
            watch.finished()
        with pytest.raises(NotAvailableError, match="hub sends a list of files that does not end"):
            watch.asked(request(path="/api/models/x/tree/main"))
    with watch.call():
        watch.asked(request(path="/api/models/x/tree/main"))


def test_silence_ends_at_the_limit(watch, clock):
    for clock.now in (0, 10, LIMIT_S - 1):
        watch.asked(request())
    clock.now = LIMIT_S
    words = "hub does not answer, for 30 s by now; nothing that has arrived is lost: try again"
    with pytest.raises(NotAvailableError, match=words):
        watch.asked(request())
    clock.now = LIMIT_S + 61
    watch.asked(request())  # long after, an earlier silence is forgotten
    with watch.call():
        clock.now += LIMIT_S
        watch.asked(request())  # and so it is by the next call


def test_an_answer_to_its_end_is_progress(watch, clock):
    for clock.now in range(0, 200, 20):
        watch.asked(request())
        answer = response(parts=[b"ab", b"c"])
        original = answer.stream
        watch.answered(answer)
        assert list(answer.stream) == [b"ab", b"c"]
        answer.stream.close()
        assert original.is_closed


def test_errors_of_the_server_are_no_progress(watch, clock):
    for clock.now in (0, 10, 20):
        watch.asked(request())
        watch.answered(response(503))
    clock.now = LIMIT_S
    with pytest.raises(NotAvailableError, match="hub answers with status 503, for 30 s by now"):
        watch.asked(request())


@pytest.mark.parametrize("others_are_answered", [False, True])
def test_a_drip_is_no_progress(watch, clock, others_are_answered):
    watch.asked(request())
    answer = response(parts=[b"x"] * 40)
    watch.answered(answer)
    with pytest.raises(NotAvailableError, match="hub sends almost nothing, for 30 s by now"):
        for _ in answer.stream:
            clock.now += 1
            if others_are_answered:
                watch.asked(request())
                watch.finished()
    assert clock.now == LIMIT_S


def test_a_slow_download_is_progress(watch, clock):
    watch.asked(request())
    answer = response(parts=[b"x" * PROGRESS_BYTES] * 10)
    watch.answered(answer)
    for _ in answer.stream:
        clock.now += LIMIT_S - 1


@pytest.mark.parametrize(
    "status, headers, pause",
    [
        (429, {"Retry_After": "300"}, 300),
        (503, {"Retry_After": "21"}, 21),
        (429, {"ratelimit": '"api";r=0;t=55'}, 55),
        (429, {"ratelimit": '"api";r=3;t=55'}, None),
        (429, {"Retry_After": "20"}, None),
        (429, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        (200, {"Retry_After": "300"}, None),
    ],
)
def test_a_long_pause_is_not_slept_through(watch, status, headers, pause):
    watch.asked(request())
    answer = response(status, **headers)
    if pause is None:
        watch.answered(answer)
        return
    words = f"hub asks to wait {pause} s before the next question .status {status}: too many"
    with pytest.raises(NotAvailableError, match=words):
        watch.answered(answer)


def test_another_http_library_is_left_alone(watch):
    answer = response()
    answer.stream = plain = iter([b"x"])
    watch.answered(answer)
    assert answer.stream is plain


CLIENT = """
import time
from pathlib import Path
from local_hub import TRIED
exec(TRIED)
time.sleep = lambda seconds: None
from saework.loading import hub_watch
from saework.loading.hub import Repository

hub_watch.NOTICE_S, hub_watch.LIMIT_S, hub_watch.ANSWER_S = 0.05, 0.4, 0.1
repository = Repository("ours/one")
files = tried(repository.fetch_folder, ["*.json"])
one = tried(repository.fetch, "config.json")
report([files, one])
"""


def test_a_download_from_a_silent_hub_ends(tmp_path, capfd):
    with LocalHub() as hub:
        hub.add("ours/one", tmp_path)
        hub.is_silent = True
        done = result_of(
            CLIENT, cache=tmp_path / "cache", endpoint=hub.url, HF_HUB_ETAG_TIMEOUT="1"
        )
    for answer in done:
        assert answer["error"] == "NotAvailableError", answer
        assert "127.0.0.1" in answer["text"] or "cannot be reached" in answer["text"]
