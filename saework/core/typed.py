"""What is typed at a terminal, as values."""

from __future__ import annotations

MAX_PAGES = 100_000  # of one call of "page"


def feature_numbers(words: list[str]) -> list[int]:
    """Features as they are typed, each once.

    Raises:
        ValueError: for a word that is no number and no range, or for too many of them.

    >>> feature_numbers(["7", "0-2"])
    [7, 0, 1, 2]
    """
    numbers: list[int] = []
    for word in words:
        first, dash, last = word.partition("-")
        ends = [first, last] if dash else [first]
        is_typed_well = all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends)
        if not is_typed_well or int(ends[-1]) < int(first):
            raise ValueError(
                f"{word[:40]!r} is no feature; give a number such as 7, or a range such as 0-999"
            )
        n_pages = len(numbers) + int(ends[-1]) - int(first) + 1
        if n_pages > MAX_PAGES:
            raise ValueError(
                f"{word!r} asks for {n_pages:,} pages; give at most {MAX_PAGES:,} at a time"
            )
        numbers += range(int(first), int(ends[-1]) + 1)
    return list(dict.fromkeys(numbers))
