"""The shape of the package, read from its source: levels, light imports, names, docstrings."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import saework

PACKAGE = Path(saework.__file__).parent
REPOSITORY = PACKAGE.parent
# From the ground up. A room imports from those before it; the two in one tuple do not import
# each other.
COLUMN = [
    ("core",),
    ("engine",),
    ("analysis",),
    ("loading",),
    ("studies", "views"),
    ("reproduction",),
    ("cli",),
    ("__main__",),
]
FLOOR = {room: floor for floor, rooms in enumerate(COLUMN) for room in rooms}
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def imported_modules(source: str) -> set[str]:
    """The saework modules that a source imports anywhere in it, such as ``core.errors``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("saework.") for name in names if name.startswith("saework.")}
    return found & SOURCES.keys()


IMPORTS = {name: imported_modules(source) for name, source in SOURCES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


# Tests of more than one file.
WHOLE_FOLDER_TESTS = {
    "test_browser.py",
    "test_exercises.py",
    "test_full_tier.py",
    "test_notebooks.py",
    "test_published.py",
    "test_releases.py",
}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_are_read_in_each_of_their_forms():
    source = """
import saework.core.errors, torch
from saework.engine import forward
def f():
    from saework.views.tables import show
"""
    assert imported_modules(source) == {"core.errors", "engine.forward", "views.tables"}


def test_there_is_something_to_check():
    assert len(SOURCES) > 40 and sum(map(len, IMPORTS.values())) > 100
    assert {room(module) for module in SOURCES} == FLOOR.keys()


@pytest.mark.parametrize("module", SOURCES)
def test_a_room_imports_only_from_rooms_below(module):
    floor = FLOOR[room(module)]
    other_rooms = {room(name) for name in IMPORTS[module]} - {room(module)}
    assert {name for name in other_rooms if FLOOR[name] >= floor} == set()


def test_no_import_goes_in_a_circle():
    TopologicalSorter(IMPORTS).prepare()


def test_the_files_of_analysis_hardly_know_one_another():
    def question(module):
        return module.split(".")[1]

    arrows = {
        (question(module), question(name))
        for module, names in IMPORTS.items()
        for name in names
        if room(module) == room(name) == "analysis" and question(module) != question(name)
    }
    assert len(arrows) <= 3, arrows


@pytest.mark.parametrize("module", SOURCES)
def test_each_source_file_has_its_test_file(module):
    *folders, name = module.split(".")
    assert (REPOSITORY / "tests").joinpath(*folders, f"test_{name}.py").exists()


def test_each_mirrored_test_file_has_its_source_file():
    """Whole folders have tests too (``test_browser``); those of a file bear the file's name."""
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        *folders, name = path.relative_to(REPOSITORY / "tests").with_suffix("").parts
        source = ".".join([*folders, name.removeprefix("test_")])
        if folders and folders[0] in FLOOR and source not in SOURCES:
            assert path.name in WHOLE_FOLDER_TESTS, path


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
    assert not loaded & {
        "torch",
        "transformers",
        "transformer_lens",
        "sae_lens",
        "plotly",
        "pandas",
        "numpy",
        "huggingface_hub",
        "socket",
    }


@pytest.mark.parametrize("name", saework.__all__)
def test_each_public_name_resolves_and_says_what_it_is(name):
    value = getattr(saework, name)
    assert value.__name__ == name
    tree = ast.parse(SOURCES[value.__module__.removeprefix("saework.")])
    definition = next(
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    )
    summary = ast.get_docstring(definition)
    assert summary and len(summary.split("\n\n")[0].split()) >= 3


def test_a_module_that_is_public_is_there_without_an_import_of_its_own():
    code = "import saework; print(saework.saebench.read.__name__, 'saebench' in dir(saework))"
    assert run_python(code).split() == ["read", "True"]


def test_a_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(
        AttributeError,
        match="module 'saework' has no attribute 'lode'; it has .*load, logit_effect",
    ):
        saework.lode  # noqa: B018


def test_editors_see_the_same_names_as_the_interpreter():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module.removeprefix("saework.")
        for node in block.body
        for alias in node.names
    }
    modules = {name: path.rpartition(".")[0] for name, path in saework._MODULES.items()}
    assert seen == saework._HOME | modules


def test_no_room_has_the_name_of_a_public_function():
    assert FLOOR.keys() & set(saework.__all__) == set()


@pytest.mark.parametrize("module", SOURCES)
def test_each_module_says_what_it_is_for(module):
    assert ast.get_docstring(ast.parse(SOURCES[module]))


def imports_torch(source: str) -> bool:
    return any(
        isinstance(node, ast.Import) and any(alias.name == "torch" for alias in node.names)
        for node in ast.parse(source).body
    )


@pytest.mark.parametrize(
    "module", sorted({*saework._HOME.values(), *saework._MODULES.values()} & SOURCES.keys())
)
def test_a_public_module_that_brings_torch_in_makes_it_ready(module):
    waiting, reached = [module], set()
    while waiting:
        reached.add(name := waiting.pop())
        waiting += IMPORTS[name] - reached
    assert "core.torch_setup" in reached or not any(
        imports_torch(SOURCES[name]) for name in reached
    )
