"""Several runs on one base model: together and one after another; training while clients poll.

``python -m benchmarks.tenants [--json] [--out FILE]``. A real server over the random model S, driven by
clients in threads. Eight runs (LoRA r=8) train one sequence of 64 tokens each, or generate 64 tokens each,
either all at once or each after the one before; both ways take turns. Then one run trains alone and while
eight clients ask for runs and health, each ten times a second, again by turns.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, process_memory, process_times, shapes
from benchmarks.running_server import running, until
from eztinker import EZTinkerClient

NUM_RUNS = NUM_POLLERS = 8
NUM_TOKENS = NUM_NEW = 64
POLL_PAUSE_S = 0.1
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
LONG = [np.random.default_rng(i).integers(1, 2048, 256).tolist() for i in range(8)]
Work = Callable[[str], object]


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=9, help="turns of each way")
    options.add_argument("--threads", type=int, default=0, help="of the worker; 0 is its default")
    arguments = options.parse_args()
    os.environ["EZTINKER_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        folder = shapes.write(Path(temporary) / "model", "S", torch.float32)
        with (
            running(folder.parent, {"benchmark": folder}) as url,
            EZTinkerClient(url, timeout=600) as client,
        ):
            until(lambda: client.health().get("engine") == "ready")
            figures = _measure(client, url, arguments.rounds)
    machine.report("tenants", figures, arguments)


def _measure(client: EZTinkerClient, url: str, rounds: int) -> dict[str, Any]:
    runs = [client.create_run("benchmark", lora_config=LORA, seed=i) for i in range(NUM_RUNS)]
    tokens = np.random.default_rng(0).integers(1, 2048, NUM_TOKENS).tolist()

    def train(run_id: str) -> None:
        client.forward_backward(run_id, tokens)
        client.optim_step(run_id)

    def pass_only(run_id: str) -> None:
        client.forward_backward(run_id, tokens)

    def generate(run_id: str) -> None:
        client.sample(tokens, NUM_NEW, run_id=run_id, num_samples=1, stop=[])

    machine.note("together and one after another …")
    return {
        "num_runs": NUM_RUNS,
        "num_tokens": NUM_TOKENS,
        "pass": _by_turns(runs, pass_only, rounds),
        "pass_and_step": _by_turns(runs, train, rounds),
        "decoding": _by_turns(runs, generate, rounds),
        "while_clients_poll": _while_polled(client, url, runs[0], rounds),
    }


def _by_turns(runs: list[str], work: Work, rounds: int) -> dict[str, Any]:
    together, apart = [], []
    with ThreadPoolExecutor(NUM_RUNS) as pool:
        for number in range(rounds + 1):
            taken = (
                _taken(lambda: list(pool.map(work, runs))),
                _taken(lambda: _each(runs, work)),
            )
            if number:  # the first turn warms up
                together.append(taken[0])
                apart.append(taken[1])
    (wall_s, cpu_s), (wall_apart_s, cpu_apart_s) = (
        np.median(taken, axis=0) for taken in (together, apart)
    )
    return {
        "together_ms": round(1e3 * float(wall_s), 1),
        "one_after_another_ms": round(1e3 * float(wall_apart_s), 1),
        "ratio": round(float(wall_apart_s / wall_s), 2),
        "worker_cpu_ratio": round(float(cpu_apart_s / cpu_s), 2),
    }


def _each(runs: list[str], work: Work) -> None:
    for run_id in runs:
        work(run_id)


def _while_polled(client: EZTinkerClient, url: str, run_id: str, rounds: int) -> dict[str, Any]:
    data = [{"input_ids": ids, "target_ids": ids} for ids in LONG]

    def step() -> None:
        client.forward_backward(run_id, data=data)
        client.optim_step(run_id)

    machine.note("training while clients poll …")
    step()
    alone, polled, num_polls = [], [], 0
    for _ in range(rounds):
        alone.append(_taken(step))
        with _pollers(url) as counts:
            polled.append(_taken(step))
            num_polls += sum(counts)
    (wall_s, cpu_s), (wall_polled_s, cpu_polled_s) = (
        np.median(taken, axis=0) for taken in (alone, polled)
    )
    return {
        "num_pollers": NUM_POLLERS,
        "polls_per_s": round(num_polls / sum(wall for wall, _ in polled), 1),
        "alone_ms": round(1e3 * float(wall_s), 1),
        "polled_ms": round(1e3 * float(wall_polled_s), 1),
        "throughput_share": round(float(wall_s / wall_polled_s), 2),
        "worker_cpu_share": round(float(cpu_s / cpu_polled_s), 2),
    }


@contextlib.contextmanager
def _pollers(url: str) -> Iterator[list[int]]:
    """Clients that ask without end, each after a short pause; yields how often each was answered."""
    stop = threading.Event()
    counts = [0] * NUM_POLLERS

    def poll(number: int) -> None:
        with EZTinkerClient(url) as client:
            while not stop.wait(POLL_PAUSE_S):
                client.get_runs() if number % 2 else client.health()
                counts[number] += 1

    threads = [threading.Thread(target=poll, args=(i,), daemon=True) for i in range(NUM_POLLERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _taken(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of the worker's CPU time."""
    pid = process_memory.worker_pid()
    started_s, cpu_before_s = time.perf_counter(), process_times.cpu_s(pid)
    work()
    return time.perf_counter() - started_s, process_times.cpu_s(pid) - cpu_before_s


if __name__ == "__main__":
    main()
