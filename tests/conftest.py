"""For all tests: hypothesis without deadlines (speed is measured in benchmarks, never in a test), folders of runs, a server of files."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import settings

settings.register_profile("segkd", deadline=None)
settings.load_profile("segkd")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Where this test's runs are; there is none yet."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    """Where the runs are that the tests of a module share."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("SEGKD_RUNS", str(folder))
        yield folder


class Request(BaseHTTPRequestHandler):
    """Tells ``server.answer(request, start)`` where the range that was asked for begins, None without one."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        self.server.answer(self, int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else None)

    def send(self, body, start=None, end=None):
        """The body from ``start`` as a range, or all of it; what is sent breaks off at ``end``."""
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - (start or 0)))
        self.end_headers()
        self.wfile.write(body[start or 0 : end])

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def serve(monkeypatch):
    """A server of this process: its ``url``, what it was ``asked`` ((path, Range header)), and ``answer``, to be set."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    found.asked, found.url = [], f"http://127.0.0.1:{found.server_address[1]}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()
