"""The shape of the package, read from its source: levels, light imports, names, docstrings."""

import ast
import platform
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import saework

PACKAGE = Path(saework.__file__).parent
LEVELS = {
    0: ["_torch"],
    1: ["_checks"],
    2: ["tokens", "metrics", "claims", "tables", "cards", "hub", "packs", "permuting", "mechanisms", "literals", "result_lint", "encoding", "firings", "predictions", "controls", "pictures"],
    3: ["heatmap", "rare", "matching", "formats", "corpus", "collecting", "order_training", "saebench", "replay"],
    4: ["run", "feature_scan", "labels", "models", "training_text", "catalogue", "page_parts", "page_style"],
    5: ["features", "quality", "steering", "validation", "scoring", "checkpoints", "plots", "training", "probing", "page_view"],
    6: ["readiness", "sae_training", "scanning", "reading", "closeups"],
    7: ["shelf", "page_making"],
    8: ["minis", "explorer", "reproduction", "ordering", "pages"],
    9: ["cli"],
}
LEVEL = {module: level for level, modules in LEVELS.items() for module in modules}
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"}


def imported_modules(source: str) -> set[str]:
    """The saework modules that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["saework" if node.level else "", node.module or ""]))
            names = [base if base != "saework" else f"saework.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("saework.")}
    return found


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_are_read_in_each_of_their_forms():
    source = "import saework.a, torch\nfrom saework import b\ndef f():\n    from saework.c import x; from . import d; from .e import y\n"
    assert imported_modules(source) == {"a", "b", "c", "d", "e"}


def test_each_module_has_a_level():
    assert sorted(LEVEL) == sorted(SOURCES)


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_from_levels_below(module):
    too_high = {name for name in imported_modules(SOURCES[module]) & LEVEL.keys() if LEVEL[name] >= LEVEL[module]}
    assert too_high == set()


def test_no_import_goes_in_a_circle():
    TopologicalSorter({module: imported_modules(source) for module, source in SOURCES.items()}).prepare()


def test_importing_is_light_and_touches_no_network():
    code = """
import sys
before = set(sys.modules)
def guard(event, args):
    if event.startswith("socket."):
        raise AssertionError(event)
sys.addaudithook(guard)
import saework
assert saework.__version__ and dir(saework)
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    loaded = set(run_python(code).split())
    assert "saework" in loaded
    assert not loaded & {"torch", "transformers", "transformer_lens", "sae_lens", "plotly", "pandas", "numpy", "huggingface_hub", "socket"}


@pytest.mark.parametrize("name", saework.__all__)
def test_each_public_name_resolves_and_says_what_it_is(name):
    value = getattr(saework, name)
    assert value.__name__ == name
    assert value.__module__.startswith("saework.")
    tree = ast.parse(SOURCES[value.__module__.split(".")[1]])
    definition = next(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name)
    summary = ast.get_docstring(definition)
    assert summary and len(summary.split("\n\n")[0].split()) >= 3


def test_a_module_that_is_public_is_there_without_an_import_of_its_own():
    assert run_python("import saework; print(saework.saebench.read.__module__, 'saebench' in dir(saework))").split() == ["saework.saebench", "True"]


def test_a_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(AttributeError, match="module 'saework' has no attribute 'lode'; it has .*load, logit_effect"):
        saework.lode  # noqa: B018


def test_editors_see_the_same_names_as_the_interpreter():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    seen = {alias.name: node.module.removeprefix("saework.") for node in block.body for alias in node.names}
    assert seen == saework._HOME


def test_no_module_has_the_name_of_a_public_function():
    assert set(SOURCES) & set(saework.__all__) == set()


@pytest.mark.parametrize("module", SOURCES)
def test_each_module_says_what_it_is_for(module):
    assert ast.get_docstring(ast.parse(SOURCES[module]))


FIRST_CALLS = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

first = {}

class Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            first.setdefault(f"{op.name()} {out.dtype}", out.numel())
        return out

with Recorder():
    import saework.models, saework.run
print([first.get(f"aten::{name} torch.{dtype}") for name in "sqrt exp log sin cos tanh erf".split() for dtype in ("float32", "float64")])
"""


@pytest.mark.parametrize("module", sorted({*saework._HOME.values(), *saework._MODULES}))
def test_a_public_module_that_brings_torch_in_makes_it_ready(module):
    waiting, reached = [module], set()
    while waiting:
        reached.add(name := waiting.pop())
        waiting += imported_modules(SOURCES[name]) - reached
    assert "_torch" in reached or not any(re.search(r"^(import|from) torch\b", SOURCES[name], re.M) for name in reached)


def test_elementwise_functions_are_first_called_by_one_thread():
    """Otherwise a session's first norm is wrong by 3e-4 now and then: https://github.com/pytorch/pytorch/issues/188792."""
    assert run_python(FIRST_CALLS).strip() == str([1] * 14)


MAPPED_BLOCKS = """
{before}
import ctypes, torch

class Mallinfo(ctypes.Structure):  # see mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
mapped = libc.mallinfo2().hblks
blocks = [torch.empty(size * 2**20, dtype=torch.uint8) for size in (1, 8, 31)]
print(libc.mallinfo2().hblks - mapped)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such rule")
def test_activations_do_not_come_anew_from_the_system():
    """A mapped block goes back to the system when it is freed, and the next batch's pages must be made again."""
    mapped = {before: int(run_python(MAPPED_BLOCKS.format(before=before))) for before in ("import torch", "import saework._torch")}
    assert mapped == {"import torch": 3, "import saework._torch": 0}
