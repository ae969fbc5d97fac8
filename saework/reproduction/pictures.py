"""Plotly figures as PNGs, for sites that run no script; drawn by an installed Chromium, only when notebooks are recorded."""

from __future__ import annotations

import base64
import importlib.util
import io
import shutil
from collections.abc import Sequence

PNG = "image/png"
WIDTH = 700
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_DRAW = (
    """async ({data, layout}) => {
    layout.width = %d;
    layout.height = layout.height ?? 340;
    return Plotly.toImage({data, layout}, {format: 'png', width: layout.width, height: layout.height, scale: 1});
}"""
    % WIDTH
)


def browser() -> str | None:
    """Where a Chromium is installed, or None."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def missing() -> str | None:
    """What is missing to draw pictures, and how to get it; None if nothing is."""
    absent = [
        name
        for name, module in (("Playwright", "playwright"), ("Pillow", "PIL"))
        if importlib.util.find_spec(module) is None
    ]
    if absent:
        return f'{" and ".join(absent)} not installed (pip install -c constraints.txt -e ".[test]")'
    if browser() is None:
        return "no Chromium is installed (on Debian and Ubuntu: apt install chromium)"
    return None


def drawn(figures: Sequence[dict]) -> list[str]:
    """Plotly figures (``{"data": ..., "layout": ...}``) as PNGs of 700 pixels' width, in base64.

    Needs no network: plotly's own script is handed to the page.

    Raises: OSError if there is no browser to draw with.
    """
    if not figures:
        return []
    if missing():
        raise OSError(f"figures cannot be drawn: {missing()}")
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser())
        page = chromium.new_page()
        page.add_script_tag(content=get_plotlyjs())
        urls = [
            page.evaluate(_DRAW, {"data": figure["data"], "layout": figure["layout"]})
            for figure in figures
        ]
        chromium.close()
    return [
        base64.b64encode(smaller(base64.b64decode(url.partition(",")[2]))).decode() for url in urls
    ]


def smaller(png: bytes, *, colours: int = 128) -> bytes:
    """A PNG with a palette of so many colours: a third of the size or less, and drawings look the same.

    The palette covers all colours; the usual one, by frequency, would paint a few blue points among
    thousands of green ones green.
    """
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(
        colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(out, "PNG", optimize=True)
    return out.getvalue()


def described(figure: dict) -> str:
    """A figure in words, for those who do not see it: title, axes, groups."""
    layout = figure["layout"]
    axes = [
        f"{axis}: {text}" for axis in ("x", "y") if (text := _title(layout.get(f"{axis}axis", {})))
    ]
    groups = list(dict.fromkeys(trace["name"] for trace in figure["data"] if trace.get("name")))
    parts = [_title(layout) or "A figure", *axes, f"groups: {', '.join(groups)}" if groups else ""]
    return "; ".join(filter(None, parts))


def _title(part: dict) -> str:
    title = part.get("title") or {}
    return title.get("text", "") if isinstance(title, dict) else title
