"""What a preflight asks the Hub, and how long it waits: one limit for all of its questions."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from saework.core.errors import NotAvailableError
from saework.loading.hub import Repository
from saework.loading.hub_watch import WATCH, hub_host

T = TypeVar("T")
NOTICE_S = 2.0
"""Seconds after which the wait is said."""
LIMIT_S = 10.0
"""Seconds of waiting, for all questions together."""
GLANCE_S = 1.5
"""The same for a curated release, of which all is known but whether the Hub gives it."""


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
        (answer,) = self.ask_all([question])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def ask_all(self, questions: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """The answers to several questions, asked at one time, or the error in place of one."""
        if self.is_over:
            return [self._silent() for _ in questions]
        answers: dict[int, T | BaseException] = {}

        def run(number: int, question: Callable[[], T]) -> None:
            WATCH.say_nothing()  # it is said here
            try:
                answers[number] = question()
            except BaseException as error:
                answers[number] = error

        begun = time.monotonic()
        threads = [
            threading.Thread(target=run, args=numbered, daemon=True)
            for numbered in enumerate(questions)
        ]
        for thread in threads:
            thread.start()
        for limit_s in (min(self._notice_s, self._left_s), self._left_s):
            for thread in threads:
                thread.join(max(0.0, limit_s - (time.monotonic() - begun)))
            if limit_s < self._left_s and any(thread.is_alive() for thread in threads):
                self._say_once()
        self._left_s -= time.monotonic() - begun
        self.is_over = len(answers) < len(questions)
        return [answers.get(number, self._silent()) for number in range(len(questions))]

    def _say_once(self) -> None:
        if not self._was_said:
            self._was_said = True
            print(f"saework: waiting for {hub_host()}", file=sys.stderr, flush=True)

    def _silent(self) -> NotAvailableError:
        return NotAvailableError(
            f"{hub_host()} did not answer within {self._limit_s:g} s, so it is not known whether "
            "the files can be downloaded; check the network, and try again"
        )


def access_problems(
    missing: list[tuple[Repository, str]], locked: dict[str, str], patience: Patience
) -> list[str]:
    """Why files could not be downloaded, one reason per repository.

    Args:
        missing: what is not on this machine.
        locked: what is known without asking, by the repository's name.
        patience: for the questions, which are asked at one time.
    """
    open_files = [
        (repository, file) for repository, file in missing if repository.name not in locked
    ]
    if open_files:
        import huggingface_hub.hf_api  # noqa: F401, its import is no part of the wait
    answers = patience.ask_all(
        [partial(repository.access_problem, file) for repository, file in open_files]
    )
    problems = dict(locked)
    for (repository, _), answer in zip(open_files, answers):
        if isinstance(answer, BaseException) and not isinstance(answer, NotAvailableError):
            raise answer
        if answer:
            problems.setdefault(repository.name, str(answer))
    in_order = [problems.get(repository.name) for repository, _ in missing]
    return [problem for problem in dict.fromkeys(in_order) if problem]
