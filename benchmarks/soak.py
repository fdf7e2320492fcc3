"""Whether server or worker grow while they do the same again and again.

``python -m benchmarks.soak [--minutes 60] [--warm-up-minutes M] [--out FILE]``. Two clients in turn make a run, train and
sample it, save, load and delete checkpoints, and delete the run. What each process holds (anonymous memory, where
the system tells it; pages of files come and go) is noted after each round. Growth is that of the median of the
last fifth over the first fifth after the warm-up: caches fill once, a leak goes on.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from eztinker import EZTinkerClient
from tests.recovery.server_process import ServerProcess

DATA = [{"input_ids": [(7 * i + 3 * j) % 1400 + 20 for j in range(24 + i)]} for i in range(4)]
NUM_STEPS = 4


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--minutes", type=float, default=10.0, help="after the warm-up")
    options.add_argument("--warm-up-minutes", type=float, default=2.0)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder)).start()
        try:
            figures = _measure(server, arguments.warm_up_minutes * 60, arguments.minutes * 60)
        finally:
            server.close()
    machine.report("soak", figures, arguments)


def _measure(server: ServerProcess, warm_up_s: float, seconds: float) -> dict[str, Any]:
    held: list[tuple[float, dict[str, int]]] = []
    began_s = time.monotonic()
    num_rounds = 0
    with EZTinkerClient(server.url, timeout=120) as first, EZTinkerClient(server.url) as second:
        while (now_s := time.monotonic() - began_s) < warm_up_s + seconds:
            _round((first, second)[num_rounds % 2], num_rounds)
            num_rounds += 1
            if now_s >= warm_up_s:
                held.append((now_s, server.held_bytes()))
        health = first.health()
    return {
        "minutes": round(seconds / 60, 1),
        "rounds": num_rounds,
        "rounds_after_warm_up": len(held),
        "jobs": num_rounds * (2 * NUM_STEPS + 6),
        "worker_restarts": health["worker_restarts"],
        **{name: _growth([entry[name] for _, entry in held]) for name in held[0][1]},
    }


def _round(client: EZTinkerClient, number: int) -> None:
    run_id = client.create_run("nano", lora_rank=4, seed=number)
    for step in range(NUM_STEPS):
        client.forward_backward(run_id, data=DATA)
        client.optim_step(run_id, learning_rate=1e-3)
        if step == 1:
            client.save_checkpoint(run_id, "kept")
    client.sample(DATA[number % 4]["input_ids"], run_id=run_id, max_new_tokens=12, num_samples=2)
    client.load_checkpoint(run_id, "kept")
    client.sample(DATA[0]["input_ids"], run_id=run_id, checkpoint="kept", max_new_tokens=4)
    client.delete_checkpoint(run_id, "kept")
    client.delete_run(run_id)


def _growth(held_bytes: list[int]) -> dict[str, Any]:
    fifth = max(1, len(held_bytes) // 5)
    start, end = np.median(held_bytes[:fifth]), np.median(held_bytes[-fifth:])
    return {
        "start_mb": round(float(start) / 1e6, 1),
        "end_mb": round(float(end) / 1e6, 1),
        "growth_percent": round(100 * float(end / start - 1), 2),
    }


if __name__ == "__main__":
    main()
