"""How long a dead worker is missed: from SIGKILL to the next answer, and what importing torch is of that.

``python -m benchmarks.recovery [--rounds N] [--out FILE]``. A real server with a trained run; each round
kills the worker and asks for a forward pass at once. The import is timed in a process of its own in
every round, so that both see the same machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from eztinker import EZTinkerClient
from tests.recovery.server_process import ServerProcess

NUM_STEPS = 20
TOKENS = [(7 * i) % 200 + 20 for i in range(64)]


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder)).start()
        try:
            figures = _measure(server, arguments.rounds)
        finally:
            server.close()
    machine.report("recovery", figures, arguments)


def _measure(server: ServerProcess, num_rounds: int) -> dict[str, Any]:
    missed_s, imports_s = [], []
    with EZTinkerClient(server.url, timeout=120) as client:
        run_id = client.create_run("nano", lora_rank=8)
        for _ in range(NUM_STEPS):
            client.forward_backward(run_id, TOKENS)
            client.optim_step(run_id)
        for _ in range(num_rounds):
            imports_s.append(_import_s())
            server.kill_worker()
            started_s = time.perf_counter()
            client.forward(run_id, TOKENS)
            missed_s.append(time.perf_counter() - started_s)
        health = client.health()
    beyond_s = np.array(missed_s) - np.array(imports_s)
    return {
        "num_deaths": health["worker_restarts"],
        "replayed_operations": health["replayed_operations"],
        "replay_differences": health["replay_differences"],
        "until_the_next_answer": machine.percentiles_ms(missed_s),
        "import_of_torch": machine.percentiles_ms(imports_s),
        "beyond_the_import_p95_ms": round(float(np.percentile(beyond_s, 95)) * 1e3),
        "beyond_the_import_p50_ms": round(float(np.percentile(beyond_s, 50)) * 1e3),
    }


def _import_s() -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
