"""What a reader sees, in a real browser: notebooks in JupyterLab, and pages with the network off.

Skipped where there is no Chromium; pytest's summary says why. Screenshots go to
``build/screenshots``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from contextlib import ExitStack
from datetime import datetime

import lab as labs
import nbformat
import pytest
from stand_ins import executed_notebook

import saework
from saework import Claim, Ledger, plots, token_heatmap
from saework.core.ledger_view import as_html
from saework.core.tokens import whole_characters
from saework.reproduction.html import PLOTLY_MIME
from saework.reproduction.html import page as notebook_page
from saework.reproduction.index_page import index_page
from saework.views.feature_page.write import write_pages

EXPLORE = (
    "from saework import explore, load\nbook = load('gelu-1l-mini', check=False)",
    "explore(book, 985, 'def area(width):\\n    # A note.')",
)
FIGURE = """\
import pandas as pd
from saework import plots
rows = {"difference": [1.0, 0.1], "low": [0.5, -0.2], "high": [1.5, 0.4]}
frame = pd.DataFrame(rows, index=["a", "b"])
plots.differences({"loss": frame, "L0": frame, "size": frame}, title="Differences", y="variant")"""
WAIT = labs.PATIENCE
# Pandas leaves the corner of a table empty, and so does Markdown.
NOT_OURS = {"empty-table-header"}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """After the browser: without one no server is started."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("00_start_here", "04_gelu_1l_rare_features"):
        shutil.copy(labs.ROOT / "notebooks" / f"{name}.ipynb", folder)
    labs.write_notebook(folder / "explore.ipynb", *EXPLORE)
    labs.write_notebook(folder / "figure.ipynb", FIGURE)
    with labs.jupyterlab(folder) as running:
        yield running


@pytest.fixture
def visit(lab, browser):
    """``visit(name)`` opens a notebook. After the test its errors and requests are checked."""
    with labs.watched_page(browser, home=lab.home) as watched:

        def visit(name: str):
            lab.open(watched.page, name)
            return watched.page

        yield visit
        assert watched.errors == []
        assert watched.outside == []


def photograph(lab, page, name: str) -> None:
    for theme in (labs.LIGHT, labs.DARK):
        lab.theme(page, theme)
        page.screenshot(path=labs.SCREENSHOTS / f"{name}-{theme.split()[1].lower()}.png")


def changed(locator, before: str) -> None:
    """Wait until an element's HTML is another."""
    locator.page.wait_for_function(
        "([element, before]) => element.innerHTML !== before",
        arg=[locator.element_handle(), before],
    )


def says(heatmap, text: str) -> None:
    """Wait until a heatmap shows this text."""
    heatmap.page.wait_for_function(
        f"([heatmap, text]) => ({labs.WORDS})(heatmap).startsWith(text)",
        arg=[heatmap.element_handle(), text],
    )


def errors_in(cells) -> list:
    return [
        output
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]


def test_the_first_notebook_runs_from_top_to_bottom(lab, visit):
    page = visit("00_start_here.ipynb")
    cells = lab.run_all(page)
    assert errors_in(cells) == []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    page.evaluate("() => jupyterapp.shell.currentWidget.content.scrollToItem(0)")
    photograph(lab, page, "00_start_here-top")
    page.locator(".jp-OutputArea span[title]").first.scroll_into_view_if_needed()
    photograph(lab, page, "00_start_here-heatmap")


def test_stored_figures_are_shown_once_and_come_alive_under_the_mouse(lab, visit):
    from playwright.sync_api import expect

    page = visit("04_gelu_1l_rare_features.ipynb")
    figures = page.locator(".jp-RenderedPlotly")
    expect(figures).to_have_count(4, timeout=WAIT)
    figure = figures.nth(1)
    figure.scroll_into_view_if_needed()
    picture, drawing = figure.locator("img"), figure.locator("svg.main-svg").first
    expect(picture).to_be_visible(timeout=WAIT)
    expect(drawing).not_to_be_attached()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    expect(drawing).to_be_visible(timeout=WAIT)
    expect(picture).to_be_hidden()
    photograph(lab, page, "04_gelu_1l_rare_features")


