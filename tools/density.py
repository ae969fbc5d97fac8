"""How dense is the code? Syntax nodes per line of code, by file.

Run it on folders: ``python tools/density.py saework``.

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
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def nodes_and_lines(source: str) -> tuple[int, int]:
    """Syntax nodes and lines of code of one file."""
    nodes = list(ast.walk(ast.parse(source)))
    n_nodes = sum(not isinstance(node, ast.expr_context) for node in nodes)
    code_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in NO_CODE:
            continue
        first_line, _ = token.start
        last_line, _ = token.end
        token_lines = range(first_line, last_line + 1)
        code_lines.update(token_lines)
    for node in nodes:
        if is_docstring(node):
            docstring_lines = range(node.lineno, node.end_lineno + 1)
            code_lines.difference_update(docstring_lines)
    return n_nodes, len(code_lines)


def main(folders: list[str]) -> None:
    """Print the density of each file, and of all together."""
    all_nodes = all_lines = 0
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            nodes, lines = nodes_and_lines(source)
            print_density(nodes, lines, str(path))
            all_nodes += nodes
            all_lines += lines
    print_density(all_nodes, all_lines, "in all")


def print_density(nodes: int, lines: int, name: str) -> None:
    """One line of the table."""
    density = nodes / max(lines, 1)
    print(f"{density:5.2f}  {lines:5} lines of code  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
