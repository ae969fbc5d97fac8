"""A JupyterLab of its own on loopback, and a Chromium that reaches nothing else.

What readers see, for tests, pictures and timings.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nbformat

from saework.reproduction import pictures

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
SIZE = {"width": 1200, "height": 900}
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
HEATMAP = ".jp-OutputArea .widget-html-content"
# A JavaScript function of a heatmap's element: its text, without the values behind its tokens.
WORDS = """heatmap => {
    const copy = heatmap.cloneNode(true);
    copy.querySelectorAll('sub, style, wbr').forEach(part => part.remove());
    return copy.textContent;
}"""
SECONDS = 1000  # of Playwright's milliseconds
PATIENCE = 180 * SECONDS  # a wait ends when what it waits for is there; this ends a hang
# Nothing that asks a network, and every cell in the page, so that what is looked for is there.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": json.dumps(
        {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    ),
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none"}',
    "@jupyterlab/extensionmanager-extension/plugin": '{"enabled": false}',
}


@dataclass
class Watched:
    """A page, and all that it said and asked for."""

    page: object
    home: str
    """The only address that it may ask, such as ``http://127.0.0.1:8888``; empty for none."""
    errors: list[str] = field(default_factory=list)
    """Errors in the console, and uncaught exceptions."""
    outside: list[str] = field(default_factory=list)
    """Requests to any other address."""

    def _heard(self, message) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def _asked(self, url: str) -> None:
        scheme, host = urlsplit(url)[:2]
        if scheme not in ("data", "blob", "about", "file") and host != urlsplit(self.home).netloc:
            self.outside.append(url)


def missing() -> str | None:
    """What the browser tests lack here, and how to get it; None if nothing."""
    return pictures.missing({"playwright": "Playwright", "PIL": "Pillow"})


@contextmanager
def chromium() -> Iterator:
    """Debian's Chromium, or whichever is installed; no name but loopback's resolves in it."""
    from playwright.sync_api import sync_playwright

    if missing():
        raise OSError(missing())
    with sync_playwright() as playwright:
        no_names = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=pictures.browser(), args=[no_names])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(
    browser, *, home: str = "", dark: bool = False, size: dict = SIZE, scale: float = 1
) -> Iterator[Watched]:
    """A fresh page that notes errors and requests; without ``home`` the network is off."""
    context = browser.new_context(
        viewport=size,
        color_scheme="dark" if dark else "light",
        offline=not home,
        device_scale_factor=scale,
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    watched = Watched(page, home)
    page.on("console", watched._heard)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", lambda request: watched._asked(request.url))
    page.on("websocket", lambda asked: watched._asked(asked.url))
    try:
        yield watched
    finally:
        context.close()


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    home: str
    token: str
    folder: Path

    def open(self, page, name: str) -> None:
        """Open a notebook of its folder, alone on the page, its kernel ready."""
        page.goto(f"{self.home}/doc/tree/{name}?token={self.token}")
        page.wait_for_function(
            """() => {
                const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
                return context?.session?.kernel?.status === 'idle';
            }"""
        )
        page.wait_for_function("() => !document.getElementById('jupyterlab-splash')")

    def theme(self, page, name: str) -> None:
        """Change JupyterLab's theme, and wait until it shows."""
        page.evaluate(
            "name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name
        )
        page.wait_for_function(
            """light => document.body.dataset.jpThemeLight === light
                && !document.getElementById('jupyterlab-splash')""",
            arg=str(name == LIGHT).lower(),
        )

    def run_all(self, page, *, seconds: float = 300) -> list[dict]:
        """Run every cell; returns the cells, with their outputs, once none is left to run."""
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(
            """() => {
                const {content, sessionContext} = jupyterapp.shell.currentWidget;
                const isError = output => output.output_type === 'error';
                const code = content.widgets.map(cell => cell.model).filter(
                    model => model.type === 'code' && model.sharedModel.source.trim());
                const stopped = code.some(model => model.outputs.toJSON().some(isError));
                const done = code.every(
                    model => model.executionState === 'idle' && model.executionCount);
                return sessionContext.session.kernel.status === 'idle' && (stopped || done);
            }""",
            timeout=seconds * SECONDS,
        )
        return page.evaluate("() => jupyterapp.shell.currentWidget.content.model.toJSON().cells")


@contextmanager
def jupyterlab(folder: Path, *, threads: int | None = 1) -> Iterator[Lab]:
    """JupyterLab over ``folder``, offline, with settings of its own; it always ends with the block.

    Args: ``threads``: of each kernel; None leaves them as they are here.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = folder / ".jupyter"
    for name, settings in SETTINGS.items():
        path = own / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(settings)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "ServerApp.allow_root": True,
        "ServerApp.shutdown_no_activity_timeout": 900,  # should this process be killed
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.user_settings_dir": own / "settings",
        "LabApp.workspaces_dir": own / "workspaces",
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
    }
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": str(ROOT),
    } | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    environment |= {
        f"JUPYTER_{part}_DIR": str(own / part.lower()) for part in ("CONFIG", "DATA", "RUNTIME")
    }
    environment.pop("PLOTLY_RENDERER", None)  # a reader has none
    log = own / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        lab = Lab(f"http://127.0.0.1:{port}", token, folder)
        _wait_for(lab, server, log)
        yield lab
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)  # kernels end with their parent
            server.wait()


def _wait_for(lab: Lab, server: subprocess.Popen, log: Path, *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.home}/api?token={lab.token}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel
        ),
        path,
    )
    return path


def choose_token(page, token: str, *, most: int = 60) -> None:
    """Move the explorer's slider to a token by keyboard; wait until the heatmap frames the token.

    Each step waits for what the slider says: the kernel renews its tokens a moment after the text
    or the feature has changed.
    """
    from playwright.sync_api import expect

    slider, readout = page.get_by_role("slider").first, page.locator(".widget-readout").first
    page.wait_for_function(
        "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    slider.press("Home")
    for _ in range(most):
        before = readout.inner_text()
        if before.endswith(token):
            break
        slider.press("ArrowRight")
        expect(readout).not_to_have_text(before, timeout=PATIENCE)
    expect(page.locator(HEATMAP).first.locator("b[title]")).to_contain_text(token, timeout=PATIENCE)


def violations(page) -> list[str]:
    """What axe finds that keeps a page from being read by everybody: rule, weight, where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:160]}"
        for rule in found
        for node in rule["nodes"]
    ]
