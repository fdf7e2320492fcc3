"""What durability costs a training step and an acknowledgement.

``python -m benchmarks.durability [--steps N] [--dir FOLDER] [--out FILE]``. Two real servers with the same run: the
program as it is, and ``forgetful_server.py``, which syncs nothing, journals in memory and takes no snapshots.
They take turns step by step, so that both see the same machine. A step is a pass over a batch and an optimizer
step, submitted together. Wall times are medians, since a busy machine stretches some of them at will; processor
time is that of server and worker over all steps, snapshots included.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from eztinker import EZTinkerClient
from tests.recovery.server_process import ServerProcess

NUM_SEQUENCES = 16
SEQUENCE_LENGTH = 128
WARM_UP_STEPS = 5
DATA = [
    {"input_ids": [(7 * i + 3 * j) % 1400 + 20 for j in range(SEQUENCE_LENGTH)]}
    for i in range(NUM_SEQUENCES)
]
PROGRAMS = {"durable": "eztinker", "forgetful": "benchmarks.forgetful_server"}


class Side:
    """One of the two servers, with a run."""

    def __init__(self, folder: Path, program: str) -> None:
        self._server = ServerProcess(folder, program=program).start()
        self._client = EZTinkerClient(self._server.url, timeout=120)
        self._run_id = self._client.create_run("nano", lora_rank=8, seed=7)
        self.acknowledged_s: list[float] = []
        self.steps_s: list[float] = []
        for _ in range(WARM_UP_STEPS):
            self.step()
        self.acknowledged_s.clear()
        self.steps_s.clear()
        self._cpu_before_s = self._server.cpu_s()

    def step(self) -> None:
        """Train one step; note how long the answers took."""
        began_s = time.perf_counter()
        trained = self._client.submit_forward_backward(self._run_id, data=DATA)
        told_s = time.perf_counter()
        stepped = self._client.submit_optim_step(self._run_id, learning_rate=1e-3)
        self.acknowledged_s += [told_s - began_s, time.perf_counter() - told_s]
        trained.result(timeout=120)
        stepped.result(timeout=120)
        self.steps_s.append(time.perf_counter() - began_s)

    @property
    def cpu_s(self) -> float:
        """Processor time of a step."""
        return (self._server.cpu_s() - self._cpu_before_s) / len(self.steps_s)

    def close(self) -> None:
        """End the server."""
        self._client.close()
        self._server.close()


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--dir", type=Path, default=Path.cwd(), help="where the state folders lie")
    arguments = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".benchmark-", dir=arguments.dir) as folder,
        contextlib.ExitStack() as open_sides,
    ):
        sides = {}
        for name, program in PROGRAMS.items():
            machine.note(f"starting the {name} server …")
            sides[name] = Side(Path(folder) / name, program)
            open_sides.callback(sides[name].close)
        for number in range(arguments.steps):
            for name in sorted(sides, reverse=number % 2 == 1):
                sides[name].step()
        figures = _figures(sides)
    machine.report("durability", figures, arguments)


def _figures(sides: dict[str, Side]) -> dict[str, Any]:
    durable, forgetful = sides["durable"], sides["forgetful"]
    step_s, step_without_s = (float(np.median(side.steps_s)) for side in (durable, forgetful))
    told_s, told_without_s = (
        float(np.median(side.acknowledged_s)) for side in (durable, forgetful)
    )
    cpus_s = {name: side.cpu_s for name, side in sides.items()}
    return {
        "tokens_per_step": NUM_SEQUENCES * SEQUENCE_LENGTH,
        "num_steps": len(durable.steps_s),
        "step": {name: machine.percentiles_ms(side.steps_s) for name, side in sides.items()},
        "share_of_step_percent": round(100 * (step_s - step_without_s) / step_s, 2),
        "step_cpu_ms": {name: round(1e3 * cpu_s, 2) for name, cpu_s in cpus_s.items()},
        "share_of_step_cpu_percent": round(
            100 * (cpus_s["durable"] - cpus_s["forgetful"]) / cpus_s["durable"], 2
        ),
        "acknowledgement": {
            name: machine.percentiles_ms(side.acknowledged_s) for name, side in sides.items()
        },
        "acknowledgement_cost_ms": round(1e3 * (told_s - told_without_s), 3),
    }


if __name__ == "__main__":
    main()
