"""A worker that works for long says that it lives, and only then."""

from __future__ import annotations

import threading
import time

import pytest

from eztinker.engine.worker import heartbeat, jobs, micro_batch, outbox
from eztinker.types.commands import LoadBaseModel, OpenRun, Shutdown
from eztinker.types.events import BaseModelLoaded, JobDone, SignOfLife
from eztinker.types.training import LoRAConfig
from tests.worker_harness import Harness, datum

SLOW_S = 0.4


@pytest.fixture
def living(qwen2_folder, monkeypatch):
    """A worker that runs in its thread, as in its process."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setattr(outbox, "_QUIET_S", 0.05)
    harness = Harness(qwen2_folder)
    harness.do(OpenRun("o", "r", "m", LoRAConfig(r=2), 1))
    thread = threading.Thread(target=harness.worker.run)
    thread.start()
    yield harness
    harness.worker.submit(Shutdown())
    thread.join(timeout=10)


def slowed(function):
    def slow(*args, **kwargs):
        time.sleep(SLOW_S)
        return function(*args, **kwargs)

    return slow


def events_of(harness, command, last):
    """What is emitted until an event of the class ``last``."""
    before = len(harness.events)
    harness.worker.submit(command)
    deadline = time.monotonic() + 10
    while not any(isinstance(event, last) for event in harness.events[before:]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return harness.events[before:]


def signs(events):
    return sum(isinstance(event, SignOfLife) for event in events)


def test_reading_a_base_model_gives_signs_of_life(living, gpt2_folder, monkeypatch):
    monkeypatch.setattr(jobs, "load_base_model", slowed(jobs.load_base_model))
    assert signs(events_of(living, LoadBaseModel("g", str(gpt2_folder)), BaseModelLoaded)) >= 3
    time.sleep(0.1)
    after = len(living.events)
    time.sleep(0.3)
    assert len(living.events) == after, "an idle worker is silent"


def test_one_long_micro_batch_gives_signs_of_life(living, monkeypatch):
    monkeypatch.setattr(micro_batch, "_hidden", slowed(micro_batch._hidden))
    command = living.pass_command([datum(1, 9)])
    assert signs(events_of(living, command, JobDone)) >= 3


def test_a_call_that_never_returns_falls_silent(living, gpt2_folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "MAX_UNIT_S", 0.0)
    monkeypatch.setattr(jobs, "load_base_model", slowed(jobs.load_base_model))
    assert signs(events_of(living, LoadBaseModel("g", str(gpt2_folder)), BaseModelLoaded)) == 0
