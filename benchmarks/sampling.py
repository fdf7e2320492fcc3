"""Sampling through a running server and the client, against ``generate`` of transformers, by turns.

``python -m benchmarks.sampling [--json] [--out FILE] [--rounds N] [--device cuda] [--only WORK ...]
[--vllm-python PYTHON]``. Two random models
(``benchmarks/shapes.py``): S in float32, L in bfloat16. In every round each way does the same piece of
work, with prompts of its own, so that nothing can be reused from the round before; while one works the
others are idle. Figures are medians of wall time and how many times longer the peer takes.

vLLM is a second peer where an interpreter is named that has it, for what arrives at once on a CPU: its engine without HTTP,
compiled, in float32, on all cores, with the OpenMP library that it recommends if its environment has that.
"""

from __future__ import annotations

import os

os.environ.pop("OMP_WAIT_POLICY", None)  # torch reads it; the peer's threads wait as it has them

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks import machine, shapes
from benchmarks.peer import Peer as PeerProcess
from benchmarks.peer import obstacle
from benchmarks.running_server import running, until
from eztinker import AsyncEZTinkerClient, EZTinkerClient
from eztinker.engine.worker.devices import num_physical_cores

NUM_ARRIVALS, ARRIVAL_S, STATIC_BATCH = 48, 0.02, 16
SHORT_ANSWER, LONG_ANSWER = 8, 40


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: prompt, tokens to generate, samples, seconds after the start when it arrives."""

    prompt_T: np.ndarray
    num_new: int
    num_samples: int = 1
    arrives_s: float = 0.0


Work = Callable[[int], list[Ask]]
"""Round -> requests."""


def main() -> None:
    """Measure every piece of work in turns and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="of each piece of work")
    options.add_argument("--device", default="cpu", help="of both: cpu, cuda")
    options.add_argument("--only", nargs="+", choices=sorted(WORKS), default=sorted(WORKS))
    options.add_argument("--vllm-python", metavar="PYTHON", help="interpreter that has vllm")
    arguments = options.parse_args()
    torch.set_num_threads(num_physical_cores())
    figures: dict[str, Any] = {}
    if arguments.vllm_python and (reason := obstacle(arguments.vllm_python, ("vllm",))):
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        dtypes: dict[shapes.Shape, torch.dtype] = {"S": torch.float32, "L": torch.bfloat16}
        for shape, dtype in dtypes.items():
            names = [name for name in arguments.only if WORKS[name][0] == shape]
            if names:
                folder = Path(temporary) / shape
                machine.note(f"making the model {shape} …")
                shapes.write(folder / "model", shape, dtype)
                figures |= _measure(folder, names, arguments)
    machine.report("sampling", figures, arguments)


