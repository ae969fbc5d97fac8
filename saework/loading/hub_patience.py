"""How long a preflight waits for the Hub: one limit for all of its questions."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from saework.core.errors import NotAvailableError

T = TypeVar("T")
NOTICE_S = 2.0
"""Seconds after which the wait is said."""
LIMIT_S = 10.0
"""Seconds of waiting, for all questions together."""


def hub_host() -> str:
    """The Hub's address, for messages."""
    from huggingface_hub.constants import ENDPOINT

    return urlsplit(ENDPOINT).netloc or ENDPOINT


def is_public_hub() -> bool:
    """Whether it is the Hub itself, and no mirror, which may keep gates of its own."""
    return hub_host() == "huggingface.co"


class Patience:
    """Asks the Hub one question after another, and stops asking when it is silent.

    huggingface_hub tries again and again on its own, for minutes. A question that is given up goes
    on in a thread that ends with the process.
    """

    def __init__(self, *, notice_s: float | None = None, limit_s: float | None = None) -> None:
        """Take the module's limits, where none are given."""
        self._notice_s = NOTICE_S if notice_s is None else notice_s
        self._limit_s = self._left_s = LIMIT_S if limit_s is None else limit_s
        self._was_said = False
        self.is_over = False
        """Whether the Hub was silent for so long that it is not asked again."""

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question.

        Raises:
            NotAvailableError: the Hub does not answer; from then on at once.
        """
        if self.is_over:
            raise self._silent()
        answers: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(question())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        begun = time.monotonic()
        thread.start()
        thread.join(min(self._notice_s, self._left_s))
        if thread.is_alive() and not self._was_said:
            self._was_said = True
            print(f"saework: waiting for {hub_host()}", file=sys.stderr, flush=True)
        thread.join(max(0.0, self._left_s - (time.monotonic() - begun)))
        self._left_s -= time.monotonic() - begun
        if errors:
            raise errors[0]
        if answers:
            return answers[0]
        self.is_over = True
        raise self._silent()

    def _silent(self) -> NotAvailableError:
        return NotAvailableError(
            f"{hub_host()} did not answer within {self._limit_s:g} s, so it is not known whether "
            "the files can be downloaded; check the network, and try again"
        )
