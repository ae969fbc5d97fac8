"""How dense is the code? Syntax nodes per line of code, by file: ``python tools/density.py saework``.

A node is one of ``ast.walk``, less the load and store marks. A line of code holds code: no blank
line, no comment, no docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def is_docstring(node: ast.AST) -> bool:
    """A string that is a statement."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def nodes_and_lines(source: str) -> tuple[int, int]:
    """Syntax nodes and lines of code of one file."""
    nodes = list(ast.walk(ast.parse(source)))
    n_nodes = sum(not isinstance(node, ast.expr_context) for node in nodes)
    code_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            code_lines.update(range(token.start[0], token.end[0] + 1))
    for node in nodes:
        if is_docstring(node):
            code_lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return n_nodes, len(code_lines)


def main(folders: list[str]) -> None:
    """Print the density of each file, and of all together."""
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    counts = {path: nodes_and_lines(path.read_text(encoding="utf-8")) for path in paths}
    for path, (nodes, lines) in counts.items():
        print(f"{nodes / max(lines, 1):5.2f}  {lines:5} lines of code  {path}")
    nodes, lines = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"{nodes / lines:5.2f}  {lines:5} lines of code  in all")


if __name__ == "__main__":
    main(sys.argv[1:])
