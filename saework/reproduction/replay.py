"""A notebook again without its model: what needed the weights is read from a pack, everything else runs.

While a notebook runs, ``Watch`` follows which names hang on ``load``. A statement that uses such a
name *needs the weights*; the small results that it leaves behind are kept, and free whatever uses
only those. ``without_weights`` then writes each such statement as a comment, and the reading of its
results below it. Nothing in a notebook has to be written for this.
"""

from __future__ import annotations

import ast
import hashlib
import symtable
import types
from datetime import date
from html import escape
from importlib.metadata import version
from pathlib import Path

import nbformat

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.reproduction import packs

WATCHING, FROM_PACK = "_saework_watch", "pack"
PARAMETERS = ("RELEASE",)
"""What a pack may set: the names become code."""
NOT_KEPT = object()
_CODE = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


class Pack:
    """What a run of a notebook left behind, by the statement that made it."""

    def __init__(self, path: str | Path):
        tree, self._tensors = packs.read(path)
        try:
            self.about, self.kept = tree["about"], tree["kept"]
            """Of which notebook, made when and with what; and by ``cell.statement``, the names and what was shown."""
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is no replay pack (it lacks {error}); give a file that saework reproduce wrote"
            ) from error

    def take(self, statement: str):
        """The value that a statement left, or a tuple of them, by name."""
        values = [
            packs.unpacked(tree, self._tensors) for tree in self.kept[statement]["values"].values()
        ]
        return values[0] if len(values) == 1 else tuple(values)

    def shown(self, statement: str):
        """What a statement displayed."""
        return packs.unpacked(self.kept[statement]["shown"], self._tensors)


# ---- in the kernel, while a notebook runs ----


class Watch:
    """An AST transformer of IPython's that looks at the names after each statement of a cell."""

    def __init__(self, names: dict):
        self._names, self._cells, self._needing, self._kept, self._tensors = (
            names,
            [],
            set(),
            {},
            {},
        )
        self._inside: dict[
            str, set[str]
        ] = {}  # what the notebook's own functions read when they are called

    def visit(self, tree: ast.Module) -> ast.Module:
        """A cell's tree, with a ``look`` behind each statement; the last expression goes through it, and is still displayed."""
        cell, body = len(self._cells), []
        self._cells.append(_statements(tree))
        for i, statement in enumerate(self._cells[-1]):
            nodes, look = list(statement.nodes), ast.parse(f"{WATCHING}.look({cell}, {i})").body[0]
            if i == len(self._cells[-1]) - 1 and isinstance(nodes[-1], ast.Expr):
                look.value.args.append(nodes.pop().value)
            body += [*nodes, look]
        return ast.fix_missing_locations(ast.Module(body, tree.type_ignores))

    def look(self, cell: int, i: int, shown=None):
        """After a statement: did it need the weights, and what did it leave?"""
        statement = self._cells[cell][i]
        if statement.only_imports:
            self._needing |= {name for name, value in self._names.items() if _is_load(value)}
        elif self._reached(statement.reads) & self._needing:
            written = sorted(
                name for name in statement.binds | statement.changes if name in self._names
            )
            kept = {
                name: tree
                for name in written
                if (tree := self._keep(self._names[name])) is not NOT_KEPT
            }
            lost = {
                name for name in written if not isinstance(self._names[name], _CODE)
            } | statement.binds
            self._needing = (self._needing | lost) - kept.keys()
            self._kept[cell, i] = {"values": kept}
            if shown is not None:
                tree = self._keep(shown)
                self._kept[cell, i]["shown"] = (
                    tree if tree is not NOT_KEPT else self._keep(packs.Text(repr(shown)[:10_000]))
                )
        else:
            self._needing -= statement.binds
            self._inside |= {
                name: statement.reads
                for name in statement.binds
                if isinstance(self._names.get(name), (types.FunctionType, type))
            }
        return shown

    def _reached(self, reads: set[str]) -> set[str]:
        """The names, and those that their functions read."""
        found, todo = set(), set(reads)
        while todo:
            found |= todo
            todo = set().union(*(self._inside.get(name, set()) for name in todo)) - found
        return found

    def save(self, path: str | Path, about: dict) -> Path:
        """Write what later statements that do not need the weights read, and all that was shown."""
        reads = {
            (cell, i): s.reads
            for cell, statements in enumerate(self._cells)
            for i, s in enumerate(statements)
            if (cell, i) not in self._kept
        }
        tree = {}
        for (cell, i), kept in self._kept.items():
            later = set().union(*(names for place, names in reads.items() if place > (cell, i)))
            tree[f"{cell}.{i}"] = {
                **kept,
                "values": {name: value for name, value in kept["values"].items() if name in later},
            }
        words = set(_words(tree))
        about = {
            **about,
            "made": date.today().isoformat(),
            "saework": version("saework"),
            "torch": version("torch"),
        }
        return packs.write(
            path,
            {"about": about, "kept": tree},
            {name: t for name, t in self._tensors.items() if name in words},
        )

    def _keep(self, value):
        try:
            tree, tensors = packs.packed(value)
        except packs.NotKeptError:
            return NOT_KEPT
        self._tensors |= tensors
        return tree


