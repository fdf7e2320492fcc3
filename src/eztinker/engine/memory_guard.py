"""Lets base models, runs and passes into the worker's memory only if they fit, and sends idle models away.

Predicts with ``memory_model.py``, keeps the books in ``residency.py``. A model that fits once others have left
waits for them to become idle; one that never fits is refused with the sum. Knows no log and no queue. Called
by ``recovery.py`` and ``actions.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from eztinker.config import ServerConfig
from eztinker.engine.memory_model import (
    QUANTIZATION_BYTES,
    UNBOUNDED,
    DType,
    activation_bytes_per_token,
    cache_tokens,
    compute_dtype,
    copies_bytes,
    least_cache_bytes,
    loading_bytes,
    num_copies,
    room_for_models,
    run_bytes,
    training_bytes,
    weights_bytes,
)
from eztinker.engine.model_shape import ModelShape, read_shape
from eztinker.engine.residency import Residency, gigabytes
from eztinker.engine.supervisor import Supervisor
from eztinker.errors import OutOfMemoryError
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import LoRAConfig, Quantization, resident_key

log = logging.getLogger(__name__)


def key_of(base: BaseModelRecord, quantization: Quantization) -> str:
    """What the books call a model: its folder, whatever its names, and how it is held."""
    return resident_key(base.folder, quantization)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a base model may take beside its weights.

    Attributes:
        num_copies: of its weights, in a layout of their own, at most.
        cache_tokens: positions in its key-value cache; 0 where nobody knows the room.
    """

    num_copies: int
    cache_tokens: int


_STAND_BACK_S = 0.1
_UNMEASURED = Allowance(num_copies=3, cache_tokens=0)


@dataclass(frozen=True, slots=True)
class _Guest:
    """A resident run."""

    key: str
    lora: LoRAConfig


