"""The books of memory: which base models and runs are resident, who needs them, and what must go for another.

Pure bookkeeping in bytes: it loads and unloads nothing and waits for nothing. A tenant is a base model in one
quantization, whatever its names. It is idle when no job holds it; idle ones that are not pinned go first,
those used longest ago before the others. Called by ``recovery.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eztinker.errors import OutOfMemoryError


@dataclass(slots=True, eq=False)
class Tenant:
    """A resident base model with its runs.

    Attributes:
        label: what people call it.
        size_bytes: its weights.
        is_pinned: never leaves.
        run_bytes: of each resident run on it.
        last_used: counts uses of the whole house.
    """

    label: str
    size_bytes: int
    is_pinned: bool
    run_bytes: dict[str, int] = field(default_factory=dict)
    last_used: int = 0

    @property
    def total_bytes(self) -> int:
        """Weights and runs."""
        return self.size_bytes + sum(self.run_bytes.values())


class Residency:
    """Tenants of one worker."""

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self._holders: dict[str, set[str]] = {}
        self._num_uses = 0

    def clear(self) -> None:
        """A new worker holds nothing; who needs what is as before."""
        self.tenants.clear()

    def hold(self, key: str, job_id: str) -> None:
        """A job needs a base model, resident or not, until ``release``."""
        self._holders.setdefault(key, set()).add(job_id)
        self._touch(key)

    def is_held_by(self, key: str, job_id: str) -> bool:
        """Whether a job needs this base model."""
        return job_id in self._holders.get(key, ())

    def release(self, job_id: str) -> None:
        """The job has ended."""
        for key in [key for key, jobs in self._holders.items() if job_id in jobs]:
            self._touch(key)
            self._holders[key].discard(job_id)
            if not self._holders[key]:
                del self._holders[key]

    def enter(self, key: str, label: str, size_bytes: int, *, is_pinned: bool) -> None:
        """A base model is in memory now, or a further name of it is pinned."""
        tenant = self.tenants.get(key)
        if tenant is None:
            tenant = self.tenants[key] = Tenant(label, size_bytes, is_pinned)
        tenant.is_pinned |= is_pinned
        self._touch(key)

    def leave(self, key: str) -> Tenant:
        """A base model is unloaded with its runs."""
        return self.tenants.pop(key)

    def add_run(self, key: str, run_id: str, size_bytes: int) -> None:
        """A run is resident on a base model."""
        if key in self.tenants:
            self.tenants[key].run_bytes[run_id] = size_bytes

    def remove_run(self, run_id: str) -> None:
        """A run is resident no more."""
        for tenant in self.tenants.values():
            tenant.run_bytes.pop(run_id, None)

    @property
    def taken_bytes(self) -> int:
        """What all tenants take together."""
        return sum(tenant.total_bytes for tenant in self.tenants.values())

    def least_taken_bytes(self, key: str) -> int:
        """What would still be taken if everyone left who may, for the tenant ``key``."""
        stay = (t for k, t in self.tenants.items() if k == key or t.is_pinned)
        return sum(tenant.total_bytes for tenant in stay)

    def make_room(
        self, key: str, needed_bytes: int, room_bytes: int, *, what: str
    ) -> list[str] | None:
        """The tenants that must leave so that ``needed_bytes`` more fit; None: not before someone is idle.

        Args:
            key: the tenant that the room is for; it stays.
            needed_bytes: what is to come.
            room_bytes: what all tenants together may take.
            what: is to come, for the refusal.

        Raises:
            OutOfMemoryError: it does not fit even if everyone leaves who may.
        """
        missing = self.taken_bytes + needed_bytes - room_bytes
        if missing <= 0:
            return []
        others = {k: t for k, t in self.tenants.items() if k != key and not t.is_pinned}
        if missing > sum(tenant.total_bytes for tenant in others.values()):
            raise OutOfMemoryError(
                f"{what} needs {gigabytes(needed_bytes)}, and of {gigabytes(room_bytes)} for models "
                f"{gigabytes(self.taken_bytes)} are taken{self._listing()}. Use quantization nf4, a "
                "smaller model or rank, or raise --memory-budget. 'eztinker estimate' shows the sum.",
                field="base_model",
                details={"needed_bytes": needed_bytes, "room_bytes": room_bytes},
            )
        victims = []
        for other in sorted(others, key=lambda k: others[k].last_used):
            if missing > 0 and other not in self._holders:
                victims.append(other)
                missing -= others[other].total_bytes
        return victims if missing <= 0 else None

    def _listing(self) -> str:
        parts = [
            f"{t.label} {gigabytes(t.total_bytes)}{' (pinned)' if t.is_pinned else ''}"
            for t in self.tenants.values()
        ]
        return f" ({', '.join(parts)})" if parts else ""

    def _touch(self, key: str) -> None:
        self._num_uses += 1
        if key in self.tenants:
            self.tenants[key].last_used = self._num_uses


def gigabytes(size_bytes: float) -> str:
    """A size for people: ``1.25 GB``, below a tenth of that in MB."""
    return f"{size_bytes / 1e9:.2f} GB" if abs(size_bytes) >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
