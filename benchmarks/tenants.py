"""Several runs on one base model: together and one after another; training while clients poll.

``python -m benchmarks.tenants [--json] [--out FILE]``. A real server over the random model S, driven by
clients in threads. Eight runs (LoRA r=8) train one sequence of 64 tokens each, or generate 64 tokens each,
either all at once or each after the one before; both ways take turns. Then one run trains alone and while
eight clients ask for runs and health, again by turns.
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

from benchmarks import machine, shapes
from benchmarks.running_server import running, until
from eztinker import EZTinkerClient

NUM_RUNS = NUM_POLLERS = 8
NUM_TOKENS = NUM_NEW = 64
POLL_PAUSE_S = 0.01
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
    together_s, apart_s = [], []
    with ThreadPoolExecutor(NUM_RUNS) as pool:
        for number in range(rounds + 1):
            durations = (
                _timed(lambda: list(pool.map(work, runs))),
                _timed(lambda: _each(runs, work)),
            )
            if number:  # the first turn warms up
                together_s.append(durations[0])
                apart_s.append(durations[1])
    return {
        "together_ms": machine.percentiles_ms(together_s)["p50_ms"],
        "one_after_another_ms": machine.percentiles_ms(apart_s)["p50_ms"],
        "ratio": round(float(np.median(apart_s) / np.median(together_s)), 2),
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
    alone_s, polled_s, num_polls = [], [], 0
    for _ in range(rounds):
        alone_s.append(_timed(step))
        with _pollers(url) as counts:
            polled_s.append(_timed(step))
            num_polls += sum(counts)
    return {
        "num_pollers": NUM_POLLERS,
        "polls_per_s": round(num_polls / sum(polled_s), 1),
        "alone_ms": machine.percentiles_ms(alone_s)["p50_ms"],
        "polled_ms": machine.percentiles_ms(polled_s)["p50_ms"],
        "throughput_share": round(float(np.median(alone_s) / np.median(polled_s)), 2),
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


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
