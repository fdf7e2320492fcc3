"""The engine without server and client: training passes and decoding, per decoder and against its peers.

``python -m benchmarks.engine [--json] [--out FILE] [--rounds N]``. One thread, float32, the built-in base model,
LoRA r=8 on all linear layers. Three ways take turns in every round: ``lean`` (our decoder),
``transformers_modules`` (the engine on transformers' modules) and ``peer`` (PEFT with a padded batch and
full logits, or ``generate``). Figures are medians of wall and CPU time; on a shared machine the CPU time
and the ratios say more.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

import itertools
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks import machine
from eztinker.engine.worker import base_model
from eztinker.engine.worker.worker import Worker
from eztinker.types.commands import LoadBaseModel, OpenRun, RunPass, RunSample, WorkerSettings
from eztinker.types.events import JobDone, JobFailed
from eztinker.types.operations import Sample, TrainingPass
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import Datum, LoRAConfig, LossSpec

NUM_PROMPT = 32
NUM_NEW = 64
RANK = 8
MIXED_LENGTHS = [32 * (i + 1) for i in range(16)]
MIXED_PLAN = [list(range(15, 9, -1)), list(range(9, -1, -1))]
Way = Callable[[], object]


def main() -> None:
    """Measure every piece of work in turns and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="of the slowest work")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    folder = Path(str(files("eztinker.assets") / "nano"))
    engines = {"lean": Engine(folder), "transformers_modules": _without_lean(folder)}
    peer = Peer(folder)
    rounds = arguments.rounds
    figures: dict[str, Any] = {
        "model": {"hidden": 160, "layers": 6, "vocabulary": 1536, "rank": RANK, "threads": 1},
        "forward_backward_1_token": _training(engines, peer, [1], [[0]], 20 * rounds),
        "forward_backward_64_tokens": _training(engines, peer, [64], [[0]], 8 * rounds),
        "forward_backward_16_sequences_32_to_512": _training(
            engines, peer, MIXED_LENGTHS, MIXED_PLAN, rounds
        ),
    }
    for rows in (1, 32):
        figures[f"decode_step_{rows}_rows"] = _decoding(engines, peer, rows, rounds)
    machine.report("engine", figures, arguments)


def _training(
    engines: dict[str, Engine], peer: Peer, lengths: list[int], plan: list[list[int]], rounds: int
) -> dict[str, Any]:
    machine.note(f"forward_backward of {len(lengths)} sequences, {sum(lengths)} tokens …")
    data = [_datum(i, length) for i, length in enumerate(lengths)]
    ways: dict[str, Way] = {
        name: lambda engine=engine: engine.train(data, plan) for name, engine in engines.items()
    }
    ways["peer"] = lambda: peer.train(data)
    return _in_turns(ways, rounds, 1)


def _decoding(engines: dict[str, Engine], peer: Peer, rows: int, rounds: int) -> dict[str, Any]:
    machine.note(f"decoding {rows} rows …")
    ways: dict[str, Way] = {
        name: lambda engine=engine: engine.sample(rows) for name, engine in engines.items()
    }
    ways["peer"] = lambda: peer.generate(rows)
    return {"prefill_included": True, **_in_turns(ways, rounds, NUM_NEW)}


def _in_turns(ways: dict[str, Way], rounds: int, parts: int) -> dict[str, Any]:
    """Medians per part of a call, and how many times longer each way takes than ``lean``."""
    walls_s: dict[str, list[float]] = {name: [] for name in ways}
    cpus_s: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            way()
            cpus_s[name].append((time.process_time() - cpu_s) / parts)
            walls_s[name].append((time.perf_counter() - wall_s) / parts)
    lean_s = float(np.median(cpus_s["lean"]))
    return {
        name: {
            "wall_ms": round(1e3 * float(np.median(walls_s[name])), 3),
            "cpu_ms": round(1e3 * float(np.median(cpus_s[name])), 3),
            "cpu_ratio_to_lean": round(float(np.median(cpus_s[name])) / lean_s, 2),
        }
        for name in ways
    }


