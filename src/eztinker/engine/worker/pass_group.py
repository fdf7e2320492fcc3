"""The training passes in progress: several runs of one base model, one micro-batch of each at a time.

Every unit computes the next micro-batch of the pass that waited longest, and with it those of other
passes that are compatible and small enough: then all go through the model together. A failure is that of
one pass; when memory runs out together, each is computed alone. Knows no queue of commands;
``ordered_work.py`` adds passes and takes what has ended.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.engine.worker.failures import error_info
from eztinker.engine.worker.jobs import check_plan
from eztinker.engine.worker.micro_batch import compute
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.run_state import RunState
from eztinker.engine.worker.trainer import RunningPass
from eztinker.types.codec import encode
from eztinker.types.commands import RunPass
from eztinker.types.events import Event, JobDone, JobFailed

MAX_SHARED_TOKENS = 2048
"""Tokens of several runs in one model pass; beyond that the products are large enough alone."""


@dataclass(slots=True, eq=False)
class _Member:
    command: RunPass
    running: RunningPass
    compute_s: float = 0.0


class PassGroup:
    """Passes in progress.

    Args:
        residents: the runs; a run changes when its pass has succeeded.
    """

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._members: list[_Member] = []

    def __len__(self) -> int:
        return len(self._members)

    def has_run(self, run_id: str) -> bool:
        """Whether a pass of the run is in progress."""
        return any(member.command.run_id == run_id for member in self._members)

    def admits(self, command: RunPass) -> bool:
        """Whether a pass may begin now: passes that keep to themselves are computed one by one."""
        if not self._members:
            return True
        return command.plan.may_share and all(m.command.plan.may_share for m in self._members)

    def add(self, command: RunPass) -> Event | None:
        """Begin a pass; its failure if it cannot."""
        try:
            run = self._residents.run(command.run_id)
            check_plan(command.plan, len(command.operation.data))
            running = RunningPass(
                run.base.decoder,
                run.weights,
                command.operation,
                command.plan,
                dropout_seed=_dropout_seed(run),
            )
        except Exception as error:
            return self._failed(command, error)
        self._members.append(_Member(command, running))
        return None

    def cancel(self, job_id: str) -> bool:
        """Drop a pass, without effect; False if it is not here."""
        found = [member for member in self._members if member.command.job_id == job_id]
        for member in found:
            self._members.remove(member)
        return bool(found)

    def unit(self) -> list[Event]:
        """Compute a micro-batch of one pass or of several; how the passes that have ended did so."""
        chosen = self._next()
        start_s = time.perf_counter()
        sizes = [member.running.num_tokens for member in chosen]
        failures = _compute([member.running for member in chosen])
        elapsed_s = time.perf_counter() - start_s
        events = []
        for member, size, failure in zip(chosen, sizes, failures, strict=True):
            member.compute_s += elapsed_s * size / sum(sizes)
            if failure is not None or member.running.is_done:
                self._members.remove(member)
                events.append(self._ended(member, failure))
        # Those that were computed wait behind those that were not.
        self._members.sort(key=chosen.__contains__)
        return events

    def _next(self) -> list[_Member]:
        first = self._members[0]
        chosen, num_tokens = [first], first.running.num_tokens
        for member in self._members[1:]:
            num_tokens_with = num_tokens + member.running.num_tokens
            if num_tokens_with <= MAX_SHARED_TOKENS and _are_compatible(first, member):
                chosen.append(member)
                num_tokens = num_tokens_with
        return chosen

    def _ended(self, member: _Member, failure: Exception | None) -> Event:
        if failure is None:
            try:
                return self._done(member)
            except Exception as error:
                failure = error
        return self._failed(member.command, failure)

    def _done(self, member: _Member) -> JobDone:
        command = member.command
        outcome = member.running.outcome()
        if outcome.gradient_P is not None:
            run = self._residents.run(command.run_id)
            self._residents.runs[command.run_id] = run.with_gradient(outcome.gradient_P)
        epoch, result = self._residents.settings.epoch, encode(outcome.result)
        return JobDone(epoch, command.job_id, result, outcome.plan, member.compute_s)

    def _failed(self, command: RunPass, error: Exception) -> JobFailed:
        epoch = self._residents.settings.epoch
        return JobFailed(epoch, command.job_id, error_info(error, command.job_id))


def _are_compatible(a: _Member, b: _Member) -> bool:
    return (
        a.running.decoder is b.running.decoder
        and a.running.may_share
        and b.running.may_share
        and a.running.with_gradient == b.running.with_gradient
        and a.running.checkpointing == b.running.checkpointing
    )


def _compute(passes: Sequence[RunningPass]) -> list[Exception | None]:
    """The passes together; one by one when that fails for a reason that is nobody's alone."""
    if len(passes) > 1:
        try:
            return compute(passes)
        except Exception as error:
            failed_together = error_info(error, "passes of several runs")
        del failed_together
    return [_compute_alone(running) for running in passes]


def _compute_alone(running: RunningPass) -> Exception | None:
    try:
        return compute([running])[0]
    except Exception as error:
        if not is_out_of_memory(error):
            return error
    # Outside of the handler, which keeps the tensors of the attempt alive.
    try:
        running.shrink()
    except Exception as error:
        return error
    return None


def _dropout_seed(run: RunState) -> int:
    text = f"{run.seed}/{run.step}/{run.num_passes}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