def test_live_figures_follow_the_theme(lab, visit):
    from playwright.sync_api import expect

    page = visit("figure.ipynb")
    assert errors_in(lab.run_all(page)) == []
    figure = page.locator(".js-plotly-plot")
    expect(figure.locator(".gtitle")).to_have_text("Differences", timeout=WAIT)
    colours = """figure => {
        const shown = (selector, name) => [...new Set([...figure.querySelectorAll(selector)].map(
            each => getComputedStyle(each)[name]))];
        return {
            text: shown("text", "fill"),
            paper: shown(".main-svg", "backgroundColor"),
            points: shown(".points path", "fill"),
        };
    }"""
    clear = "rgba(0, 0, 0, 0)"
    for theme, text, paper, hollow in (
        (labs.LIGHT, "rgb(51, 51, 51)", "rgb(255, 255, 255)", "rgb(255, 255, 255)"),
        (labs.DARK, "rgb(216, 216, 216)", clear, "rgb(17, 17, 17)"),
    ):
        lab.theme(page, theme)
        found = figure.evaluate(colours)
        assert found["text"] == [text]
        assert set(found["paper"]) <= {paper, clear} and paper in found["paper"]
        assert found["points"] == ["rgb(213, 94, 0)", hollow]
        page.screenshot(path=labs.SCREENSHOTS / f"figure-{theme.split()[1].lower()}.png")


def test_the_explorer_follows_what_is_typed_and_chosen(lab, visit):
    from playwright.sync_api import expect

    page = visit("explore.ipynb")
    assert errors_in(lab.run_all(page)) == []
    heatmap = page.locator(labs.HEATMAP).first
    text, feature = page.get_by_label("Text", exact=True), page.get_by_label("Feature", exact=True)
    says(heatmap, "def·area(width):↩····#·A·note.")
    for shorter_and_longer, last in (("import os", "2: ·os"), ("import os and", "3: ·and")):
        text.fill(shorter_and_longer)
        expect(page.locator(".widget-readout").first).to_have_text(last, timeout=WAIT)
    text.press("ControlOrMeta+a")
    text.press_sequentially("import os\n# It doesn't matter.")
    says(heatmap, "import·os↩#·It·doesn't·matter.")
    before = heatmap.inner_html()
    feature.fill("526")
    feature.press("Enter")
    changed(heatmap, before)

    # The chosen token gets a frame, and what fires there is listed.
    labs.choose_token(page, "·doesn")
    fires = page.get_by_label("Fires here", exact=True)
    expect(fires.locator("option").first).to_contain_text("526", timeout=WAIT)
    photograph(lab, page, "explore-token")

    before = heatmap.inner_html()
    fires.select_option(index=1)
    changed(heatmap, before)
    assert feature.input_value() != "526"
    page.get_by_label("Search for", exact=True).select_option(index=1)
    search = page.get_by_label("Search token", exact=True)
    search.fill("·return")
    search.press("Enter")
    found = page.get_by_label("Found", exact=True)
    expect(found.locator("option").first).to_be_attached(timeout=WAIT)
    before = heatmap.inner_html()
    found.select_option(index=0)
    changed(heatmap, before)
    page.get_by_role("button", name="Next example").click()
    expect(page.locator(labs.HEATMAP).last.locator("b[title]")).to_be_visible(timeout=WAIT)
    page.get_by_label("Compare with a second feature").check()
    expect(page.get_by_label("Second feature", exact=True)).to_be_enabled(timeout=WAIT)
    page.locator(labs.HEATMAP).last.scroll_into_view_if_needed()
    photograph(lab, page, "explore-search")
    assert page.get_by_role("spinbutton").count() == 4, (
        "each number has a box that the keyboard reaches"
    )