def _measure(folder: Path, names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    rounds, device = arguments.rounds, arguments.device
    peer = Peer(folder / "model", device)
    figures: dict[str, Any] = {}
    dtype = str(peer.dtype).removeprefix("torch.")
    settings = {"EZTINKER_DEVICE": device, "EZTINKER_DTYPE": dtype}
    with ExitStack() as stack:
        url = stack.enter_context(running(folder, {"m": folder / "model"}, environment=settings))
        vllm = None
        if arguments.vllm_python and any(name in FOR_VLLM for name in names):
            machine.note("starting vLLM …")
            vllm = stack.enter_context(_vllm(arguments.vllm_python, folder / "model", dtype))
        with EZTinkerClient(url) as client:
            until(lambda: client.health().get("engine") == "ready")
        for name in names:
            machine.note(f"{name} …")
            shape, work = WORKS[name]
            if work is None:
                figures[name] = _decode_step(url, folder / "model", rounds, device)
            else:
                # A round on the large model takes as long as all of them on the small one.
                num_rounds = rounds if shape == "S" else max(1, rounds // 3)
                peers: dict[str, Callable[[list[Ask]], object]] = {"generate": peer.generate}
                if vllm is not None and name in FOR_VLLM:
                    peers["vllm"] = partial(_vllm_generate, vllm)
                figures[name] = _in_turns(url, peers, work, num_rounds)
    return figures


def _in_turns(
    url: str, peers: dict[str, Callable[[list[Ask]], object]], work: Work, rounds: int
) -> dict[str, Any]:
    ours_s: list[float] = []
    peers_s: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(rounds + 1):
        asks = work(number) if number else work(number)[:1]  # one request warms up
        ours = _timed(_sample, url, asks)
        theirs = {name: _timed(generate, asks) for name, generate in peers.items()}
        if number:
            ours_s.append(ours)
            for name, seconds in theirs.items():
                peers_s[name].append(seconds)
    figures: dict[str, Any] = {"ours_s": round(float(np.median(ours_s)), 3)}
    for name, seconds in peers_s.items():
        ratios = np.array(seconds) / np.array(ours_s)
        prefix = "" if name == "generate" else f"{name}_"
        figures |= {
            f"{name}_s": round(float(np.median(seconds)), 3),
            f"{prefix}ratio": round(float(np.median(ratios)), 2),
            f"{prefix}ratio_range": [round(float(ratios.min()), 2), round(float(ratios.max()), 2)],
        }
    return figures


def _vllm(python: str, model: Path, dtype: str) -> PeerProcess:
    """vLLM's engine over a model, on all cores of this process."""
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    library = Path(python).parents[1] / "lib" / "libiomp5.so"
    if library.is_file():
        environment["LD_PRELOAD"] = str(library)
    work = {"max_length": 512, "max_rows": 64}
    return PeerProcess(
        python, "vllm_peer.py", [str(model), dtype], work, num_physical_cores(), environment
    )


def _vllm_generate(vllm: PeerProcess, asks: list[Ask]) -> None:
    vllm.step(
        [
            {
                "prompt": ask.prompt_T.tolist(),
                "num_new": ask.num_new,
                "num_samples": ask.num_samples,
            }
            for ask in asks
        ]
    )


def _decode_step(url: str, model: Path, rounds: int, device: str) -> dict[str, Any]:
    """One step of one stream, from answers of two lengths; and the time to read the weights once."""
    steps_s, reads_s = [], []
    num_bytes = (model / "model.safetensors").stat().st_size
    block = torch.ones(num_bytes // 4, device=device)
    for number in range(rounds + 1):
        prompt_T = _tokens(("step", number), 16, 150_000)
        short, long = (
            _timed(_sample, url, [Ask(prompt_T, num_new)])
            for num_new in (SHORT_ANSWER, LONG_ANSWER)
        )
        reads_s.append(min(_timed(lambda: block.sum().item()) for _ in range(3)))
        if number:
            steps_s.append((long - short) / (LONG_ANSWER - SHORT_ANSWER))
    step_s, read_s = float(np.median(steps_s)), float(np.median(reads_s))
    return {
        "step_ms": round(1e3 * step_s, 1),
        "floor_ms": round(1e3 * read_s, 1),
        "gigabytes_per_s": round(num_bytes / read_s / 1e9, 1),
        "times_the_floor": round(step_s / read_s, 2),
    }


def _sample(url: str, asks: list[Ask]) -> None:
    asyncio.run(_sample_all(url, asks))


async def _sample_all(url: str, asks: list[Ask]) -> None:
    started_s = time.perf_counter()

    async def one(client: AsyncEZTinkerClient, number: int, ask: Ask) -> None:
        await asyncio.sleep(max(0.0, ask.arrives_s - (time.perf_counter() - started_s)))
        answers = await client.sample(
            ask.prompt_T.tolist(),
            ask.num_new,
            top_k=0,
            num_samples=ask.num_samples,
            seed=number,
        )
        if len(answers) != ask.num_samples:
            raise RuntimeError(f"{len(answers)} answers instead of {ask.num_samples}.")

    async with AsyncEZTinkerClient(url) as client:
        await asyncio.gather(*(one(client, i, ask) for i, ask in enumerate(asks)))


class Peer:
    """``generate`` of transformers, as its users write it."""

    def __init__(self, folder: Path, device: str) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        self._model: Any = model.eval().to(device)
        self._device = device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._model.dtype

    def generate(self, asks: list[Ask]) -> None:
        """Batches in the order of arrival, padded on the left, each as long as its longest answer."""
        started_s = time.perf_counter()
        per_batch = STATIC_BATCH if asks[-1].arrives_s else len(asks)
        for start in range(0, len(asks), per_batch):
            batch = asks[start : start + per_batch]
            time.sleep(max(0.0, batch[-1].arrives_s - (time.perf_counter() - started_s)))
            self._generate(batch)

    @torch.no_grad()
    def _generate(self, batch: list[Ask]) -> None:
        width, num_new = max(len(a.prompt_T) for a in batch), max(a.num_new for a in batch)
        ids_BT = torch.zeros(len(batch), width, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ask in enumerate(batch):
            ids_BT[row, width - len(ask.prompt_T) :] = torch.from_numpy(ask.prompt_T)
            mask_BT[row, width - len(ask.prompt_T) :] = 1
        self._model.generate(
            input_ids=ids_BT.to(self._device),
            attention_mask=mask_BT.to(self._device),
            do_sample=True,
            top_k=0,
            max_new_tokens=num_new,
            min_new_tokens=num_new,
            num_return_sequences=batch[0].num_samples,
            pad_token_id=0,
        )


def _timed(act: Callable[..., object], *arguments: object) -> float:
    started_s = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - started_s


def _tokens(seed: tuple[Any, ...], length: int, vocab_size: int = 2048) -> np.ndarray:
    numbers = [sum(map(ord, part)) if isinstance(part, str) else part for part in seed]
    return np.random.default_rng(numbers).integers(0, vocab_size, length)


def _equal(num_prompts: int, num_prompt: int, num_new: int, num_samples: int = 1) -> Work:
    """Prompts of one length, all at once."""

    def asks(number: int) -> list[Ask]:
        shape = (num_prompts, num_prompt, num_samples)
        return [
            Ask(_tokens((*shape, number, i), num_prompt), num_new, num_samples)
            for i in range(num_prompts)
        ]

    return asks


def _mixed(number: int) -> list[Ask]:
    """Prompts and answers of 16 to 256 tokens, one after another."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(16, 257, (NUM_ARRIVALS, 2))
    return [
        Ask(_tokens(("mixed", number, i), int(prompt)), int(new), 1, i * ARRIVAL_S)
        for i, (prompt, new) in enumerate(lengths)
    ]


WORKS: dict[str, tuple[shapes.Shape, Work | None]] = {
    "S_32_prompts_128_to_128": ("S", _equal(32, 128, 128)),
    "S_4_prompts_8_samples_128_to_128": ("S", _equal(4, 128, 128, 8)),
    "S_one_stream_128_to_128": ("S", _equal(1, 128, 128)),
    "S_48_mixed_lengths_over_time": ("S", _mixed),
    "L_decode_step": ("L", None),
    "L_8_prompts_8_samples_256_to_64": ("L", _equal(8, 256, 64, 8)),
}
FOR_VLLM = ("S_32_prompts_128_to_128", "S_4_prompts_8_samples_128_to_128")


if __name__ == "__main__":
    main()
