"""What the service adds to the computation: start-up, ``/health`` under load, a smallest round trip.

``python -m benchmarks.native_api [--json] [--out FILE]``. Starts a real server as a process of its own over a
tiny random Qwen2 model that it makes itself, so that the figures are those of the service and not of a
model. Needs no network.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from benchmarks.running_server import START_TIMEOUT_S, running, until
from eztinker import EZTinkerClient

MODEL = "benchmark"
NUM_ROUND_TRIPS = 200
NUM_HEALTH = 500
NUM_IMPORTS = 5
LONG_PASS = [[(7 * position) % 512 for position in range(256)]] * 8

MAKE_MODEL = """
import sys, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
)
Qwen2ForCausalLM(config).save_pretrained(sys.argv[1])
"""


def main() -> None:
    """Measure and report."""
    arguments = machine.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        folder = Path(temporary)
        machine.note("making a model …")
        subprocess.run([sys.executable, "-c", MAKE_MODEL, str(folder / "model")], check=True)
        figures: dict[str, Any] = {
            "import_eztinker_s": _import_s("import eztinker"),
            "import_client_s": _import_s("from eztinker import EZTinkerClient"),
            "import_torch_s": _import_s("import torch"),
        }
        machine.note("starting a server …")
        started_s = time.perf_counter()
        with running(folder, {MODEL: folder / "model"}) as url, EZTinkerClient(url) as client:
            figures["server_ready_s"] = _since(started_s)
            until(lambda: client.health().get("engine") == "ready")
            figures["engine_ready_s"] = _since(started_s)
            figures |= _measure(client, url)
        for name in ("server", "engine"):
            beyond_s = figures[f"{name}_ready_s"] - figures["import_torch_s"]
            figures[f"{name}_ready_minus_torch_s"] = round(beyond_s, 3)
    machine.report("native_api", figures, arguments)


def _measure(client: EZTinkerClient, url: str) -> dict[str, Any]:
    run_id = client.create_run(MODEL)
    machine.note("round trips …")
    round_trips_s = _round_trips(client, run_id)
    with httpx.Client(base_url=url) as http:
        idle_s = _health(http, at_least_s=0.0)
        machine.note("/health while a run trains …")
        with _training(url) as passes_s:
            until(lambda: len(passes_s) > 0)
            busy_s = _health(http, at_least_s=3.0)
    return {
        "one_token_forward_backward": machine.percentiles_ms(round_trips_s),
        "health_idle": machine.percentiles_ms(idle_s),
        "health_while_training": machine.percentiles_ms(busy_s),
        "training_pass_meanwhile": machine.percentiles_ms(passes_s),
    }


def _round_trips(client: EZTinkerClient, run_id: str) -> list[float]:
    """Seconds of a pass with a single label, from call to result."""
    durations_s = []
    for number in range(NUM_ROUND_TRIPS + 10):
        started_s = time.perf_counter()
        client.forward_backward(run_id, [5, 6], [-100, 6])
        if number >= 10:
            durations_s.append(time.perf_counter() - started_s)
    return durations_s


def _health(http: httpx.Client, *, at_least_s: float) -> list[float]:
    durations_s: list[float] = []
    begun_s = time.perf_counter()
    while len(durations_s) < NUM_HEALTH or time.perf_counter() - begun_s < at_least_s:
        started_s = time.perf_counter()
        http.get("/health").raise_for_status()
        durations_s.append(time.perf_counter() - started_s)
        # A monitor's pace, not a flood: the figure is a latency.
        time.sleep(0.002)
    return durations_s


@contextlib.contextmanager
def _training(url: str) -> Iterator[list[float]]:
    """Another client trains without pause; yields the growing list of its passes' seconds."""
    stop = threading.Event()
    passes_s: list[float] = []

    def train() -> None:
        with EZTinkerClient(url) as client:
            run_id = client.create_run(MODEL)
            data = [{"input_ids": tokens, "target_ids": tokens} for tokens in LONG_PASS]
            while not stop.is_set():
                started_s = time.perf_counter()
                client.forward_backward(run_id, data=data)
                passes_s.append(time.perf_counter() - started_s)
                client.optim_step(run_id)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        yield passes_s
    finally:
        stop.set()
        thread.join(timeout=START_TIMEOUT_S)


def _import_s(statement: str) -> float:
    """Least seconds of an import in a fresh interpreter, of a few tries."""
    program = (
        f"import time; started_s = time.perf_counter(); {statement}; "
        "print(time.perf_counter() - started_s)"
    )
    command = [sys.executable, "-c", program]
    tries = range(NUM_IMPORTS)
    return round(min(float(subprocess.check_output(command)) for _ in tries), 4)


def _since(started_s: float) -> float:
    return round(time.perf_counter() - started_s, 3)


if __name__ == "__main__":
    main()