def test_keys_stay_in_the_explorer(lab, visit):
    """Real keys on each kind of control: the notebook keeps its cells and its active one."""
    from playwright.sync_api import expect

    page = visit("explore.ipynb")
    assert errors_in(lab.run_all(page)) == []
    guarded = page.locator(".saework-explorer select[data-lm-suppress-shortcuts]")
    expect(guarded).to_have_count(3, timeout=WAIT)

    def notebook() -> list:
        return page.evaluate(
            """() => {
                const content = jupyterapp.shell.currentWidget.content;
                return [content.activeCellIndex, content.widgets.length, content.mode];
            }"""
        )

    fires = page.get_by_label("Fires here", exact=True)
    expect(fires.locator("option").nth(1)).to_be_attached(timeout=WAIT)
    feature = page.get_by_label("Feature", exact=True)
    heatmap = page.locator(labs.HEATMAP).first
    controls = [
        fires,
        page.get_by_label("Search for", exact=True),
        page.get_by_label("Pin scale", exact=True),
        page.get_by_role("button", name="Next example"),
        page.get_by_role("slider", name="Token"),
        page.get_by_label("Text", exact=True),
        feature,
    ]
    for control in controls:
        control.focus()
        before = notebook()
        for key in ("x", "d", "d", "a", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
        assert notebook() == before, control
        expect(control).to_be_focused()
    # The keys changed the text: its features are listed when its heatmap is there.
    page.wait_for_function(
        """([selector, text]) => {
            const letters = string => string.replace(/[^A-Za-z]/g, "");
            const shown = letters(document.querySelector(selector).textContent);
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            return shown.includes(letters(text)) && kernel.status === "idle";
        }""",
        arg=[labs.HEATMAP, page.get_by_label("Text", exact=True).input_value()],
        timeout=WAIT,
    )
    # The arrows do what they do in a list: the next feature is chosen and shown.
    page.keyboard.press("Escape")
    first = fires.locator("option").first.inner_text().split(":")[0]
    second = fires.locator("option").nth(1).inner_text().split(":")[0]
    fires.focus()
    page.keyboard.press("Home")
    expect(feature).to_have_value(first, timeout=WAIT)
    before = heatmap.inner_html()
    page.keyboard.press("ArrowDown")
    expect(feature).to_have_value(second, timeout=WAIT)
    changed(heatmap, before)


@pytest.fixture
def open_page(browser):
    """``open_page(path)`` opens a file, light or dark. It must request nothing, without errors."""
    with ExitStack() as stack:
        opened = []

        def open_page(path, *, dark: bool = False, picture: str | None = None):
            watched = stack.enter_context(labs.watched_page(browser, dark=dark))
            opened.append(watched)
            watched.page.goto(path.as_uri())
            if picture:
                watched.page.screenshot(path=labs.SCREENSHOTS / f"{picture}.png")
            return watched.page

        yield open_page
        assert [watched.errors for watched in opened] == [[]] * len(opened)
        assert [watched.outside for watched in opened] == [[]] * len(opened)


@pytest.mark.parametrize("dark", [False, True])
def test_a_notebooks_page_is_whole_without_a_network(open_page, axe, tmp_path, dark):
    notebook = nbformat.read(
        labs.ROOT / "notebooks" / "04_gelu_1l_rare_features.ipynb", as_version=4
    )
    path = tmp_path / "page.html"
    path.write_text(notebook_page(notebook, title="02"), encoding="utf-8")
    page = open_page(path, dark=dark)
    figures = page.locator(".plotly-graph-div")
    assert figures.count() == page.locator('[role="figure"]').count() == 4
    for i in range(figures.count()):
        figures.nth(i).locator("svg.main-svg").first.wait_for()
    assert page.locator("img").count() == 0, "a figure is shown twice"
    figures.first.scroll_into_view_if_needed()
    page.screenshot(path=labs.SCREENSHOTS / f"notebook-page-{'dark' if dark else 'light'}.png")
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert behind == ("rgb(17, 17, 17)" if dark else "rgb(255, 255, 255)")
    assert [found for found in axe(page) if found.split()[0] not in NOT_OURS] == []


def test_a_notebooks_page_fits_phones_and_paper(browser, tmp_path):
    figure = plots.line({"a group": ([1, 2], [3, 4])}, title="A long title " * 6, x="x", y="y")
    ledger = Ledger([Claim("x" * 30, 1.0, "nats", "a long source " * 9, 0.1, "t")], tier="t")
    outputs = [{PLOTLY_MIME: json.loads(figure.to_json())}, {"text/html": as_html(ledger.entries)}]
    path = tmp_path / "page.html"
    path.write_text(notebook_page(executed_notebook(*outputs), title="a page"), encoding="utf-8")
    with labs.watched_page(browser, size={"width": 390, "height": 800}) as phone:
        phone.page.goto(path.as_uri())
        figure, row = phone.page.locator(".main-svg").first, phone.page.locator("tbody tr").last
        assert figure.bounding_box()["width"] > 500  # drawn wide enough, and scrolled
        assert row.bounding_box()["height"] < 200
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    with labs.watched_page(browser) as desk:
        desk.page.goto(path.as_uri())
        drawing = desk.page.locator(".main-svg").first
        assert drawing.bounding_box()["width"] > 800
        desk.page.set_viewport_size({"width": 640, "height": 900})  # A4
        desk.page.emulate_media(media="print")
        desk.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert 300 < drawing.bounding_box()["width"] <= 640
        assert drawing.get_attribute("viewBox").startswith("0 0 ")
        desk.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert drawing.get_attribute("viewBox") is None


@pytest.mark.parametrize("dark", [False, True])
def test_a_heatmaps_page_is_readable_by_everybody(open_page, axe, tmp_path, dark):
    strings = ["def", " f", "(x", "):\n", "    ", "#", " a", " note", " <b>", "\n", "日本", "עברית"]
    path = token_heatmap(strings, [0, 1, 2.5, 0, 0.1, 4, 0, -3, 0, 0, 1, -1]).save(
        tmp_path / "heatmap.html"
    )
    page = open_page(path, dark=dark, picture=f"heatmap-{'dark' if dark else 'light'}")
    assert axe(page) == []


def has_font(character: str) -> bool:
    """Whether an installed font has a character."""
    if shutil.which("fc-list") is None:
        return False
    command = ["fc-list", f":charset={ord(character):x}"]
    return bool(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("one, other", ["日本", "😀🙏"])
def test_wide_characters_are_drawn(open_page, book, tmp_path, one, other):
    """Whole in the page; as two pictures, where a font has them, and not as one box."""
    ids = book.tokenizer(f"{one}{other}", add_special_tokens=False)["input_ids"]
    strings = whole_characters(ids, book.tokenizer)
    path = token_heatmap(strings, [0.0] * len(ids), max_value=1).save(tmp_path / "wide.html")
    page = open_page(path)
    tokens = page.locator(".saework-heat span[title]")
    texts = tokens.all_inner_texts()
    assert [text for text in texts if text != "←"] == [one, other]
    pictures = [tokens.nth(texts.index(text)).screenshot() for text in (one, other)]
    assert (pictures[0] != pictures[1]) == has_font(one)


@pytest.fixture(scope="module")
def feature_pages_of_the_mini():
    """A feature that fires, and one that is dead."""
    book = saework.load("gelu-1l-mini", check=False)
    book = dataclasses.replace(book, tokens=book.tokens[:64])
    scan = saework.scan(
        book.model,
        book.sae,
        book.tokens,
        mask=book.tokens != book.tokenizer.bos_token_id,
        cofiring=[526],
        progress=False,
    )
    dead = int(scan.dead.nonzero()[0])
    return [saework.feature_page(book, feature, scan=scan) for feature in (526, dead)]


@pytest.mark.parametrize("dark", [False, True])
def test_a_features_page_is_readable_by_everybody(
    open_page, axe, feature_pages_of_the_mini, tmp_path, dark
):
    for what, page in zip(("live", "dead"), feature_pages_of_the_mini, strict=True):
        assert page.dead == (what == "dead")
        shown = open_page(
            page.save(tmp_path / f"{what}.html"),
            dark=dark,
            picture=f"feature-{what}-{'dark' if dark else 'light'}",
        )
        assert axe(shown) == [] and shown.locator("script").count() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_an_index_of_features_is_readable_and_leads_to_their_pages(
    open_page, axe, feature_pages_of_the_mini, tmp_path, dark
):
    index = open_page(write_pages(feature_pages_of_the_mini, tmp_path), dark=dark)
    assert axe(index) == []
    index.get_by_role("link", name="526", exact=True).click()
    assert index.get_by_role("heading", level=1).inner_text() == "Feature 526"


def test_pages_print_dark_on_white_where_the_reader_prefers_dark(
    open_page, feature_pages_of_the_mini, tmp_path
):
    write_pages(feature_pages_of_the_mini, tmp_path)
    ledger = Ledger([Claim("x", 1.0, "nats", "a paper", 0.1, "tier")], tier="tier")
    run = index_page("gelu-1l-mini", [], ledger, when=datetime(2026, 11, 28))
    (tmp_path / "run.html").write_text(run, encoding="utf-8")
    token_heatmap(["a", "b"], [0, 1]).save(tmp_path / "heatmap.html")
    figure = plots.bars([1, 2], [0, 1, 2], title="t", x="x")
    notebook = executed_notebook({PLOTLY_MIME: json.loads(figure.to_json())})
    html = notebook_page(notebook, title="a page")
    (tmp_path / "notebook.html").write_text(html, encoding="utf-8")
    for name in ("feature-526", "index", "heatmap", "notebook", "run"):
        page = open_page(tmp_path / f"{name}.html", dark=True)
        colour = """() => [...document.querySelectorAll("body, h1, td, .gtitle")].map(
            each => getComputedStyle(each)[each.matches("text") ? "fill" : "color"])"""
        assert lightest(page.evaluate(colour)) > 150, name
        page.emulate_media(media="print")
        assert lightest(page.evaluate(colour)) < 100, name


def lightest(colours: list[str]) -> int:
    """The largest channel of colours such as ``rgb(1, 2, 3)``."""
    return max(int(n) for colour in colours for n in re.findall(r"\d+", colour)[:3])


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_is_wider_than_the_screen(browser, feature_pages_of_the_mini, tmp_path, width):
    long = dataclasses.replace(feature_pages_of_the_mini[0], note="x" * 200)
    folder = write_pages([long, feature_pages_of_the_mini[1]], tmp_path).parent
    for name in ("index", "index-by-effect", f"feature-{long.feature}"):
        size = {"width": width, "height": 800}
        with labs.watched_page(browser, size=size) as watched:
            page = watched.page
            page.goto((folder / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            page.screenshot(path=labs.SCREENSHOTS / f"{name}-{width}.png", full_page=True)
            if name.startswith("feature") and width == 390:
                row = page.locator("table.examples tbody tr").first
                number, context = row.locator("td").first, row.locator("td.context")
                below = number.bounding_box()
                assert context.bounding_box()["y"] >= below["y"] + below["height"] - 1
                # No token is cut: each stands in one line.
                tokens = context.locator("[title]").evaluate_all(
                    "all => all.map(each => each.getClientRects().length)"
                )
                assert set(tokens) == {1}


def test_the_checks_can_fail(browser, axe, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="https://example.org/a.png"><script>undefined_name()</script>')
    with labs.watched_page(browser) as watched:
        watched.page.goto(path.as_uri())
        assert watched.outside == ["https://example.org/a.png"]
        assert re.search("undefined_name is not defined", "".join(watched.errors))
        assert any(found.startswith("image-alt (critical)") for found in axe(watched.page))
