"""Computes the golden values: losses and gradient norms that must not drift from one revision to the next.

``make golden`` writes ``tests/golden/trajectories.json``; ``tests/golden`` compares. The runs start from
nano, which ships with the package, so nothing here is random. Change the file only with a change that is
meant to alter numbers, and say in its message why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from eztinker.engine.worker.worker import Worker
from eztinker.service.base_models import NANO_FOLDER
from eztinker.types.codec import decode
from eztinker.types.commands import LoadBaseModel, OpenRun, RunOptimStep, RunPass, WorkerSettings
from eztinker.types.events import Event, JobDone
from eztinker.types.losses import LOSSES
from eztinker.types.operations import OptimStep, PassResult, StepResult, TrainingPass
from eztinker.types.plans import PassPlan
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec

FILE = Path(__file__).parent.parent / "tests" / "golden" / "trajectories.json"
NUM_STEPS = 8
LENGTHS = (9, 24, 17, 40)
VOCAB_SIZE = 1536


def trajectories() -> dict[str, dict[str, list[float]]]:
    """For every loss the losses and gradient norms of eight steps on nano."""
    return {name: trajectory(name) for name in sorted(LOSSES)}


def trajectory(loss_fn: str) -> dict[str, list[float]]:
    """Losses and gradient norms of a rank-4 run with dropout, one loss function."""
    events: list[Event] = []
    worker = Worker(WorkerSettings(epoch=1, device="cpu", num_threads=1), events.append)

    def answer(command: LoadBaseModel | OpenRun | RunPass | RunOptimStep) -> Event:
        worker.submit(command)
        while worker.step():
            pass
        return events[-1]

    answer(LoadBaseModel("nano", str(NANO_FOLDER)))
    lora = LoRAConfig(r=4, lora_alpha=8, lora_dropout=0.1)
    answer(OpenRun("open", "golden", "nano", lora, seed=11))
    losses, norms = [], []
    for step in range(NUM_STEPS):
        operation = TrainingPass(_data(step), LossSpec(loss_fn, reduction="sum"))
        plan = PassPlan([[0, 1], [2, 3]])
        passed = answer(RunPass(f"pass{step}", "golden", operation, plan))
        adam = OptimStep(AdamParams(1e-3, weight_decay=0.01, grad_clip_norm=1.0))
        stepped = answer(RunOptimStep(f"step{step}", "golden", adam))
        assert isinstance(passed, JobDone), passed
        assert isinstance(stepped, JobDone), stepped
        losses.append(decode(passed.result, PassResult).loss)
        norms.append(decode(stepped.result, StepResult).grad_norm)
    return {"loss": losses, "grad_norm": norms}


def _data(step: int) -> list[Datum]:
    chance = np.random.default_rng(step)
    data = []
    for length in LENGTHS:
        tokens = chance.integers(5, VOCAB_SIZE, length + 1)
        inputs = {
            "target_tokens": tokens[1:].astype(np.int64),
            "weights": (np.arange(length) >= length // 3).astype(np.float32),
            "logprobs": chance.uniform(-9, -5, length).astype(np.float32),
            "advantages": chance.normal(size=length).astype(np.float32),
            "sequence_ratio_mask": np.ones(length, np.float32),
        }
        data.append(Datum(tokens[:-1].astype(np.int32), inputs))
    return data


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(trajectories(), indent=1) + "\n", encoding="utf-8")
    print(FILE.name, file=sys.stderr)


if __name__ == "__main__":
    main()
