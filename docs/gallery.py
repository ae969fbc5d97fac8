"""The README's pictures, taken in a browser, and every notebook as it looks in JupyterLab.

    python docs/gallery.py                 # docs/pictures/*.png
    python docs/gallery.py --notebooks     # build/screenshots/notebooks/NAME-THEME-N.png
    python docs/gallery.py --notebooks 04_gelu_1l_rare_features

The screenshots of notebooks are for looking at; they are not committed. It needs the extra ``test``
and an installed Chromium. The notebooks are shown as they were committed; the explorer is live.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import lab as labs  # noqa: E402, after the path to it

from saework.reproduction import pictures  # noqa: E402, after the path to it

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 150_000  # bytes
SIZE = {"width": 1000, "height": 720}
EXPLORER = (
    "from saework import explore, load\nbook = load('gelu-1l-mini')",
    """\
explore(book, 526, '''def area(width, height):
    # It doesn't check its arguments, and won't round.
    return width * height''')""",
)
# Each figure is drawn, or its stored picture shown, as JupyterLab does before the mouse is over it.
SHOWN = """() => [...document.querySelectorAll('.jp-RenderedPlotly')].every(
    figure => figure.querySelector('svg.main-svg') || figure.querySelector('img')?.src)"""
AREA = "document.querySelector('.jp-WindowedPanel-outer')"
FEATURE = """\
from saework import feature_page, load
feature_page(load('gelu-1l-mini'), 985).save('feature.html')"""


def main() -> None:
    """Take the pictures, or photograph notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--notebooks",
        nargs="*",
        metavar="NAME",
        help="whole notebooks in both themes instead; all by default",
    )
    asked = parser.parse_args().notebooks
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        labs.jupyterlab(Path(name)) as lab,
        labs.chromium() as browser,
    ):
        for path in (ROOT / "notebooks").glob("*.ipynb"):
            shutil.copy(path, lab.folder)
        if asked is None:
            take_pictures(lab, browser)
        else:
            for name in asked or sorted(path.stem for path in lab.folder.glob("*.ipynb")):
                scroll_through(lab, browser, name)


def take_pictures(lab: labs.Lab, browser) -> None:
    """Each of the README's pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for theme in (labs.LIGHT, labs.DARK):
        with labs.watched_page(browser, home=lab.home, size=SIZE) as watched:
            page = watched.page
            name = f"explore-{theme.split()[1].lower()}"
            labs.write_notebook(lab.folder / f"{name}.ipynb", *EXPLORER)
            lab.open(page, f"{name}.ipynb")
            lab.theme(page, theme)
            lab.run_all(page)
            labs.choose_token(page, "·doesn")
            to_top(page, 1)
            keep(page, name)
    with labs.watched_page(browser, home=lab.home, size=SIZE) as watched:
        page = watched.page
        lab.open(page, "04_gelu_1l_rare_features.ipynb")
        lab.theme(page, labs.LIGHT)
        page.wait_for_function(SHOWN)
        to_top(page, cell_with(page, "humps"))
        keep(page, "notebook-figure")
        lab.open(page, "03_gelu_1l_reconstruction.ipynb")
        to_top(page, cell_with(page, "ledger", last=True))
        keep(page, "notebook-ledger")
    if importlib.util.find_spec("saework.views.feature_page.write"):
        with labs.watched_page(browser, home=lab.home, size=SIZE) as watched:
            labs.write_notebook(lab.folder / "feature.ipynb", FEATURE)
            lab.open(watched.page, "feature.ipynb")
            lab.run_all(watched.page)
        with labs.watched_page(browser, size={**SIZE, "height": 900}) as watched:
            watched.page.goto((lab.folder / "feature.html").as_uri())
            keep(watched.page, "feature-page")


def keep(page, name: str) -> None:
    """Write what the page shows, in fewer colours if it is large."""
    path = FOLDER / f"{name}.png"
    png = page.screenshot()
    path.write_bytes(png if len(png) < LARGEST else pictures.smaller(png))
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{path.name} is larger than {LARGEST / 1000:.0f} kB; show less in it")


def cell_with(page, words: str, *, last: bool = False) -> int:
    """The number of the first, or the last, code cell whose source holds these words."""
    cells = page.evaluate(
        """words => jupyterapp.shell.currentWidget.content.widgets.flatMap((cell, i) => {
            const source = cell.model.sharedModel.source;
            return cell.model.type === 'code' && source.includes(words) ? [i] : [];
        })""",
        words,
    )
    if not cells:
        raise SystemExit(f"no cell holds {words!r}; say in docs/gallery.py which cell to show")
    return cells[-1 if last else 0]


def to_top(page, cell: int) -> None:
    """Scroll a cell to the top of the window, and leave no other cell active, which has a frame."""
    page.evaluate(
        """i => { const {content} = jupyterapp.shell.currentWidget; content.activeCellIndex = i;
            content.widgets[i].node.scrollIntoView({block: 'start'}); }""",
        cell,
    )


def scroll_through(lab: labs.Lab, browser, name: str) -> None:
    """Photograph a notebook from top to bottom, light and dark, as it was committed."""
    folder = labs.SCREENSHOTS / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    height = 1800
    with labs.watched_page(
        browser, home=lab.home, size={"width": 1100, "height": height + 150}
    ) as watched:
        page = watched.page
        lab.open(page, f"{name}.ipynb")
        for theme in (labs.LIGHT, labs.DARK):
            lab.theme(page, theme)
            whole = page.evaluate(f"() => {AREA}.scrollHeight")
            for i, top in enumerate(range(0, whole, height), 1):
                page.evaluate(f"top => {{ {AREA}.scrollTop = top }}", top)
                page.wait_for_function(SHOWN)
                page.screenshot(path=folder / f"{name}-{theme.split()[1].lower()}-{i:02d}.png")
        print(
            f"{name}: {whole} pixels; errors in the console: {watched.errors or 'none'}; "
            f"outside requests: {watched.outside or 'none'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
