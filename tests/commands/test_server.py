"""``eztinker server``: how it begins, ends, refuses and reloads."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from eztinker import EZTinkerClient
from eztinker.client.embedded import EmbeddedServer
from eztinker.service.base_models import NANO_FOLDER
from tests.commands.conftest import PROGRAM, environment


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started; whatever lives at its end is killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        with process:  # closes its pipes and waits
            pass


def start(
    folder: Path, *flags: str, command: tuple[str, ...] = (PROGRAM,)
) -> subprocess.Popen[str]:
    arguments = [
        "server",
        "--port",
        "0",
        "--state-dir",
        str(folder / "state"),
        "--num-threads",
        "1",
    ]
    return subprocess.Popen(
        [*command, *arguments, "--ready-file", str(folder / "ready"), *flags],
        cwd=folder,
        env=environment(HF_HUB_OFFLINE="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def url_of(folder: Path, timeout_s: float = 60) -> str:
    deadline_s = time.monotonic() + timeout_s
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return (folder / "ready").read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_leaves_in_order(
    tmp_path: Path, started: list[subprocess.Popen[str]], signum: int
):
    server = start(tmp_path)
    started.append(server)
    url = url_of(tmp_path)
    with EZTinkerClient(url) as client:
        assert client.health()["status"] == "ok"
    server.send_signal(signum)
    stdout, stderr = server.communicate(timeout=30)
    assert (server.returncode, stdout) == (0, "")
    assert f"EZTinker listens at {url};" in stderr
    assert (tmp_path / "state").is_dir()


def test_whoever_waits_is_answered_when_it_leaves(
    tmp_path: Path, started: list[subprocess.Popen[str]]
):
    """Long polls, streams and an upload that does not end: no traceback, and no wait for them."""
    server = start(tmp_path)
    started.append(server)
    url = url_of(tmp_path)
    sample = {"model": "nano", "prompt": "1", "max_tokens": 2000}
    with (
        EZTinkerClient(url) as client,
        ThreadPoolExecutor(8) as pool,
        socket.create_connection(url.removeprefix("http://").split(":")) as upload,
    ):
        upload.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
        job = client.submit_sample("1", max_new_tokens=2000)
        ask = partial(pool.submit, httpx.post, timeout=60)
        waiting = [
            (ask(f"{url}/v1/runs", json={"base_model": "nano"}), 429),
            (ask(f"{url}/api/v1/retrieve_future", json={"request_id": job.job_id}), 408),
            (ask(f"{url}/v1/completions", json=sample), 429),
            (ask(f"{url}/v1/completions", json={**sample, "stream": True}), 200),
            (pool.submit(httpx.get, f"{url}/v1/jobs/{job.job_id}?wait=50", timeout=60), 200),
        ]
        while client.health()["queued_jobs"] + client.health()["running_jobs"] < 4:
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer, _ in waiting] == [s for _, s in waiting]
        stderr = server.communicate(timeout=60)[1]
    assert server.returncode == 0
    assert "Traceback" not in stderr


def test_it_ends_with_its_parent_when_told_so(tmp_path: Path, started: list[subprocess.Popen[str]]):
    server = start(tmp_path, "--exit-with-parent")
    started.append(server)
    url_of(tmp_path)
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=30) == 0


def test_a_taken_port_is_usage(
    tmp_path: Path, started: list[subprocess.Popen[str]], running_server: EmbeddedServer
):
    taken = running_server.base_url.rpartition(":")[2]
    server = start(tmp_path, "--port", taken)
    started.append(server)
    _, stderr = server.communicate(timeout=30)
    assert server.returncode == 2
    assert f"Cannot listen on 127.0.0.1:{taken}" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--alias", "x"], "NAME=NAME_OR_PATH"),
        (["--config", "absent.yaml"], "does not exist"),
        (["--port", "70000"], "--port"),
    ],
)
def test_wrong_flags_are_usage(tmp_path: Path, flags: list[str], said: str):
    done = subprocess.run(
        [PROGRAM, "server", *flags], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_reload_restarts_with_the_same_state(tmp_path: Path, started: list[subprocess.Popen[str]]):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "a.py").write_text("")
    code = (
        "import sys; from pathlib import Path; from eztinker.cli.reload import serve_reloading;"
        f"sys.exit(serve_reloading(sys.argv[1:], Path({str(sources)!r})))"
    )
    supervisor = start(tmp_path, command=(sys.executable, "-c", code))
    started.append(supervisor)
    with EZTinkerClient(url_of(tmp_path)) as client:
        client.create_run("nano", run_id="mine")
    (tmp_path / "ready").unlink()
    (sources / "a.py").write_text("changed = True")
    with EZTinkerClient(url_of(tmp_path)) as client:
        assert [run["run_id"] for run in client.get_runs()] == ["mine"]
    supervisor.terminate()
    assert supervisor.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("damage", "said", "code"),
    [
        ("cut", "it was cut short", 2),
        ("device", "this machine has", 2),
        ("memory", "--memory-budget", 6),
    ],
)
def test_a_server_that_cannot_have_its_model_or_device_ends_and_says_why(
    tmp_path: Path, started: list[subprocess.Popen[str]], damage: str, said: str, code: int
) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    flags = ["--model", str(folder)]
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "device":
        flags = ["--device", "cuda:77"]
    else:
        flags += ["--memory-budget", "0.28"]
    process = start(tmp_path, *flags)
    started.append(process)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert said in stderr.splitlines()[-1]
    assert stderr.count("Error:") == 1
    assert "is ready at" not in stderr
