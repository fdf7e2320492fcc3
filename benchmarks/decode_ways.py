"""Ways of computing a decode step on S, by turns in one process, without server: wall and CPU time, two threads.

``python -m benchmarks.decode_ways [--json] [--out FILE] [--rounds N] [--threads N] [--only WORK …]``. Python runs
every operation and threads share each (``python``); torch's interpreter runs the layers (``interpreted``); that, and
what is wide enough is computed as two halves side by side, prompts too (``halves``, the engine's own way). Milliseconds per
token of each row, its share of reading the prompts included; medians and least times.
"""

from __future__ import annotations

import os

# Read when torch loads; as in a worker process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, shapes
from benchmarks.engine import Engine
from eztinker.engine.worker import decode_step, lanes
from eztinker.engine.worker.allocator import keep_freed_memory
from eztinker.engine.worker.decode_layers import DecodeLayers

NUM_PROMPT = NUM_NEW = 128
WORKS = {
    "one_stream": (1, 1, None),
    "8_prompts": (8, 1, None),
    "16_prompts": (16, 1, None),
    "32_prompts": (32, 1, None),
    "32_prompts_one_adapter": (32, 1, 0),
    "4_prompts_8_samples": (4, 8, None),
}
WAYS = ("python", "interpreted", "halves")


def main() -> None:
    """Measure each piece of work and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="turns of each")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    options.add_argument("--fewest-rows", type=int, default=decode_step.FEWEST_ROWS)
    arguments = options.parse_args()
    keep_freed_memory()  # as a worker process does
    figures: dict[str, Any] = {"threads": arguments.threads, "unit": "ms per token of each row"}
    figures["fewest_rows"] = arguments.fewest_rows
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        engine = Engine(shapes.write(Path(temporary) / "S", "S", torch.float32))
        torch.set_num_threads(arguments.threads)
        for name in arguments.only:
            machine.note(f"{name} …")
            figures[name] = _in_turns(engine, name, arguments)
    machine.report("decode_ways", figures, arguments)


def _in_turns(engine: Engine, name: str, arguments: Any) -> dict[str, Any]:
    num_prompts, num_samples, run = WORKS[name]
    walls_s: dict[str, list[float]] = {way: [] for way in WAYS}
    cpus_s: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for place, way in enumerate(WAYS):
            asks = [(run, _tokens(number, place, i)) for i in range(num_prompts)]
            restore = _take(way, arguments.fewest_rows)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            engine.answer(asks, NUM_NEW, num_samples)
            if number:  # the first round warms up
                walls_s[way].append(time.perf_counter() - wall_s)
                cpus_s[way].append(time.process_time() - cpu_s)
            restore()
    return {
        way: {
            "wall_ms": _ms(np.median(walls_s[way])),
            "least_wall_ms": _ms(min(walls_s[way])),
            "cpu_ms": _ms(np.median(cpus_s[way])),
            "python_over_this": round(
                float(np.median(walls_s["python"]) / np.median(walls_s[way])), 2
            ),
        }
        for way in WAYS
    }


def _take(way: str, fewest_rows: int) -> Callable[[], None]:
    """Have steps computed in a way; what brings the engine's own back."""
    real = DecodeLayers.sees_all, decode_step.FEWEST_ROWS, lanes.divided

    def restore() -> None:
        DecodeLayers.sees_all, decode_step.FEWEST_ROWS, lanes.divided = real  # type: ignore[method-assign]

    decode_step.FEWEST_ROWS = fewest_rows
    if way != "halves":
        decode_step.FEWEST_ROWS = 10**9
        lanes.divided = lambda sizes: [list(range(len(sizes)))]
    if way == "python":
        DecodeLayers.sees_all = lambda self, layout: False  # type: ignore[method-assign]
    return restore


def _ms(seconds: float) -> float:
    return round(1e3 * float(seconds) / NUM_NEW, 3)


def _tokens(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 2048, NUM_PROMPT).astype(np.int32)


if __name__ == "__main__":
    main()
