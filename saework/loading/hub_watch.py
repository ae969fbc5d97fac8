"""A Hub that falls silent during a download: said after two seconds, given up after half a minute.

huggingface_hub sets no limit for some questions, tries again for minutes, and sleeps as long as a
server tells it to. So each client that it makes gets hooks that see every question and answer.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from saework.core.errors import NotAvailableError

NOTICE_S = 2.0
"""Seconds after which the wait is said."""
LIMIT_S = 30.0
"""Seconds without progress after which no more is asked for."""
ANSWER_S = 10.0
"""Seconds between the bytes of one answer, where huggingface_hub sets no limit."""
LONGEST_PAUSE_S = 20.0
"""What a server may ask for before the next question."""
MOST_LISTS = 1_000
"""Pages of lists of files in one call; the largest repositories have less than a hundred."""
HUB_HOSTS = ("huggingface.co", "hf.co")
FORGOTTEN_S = 60.0
"""After so many seconds without a question, an earlier silence is forgotten."""
PROGRESS_BYTES = 100_000
"""A longer answer is making progress if this comes within the limit."""
_NO_MORE_LEFT = re.compile(r"\br\s*=\s*0\b.*?\bt\s*=\s*(\d+)")
"""In the Hub's ``ratelimit`` header: none is left, and the seconds until there are more."""

LIBRARY = logging.getLogger("huggingface_hub")


def hub_host() -> str:
    """The Hub's address, for messages."""
    from huggingface_hub.constants import ENDPOINT

    return urlsplit(ENDPOINT).netloc or ENDPOINT


class Watch:
    """When the Hub was last asked in vain."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_since: float | None = None
        self._last_question = -FORGOTTEN_S
        self._status: int | None = None
        self._n_calls = 0
        self._n_lists = 0
        self._notices: set[threading.Timer] = set()
        self._was_said = False
        self._level = logging.NOTSET
        self._quiet = threading.local()

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call of huggingface_hub, which may ask many questions."""
        if not self._n_calls:
            self._silent_since, self._status, self._was_said = None, None, False
            self._n_lists = 0
            self._level = LIBRARY.level
            LIBRARY.setLevel(logging.ERROR)  # it tells of each new try, several lines each
        self._n_calls += 1
        try:
            yield
        finally:
            self._n_calls -= 1
            if not self._n_calls:
                LIBRARY.setLevel(self._level)
                while self._notices:  # of questions that failed
                    self._notices.pop().cancel()

    def say_nothing(self) -> None:
        """Let somebody else say that this thread waits."""
        self._quiet.is_asked_for = True

    def asked(self, request: Any) -> None:
        """Note a question; a token is for the Hub, and goes to no other host.

        Raises:
            NotAvailableError: there was no progress for too long.
        """
        if not _is_the_hubs(request.url.host):
            request.headers.pop("Authorization", None)
        now = self._clock()
        if self._silent_since is None or now - self._last_question > FORGOTTEN_S:
            self._silent_since = now
        self._last_question = now
        self._check(request.url.host, self._silent_since)
        if "/api/" in request.url.path:
            self._n_lists += 1
            if self._n_lists > MOST_LISTS:
                raise NotAvailableError(
                    f"{request.url.host} sends a list of files that does not end; try again later"
                )
        limits = request.extensions.get("timeout", {})
        unlimited = [name for name, limit_s in limits.items() if limit_s is None]
        request.extensions["timeout"] = limits | dict.fromkeys(unlimited, ANSWER_S)
        if not getattr(self._quiet, "is_asked_for", False):
            notice = threading.Timer(NOTICE_S, self._say, [request.url.host])
            notice.daemon = True
            self._notices.add(notice)
            notice.start()
            request.extensions["saework_notice"] = notice

    def answered(self, response: Any) -> None:
        """Note an answer, of which the contents are still to come.

        Raises:
            NotAvailableError: the server asks for a long pause.
        """
        notice = response.request.extensions.pop("saework_notice", None)
        if notice is not None:
            notice.cancel()
            self._notices.discard(notice)
        self._status = response.status_code
        host = response.request.url.host
        pause_s = _pause_s(response)
        if pause_s > LONGEST_PAUSE_S:
            raise NotAvailableError(
                f"{host} asks to wait {pause_s:.0f} s before the next question (status "
                f"{self._status}: too many requests, or overloaded); try again after that"
            )
        if self._status != 429 and self._status < 500:
            self._follow(response, host)

    def finished(self) -> None:
        """Note that an answer is complete, or long enough."""
        self._silent_since = None

    def _follow(self, response: Any, host: str) -> None:
        """Have the contents pass by here."""
        original = response.stream
        bases = [kind for kind in type(original).__mro__ if kind.__name__ == "SyncByteStream"]
        if not bases:  # another HTTP library
            return self.finished()

        def parts(stream: Any) -> Iterator[bytes]:
            since, n_bytes = self._clock(), 0  # its own: other answers may come at the same time
            for part in original:
                n_bytes += len(part)
                if n_bytes >= PROGRESS_BYTES:
                    since, n_bytes = self._clock(), 0
                    self.finished()
                self._check(host, since)
                yield part
            self.finished()

        members = {"__iter__": parts, "close": lambda stream: original.close()}
        response.stream = type("WatchedStream", (bases[0],), members)()

    def _check(self, host: str, since: float | None) -> None:
        if since is None or self._clock() - since < LIMIT_S:
            return
        how = f"answers with status {self._status}" if self._status else "does not answer"
        if self._status and self._status < 400:
            how = "sends almost nothing"
        raise NotAvailableError(
            f"{host} {how}, for {LIMIT_S:g} s by now; nothing that has arrived is lost: try again "
            "later, or use one of the minis, which need no network"
        )

    def _say(self, host: str) -> None:
        if self._n_calls and self._silent_since is not None and not self._was_said:
            self._was_said = True
            with suppress(OSError, ValueError):
                print(f"saework: waiting for {host or 'the Hub'}", file=sys.stderr, flush=True)


WATCH = Watch()
"""Of this process."""


def watch_the_hub() -> None:
    """Have every client of huggingface_hub watched from now on."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    # private: a later version may not have it
    original: Any = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if original is None or getattr(original, "is_watched", False):
        return

    def watched() -> Any:
        client = original()
        hooks = client.event_hooks
        client.event_hooks = {
            **hooks,
            "request": [*hooks["request"], WATCH.asked],
            "response": [*hooks["response"], WATCH.answered],
        }
        return client

    watched.is_watched = True  # type: ignore[attr-defined]
    set_client_factory(watched)


def _is_the_hubs(host: str) -> bool:
    """Whether a host is that of the Hub in use, or one of its others.

    A list of files names the address of its next page, which might be anywhere.
    """
    own = hub_host().partition(":")[0]
    return host == own or (
        own in HUB_HOSTS and host.endswith(tuple(f".{hub}" for hub in HUB_HOSTS))
    )


def _pause_s(response: Any) -> float:
    """How long huggingface_hub would sleep before it asks again, because the server says so."""
    if response.status_code != 429 and response.status_code < 500:
        return 0.0
    limits = _NO_MORE_LEFT.search(response.headers.get("ratelimit", ""))
    if response.status_code == 429 and limits:
        return float(limits.group(1))
    pause = response.headers.get("Retry-After", "").strip()
    return float(pause) if pause.isdecimal() else 0.0
