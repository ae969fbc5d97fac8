"""The notebooks on Colab: the badge that opens one there, and the cell that installs saework."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

BADGE_START = "[![Open In Colab]"
COLAB = "https://colab.research.google.com"
PLAIN = re.compile(r"[\w./:@+~=<>!,\[\]-]+")
"""What stands between the quotes of a shell command: an address, or a requirement."""
WITHOUT_ORIGIN = """import importlib.util
import sys

on_colab = "google.colab" in sys.modules
if importlib.util.find_spec("saework") is None:  # nothing that is installed is replaced
    raise ModuleNotFoundError(
        "saework is not installed, and nothing says yet where this cell can get it from "
        "(CONTRIBUTING, Colab). In a checkout: pip install -e . On Colab: upload the checkout and "
        "run %pip install ./saework, or run %pip install git+ADDRESS with its address"
    )"""
WITH_ORIGIN = """import importlib.util
import sys
from importlib.metadata import version

on_colab = "google.colab" in sys.modules
if importlib.util.find_spec("saework") is None:  # nothing that is installed is replaced
    if not on_colab:
        raise ModuleNotFoundError(
            "saework is not installed; run: pip install '@install'"
        )
    # numpy and torch stay as they are; if that is impossible, pip says so and installs nothing
    own = [name for name in ("numpy", "torch") if importlib.util.find_spec(name)]
    kept = " ".join(f"{name}=={version(name)}" for name in own)
    print(f"installs saework and what it needs, in some minutes; stays as it is: {kept}")
    %pip install --quiet "@install" {kept}"""
PLANS = """if on_colab:  # what this machine has, and which weights fit
    from saework import plans_here

    print(plans_here("@notebook"))"""


@dataclass(frozen=True)
class Origin:
    """Where a reader gets saework from: its repository, or by name from the package index."""

    repository: str | None = None
    """Its address, such as ``https://github.com/OWNER/saework``."""
    requirement: str | None = None
    """Such as ``saework``: the maintainers say by it that this name on the index is theirs."""

    @property
    def install(self) -> str | None:
        """What pip is given; None while nothing is said, since a name may be a stranger's."""
        if self.repository:
            return f"git+{self.repository}"
        return self.requirement


def origin_of(root: Path) -> Origin:
    """What a repository's ``pyproject.toml`` says.

    Raises:
        ValueError: for a value that is no address, or no requirement.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = settings["project"].get("urls", {}).get("Repository")
    requirement = settings.get("tool", {}).get("saework", {}).get("colab")
    if repository is not None:
        repository = _plain(repository, "project.urls.Repository", "https://github.com/OWNER/NAME")
        repository = repository.rstrip("/")
    if requirement is not None:
        requirement = _plain(requirement, "tool.saework.colab", "saework")
    return Origin(repository, requirement)


def _plain(value: object, name: str, example: str) -> str:
    if not isinstance(value, str) or not PLAIN.fullmatch(value):
        raise ValueError(f"{name} of pyproject.toml is {value!r}; give one such as {example!r}")
    return value


def set_setup_cell(notebook: NotebookNode, name: str, install: str | None) -> None:
    """Write the cell that installs saework where it is missing."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell(name, install)


def setup_cell(name: str, install: str | None) -> str:
    """The text of a notebook's setup cell.

    On Colab it installs saework where that is missing, and says what the machine has. numpy and
    torch are given to pip with their versions, so that it keeps them, or says why it cannot and
    installs nothing. Elsewhere it does nothing, or raises an error that says what to run.

    Args:
        name: of the notebook, such as ``00_start_here``.
        install: what pip is given; None while nothing is said.
    """
    installing = WITH_ORIGIN.replace("@install", install) if install else WITHOUT_ORIGIN
    return f"{installing}\n{PLANS}".replace("@notebook", name)


def set_badge(notebook: NotebookNode, name: str, repository: str | None) -> None:
    """Write the Colab badge above the title; none while the repository's address is unknown."""
    title = notebook.cells[0]
    lines = [line for line in title.source.split("\n") if not line.startswith(BADGE_START)]
    text = "\n".join(lines).strip()
    if repository:
        address = repository.removeprefix("https://").rstrip("/")
        place = address.replace("github.com/", "github/", 1)
        image = f"{COLAB}/assets/colab-badge.svg"
        link = f"{COLAB}/{place}/blob/main/notebooks/{name}"
        text = f"{BADGE_START}({image})]({link})\n\n{text}"
    title.source = text
