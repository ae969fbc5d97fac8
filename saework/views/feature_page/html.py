"""Templates to HTML: every value is escaped, and nothing is fetched."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from saework.views.heatmap_markup import HEATMAP_STYLE, POSITIVE, STRONGEST

TEMPLATES = Path(__file__).parent / "templates"


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
        heatmap_style=HEATMAP_STYLE,
        bar_colour=f"rgb({POSITIVE})",
        strongest_colour=f"rgba({POSITIVE},{STRONGEST})",
    )
    return environment
