"""Plotly figures as PNGs, for sites that run no script. Drawn only when notebooks are recorded."""

from __future__ import annotations

import base64
import importlib.util
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PNG = "image/png"
WIDTH_PX = 700
HEIGHT_PX = 340
"""Of a figure whose layout says none."""
COLOURS = 128
PACKAGES = {"kaleido": "Kaleido", "PIL": "Pillow"}
"""What draws a picture, by the name that is imported."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str | None:
    """Where a Chromium is installed, or None."""
    for name in _BROWSERS:
        path = shutil.which(name)
        if path:
            return path
    return None


def missing(packages: Mapping[str, str] = PACKAGES) -> str | None:
    """What is missing to draw pictures, and how to get it; None if nothing is.

    Args:
        packages: that are needed beside a browser; what to call each, by the name imported.
    """
    absent = []
    for name, label in packages.items():
        if importlib.util.find_spec(name) is None:
            absent.append(label)
    if absent:
        return f'{" and ".join(absent)} not installed (pip install -c constraints.txt -e ".[test]")'
    if browser() is None:
        return "no Chromium is installed (on Debian and Ubuntu: apt install chromium)"
    return None


def drawn(figures: Sequence[dict[str, Any]]) -> list[str]:
    """Plotly figures as PNGs, 700 pixels wide, in base64.

    Needs no network: plotly's script comes from the package.

    Args:
        figures: each ``{"data": ..., "layout": ...}``.

    Raises:
        OSError: if there is no browser to draw with.
    """
    if not figures:
        return []
    problem = missing()
    if problem:
        raise OSError(f"figures cannot be drawn: {problem}")
    import kaleido

    with TemporaryDirectory() as folder:
        drawings = [
            _drawing(figure, Path(folder, f"{number}.png")) for number, figure in enumerate(figures)
        ]
        # Not plotly.io.write_images: it has no way to leave MathJax out, and Kaleido's page would
        # fetch MathJax from a network.
        kaleido.write_fig_from_object_sync(
            drawings,
            kopts={"path": browser(), "mathjax": False},
            cancel_on_error=True,
        )
        pngs = [drawing["path"].read_bytes() for drawing in drawings]
    return [_base64(smaller(png)) for png in pngs]


def smaller(png: bytes) -> bytes:
    """A PNG with a palette: a third of the size or less, and drawings look the same.

    The palette covers all colours. The usual one, by frequency, would paint a few blue points among
    thousands of green ones green.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    with_palette = image.convert("RGB").quantize(
        COLOURS,
        method=Image.Quantize.MAXCOVERAGE,
        dither=Image.Dither.NONE,
    )
    out = io.BytesIO()
    with_palette.save(out, "PNG", optimize=True)
    return out.getvalue()


def described(figure: dict[str, Any]) -> str:
    """A figure in words, for those who do not see it: title, axes, groups."""
    layout = figure["layout"]
    parts = [_title(layout) or "A figure"]
    for axis in ("x", "y"):
        settings = layout.get(f"{axis}axis", {})
        title = _title(settings)
        if title:
            parts.append(f"{axis}: {title}")
    names = [trace.get("name") for trace in figure["data"]]
    groups = [name for name in dict.fromkeys(names) if name]
    if groups:
        listed = ", ".join(groups)
        parts.append(f"groups: {listed}")
    return "; ".join(parts)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _drawing(figure: dict[str, Any], path: Path) -> dict[str, Any]:
    """What Kaleido is to draw, and where to."""
    layout = figure["layout"]
    options = {
        "format": "png",
        "width": WIDTH_PX,
        "height": layout.get("height") or HEIGHT_PX,
        "scale": 1,
    }
    return {
        "fig": {"data": figure["data"], "layout": layout},
        "path": path,
        "opts": options,
    }


def _title(part: dict[str, Any]) -> str:
    title = part.get("title")
    if isinstance(title, dict):
        return title.get("text", "")
    return title or ""
