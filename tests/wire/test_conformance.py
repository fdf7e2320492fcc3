"""``eztinker conformance``: our own server passes; one that answers wrongly is told so, check by check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eztinker.client.embedded import EmbeddedServer
from tests.wire.conftest import MODEL


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eztinker", "conformance", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "EZTINKER_LANG": "en"},
    )


@pytest.mark.slow
def test_our_server_conforms(running_server: EmbeddedServer) -> None:
    done = conformance(running_server.base_url, "--model", MODEL, "--json")
    report = json.loads(done.stdout)
    # Times are for a quiet machine; this one may be busy with other tests.
    failed = [
        c for c in report["checks"] if c["status"] == "FAIL" and " s, got " not in c["problem"]
    ]
    assert failed == []
    assert report["summary"]["PASS"] + report["summary"]["FAIL"] == len(report["checks"]) > 40
    figures = {check["name"]: check["figures"] for check in report["checks"]}
    assert figures["A pass of one token comes back"]["p50_ms"] > 0


@pytest.fixture
def stub() -> Iterator[str]:
    """A server that answers everything with 200 and an empty object."""

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_PUT = do_DELETE = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_knows_nothing_fails_check_by_check(stub: str) -> None:
    done = conformance(stub, "--model", "m")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("PASS")  # no switches are valid ones
    assert "expected status ok" in lines[1]
    assert sum(line.startswith("FAIL") for line in lines) > 40
    assert "Traceback" not in done.stdout + done.stderr


def test_without_a_server_or_a_model_it_says_so(stub: str) -> None:
    nobody = conformance("http://127.0.0.1:9", "--model", "m")
    assert (nobody.returncode != 0, "No server answers" in nobody.stderr) == (True, True)
    unnamed = conformance(stub)
    assert (unnamed.returncode != 0, "--model" in unnamed.stderr) == (True, True)
