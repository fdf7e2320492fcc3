"""Sampling in a worker without server: CPU time of a decode step, its floor, and where time goes.

``python -m benchmarks.decoding [--json] [--out FILE] [--rounds N] [--only NAME …]``. One thread. On the random
model S (float32): answers of 128 tokens to prompts of 128 by the bare model, with one adapter (LoRA r=8 on all
linear layers) and by ``generate`` of transformers, by turns; and eight runs at once against one after
another. On L (bfloat16): a step against reading the weights once, and the share of drawing among 151,936
words. Figures are medians of CPU time per step, which other processes disturb least.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks import machine, shapes
from benchmarks.engine import RANK, Engine
from benchmarks.passes import flops_per_s, shares
from eztinker.engine.worker.allocator import keep_freed_memory
from eztinker.ops.sampling import RowParams, draw

NUM_RUNS = 8
NUM_PROMPT = NUM_NEW = 128
LARGE_PROMPT, LARGE_SHORT, LARGE_LONG = 16, 2, 10
"""Tokens of prompt and answers on L: a step is what eight more of them take."""
WORKS = {
    "32_prompts": (32, 1),
    "4_prompts_8_samples": (4, 8),
    "one_stream": (1, 1),
}
Work = Callable[[int], object]


def main() -> None:
    """Measure each piece of work and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="turns of each")
    names = [*(f"S_{name}" for name in WORKS), "S_eight_runs", "L"]
    options.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = options.parse_args()
    keep_freed_memory()  # as a worker process does
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"threads": 1, "rank": RANK, "unit": "CPU ms per decode step"}
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        small = [name for name in arguments.only if name != "L"]
        if small:
            folder = shapes.write(Path(temporary) / "S", "S", torch.float32)
            figures |= _small(folder, small, arguments.rounds)
        if "L" in arguments.only:
            folder = shapes.write(Path(temporary) / "L", "L", torch.bfloat16)
            figures["L"] = _large(folder, arguments.rounds)
    machine.report("decoding", figures, arguments)


def _small(folder: Path, names: list[str], rounds: int) -> dict[str, Any]:
    engine, peer = Engine(folder, NUM_RUNS), Peer(folder)
    figures: dict[str, Any] = {}
    for name in names:
        machine.note(f"{name} …")
        if name == "S_eight_runs":
            figures[name] = _eight_runs(engine, rounds)
            continue
        num_prompts, num_samples = WORKS[name.removeprefix("S_")]
        ways: dict[str, Work] = {
            "base": _answers(engine, num_prompts, num_samples, None),
            "adapter": _answers(engine, num_prompts, num_samples, 0),
            "generate": _generated(peer, num_prompts, num_samples),
        }
        figures[name] = _in_turns(ways, rounds, NUM_NEW)
        figures[name]["ratio"] = _ratio(figures[name], "generate", "base")
        figures[name]["ratio_with_adapter"] = _ratio(figures[name], "generate", "adapter")
        figures[name] |= _floors(folder, num_prompts * num_samples)
        figures[name]["shares"] = shares(lambda ways=ways: ways["base"](-1))
    return figures


def _answers(engine: Engine, num_prompts: int, num_samples: int, run: int | None) -> Work:
    def work(number: int) -> None:
        prompts = [_tokens((number, i, run is None), NUM_PROMPT) for i in range(num_prompts)]
        engine.answer([(run, prompt) for prompt in prompts], NUM_NEW, num_samples)

    return work


def _generated(peer: Peer, num_prompts: int, num_samples: int) -> Work:
    def work(number: int) -> None:
        prompts = [_tokens((number, i, 2), NUM_PROMPT) for i in range(num_prompts)]
        peer.generate(np.stack(prompts), num_samples)

    return work


def _eight_runs(engine: Engine, rounds: int) -> dict[str, Any]:
    """One row of each run, all at once and one after another; per step of all eight."""

    def together(number: int) -> None:
        asks = [(run, _tokens((number, run, 3), NUM_PROMPT)) for run in range(NUM_RUNS)]
        engine.answer(asks, NUM_NEW)

    def apart(number: int) -> None:
        for run in range(NUM_RUNS):
            engine.answer([(run, _tokens((number, run, 4), NUM_PROMPT))], NUM_NEW)

    figures = _in_turns({"together": together, "one_after_another": apart}, rounds, NUM_NEW)
    figures["ratio"] = _ratio(figures, "one_after_another", "together")
    figures["shares"] = shares(lambda: together(-1))
    return figures


