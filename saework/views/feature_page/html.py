"""Templates to HTML: every value is escaped, and nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from saework.core.versions import installed_versions
from saework.views.heatmap_markup import DARK_STYLE, HEATMAP_STYLE, NEGATIVE, POSITIVE, STRONGEST

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Made:
    """When and with what a file was made: its footer."""

    date: str
    command: str
    """Empty if no command made it."""
    versions: tuple[str, ...]

    @classmethod
    def now(cls, when: datetime | None, *, command: str = "") -> Made:
        """Of a file that is made now, or was at another time."""
        date = (when or datetime.now()).strftime("%Y-%m-%d %H:%M")
        return cls(date, command, tuple(installed_versions()))


def render(template: str, **values: object) -> str:
    """A template of ``templates/``, filled in."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        heatmap_style=HEATMAP_STYLE + DARK_STYLE,
        bar_colour=f"rgb(var(--saework-positive,{POSITIVE}))",
        below_colour=f"rgb(var(--saework-negative,{NEGATIVE}))",
        strongest_colour=f"rgba(var(--saework-positive,{POSITIVE}),{STRONGEST})",
    )
    return environment
