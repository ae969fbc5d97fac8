"""What counts as a syntax node, and what as a line of code."""

from __future__ import annotations

import pytest

from tools.density import main, nodes_and_lines


@pytest.mark.parametrize(
    "source,expected",
    [
        ("x = 1\n", (4, 1)),  # module, assignment, name, constant
        ("\n# a comment\nx = 1\n\n", (4, 1)),
        ('"""A docstring\nof two lines."""\nx = 1\n', (6, 1)),
        ("x = (\n    1\n)\n", (4, 3)),
        ('x = """a\nb"""\n', (4, 2)),
        ("", (1, 0)),
    ],
)
def test_nodes_and_lines(source, expected):
    assert nodes_and_lines(source) == expected


def test_the_table(tmp_path, capsys):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = x\n\n")
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["4.00", "1"], ["4.00", "1"], ["4.00", "2"]]
    assert lines[-1].endswith("in all")
