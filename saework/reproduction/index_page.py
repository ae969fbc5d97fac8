"""The first page of a reproduction: what was run, with what, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbformat import NotebookNode

from saework.core import ledger_view
from saework.core.ledger import Ledger
from saework.core.versions import installed_versions

INDEX = "index.html"
TEMPLATE = "index.html.j2"


@dataclass(frozen=True)
class Page:
    """One notebook of a reproduction."""

    name: str
    """The notebook's file name without its ending."""
    question: str
    """Its title."""
    problem: str | None
    """What stopped it, if anything did."""
    has_pack: bool
    """Whether a replay pack lies beside it."""


def index_page(name: str, pages: list[Page], ledger: Ledger, *, when: datetime) -> str:
    """The page as HTML; it refers to the files beside it only.

    Args:
        name: of the release or study.
        pages: in the order in which they are read.
        ledger: of all of them.
        when: the run ended.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=name,
        command=f"saework reproduce {name}",
        date=when.strftime("%Y-%m-%d %H:%M"),
        versions=installed_versions(),
        pages=pages,
        ledger=ledger_view.as_html(ledger.entries),
    )


def title_of(notebook: NotebookNode) -> str:
    """The text of a notebook's first heading, without its mark; empty if it has none."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            if line.startswith("# "):
                return line.removeprefix("# ")
    return ""
