"""Memory: what ``eztinker estimate`` predicts, and the largest resident set that the system saw.

``python -m benchmarks.memory [--out FILE] [--model FOLDER …] [--only NAME …]``. One process for each case, so
that its largest resident set is its own: the engine loads a model, makes a run (LoRA r=8, dropout 0.05),
trains two steps on one micro-batch and generates. Models: the built-in one, a random one of the shape of
Qwen2-0.5B that this script writes (about 1 GB, into a temporary folder), and those named by ``--model``.
Pages of the model's own files are left out on both sides: the system takes them back when it needs them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from eztinker.engine.machine_memory import machine_memory_bytes
from eztinker.engine.memory_model import Estimate, compute_dtype, estimate, room_for_models
from eztinker.engine.model_shape import read_shape
from eztinker.types.commands import (
    LoadBaseModel,
    OpenRun,
    RunOptimStep,
    RunPass,
    RunSample,
    WorkerSettings,
)
from eztinker.types.events import BaseModelLoaded, JobDone
from eztinker.types.operations import OptimStep, Sample, TrainingPass
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec

RANK = 8
SMALL_WORK = {"batch": 8, "seq_len": 256, "num_samples": 16}
LARGE_WORK = {"batch": 4, "seq_len": 256, "num_samples": 4}
NUM_NEW = 32
QUANTIZATIONS = ("none", "nf4", "int8")


def main() -> None:
    """Measure every case in a process of its own and report."""
    options = machine.parser(__doc__)
    options.add_argument("--model", type=Path, action="append", default=[], help="a further folder")
    options.add_argument("--only", action="append", help="models by name; default all")
    options.add_argument("--case", help="internal: measure one case in this process")
    arguments = options.parse_args()
    if arguments.case:
        print(json.dumps(measure(**json.loads(arguments.case))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        models = {"nano": Path(str(files("eztinker.assets") / "nano"))}
        models |= {path.resolve().name: path for path in arguments.model}
        models["qwen2_0.5b_shape"] = Path(temporary) / "large"
        wanted = {n: p for n, p in models.items() if not arguments.only or n in arguments.only}
        if "qwen2_0.5b_shape" in wanted:
            machine.note("writing a random model of the shape of Qwen2-0.5B …")
            write_large(wanted["qwen2_0.5b_shape"])
        figures = {name: _all_kinds(name, folder) for name, folder in wanted.items()}
    errors = [abs(case["error"]) for kinds in figures.values() for case in kinds.values()]
    figures["largest_error"] = max(errors)
    machine.report("memory", figures, arguments)


def _all_kinds(name: str, folder: Path) -> dict[str, Any]:
    figures = {}
    for quantization in QUANTIZATIONS:
        machine.note(f"{name}, {quantization} …")
        case = {"folder": str(folder), "quantization": quantization}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(case)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        figures[quantization] = json.loads(done.stdout.splitlines()[-1])
    return figures


def write_large(folder: Path) -> None:
    """A random model of the shape of Qwen2-0.5B, bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def measure(folder: str, quantization: Any) -> dict[str, Any]:
    """Predict, do the work, and read what it took."""
    shape = read_shape(Path(folder))
    dtype = compute_dtype("auto", "cpu", shape.num_parameters)
    work = LARGE_WORK if shape.num_parameters > 100_000_000 else SMALL_WORK
    predicted = estimate(
        shape,
        quantization=quantization,
        dtype=dtype,
        rank=RANK,
        batch=work["batch"],
        seq_len=work["seq_len"],
        room_bytes=room_for_models(machine_memory_bytes(), 0, "cpu"),
    )
    watch = _Watch()
    measured, seconds = _work(folder, quantization, watch, **work)
    peak = watch.stop()
    copies = measured.pop("packed_copies_bytes")
    return {
        "work": work,
        "predicted_mb": _mb(predicted),
        "measured_mb": {**measured, "peak": round(peak / 1e6)},
        "packed_copies_mb": round(copies / 1e6),
        "error": round(predicted.peak / peak - 1, 3),
        "seconds": seconds,
    }


def _mb(predicted: Estimate) -> dict[str, Any]:
    parts = ("engine", "weights", "loading", "run", "training", "sampling", "resident", "peak")
    return {"dtype": predicted.dtype} | {p: round(getattr(predicted, p) / 1e6) for p in parts}


def _work(
    folder: str, quantization: Any, watch: _Watch, *, batch: int, seq_len: int, num_samples: int
) -> tuple[dict[str, int], dict[str, float]]:
    measured, seconds = {}, {}
    engine = _Engine()

    def timed(name: str, work: Callable[[], object]) -> None:
        start_s = time.perf_counter()
        work()
        seconds[name] = round(time.perf_counter() - start_s, 2)
        measured[f"after_{name}"] = round(anonymous_bytes() / 1e6)
        measured[f"peak_until_{name}"] = round(watch.peak_bytes / 1e6)

    measured["engine"] = round(anonymous_bytes() / 1e6)
    timed("load", lambda: engine.load(folder, quantization))
    measured["packed_copies_bytes"] = engine.packed_copies_bytes
    for step in ("first_step", "second_step"):
        timed(step, lambda: engine.train(batch, seq_len))
    timed("sample", lambda: engine.sample(num_samples, seq_len - NUM_NEW))
    return measured, seconds


class _Engine:
    """A worker in this thread."""

    def __init__(self) -> None:
        from eztinker.engine.worker.worker import Worker

        self._events: list[Any] = []
        settings = WorkerSettings(epoch=1, device="cpu", num_threads=1)
        self._worker = Worker(settings, self._events.append)

    def load(self, folder: str, quantization: Any) -> None:
        self._do(LoadBaseModel("m", folder, quantization), BaseModelLoaded)
        lora = LoRAConfig(r=RANK, lora_dropout=0.05)
        self._do(OpenRun("open", "r", "m", lora, 1, quantization=quantization), JobDone)

    @property
    def packed_copies_bytes(self) -> int:
        """Memory of the copies of weights that are laid out for products."""
        (base,) = self._worker._residents.base_models.values()
        return base.decoder.held_bytes - base.decoder.size_bytes

    def train(self, batch: int, seq_len: int) -> None:
        data = []
        for i in range(batch):
            ids = _tokens(i, seq_len + 1)
            data.append(Datum(ids[:-1], {"target_tokens": ids[1:].astype(np.int64)}))
        plan = PassPlan([list(range(batch))])
        self._do(RunPass("p", "r", TrainingPass(data, LossSpec()), plan), JobDone)
        self._do(RunOptimStep("s", "r", OptimStep(AdamParams())), JobDone)

    def sample(self, num_rows: int, num_prompt: int) -> None:
        params = SamplingParams(max_tokens=NUM_NEW, stop_token_ids=())
        operation = Sample(WeightsRef("m", "r"), _tokens(0, num_prompt), params, num_rows)
        self._do(RunSample("q", operation), JobDone)

    def _do(self, command: Any, expected: type) -> None:
        self._worker.submit(command)
        while self._worker.step():
            pass
        assert isinstance(self._events[-1], expected), self._events[-1]
        self._events.clear()


def _tokens(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 500, length).astype(np.int32)


def anonymous_bytes() -> int:
    """Resident memory of this process that is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This benchmark reads /proc/self/status, which only Linux has.")


class _Watch:
    """Looks at the resident set every few milliseconds, from a thread."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._is_over.set()
        self._thread.join()
        return self.peak_bytes

    def _look(self) -> None:
        while not self._is_over.wait(0.003):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())


if __name__ == "__main__":
    main()
