"""Training passes in a worker without server: CPU time, the floor of their products, and where time goes.

``python -m benchmarks.passes [--json] [--out FILE] [--rounds N] [--only NAME …]``. One thread, float32, the
random model S, LoRA r=8 on all linear layers. Works that are compared take turns; figures are medians of CPU
time, which other processes disturb least, but for ``halves_2_threads``: two threads and wall time. The floor
is the arithmetic of the products divided by the rate at which this core multiplied matrices of such shapes
in the same run.
"""

from __future__ import annotations

import os

# Read when torch loads; as in a worker process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine, shapes
from benchmarks.engine import RANK, Engine
from eztinker.engine.planning import plan_pass
from eztinker.engine.worker import adapter_rows, lanes
from eztinker.engine.worker.allocator import keep_freed_memory
from eztinker.types.training import Datum

NUM_RUNS = 8
LENGTHS = [32 * (i + 1) for i in range(16)]
KINDS = {
    "products": ("addmm", "mm", "bmm", "baddbmm", "addmv", "mv", "linear_pointwise"),
    "attention": ("scaled_dot_product_flash_attention", "softmax"),
    "copies": ("copy_", "cat", "fill_", "zero_", "index_select", "index", "embedding"),
    "activation": ("silu", "silu_backward"),
}
Work = Callable[[], object]


def main() -> None:
    """Measure each piece of work and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=7, help="turns of each")
    options.add_argument("--only", nargs="+", choices=sorted(WORK), default=list(WORK))
    arguments = options.parse_args()
    keep_freed_memory()  # as a worker process does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        folder = shapes.write(Path(temporary), "S", torch.float32)
        engine = Engine(folder, NUM_RUNS)
        figures: dict[str, Any] = {"threads": 1, "rank": RANK}
        for name in arguments.only:
            machine.note(f"{name} …")
            figures[name] = WORK[name](engine, arguments.rounds)
    machine.report("passes", figures, arguments)


def _sft(engine: Engine, rounds: int) -> dict[str, Any]:
    data = [_datum(_tokens(i, length + 1)) for i, length in enumerate(LENGTHS)]
    plan = [list(range(15, 7, -1)), list(range(7, -1, -1))]
    return _against_floor(lambda: engine.train(data, plan), sum(LENGTHS), rounds)


def _one_token(engine: Engine, rounds: int) -> dict[str, Any]:
    data = [_datum(_tokens(0, 2))]
    return _in_turns({"pass": lambda: engine.train(data, [[0]])}, 20 * rounds)


def _tenants(num_tokens: int) -> Callable[[Engine, int], dict[str, Any]]:
    def measure(engine: Engine, rounds: int) -> dict[str, Any]:
        data = [[_datum(_tokens(i, num_tokens + 1))] for i in range(NUM_RUNS)]

        def apart() -> None:
            for run, own in enumerate(data):
                engine.train(own, [[0]], run)

        ways = {"together": lambda: engine.train_together(data), "one_after_another": apart}
        figures = _in_turns(ways, 3 * rounds)
        figures["ratio"] = round(figures["one_after_another_ms"] / figures["together_ms"], 2)
        figures["shares_together"] = shares(ways["together"])
        return figures

    return measure


def _alike(num_tokens: int) -> Callable[[Engine, int], dict[str, Any]]:
    """Eight runs together, with the adapters' products in batches and each by itself."""

    def measure(engine: Engine, rounds: int) -> dict[str, Any]:
        data = [[_datum(_tokens(i, num_tokens + 1))] for i in range(NUM_RUNS)]
        max_bytes = adapter_rows.MAX_BYTES

        def by_itself() -> None:
            adapter_rows.MAX_BYTES = 0
            try:
                engine.train_together(data)
            finally:
                adapter_rows.MAX_BYTES = max_bytes

        ways = {"in_batches": lambda: engine.train_together(data), "by_itself": by_itself}
        figures = _in_turns(ways, 3 * rounds)
        slow, fast = figures["by_itself_ms"], figures["in_batches_ms"]
        return {**figures, "ratio": round(slow / fast, 2)}

    return measure