class Engine:
    """A worker in this thread with one run, or with several on the same base model.

    Args:
        folder: of the model.
        num_runs: with an adapter each.
        settings: of the worker, where they are to be others than one thread of a CPU in float32.
    """

    def __init__(self, folder: Path, num_runs: int = 1, **settings: Any) -> None:
        self._events: list[Any] = []
        chosen = {"device": "cpu", "num_threads": 1, "dtype": "float32"} | settings
        self._worker = Worker(WorkerSettings(epoch=1, **chosen), self._events.append)
        self._numbers = itertools.count(1)
        self._do(LoadBaseModel("m", str(folder)))
        config = LoRAConfig(r=RANK, lora_dropout=0.0)
        for run in range(num_runs):
            self._do(OpenRun(self._job_id(), f"r{run}", "m", config, 1 + run, None))

    def train(self, data: list[Datum], plan: list[list[int]], run: int = 0) -> None:
        """One pass with gradient."""
        operation = TrainingPass(data, LossSpec(), False)
        self._do(RunPass(self._job_id(), f"r{run}", operation, PassPlan(plan)), JobDone)

    def train_together(self, data_of_runs: list[list[Datum]]) -> None:
        """A pass of each run, as one micro-batch each, through the model together where they fit."""
        for run, data in enumerate(data_of_runs):
            operation = TrainingPass(data, LossSpec(), False)
            plan = PassPlan([list(range(len(data)))], may_share=True)
            self._worker.submit(RunPass(self._job_id(), f"r{run}", operation, plan))
        while self._worker.step():
            pass
        self._need_done()

    def answer(
        self, asks: Sequence[tuple[int | None, np.ndarray]], num_new: int, num_samples: int = 1
    ) -> None:
        """Answers of full length to prompts of runs, or of the bare model, all asked at once."""
        params = SamplingParams(max_tokens=num_new, stop_token_ids=())
        for run, prompt_T in asks:
            weights = WeightsRef("m", None if run is None else f"r{run}")
            operation = Sample(weights, prompt_T, params, num_samples)
            self._worker.submit(RunSample(self._job_id(), operation, None))
        while self._worker.step():
            pass
        self._need_done()

    def _need_done(self) -> None:
        """Refuse a failed job; signs of life may stand between the ends."""
        failed = [event for event in self._events if isinstance(event, JobFailed)]
        if failed:
            raise RuntimeError(f"The worker answered {failed[0]}.")
        del self._events[:-1]

    def sample(self, rows: int) -> None:
        """Answers of full length to one prompt."""
        params = SamplingParams(max_tokens=NUM_NEW, stop_token_ids=())
        operation = Sample(WeightsRef("m", "r0"), _tokens(0, NUM_PROMPT), params, rows)
        self._do(RunSample(self._job_id(), operation, None), JobDone)

    def _job_id(self) -> str:
        return f"job_{next(self._numbers):08x}"

    def _do(self, command: Any, expected: type | None = None) -> None:
        self._worker.submit(command)
        while self._worker.step():
            pass
        if expected is not None and not isinstance(self._events[-1], expected):
            raise RuntimeError(f"The worker answered {self._events[-1]}.")
        del self._events[:-1]


class Peer:
    """The same work with transformers and PEFT as their users write it."""

    def __init__(self, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        config = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        self._model = get_peft_model(model, config).eval()

    def train(self, data: list[Datum]) -> None:
        """Loss and gradients of a padded batch."""
        width = max(datum.num_tokens for datum in data)
        ids = torch.zeros(len(data), width, dtype=torch.int64)
        labels = torch.full((len(data), width), -100)
        for row, datum in enumerate(data):
            ids[row, : datum.num_tokens] = torch.from_numpy(datum.tokens_T.astype(np.int64))
            targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
            labels[row, : datum.num_tokens] = targets
        logits = self._model(input_ids=ids, attention_mask=(labels != -100).long()).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        self._model.zero_grad()
        loss.backward()

    @torch.no_grad()
    def generate(self, rows: int) -> None:
        """Answers of full length to one prompt."""
        ids = torch.from_numpy(_tokens(0, NUM_PROMPT).astype(np.int64))[None].expand(rows, -1)
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=NUM_NEW,
            min_new_tokens=NUM_NEW,
            pad_token_id=0,
        )


def _without_lean(folder: Path) -> Engine:
    """An engine on transformers' modules."""
    real = base_model.obstacle
    base_model.obstacle = lambda model: "switched off"
    try:
        return Engine(folder)
    finally:
        base_model.obstacle = real


def _tokens(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 1500, length).astype(np.int32)


def _datum(seed: int, length: int) -> Datum:
    ids = _tokens(seed, length + 1)
    return Datum(ids[:-1], {"target_tokens": ids[1:].astype(np.int64)})


if __name__ == "__main__":
    main()