class MemoryGuard:
    """The memory of one worker after another.

    Args:
        config: of the server.
        supervisor: its worker says how much memory there is.
        unload: sends a model and its runs away, by key.
        shape_of: the shape of the model in a folder.
    """

    def __init__(
        self,
        config: ServerConfig,
        supervisor: Supervisor,
        unload: Callable[[str], Awaitable[None]],
        shape_of: Callable[[Path], ModelShape] = read_shape,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._unload = unload
        self._shape_of = shape_of
        self._residency = Residency()
        self._freed = asyncio.Event()
        self._waiting: dict[str, str] = {}
        self._shapes: dict[str, ModelShape] = {}
        self._guests: dict[str, _Guest] = {}
        self._has_quantized = False

    def forget(self) -> None:
        """Another worker has begun, with nothing in memory."""
        self._residency.clear()
        self._guests.clear()
        self._has_quantized = False
        self._freed.set()

    def hold(self, key: str, job_id: str) -> None:
        """A job needs this model until ``release``."""
        self._residency.hold(key, job_id)

    def release(self, job_id: str) -> None:
        """The job needs nothing more."""
        self._residency.release(job_id)
        self._freed.set()

    async def admit_base(self, base: BaseModelRecord, quantization: Quantization) -> Allowance:
        """Return when there is room for a base model; the room is taken then, and what more it may take is told.

        Raises:
            OutOfMemoryError: there never will be.
            InvalidRequestError: its files are damaged.
        """
        key, label = key_of(base, quantization), _label(base.bare_name, quantization)
        is_pinned = quantization == base.quantization and base.name in self._config.models
        self._has_quantized |= quantization != "none"
        if key not in self._residency.tenants:
            shape = self._shapes[key] = await asyncio.to_thread(self._shape_of, Path(base.folder))
            dtype = self._dtype(shape)
            weights = weights_bytes(shape, quantization, dtype)
            loading = loading_bytes(shape, quantization, dtype)
            # Copies that serve training are this model's whoever else is there; one for sampling only where room is left.
            fixed = self._copies(shape, quantization, left_bytes=0)
            held = weights + copies_bytes(shape, quantization, dtype, fixed)
            what = f"Base model {label} ({dtype}, {shape.num_parameters / 1e6:.0f} M parameters)"
            cache = least_cache_bytes(shape, dtype)
            try:
                await self._make_room(key, held + loading + cache, what)
            except OutOfMemoryError:  # it can be trained at least, and answer in a few tokens
                await self._make_room(key, held + loading, what)
            return self._enter(key, label, shape, quantization, is_pinned=is_pinned)
        self._residency.enter(key, label, 0, is_pinned=is_pinned)
        return _UNMEASURED

    def _enter(
        self,
        key: str,
        label: str,
        shape: ModelShape,
        quantization: Quantization,
        *,
        is_pinned: bool,
    ) -> Allowance:
        dtype = self._dtype(shape)
        weights = weights_bytes(shape, quantization, dtype)
        loading = loading_bytes(shape, quantization, dtype)
        left = self._room_bytes() - self._residency.taken_bytes - weights - loading
        copies = self._copies(shape, quantization, left)
        held = weights + copies_bytes(shape, quantization, dtype, copies)
        self._residency.enter(key, label, held, is_pinned=is_pinned)
        if left > UNBOUNDED // 2:
            return _UNMEASURED
        left = self._room_bytes() - self._residency.taken_bytes
        return Allowance(copies, cache_tokens(shape, dtype, left))

    def _copies(self, shape: ModelShape, quantization: Quantization, left_bytes: int) -> int:
        """How many copies of its weights a model may have where so much room is left beside it; none where nobody knows."""
        room = self._room_bytes()
        if room > UNBOUNDED // 2:
            return 0
        facts = self._supervisor.facts
        return num_copies(
            shape,
            quantization,
            self._dtype(shape),
            device_type=facts.device.partition(":")[0] if facts else "cpu",
            room_bytes=room,
            left_bytes=left_bytes,
        )

    def settle_base(self, key: str, size_bytes: int) -> None:
        """What a base model really takes, now that it is there (with a copy for sampling, say)."""
        if key in self._residency.tenants:
            self._residency.tenants[key].size_bytes = size_bytes

    def wait_reason(self, job_id: str) -> str | None:
        """What a job that has begun waits for, in words; None when it does not wait for memory."""
        waiting = self._waiting.items()
        found = (w for k, w in waiting if k == job_id or self._residency.is_held_by(k, job_id))
        what = next(found, None)
        return what and f"{what} waits for memory: every other model is in use"

    def drop_base(self, key: str) -> list[str]:
        """A base model has left, or did not come: the runs that leave with it."""
        if key not in self._residency.tenants:
            return []
        gone = list(self._residency.leave(key).run_bytes)
        for run_id in gone:
            self._guests.pop(run_id, None)
        self._freed.set()
        return gone

    async def admit_run(self, key: str, run_id: str, lora: LoRAConfig) -> None:
        """Return when there is room for a run on a resident model; the room is taken then.

        Raises:
            OutOfMemoryError: there never will be.
        """
        shape = self._shapes[key]
        needed = run_bytes(shape, lora.r, self._dtype(shape))
        await self._make_room(key, needed, f"A run of rank {lora.r}")
        self._residency.add_run(key, run_id, needed)
        self._guests[run_id] = _Guest(key, lora)

    def drop_run(self, run_id: str) -> None:
        """A run has left."""
        self._residency.remove_run(run_id)
        self._guests.pop(run_id, None)
        self._freed.set()

    def hold_base_of(self, run_id: str, job_id: str) -> None:
        """A job needs the model under a resident run."""
        if run_id in self._guests:
            self.hold(self._guests[run_id].key, job_id)

    async def pass_room(self, run_id: str, longest: int) -> tuple[int, bool] | None:
        """Most tokens in one micro-batch of a run, by memory, and whether layers must be recomputed.

        Layers are recomputed in the backward pass where ``longest`` does not fit otherwise; idle models leave only
        where it does not fit even so. None: models in use would have to leave (``stand_back``).

        Args:
            longest: tokens that must stay together: a datum, or a group that its loss compares.

        Raises:
            OutOfMemoryError: not even those fit, with layers recomputed in the backward pass and all others gone.
        """
        guest = self._guests.get(run_id)
        if guest is None or self._room_bytes() > UNBOUNDED // 2:
            return UNBOUNDED, False
        shape, rank = self._shapes[guest.key], guest.lora.r
        dtype, dropout = self._dtype(shape), guest.lora.lora_dropout > 0
        least = training_bytes(
            shape, rank, dtype, num_tokens=longest, dropout=dropout, checkpointing=True
        )
        if not await self._clear_room_for_pass(guest.key, least, longest):
            return None
        room = self._room_bytes() - self._residency.taken_bytes
        whole = training_bytes(shape, rank, dtype, num_tokens=longest, dropout=dropout)
        checkpointing = whole > room
        per_token = activation_bytes_per_token(
            shape, rank, dtype, dropout=dropout, checkpointing=checkpointing
        )
        fixed = training_bytes(
            shape, rank, dtype, num_tokens=1, dropout=dropout, checkpointing=checkpointing
        )
        return max(longest, (room - fixed) // per_token), checkpointing

    async def _clear_room_for_pass(self, key: str, needed: int, longest: int) -> bool:
        what = f"A pass of {longest} tokens"
        while True:
            try:
                victims = self._residency.make_room(key, needed, self._room_bytes(), what=what)
            except OutOfMemoryError as error:
                room = self._room_bytes() - self._residency.least_taken_bytes(key)
                raise OutOfMemoryError(
                    f"A datum of {longest} tokens needs {gigabytes(needed)} in training, and beside its model, runs "
                    f"and pinned models {gigabytes(room)} of the memory budget are left. Use shorter data, "
                    "quantization nf4 or a smaller rank, or raise --memory-budget.",
                    field="data",
                    details={"needed_bytes": needed, "room_bytes": room},
                ) from error
            if not victims:
                return victims is not None
            await self._send_away(victims, what)

    async def stand_back(self, job_id: str) -> None:
        """Hold no model for a moment, so that none waits for the job's own.

        Two passes that kept their models while each waited for the other's would wait for ever. A moment, and not
        until somebody is idle: this job's own standing back would count as that.
        """
        self.release(job_id)
        self._waiting[job_id] = "This pass"
        try:
            await asyncio.sleep(_STAND_BACK_S)
        finally:
            self._waiting.pop(job_id, None)

    async def _make_room(self, key: str, needed: int, what: str) -> None:
        while True:
            room = self._room_bytes()
            victims = self._residency.make_room(key, needed, room, what=what)
            if victims is None:
                log.info("%s waits for memory: every other model is in use.", what)
                self._freed.clear()
                self._waiting[key] = what
                try:
                    await self._freed.wait()
                finally:
                    self._waiting.pop(key, None)
            elif victims:
                await self._send_away(victims, what)
            else:
                return

    async def _send_away(self, victims: list[str], what: str) -> None:
        for victim in victims:
            label = self._residency.tenants[victim].label
            log.info("%s makes room for: %s", label, what)
            await self._unload(victim)

    def _room_bytes(self) -> int:
        facts = self._supervisor.facts
        if facts is None:
            return UNBOUNDED
        device_type = facts.device.partition(":")[0]
        room = room_for_models(facts.memory_bytes, self._config.memory_budget_gb, device_type)
        # Once it is imported, bitsandbytes stays as long as the worker.
        is_smaller = self._has_quantized and device_type == "cpu" and room < UNBOUNDED
        return room - QUANTIZATION_BYTES if is_smaller else room

    def _dtype(self, shape: ModelShape) -> DType:
        facts = self._supervisor.facts
        device_type = facts.device.partition(":")[0] if facts else "cpu"
        return compute_dtype(self._config.dtype, device_type, shape.num_parameters)


def _label(name: str, quantization: Quantization) -> str:
    return f"'{name}'" if quantization == "none" else f"'{name}' in {quantization}"