def _prompts(num_prompt: int) -> Callable[[Engine, int], dict[str, Any]]:
    """Eight prompts with four answers of 64 tokens each; ``apart`` begins each answer's prompt differently."""

    def measure(engine: Engine, rounds: int) -> dict[str, Any]:
        shared, own = [], []
        for number in range(32):
            answer = _tokens(100 + number, 65)
            shared.append(_datum(np.concatenate([_tokens(number // 4, num_prompt), answer])))
            own.append(_datum(np.concatenate([_tokens(number, num_prompt), answer])))
        step = 4096 // (num_prompt + 64) // 4 * 4
        plan = [list(range(32))[start : start + step] for start in range(0, 32, step)]
        ways: dict[str, Work] = {
            "once_for_its_answers": lambda: engine.train(shared, plan),
            "every_prompt_four_times": lambda: engine.train(own, plan),
        }
        figures = _in_turns(ways, rounds)
        slow, fast = figures["every_prompt_four_times_ms"], figures["once_for_its_answers_ms"]
        return {**figures, "ratio": round(slow / fast, 2)}

    return measure


def _halves(engine: Engine, rounds: int) -> dict[str, Any]:
    """Wall time with two threads, a micro-batch as two halves side by side and as a whole."""
    data = [_datum(_tokens(i, length + 1)) for i, length in enumerate(LENGTHS)]
    plan = plan_pass(LENGTHS, budget_tokens=4096).micro_batches
    tenants = [[_datum(_tokens(i, 65))] for i in range(NUM_RUNS)]
    torch.set_num_threads(2)
    try:
        return {
            "sft_16_sequences": _halves_in_turns(lambda: engine.train(data, plan), rounds),
            "tenants_64_tokens": _halves_in_turns(
                lambda: engine.train_together(tenants), 3 * rounds
            ),
        }
    finally:
        torch.set_num_threads(1)


def _halves_in_turns(work: Work, rounds: int) -> dict[str, Any]:
    divided = lanes.divided

    def whole() -> None:
        lanes.divided = lambda sizes: [list(range(len(sizes)))]
        try:
            work()
        finally:
            lanes.divided = divided

    figures = _in_turns({"halves": work, "whole": whole}, rounds, time.perf_counter)
    return {**figures, "ratio": round(figures["whole_ms"] / figures["halves_ms"], 2)}


WORK: dict[str, Callable[[Engine, int], dict[str, Any]]] = {
    "sft_16_sequences": _sft,
    "one_token": _one_token,
    "tenants_64_tokens": _tenants(64),
    "tenants_128_tokens": _tenants(128),
    "alike_adapters_64_tokens": _alike(64),
    "alike_adapters_4_tokens": _alike(4),
    "shared_prompts_128_tokens": _prompts(128),
    "shared_prompts_32_tokens": _prompts(32),
    "halves_2_threads": _halves,
}


def _against_floor(work: Work, num_tokens: int, rounds: int) -> dict[str, Any]:
    figures = _in_turns({"pass": work}, rounds)
    num_flops, rate = _product_flops(num_tokens), flops_per_s()
    figures["product_gflop"] = round(num_flops / 1e9, 1)
    figures["core_gflop_per_s"] = round(rate / 1e9, 1)
    figures["floor_ms"] = round(1e3 * num_flops / rate, 1)
    figures["shares"] = shares(work)
    return figures


def _in_turns(
    ways: Mapping[str, Work], rounds: int, clock_s: Callable[[], float] = time.process_time
) -> dict[str, Any]:
    """Median milliseconds of each, of CPU time unless another clock is given."""
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    for _ in range(rounds):
        for name, work in ways.items():
            started_s = clock_s()
            work()
            taken_s[name].append(clock_s() - started_s)
    return {f"{name}_ms": round(1e3 * float(np.median(taken_s[name])), 2) for name in ways}


def shares(work: Work) -> dict[str, float]:
    """Share of operations in the time of some work by kind; ``between`` is what lies between operations."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        started_s = time.perf_counter()
        work()
        whole_us = 1e6 * (time.perf_counter() - started_s)
    sums = dict.fromkeys([*KINDS, "other_operations"], 0.0)
    for event in profiled.key_averages():
        sums[_kind(event.key)] += event.self_cpu_time_total
    sums["between"] = max(0.0, whole_us - sum(sums.values()))
    return {name: round(value / whole_us, 3) for name, value in sums.items()}


def _kind(operation: str) -> str:
    name = operation.rpartition("::")[2].strip("_")
    for kind, names in KINDS.items():
        if name in [known.strip("_") for known in names] or (
            kind == "attention" and name.startswith(names)
        ):
            return kind
    return "other_operations"


def _product_flops(num_tokens: int) -> float:
    """Arithmetic of all products of a pass: twice each weight's size for forward, again for backward."""
    config = shapes.config("S")
    hidden, inner, kv = config.hidden_size, config.intermediate_size, config.hidden_size // 2
    sizes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    sizes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    frozen = sum(a * b for a, b in sizes) * config.num_hidden_layers
    adapters = sum(RANK * (a + b) for a, b in sizes) * config.num_hidden_layers
    head = config.vocab_size * hidden
    # Adapters also take the gradient of their own weights.
    return 2.0 * num_tokens * (2 * frozen + 2 * head + 3 * adapters)


def flops_per_s(num_rows: int = 2048) -> float:
    """Best rate at which one thread multiplies the shapes of S."""
    rates = []
    for inputs, outputs in ((256, 2048), (1024, 256), (256, 512)):
        x, weight = torch.randn(num_rows, inputs), torch.randn(outputs, inputs)
        for _ in range(20):
            started_s = time.process_time()
            torch.nn.functional.linear(x, weight)
            rates.append(2 * num_rows * inputs * outputs / (time.process_time() - started_s))
    return float(np.percentile(rates, 90))


def _tokens(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 2048, length).astype(np.int32)


def _datum(ids: Sequence[int] | np.ndarray) -> Datum:
    ids = np.asarray(ids)
    return Datum(ids[:-1], {"target_tokens": ids[1:].astype(np.int64)})


if __name__ == "__main__":
    main()
