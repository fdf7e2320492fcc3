"""A training service through the official SDK: ours, and skyrl-tx on the CPU where it is installed, by turns.

``python -m benchmarks.server [--json] [--out FILE] [--rounds N] [--peer-python PATH]``. One random model
(Qwen3-shaped, hidden 256, 4 layers, vocabulary 2,048), LoRA r=8. ``--peer-python`` is the interpreter of an
environment of its own with skyrl-tx 0.3.0, jax for CPUs, flax, optax and the requirements of its ``tinker``
extra; without it our figures stand alone and the JSON says so. Each server has a client process with the
SDK of its own environment, as that peer does not answer the newest one (``sdk_work.py``). Both servers run
at the same time and one of them is idle while the other is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import machine, peer, shapes
from benchmarks.running_server import running, until
from benchmarks.sdk_work import WORKS

PEER_START_S = 300.0

_UV = """#!{python}
# The peer starts its engine with "uv run … -m module …"; this runs it in the environment at hand.
import os, sys
arguments = sys.argv[sys.argv.index("-m"):]
os.execv({python!r}, [{python!r}, *arguments])
"""


def main() -> None:
    """Measure every piece of work in turns and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="of each piece of work")
    options.add_argument("--peer-python", type=Path, help="interpreter with skyrl-tx 0.3.0")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        folder = Path(temporary)
        model = _write_model(folder / "model")
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(running(folder, {"m": model}))
            clients = {"ours": Client(sys.executable, url, "m")}
            stack.callback(clients["ours"].close)
            figures: dict[str, Any] = {"peer": "not run: no --peer-python was given"}
            if arguments.peer_python is not None:
                python = arguments.peer_python.absolute()
                peer_url = stack.enter_context(_peer(folder, model, python))
                clients["peer"] = Client(python, peer_url, str(model))
                stack.callback(clients["peer"].close)
                figures["peer"] = "skyrl-tx 0.3.0, jax on the CPU"
            for work in WORKS:
                machine.note(f"{work} …")
                figures[work] = _in_turns(clients, work, arguments.rounds)
    machine.report("server", figures, arguments)


def _in_turns(clients: dict[str, Client], work: str, rounds: int) -> dict[str, Any]:
    durations_s: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, client in clients.items():
            seconds = client.seconds(work, number)
            if number:  # the first round warms up
                durations_s[name].append(seconds)
    figures: dict[str, Any] = {
        f"{name}_s": round(float(np.median(seconds)), 3) for name, seconds in durations_s.items()
    }
    if "peer" in durations_s:
        ratios = np.array(durations_s["peer"]) / np.array(durations_s["ours"])
        figures["ratio"] = round(float(np.median(ratios)), 2)
    return figures


class Client:
    """The SDK of one environment in a process of its own, connected to one server."""

    def __init__(self, python: Path | str, url: str, base_model: str) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("sdk_work.py")), url, base_model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def seconds(self, work: str, number: int) -> float:
        """Do a piece of work of ``sdk_work.WORKS``; how long it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{work} {number}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"The client failed at {work}.")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=60)


@contextlib.contextmanager
def _peer(folder: Path, model: Path, python: Path) -> Iterator[str]:
    """The peer's server; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shim = folder / "bin" / "uv"
    shim.parent.mkdir()
    shim.write_text(_UV.format(python=str(python)))
    shim.chmod(0o755)
    command = [str(python), "-m", "tx.tinker.api", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--base-model", str(model)]
    command += ["--database-url", f"sqlite:///{folder / 'peer.db'}"]
    command += ["--checkpoints-base", str(folder / "peer-checkpoints")]
    path = f"{shim.parent}:{os.environ['PATH']}"
    # Sequences of one request go through together, as ours do.
    command += ["--backend-config", '{"train_micro_batch_size": 8, "sample_max_num_sequences": 32}']
    environment = {
        **peer.environment(),
        "PATH": path,
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("PYTHONPATH", None)
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            until(lambda: process.poll() is not None or _answers(port), PEER_START_S)
            if process.poll() is not None:
                raise SystemExit((folder / "peer.log").read_text(errors="replace"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/healthz", timeout=1.0).is_success
    except httpx.HTTPError:
        return False


def _write_model(folder: Path) -> Path:
    fields = shapes.config("S").to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    kept += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    config = Qwen3Config(
        **{name: fields[name] for name in kept}, head_dim=64, tie_word_embeddings=True
    )
    config.bos_token_id, config.eos_token_id = 0, None
    Qwen3ForCausalLM(config).save_pretrained(folder)
    shapes.write_tokenizer(folder)
    # Names that older versions of transformers, and the peer, know.
    _add_to(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    _add_to(folder / "config.json", rope_theta=10_000.0)
    return folder


def _add_to(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


if __name__ == "__main__":
    main()
