"""Lines of a terminal: nothing wider than it, nothing cut, nothing said twice."""

from saework.core.lines import problem_lines, wrapped


def test_lines_are_short_and_words_whole():
    words = "a sentence with /a/long/path-with-hyphens.json in it " * 5
    lines = wrapped(words, first="  ! ", rest="    ").splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 3
    assert lines[0].startswith("  ! a ") and all(line.startswith("    ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()[1:]) == " ".join(words.split())
    long = "x" * 90
    assert wrapped(f"see {long}") == f"see\n{long}"


def test_a_next_step_that_is_shared_stands_once():
    missing = [f"{name} is not here; connect, or take a mini" for name in ("a.json", "b.json")]
    lines = problem_lines([*missing, "the disk is full; make room", "no more is known"])
    assert lines == [
        "  ! a.json is not here",
        "  ! b.json is not here",
        "    connect, or take a mini",
        "  ! the disk is full; make room",
        "  ! no more is known",
    ]
    assert problem_lines([]) == []
