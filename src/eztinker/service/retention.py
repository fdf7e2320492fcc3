"""Which checkpoints go when room is short or a rule says so: a pure plan, without clock, disk or database.

Rules work within a run: the newest few and the best few stay. Budgets bound the bytes of a run and of the
server. Never chosen: pinned ones, those that an accepted job will read, and, for a budget, the newest of
each run. Snapshots are counted, and are none of this file's business: a recovery needs them. Called by
``checkpoints.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eztinker.types.records import CheckpointRecord

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules and budgets; 0 means that there is none.

    Attributes:
        keep_last: so many of a run's newest checkpoints stay.
        keep_best: so many of a run's best by score stay beside them; alone, it ends the other scored ones.
        max_run_bytes: checkpoints and snapshots of one run.
        max_bytes: checkpoints and snapshots of all.
    """

    keep_last: int = 0
    keep_best: int = 0
    max_run_bytes: int = 0
    max_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it never ends anything."""
        return not (self.keep_last or self.keep_best or self.max_run_bytes or self.max_bytes)


@dataclass(frozen=True, slots=True)
class Doomed:
    """A checkpoint that goes, and by which rule."""

    checkpoint: CheckpointRecord
    reason: str


def plan(
    checkpoints: Sequence[CheckpointRecord],
    policy: Policy,
    *,
    in_use: Collection[Key] = (),
    snapshot_bytes: Mapping[str, int] | None = None,
) -> list[Doomed]:
    """What goes, in the order in which it is chosen.

    Args:
        checkpoints: oldest first.
        in_use: run and name of those that must not go now.
        snapshot_bytes: what each run's snapshots take.
    """
    snapshot_bytes = snapshot_bytes or {}
    runs: dict[str, list[CheckpointRecord]] = defaultdict(list)
    for checkpoint in checkpoints:
        runs[checkpoint.run_id].append(checkpoint)
    safe = {_key(entry) for entry in checkpoints if entry.is_pinned} | set(in_use)
    doomed: list[Doomed] = []
    for held in runs.values():
        safe |= {_key(entry) for entry in _best(held, policy.keep_best)}
        doomed += _by_rules(held, policy, safe)
    safe |= {_key(held[-1]) for held in runs.values()}
    for run_id, held in runs.items():
        doomed += _by_budget(
            _left(held, doomed),
            safe,
            policy.max_run_bytes,
            snapshot_bytes.get(run_id, 0),
            "max_run_storage_bytes",
        )
    doomed += _by_budget(
        _left(checkpoints, doomed),
        safe,
        policy.max_bytes,
        sum(snapshot_bytes.values()),
        "max_storage_bytes",
    )
    return doomed


def excess_bytes(
    checkpoints: Sequence[CheckpointRecord],
    policy: Policy,
    snapshot_bytes: Mapping[str, int],
) -> dict[str, int]:
    """By how much budgets are exceeded, by the settings' names; of runs, the largest excess.

    After the plan has been carried out only what it never chooses can exceed one.
    """
    used: dict[str, int] = defaultdict(int, snapshot_bytes)
    for checkpoint in checkpoints:
        used[checkpoint.run_id] += checkpoint.size_bytes
    most, total = max(used.values(), default=0), sum(used.values())
    excess = {
        "max_run_storage_bytes": most - policy.max_run_bytes if policy.max_run_bytes else 0,
        "max_storage_bytes": total - policy.max_bytes if policy.max_bytes else 0,
    }
    return {name: num_bytes for name, num_bytes in excess.items() if num_bytes > 0}


def _key(checkpoint: CheckpointRecord) -> Key:
    return checkpoint.run_id, checkpoint.name


def _best(held: Sequence[CheckpointRecord], count: int) -> list[CheckpointRecord]:
    """The highest scores; of equal ones the newer."""
    scored = [entry for entry in reversed(held) if entry.score is not None]
    return sorted(scored, key=lambda entry: -(entry.score or 0.0))[:count]


def _by_rules(
    held: Sequence[CheckpointRecord], policy: Policy, safe: Collection[Key]
) -> Iterable[Doomed]:
    if policy.keep_last:
        candidates, reason = held[: -policy.keep_last], f"keep_last {policy.keep_last}"
    elif policy.keep_best:
        candidates = [entry for entry in held[:-1] if entry.score is not None]
        reason = f"keep_best {policy.keep_best}"
    else:
        return []
    return [Doomed(entry, reason) for entry in candidates if _key(entry) not in safe]


def _left(held: Sequence[CheckpointRecord], doomed: Sequence[Doomed]) -> list[CheckpointRecord]:
    gone = {_key(entry.checkpoint) for entry in doomed}
    return [entry for entry in held if _key(entry) not in gone]


def _by_budget(
    held: Sequence[CheckpointRecord],
    safe: Collection[Key],
    budget_bytes: int,
    other_bytes: int,
    reason: str,
) -> list[Doomed]:
    """The oldest that may go, until the rest fits."""
    if not budget_bytes:
        return []
    doomed = []
    total = other_bytes + sum(entry.size_bytes for entry in held)
    for entry in held:
        if total <= budget_bytes:
            break
        if _key(entry) not in safe:
            doomed.append(Doomed(entry, reason))
            total -= entry.size_bytes
    return doomed
