"""A decode step whose operations are recorded as one CUDA graph, against the same launched one by one, by turns.

``python -m benchmarks.decode_graphs [--json] [--out FILE] [--rounds N] [--device cuda] [--only SHAPE …]``. A worker
without server and client; the random models S and L in bfloat16; rows of the bare model, of one run (LoRA r=8
on all linear layers) and of eight runs at once. Figures are medians of wall time per step, from answers of
two lengths to prompts of 16 tokens, recording included. On a CPU nothing is recorded: both ways are the
same there, which tries this script and measures nothing.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, shapes
from benchmarks.engine import Engine

NUM_RUNS = 8
NUM_PROMPT, SHORT, LONG = 16, 8, 136
"""Tokens; the long answers outgrow what a first recording serves."""
WORKS: dict[str, list[int | None]] = {
    "1_row": [None],
    "8_rows": [None] * 8,
    "32_rows": [None] * 32,
    "8_rows_of_a_run": [0] * 8,
    "8_runs": list(range(NUM_RUNS)),
}
"""Of each row its run, or None."""


def main() -> None:
    """Measure every piece of work in turns and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="turns of each way")
    options.add_argument("--device", default="cuda", help="cuda or cpu")
    options.add_argument("--only", nargs="+", choices=("S", "L"), default=["S", "L"])
    arguments = options.parse_args()
    figures: dict[str, Any] = {"device": arguments.device, "unit": "wall ms per decode step"}
    for shape in arguments.only:
        with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
            folder = shapes.write(Path(temporary) / shape, shape, torch.bfloat16)
            vocab_size = shapes.config(shape).vocab_size
            ways = {
                name: Engine(
                    folder,
                    NUM_RUNS,
                    device=arguments.device,
                    dtype="bfloat16",
                    cuda_graphs=name == "recorded",
                )
                for name in ("recorded", "launched")
            }
            for name, runs in WORKS.items():
                machine.note(f"{shape}, {name} …")
                figures[f"{shape}_{name}"] = _in_turns(ways, runs, vocab_size, arguments.rounds)
    machine.report("decode_graphs", figures, arguments)


def _in_turns(
    ways: dict[str, Engine], runs: list[int | None], vocab_size: int, rounds: int
) -> dict[str, float]:
    steps_s: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, engine in ways.items():
            step_s = _step_s(engine, runs, vocab_size, number)
            if number:  # the first round warms up
                steps_s[name].append(step_s)
    figures = {f"{name}_ms": round(1e3 * float(np.median(s)), 3) for name, s in steps_s.items()}
    ratios = np.array(steps_s["launched"]) / np.array(steps_s["recorded"])
    return figures | {"ratio": round(float(np.median(ratios)), 2)}


def _step_s(engine: Engine, runs: list[int | None], vocab_size: int, number: int) -> float:
    short_s, long_s = (
        _answer_s(engine, runs, vocab_size, (number, num_new), num_new) for num_new in (SHORT, LONG)
    )
    return (long_s - short_s) / (LONG - SHORT)


def _answer_s(
    engine: Engine, runs: list[int | None], vocab_size: int, seed: tuple[int, int], num_new: int
) -> float:
    rng = np.random.default_rng(seed)
    prompts_RT = rng.integers(10, vocab_size, (len(runs), NUM_PROMPT)).astype(np.int32)
    started_s = time.perf_counter()
    engine.answer(list(zip(runs, prompts_RT, strict=True)), num_new)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
