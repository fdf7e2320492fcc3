"""How long a dead worker is missed: from SIGKILL to the next answer, and what importing torch is of that.

``python -m benchmarks.recovery [--rounds N] [--out FILE]``. A real server with a trained run; each round
kills the worker and asks for a forward pass at once. The import is timed in a process of its own in
every round, so that both see the same machine. Processor time, of the import and of the new worker up to its
answer, says what a busy machine hides: what is left beyond the import is what a quiet machine would wait for.
"""

from __future__ import annotations

import resource
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
    missed_s, imports_s, cpus_s, import_cpus_s = [], [], [], []
    with EZTinkerClient(server.url, timeout=120) as client:
        run_id = client.create_run("nano", lora_rank=8)
        for _ in range(NUM_STEPS):
            client.forward_backward(run_id, TOKENS)
            client.optim_step(run_id)
        for _ in range(num_rounds):
            import_s, import_cpu_s = _import_s()
            imports_s.append(import_s)
            import_cpus_s.append(import_cpu_s)
            server.kill_worker()
            started_s = time.perf_counter()
            client.forward(run_id, TOKENS)
            missed_s.append(time.perf_counter() - started_s)
            cpus_s.append(server.worker_cpu_s())
        health = client.health()
    beyond_s = np.array(missed_s) - np.array(imports_s)
    beyond_cpu_s = np.array(cpus_s) - np.array(import_cpus_s)
    return {
        "num_deaths": health["worker_restarts"],
        "replayed_operations": health["replayed_operations"],
        "replay_differences": health["replay_differences"],
        "until_the_next_answer": machine.percentiles_ms(missed_s),
        "import_of_torch": machine.percentiles_ms(imports_s),
        "beyond_the_import_p95_ms": round(float(np.percentile(beyond_s, 95)) * 1e3),
        "beyond_the_import_p50_ms": round(float(np.percentile(beyond_s, 50)) * 1e3),
        "worker_cpu": machine.percentiles_ms(cpus_s),
        "import_of_torch_cpu": machine.percentiles_ms(import_cpus_s),
        "cpu_beyond_the_import_p95_ms": round(float(np.percentile(beyond_cpu_s, 95)) * 1e3),
        "cpu_beyond_the_import_p50_ms": round(float(np.percentile(beyond_cpu_s, 50)) * 1e3),
    }


def _import_s() -> tuple[float, float]:
    """Wall and processor time of a process that imports torch."""
    before_s, started_s = _children_cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started_s, _children_cpu_s() - before_s


def _children_cpu_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
