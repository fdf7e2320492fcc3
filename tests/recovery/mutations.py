"""Break the promises on purpose and see that the tests notice.

``python -m tests.recovery.mutations [NAME …]``. Each mutation changes one place in a copy of the sources,
runs the tests that should notice, and is *noticed* when one of them fails. A table goes to stdout; the
exit code is the number of mutations that nobody noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
FAILPOINTS = (
    "tests/recovery/test_failpoints.py::test_a_death_of_the_server_at_any_place_is_not_seen"
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One way to break a promise.

    Attributes:
        path: below ``src/eztinker``.
        old: text that occurs once in it.
        new: what stands there instead.
        tests: those that should notice, as pytest names them.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "an operation applied twice",
        "store/jobs.py",
        '> after_seq))\n        .where((jobs.c.status == "completed")',
        '>= after_seq))\n        .where((jobs.c.status == "completed")',
        ("tests/unit/engine/test_loop.py", FAILPOINTS),
    ),
    Mutation(
        "a result committed twice",
        "store/log.py",
        ' & jobs.c.finished_at_s.is_(None))\n    .values(\n        {\n            name: sa.bindparam(f"new_',
        ')\n    .values(\n        {\n            name: sa.bindparam(f"new_',
        ("tests/unit/store/test_log.py",),
    ),
    Mutation(
        "a gradient lost in the replay",
        "engine/recovery.py",
        "        for job in jobs:\n",
        '        for job in jobs[1 if jobs and jobs[0].kind == "forward_backward" else 0 :]:\n',
        ("tests/unit/engine/test_loop.py", FAILPOINTS),
    ),
    Mutation(
        "no idempotency",
        "store/log.py",
        "    if row is None:\n        return None\n    _refuse_reuse(",
        "    if row is None or request.seq is None:\n        return None\n    _refuse_reuse(",
        ("tests/unit/store/test_log.py", FAILPOINTS),
    ),
    Mutation(
        "acknowledged before the commit",
        "store/database.py",
        '                failpoints.reach("commit.before")\n',
        "                [write.settle() for write in group]\n"
        '                failpoints.reach("commit.before")\n',
        ("tests/unit/store/test_database.py",),
    ),
    Mutation(
        "a damaged snapshot taken for whole",
        "store/blobs.py",
        "            if found != expected:\n",
        "            if not found:\n",
        ("tests/recovery/test_corruption.py::test_each_of_a_thousand_damages_is_found",),
    ),
    Mutation(
        "a snapshot under its name before it is whole",
        "store/blobs.py",
        "        _sync_folder(folder)\n        failpoints",
        "        failpoints",
        (
            "tests/recovery/test_power_cut.py::test_a_published_folder_is_durable_when_publish_returns",
        ),
    ),
    Mutation(
        "a folder's name not synced",
        "store/blobs.py",
        "    _sync_folder(target.parent)\n",
        "",
        (
            "tests/recovery/test_power_cut.py::test_a_published_folder_is_durable_when_publish_returns",
        ),
    ),
    Mutation(
        "a commit not synced",
        "store/database.py",
        '"FULL" if durability == "full"',
        '"OFF" if durability == "full"',
        ("tests/recovery/test_power_cut.py::test_acknowledged_work_survives_a_power_cut",),
    ),
    Mutation(
        "a dead worker's late word believed",
        "engine/supervisor.py",
        "        if event.epoch != self.epoch:\n            return",
        "        if event.epoch < 0:\n            return",
        ("tests/unit/engine/test_supervisor.py",),
    ),
    Mutation(
        "a job blamed beside others",
        "engine/loop.py",
        "num_deaths >= MAX_DEATHS and active.ticket.alone",
        "num_deaths >= MAX_DEATHS",
        ("tests/unit/engine/test_loop.py",),
    ),
    Mutation(
        "unfinished jobs forgotten at a restart",
        "store/jobs.py",
        "    query = sa.select(jobs).where(jobs.c.finished_at_s.is_(None)).order_by(jobs.c.number)\n",
        "    query = sa.select(jobs).where(jobs.c.finished_at_s < 0).order_by(jobs.c.number)\n",
        ("tests/unit/engine/test_loop.py",),
    ),
    Mutation(
        "no reserve for a full disk",
        "store/reserve.py",
        "        was_held, self._is_held = self._is_held, False\n",
        "        return False\n",
        ("tests/recovery/test_disk_full.py",),
    ),
)


def is_noticed(mutation: Mutation, folder: Path) -> bool:
    """Whether one of the tests fails on the broken copy."""
    for name in ("src", "tests", "pyproject.toml"):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    path = folder / "src" / "eztinker" / mutation.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.path} has changed; mend the mutation")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, *PYTEST, *mutation.tests, *_options(mutation)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutation.name}: the tests did not run\n{done.stdout[-2000:]}")
    return done.returncode == 1


def _options(mutation: Mutation) -> tuple[str, ...]:
    """What CI leaves out of the tests."""
    return ("--cuts", "3") if any("power_cut" in name for name in mutation.tests) else ()


def main(names: list[str]) -> int:
    """Try the mutations of these names, or all; how many went unnoticed."""
    num_unnoticed = 0
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            noticed = is_noticed(mutation, Path(folder))
        num_unnoticed += not noticed
        print(f"{'noticed' if noticed else 'NOT NOTICED':<12} {mutation.name}", flush=True)
    return num_unnoticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
