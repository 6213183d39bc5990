"""JupyterLab on a free port and a headless Chromium that uses it like a reader, over the DevTools protocol."""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from segkd.config import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HELPERS = """
window.lab = () => [...window.jupyterapp.shell.widgets('main')][0];
window.codeCells = () => lab().content.widgets.filter(cell => cell.model.type === 'code');
window.pictureOf = async () => {
  const image = document.querySelector('img.widget-image');
  if (!image || !image.naturalWidth) return '';
  const digest = await crypto.subtle.digest('SHA-256', await (await fetch(image.src)).arrayBuffer());
  return Array.from(new Uint8Array(digest), byte => byte.toString(16)).join('');
};
"""


def until(ask, what: str, seconds: float = 60.0):
    """The first true answer of ``ask()``; fails, naming ``what``, if there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.25)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def stop(process: subprocess.Popen) -> None:
    """End a program that was started as the leader of a group of its own, with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    except ProcessLookupError:
        pass


class Page:
    """One tab: JavaScript, keys, a picture of what is seen."""

    def __init__(self, address: str):
        from websocket import create_connection

        self.socket, self.number = create_connection(address, timeout=60, suppress_origin=True), 0
        self.ask("Page.enable")
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)

    def ask(self, method: str, **values):
        """A command of the protocol and its answer; events in between are left unread."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": values}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def go(self, address: str) -> None:
        """Open an address and wait until JupyterLab is there."""
        self.ask("Page.navigate", url=address)
        until(lambda: self.js("Boolean(window.jupyterapp?.shell)"), "JupyterLab", 120)

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self.ask("Page.navigate", url=address)
        until(lambda: self.js(f"document.readyState === 'complete' && location.href === {json.dumps(address)}"), address)

    def js(self, source: str):
        """The value of an expression, awaited; an exception of the page fails the test."""
        found = self.ask("Runtime.evaluate", expression=source, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{source}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key of the keyboard, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int) -> None:
        """Another size of the window."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


class Notebook:
    """An open notebook in JupyterLab."""

    def __init__(self, page: Page):
        self.page = page
        page.js(HELPERS)
        ready = "Boolean(lab()?.content?.widgets?.length > 1)"
        until(lambda: page.js(ready), "JupyterLab to open the notebook", 120)
        page.js("jupyterapp.shell.activateById(lab().id)")
        page.js("lab().sessionContext.ready.then(() => true)")
        until(lambda: page.js("lab().sessionContext.session?.kernel?.status === 'idle'"), "the kernel", 120)

    def run_all(self, seconds: float) -> None:
        """Run every cell and wait for the last one, or for the first error."""
        self.page.js("void jupyterapp.commands.execute('notebook:run-all-cells')")
        last = "codeCells().at(-1).model.executionCount !== null && lab().sessionContext.session.kernel.status === 'idle'"
        until(lambda: self.errors() or self.page.js(last), "all cells", seconds)

    def errors(self) -> list[str]:
        """Name and message of every error that a cell shows, and what a menu could not be shown with."""
        outputs = self.page.js("codeCells().flatMap(cell => cell.model.outputs.toJSON())")
        shown = self.page.js("[...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.textContent)")
        failed = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
        return failed + [text for text in shown if "Error displaying widget" in text]

    def show(self, words: str) -> str:
        """Scroll to the cell that begins with ``words`` and wait for its picture; the picture's digest."""
        cell = f"lab().content.widgets.find(cell => cell.model.sharedModel.source.startsWith({json.dumps(words)}))"
        self.page.js(f"lab().content.scrollToCell({cell}).then(() => {cell}.node.scrollIntoView())")
        return until(lambda: self.page.js("pictureOf()"), "the picture")

    def changed(self, before: str) -> str:
        """The digest of the picture that replaces ``before``."""

        def other() -> str:
            found = self.page.js("pictureOf()")
            return found if found != before else ""

        return until(other, "another picture", 30)

    def choose(self, menu: str, entry: int) -> None:
        """Take an entry of the menu with this description."""
        self.page.js(f"""(() => {{
          const row = [...document.querySelectorAll('.widget-dropdown')]
            .find(found => found.querySelector('label').textContent === {json.dumps(menu)});
          const select = row.querySelector('select');
          select.selectedIndex = {entry};
          select.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()""")


@contextmanager
def jupyter_lab(root: Path, home: Path):
    """JupyterLab with ``root`` as its folder and all it keeps in ``home``: its address and token."""
    token, port_file = secrets.token_hex(16), home / "lab.log"
    own = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {name: str(home / name.lower()) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--notebook-dir={root}", "--port=0"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--ServerApp.ip=127.0.0.1"]
    environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with port_file.open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        runtime = Path(own["JUPYTER_RUNTIME_DIR"])
        (found,) = until(lambda: list(runtime.glob("jpserver-*.json")), f"JupyterLab, see {port_file}", 120)
        until(lambda: found.read_text().rstrip().endswith("}"), "its port")
        yield json.loads(found.read_text())["url"], token
    finally:
        stop(process)


@contextmanager
def chromium(home: Path):
    """A headless Chromium: a function that opens an address in a tab."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    pytest.importorskip("websocket")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    command += ["--disable-background-networking", "--disable-sync", "--disable-component-update", f"--user-data-dir={home}"]
    process = subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        port_file = home / "DevToolsActivePort"
        until(lambda: port_file.exists() and port_file.read_text().count("\n"), "Chromium")
        base = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}/json"
        with urllib.request.urlopen(f"{base}/list") as answer:
            tab = next(found for found in json.load(answer) if found["type"] == "page")
        page = Page(tab["webSocketDebuggerUrl"])
        page.resize(1200, 900)
        yield page
    finally:
        stop(process)


@pytest.fixture
def browser(tmp_path):
    """A function that opens a browser: `chromium` with a home of its own."""
    return partial(chromium, tmp_path / "chromium")


@pytest.fixture
def open_notebook(runs, tmp_path):
    """A function that copies a notebook with other parameters into a folder and opens it in a browser."""
    root = tmp_path / "notebooks"
    root.mkdir()
    (tmp_path / "home").mkdir()

    @contextmanager
    def opened(name: str, **parameters: object):
        with_parameters(ROOT / "notebooks" / name, root / name, parameters)
        with chromium(tmp_path / "chromium") as page, jupyter_lab(root, tmp_path / "home") as (url, token):
            page.go(f"{url}lab/tree/{name}?token={token}")
            yield Notebook(page)

    return opened


def with_parameters(source: Path, copy: Path, parameters: dict) -> None:
    """The notebook with its parameters set, as a reader would write them."""
    book = json.loads(source.read_text())
    (cell,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    known = [line.split(" = ")[0] for line in "".join(cell["source"]).splitlines()]
    assert set(parameters) <= set(known)
    cell["source"] += ["\n", *(f"{name} = {value!r}\n" for name, value in parameters.items())]
    copy.write_text(json.dumps(book))