def watch() -> None:
    """Follow the cells that this kernel runs from now on."""
    from IPython import get_ipython

    shell = get_ipython()
    shell.user_ns[WATCHING] = Watch(shell.user_ns)
    shell.ast_transformers.append(shell.user_ns[WATCHING])


# ---- notebooks ----


def watched(notebook, path: Path, *, name: str, licence: str, parameters: dict):
    """A notebook that writes a pack as it runs: a cell before all others, and one behind them."""
    about = {
        "notebook": name,
        "source": _digest(notebook),
        "licence": licence,
        "parameters": parameters,
    }
    first = nbformat.v4.new_code_cell(
        "from saework import replay as _replay\n\n_replay.watch()", metadata={"tags": ["replay"]}
    )
    last = nbformat.v4.new_code_cell(
        f"_ = {WATCHING}.save({str(path)!r}, {about!r})", metadata={"tags": ["replay"]}
    )
    return nbformat.v4.new_notebook(
        cells=[first, *notebook.cells, last], metadata=notebook.metadata
    )


def unwatched(notebook):
    """The notebook without the cells that ``watched`` put in."""
    notebook.cells = [
        cell for cell in notebook.cells if "replay" not in cell.metadata.get("tags", [])
    ]
    return notebook


def without_weights(notebook, path: Path):
    """A notebook whose statements that need the weights are comments, with their results read from the pack beside it.

    Raises: ValueError if the pack was made from another version of the notebook, or by hand.
    """
    pack = Pack(path)
    about = pack.about
    if about["source"] != _digest(notebook):
        raise ValueError(
            f"{path} was made from another version of {about['notebook']} (saework {about['saework']}); replay it with that version"
        )
    from papermill.parameterize import parameterize_notebook

    if strange := [name for name in about["parameters"] if name not in PARAMETERS]:
        raise ValueError(
            f"{path} sets {strange}; a pack sets {', '.join(PARAMETERS)} only, so it was made by hand, and is refused"
        )
    if about["parameters"]:
        notebook = parameterize_notebook(notebook, about["parameters"])
    made, ours, torch, licence = (
        escape(str(about[key])) for key in ("made", "saework", "torch", "licence")
    )
    note = nbformat.v4.new_markdown_cell(
        f"**A replay.** What needs the weights is commented out, and shows what a run on {made} gave "
        f"(saework {ours}, torch {torch}), read from `{path.name}`. Everything else runs, and can be changed.\n\n"
        f"The pack holds measurements, and token ids of the text that was read; no weights. Those that it was measured on: {licence}."
    )
    reading = nbformat.v4.new_code_cell(
        f"from saework.reproduction.replay import Pack\n\n{FROM_PACK} = Pack({path.name!r})"
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(code):
        kept = {
            key.split(".")[1]: kept
            for key, kept in pack.kept.items()
            if key.split(".")[0] == str(number)
        }
        if kept:
            cell.source = _replayed(cell.source, number, kept)
        cell.outputs = []
    return nbformat.v4.new_notebook(
        cells=[note, reading, *notebook.cells], metadata=notebook.metadata
    )


def _replayed(source: str, cell: int, kept: dict[str, dict]) -> str:
    """A cell's source, with the statements in ``kept`` as comments and the reading of their results below each."""
    lines, out, done = source.split("\n"), [], 0
    for i, statement in enumerate(_statements(ast.parse(source))):
        nodes = statement.nodes
        first = (
            min(
                [
                    nodes[0].lineno,
                    *(decorator.lineno for decorator in getattr(nodes[0], "decorator_list", [])),
                ]
            )
            - 1
        )
        last = nodes[-1].end_lineno
        out += lines[done:first]
        if str(i) not in kept:
            out += lines[first:last]
        else:
            out += [f"# {line}".rstrip() for line in lines[first:last]]
            if names := list(kept[str(i)]["values"]):
                if (
                    not set(names) <= statement.binds | statement.changes
                ):  # they become code, and a pack may come from anybody
                    raise ValueError(
                        f"the pack keeps {names} of cell {cell}, which that statement does not write; it was made by hand, and is refused"
                    )
                out.append(f"{', '.join(names)} = {FROM_PACK}.take('{cell}.{i}')")
            if "shown" in kept[str(i)]:
                out.append(f"{FROM_PACK}.shown('{cell}.{i}')")
        done = last
    return "\n".join(out + lines[done:])


def _digest(notebook) -> str:
    source = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(source.encode()).hexdigest()[:16]


# ---- what a statement reads and writes ----


class _Statement:
    """One statement of a cell (those that share a line are one), and the names of the notebook that it uses."""

    def __init__(self, nodes: list[ast.stmt]):
        self.nodes = nodes
        whole = symtable.symtable(ast.unparse(ast.Module(nodes, [])), "cell", "exec")
        outer, inner = (
            whole.get_symbols(),
            [symbol for scope in _scopes_in(whole) for symbol in scope.get_symbols()],
        )
        self.reads = {symbol.get_name() for symbol in outer if symbol.is_referenced()}
        self.reads |= {symbol.get_name() for symbol in inner if symbol.is_global()}
        self.binds = {
            symbol.get_name() for symbol in outer if symbol.is_assigned() or symbol.is_imported()
        } - {"_"}
        self.changes = set()
        """Names whose value may be changed in place: an item or attribute set, a method called."""
        for node in (node for statement in nodes for node in ast.walk(statement)):
            if isinstance(node, ast.NamedExpr):
                self.binds.add(node.target.id)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                self.changes.add(_root(node.func))
            elif isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(
                node.ctx, ast.Load
            ):
                self.changes.add(_root(node))

    @property
    def only_imports(self) -> bool:
        return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in self.nodes)


def _statements(tree: ast.Module) -> list[_Statement]:
    groups: list[list[ast.stmt]] = []
    for node in tree.body:
        if groups and node.lineno <= groups[-1][-1].end_lineno:
            groups[-1].append(node)
        else:
            groups.append([node])
    return [_Statement(nodes) for nodes in groups]


def _scopes_in(table: symtable.SymbolTable):
    for scope in table.get_children():
        yield scope
        yield from _scopes_in(scope)


def _root(node) -> str | None:
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_load(value) -> bool:
    return (
        getattr(value, "__module__", None) == "saework.loading.workbook"
        and getattr(value, "__name__", None) == "load"
    )


def _words(tree):
    if isinstance(tree, str):
        yield tree
    for part in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    ):
        yield from _words(part)
