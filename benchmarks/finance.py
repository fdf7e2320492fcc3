"""The finance pipeline on generated questions: how long its stages take, and what its ablation shows, for some seeds.

``python -m benchmarks.finance --out FILE``: the whole demonstration once with every arm; ``--seeds 42 43 44 --arms
base,sft,sft_grpo`` repeats the three arms of the pipeline itself. A server of its own for each seed, in a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import note, parser, report
from eztinker import EZTinkerClient
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.finance import ablation, arms, demo
from eztinker.recipes.terminal import TerminalProgress


def main() -> None:
    """Run and report."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[42])
    options.add_argument("--arms", default=",".join(arms.NAMES))
    options.add_argument("--questions", type=int, default=1500)
    arguments = options.parse_args()
    runs = {str(seed): _run(seed, arguments) for seed in arguments.seeds}
    figures: dict[str, Any] = {"questions": arguments.questions, "seeds": runs}
    if len(runs) > 1:
        figures["mean over seeds"] = _means(list(runs.values()))
    report("finance", figures, arguments)


def _run(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One demonstration: its figures without paths, and its seconds."""
    note(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.monotonic()
        values = {
            "output_dir": Path(folder) / "demo",
            "num_questions": arguments.questions,
            "arms": arguments.arms,
            "seed": seed,
        }
        config = make_settings(demo.Config, values)
        with EZTinkerClient.embedded("nano", state_dir=Path(folder) / "server") as client:
            found = demo.run(config, client, TerminalProgress())
        kept = {name: value for name, value in found.items() if not isinstance(value, str)}
        return kept | {"seconds": round(time.monotonic() - started_s, 1)}


def _means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, smallest and largest share of every arm over the seeds."""
    names = [name for name, value in runs[0].items() if isinstance(value, dict)]
    return {
        name: {
            key: [
                statistics.fmean(run[name][key] for run in runs),
                min(run[name][key] for run in runs),
                max(run[name][key] for run in runs),
            ]
            for key in ablation.SHARES
        }
        for name in names
    }


if __name__ == "__main__":
    main()
