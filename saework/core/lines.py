"""Sentences as lines of a terminal: 80 columns, and no word cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby

WIDTH = 80
NEXT_STEP = "; "
"""What stands between a problem and what to do about it."""


def wrapped(text: str, *, first: str = "", rest: str = "", width: int = WIDTH) -> str:
    """Text in lines of at most ``width`` characters. No word, name or path is cut.

    Args:
        first: what stands before the first line.
        rest: what stands before each other line.

    >>> print(wrapped("one two three", first="- ", rest="  ", width=9))
    - one two
      three
    """
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def problem_lines(problems: Iterable[str]) -> list[str]:
    """Problems as a list; a next step that neighbours share is said once, behind the last.

    >>> for line in problem_lines(["a is missing; go online", "b is missing; go online"]):
    ...     print(line)
      ! a is missing
      ! b is missing
        go online
    """
    lines: list[str] = []
    parts = (problem.partition(NEXT_STEP) for problem in problems)
    for step, alike in groupby(parts, key=lambda part: part[2]):
        heads = [head for head, _, _ in alike]
        if len(heads) == 1:
            heads = [f"{heads[0]}{NEXT_STEP}{step}" if step else heads[0]]
            step = ""
        lines += [wrapped(head, first="  ! ", rest="    ") for head in heads]
        if step:
            lines.append(wrapped(step, first="    ", rest="    "))
    return lines
