"""What every benchmark shares: facts about the machine, percentiles, and where the JSON goes.

Knows nothing of what is measured. Called by the benchmarks beside it. Figures go to stdout, for people or
with ``--json`` as one JSON object (and into ``--out FILE``), notes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]


def facts() -> dict[str, Any]:
    """CPU model, cores this process may use, load, Python, platform and the sources' revision."""
    return {
        "cpu": _cpu_model(),
        "num_cores": len(os.sched_getaffinity(0)),
        "load_1_minute": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "revision": _revision(),
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, 99th percentile and count of durations."""
    median_s, slow_s = np.percentile(seconds, [50, 99])
    return {
        "p50_ms": round(float(median_s) * 1e3, 3),
        "p99_ms": round(float(slow_s) * 1e3, 3),
        "count": len(seconds),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--out", type=Path, help="also write the JSON into this file")
    return options


def report(name: str, figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the figures, with ``--json`` as one JSON object with the machine's facts.

    Args:
        name: of the benchmark.
        figures: what was measured.
        arguments: as ``parser`` reads them.
    """
    text = json.dumps({"benchmark": name, "machine": facts(), "figures": figures}, indent=2)
    print(text if arguments.json else "\n".join(_lines(figures)))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


def _lines(figures: dict[str, Any], depth: int = 0) -> list[str]:
    lines = []
    for name, value in figures.items():
        indent = "  " * depth
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, depth + 1)]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def note(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _revision() -> str:
    """The commit, with ``+`` behind it when tracked files differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