def _large(folder: Path, rounds: int) -> dict[str, Any]:
    """A step of 1, 8 and 32 rows, the weights' reading, and drawing."""
    engine = Engine(folder, 0, dtype="bfloat16")
    num_bytes = (folder / "model.safetensors").stat().st_size
    read_ms = 1e3 * _read_s(num_bytes, 1 + 2 * rounds)
    figures: dict[str, Any] = {
        "read_weights_once_ms": round(read_ms, 1),
        "gigabytes_per_s": round(num_bytes / read_ms / 1e6, 1),
    }
    for rows in (1, 8, 32):
        machine.note(f"L, {rows} rows …")
        step_ms, draw_ms = _large_step_ms(engine, rows, rounds), _draw_ms(rows, rounds)
        figures[f"step_{rows}_rows"] = {
            "step_ms": round(step_ms, 1),
            "times_the_reading": round(step_ms / read_ms, 2),
            "draw_ms": round(draw_ms, 2),
            "share_of_the_draw": round(draw_ms / step_ms, 3),
        }
    return figures


def _large_step_ms(engine: Engine, rows: int, rounds: int) -> float:
    vocab_size = shapes.config("L").vocab_size

    def answer(number: int, num_new: int) -> float:
        prompts = [_tokens((number, i, num_new), LARGE_PROMPT, vocab_size) for i in range(rows)]
        asks = [(None, prompt) for prompt in prompts]
        return _cpu_s(lambda: engine.answer(asks, num_new))

    differences = [answer(i, LARGE_LONG) - answer(i, LARGE_SHORT) for i in range(rounds + 1)]
    return 1e3 * float(np.median(differences[1:])) / (LARGE_LONG - LARGE_SHORT)


def _draw_ms(rows: int, rounds: int) -> float:
    """Drawing at temperature 1 without filters."""
    vocab_size, device = shapes.config("L").vocab_size, torch.device("cpu")
    params = RowParams.build([1.0] * rows, [0] * rows, [1.0] * rows, vocab_size, device)
    logits_RV, numbers_R = torch.randn(rows, vocab_size), torch.rand(rows, dtype=torch.float64)
    with torch.inference_mode():
        draws_s = [_cpu_s(lambda: draw(logits_RV, params, numbers_R)) for _ in range(5 * rounds)]
    return 1e3 * float(np.median(draws_s))


class Peer:
    """``generate`` of transformers, as its users write it."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    @torch.no_grad()
    def generate(self, prompts_BT: np.ndarray, num_samples: int) -> None:
        """Answers of full length to prompts of one length."""
        ids_BT = torch.from_numpy(prompts_BT.astype(np.int64))
        self._model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            do_sample=True,
            top_k=0,
            max_new_tokens=NUM_NEW,
            min_new_tokens=NUM_NEW,
            num_return_sequences=num_samples,
            pad_token_id=0,
        )


def _in_turns(ways: Mapping[str, Work], rounds: int, steps: int) -> dict[str, Any]:
    """Median CPU milliseconds per step of each; every round has prompts of its own."""
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            seconds = _cpu_s(lambda work=work, number=number: work(number))
            if number:  # the first round warms up
                taken_s[name].append(seconds)
    return {
        f"{name}_ms": round(1e3 * float(np.median(s)) / steps, 3) for name, s in taken_s.items()
    }


def _floors(folder: Path, rows: int) -> dict[str, float]:
    """What a step cannot do without: the arithmetic of its products, and the weights read once."""
    num_bytes = (folder / "model.safetensors").stat().st_size
    flops = 2.0 * rows * num_bytes / 4
    return {
        "products_floor_ms": round(1e3 * flops / flops_per_s(), 3),
        "weights_floor_ms": round(1e3 * _read_s(num_bytes, 20), 3),
    }


def _read_s(num_bytes: int, times: int) -> float:
    """One core's time to read so much memory."""
    block = torch.ones(num_bytes // 4)
    return float(np.median([_cpu_s(lambda: block.sum().item()) for _ in range(times)]))


def _ratio(figures: Mapping[str, Any], slow: str, fast: str) -> float:
    return round(figures[f"{slow}_ms"] / figures[f"{fast}_ms"], 2)


def _cpu_s(act: Callable[[], object]) -> float:
    started_s = time.process_time()
    act()
    return time.process_time() - started_s


def _tokens(seed: tuple[int, ...], length: int, vocab_size: int = 2048) -> np.ndarray:
    numbers = [int(number) + 1 for number in seed]
    return np.random.default_rng(numbers).integers(10, vocab_size, length).astype(np.int32)


if __name__ == "__main__":
    main()
