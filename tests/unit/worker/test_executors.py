"""The two homes of a worker, through the same protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.executors.inline import InlineExecutor
from eztinker.engine.executors.subprocess import SubprocessExecutor
from eztinker.errors import StorageError
from eztinker.types.codec import decode
from eztinker.types.commands import COMMAND_TYPES, LoadBaseModel, OpenRun, Shutdown, WorkerSettings
from eztinker.types.events import EVENT_TYPES, BaseModelLoaded, JobDone, WorkerReady
from eztinker.types.framing import frame, message_of
from eztinker.types.operations import RunCreated
from eztinker.types.training import LoRAConfig
from tests.worker_harness import datum

SETTINGS = WorkerSettings(epoch=5, device="cpu", num_threads=1)


async def events_until(executor, cls):
    while True:
        event = await asyncio.wait_for(executor.receive(), 60)
        if isinstance(event, cls):
            return event


@pytest.mark.parametrize("cls", [InlineExecutor, SubprocessExecutor])
async def test_a_life(cls, qwen2_folder):
    executor = cls()
    await executor.start(SETTINGS)
    await executor.send(LoadBaseModel("m", str(qwen2_folder)))
    await executor.send(OpenRun("j", "r", "m", LoRAConfig(r=2), 1))
    ready = await asyncio.wait_for(executor.receive(), 60)
    assert isinstance(ready, WorkerReady)
    assert (ready.epoch, ready.num_threads) == (5, 1)
    assert (ready.pid != os.getpid()) == (cls is SubprocessExecutor)
    assert (await events_until(executor, BaseModelLoaded)).base_model == "m"
    done = await events_until(executor, JobDone)
    assert decode(done.result, RunCreated).run_id == "r"
    await executor.kill()
    await executor.kill()
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await asyncio.wait_for(executor.receive(), 60)
    await executor.send(Shutdown())


async def test_death_says_how():
    executor = SubprocessExecutor()
    await executor.start(SETTINGS)
    await events_until(executor, WorkerReady)
    os.kill(executor.pid, signal.SIGINT)  # ignored: Ctrl-C is the server's
    os.kill(executor.pid, signal.SIGTERM)  # too: the server shuts down in order
    os.kill(executor.pid, signal.SIGABRT)
    with pytest.raises(WorkerDied, match="SIGABRT"):
        await asyncio.wait_for(executor.receive(), 60)
    await executor.kill()


async def test_shutdown_and_bad_settings_end_with_a_code():
    for settings, text in (
        (SETTINGS, "exit code 0"),
        (WorkerSettings(epoch=1, plugins=("no_such_module",)), "exit code 3"),
    ):
        executor = SubprocessExecutor()
        await executor.start(settings)
        await executor.send(Shutdown())
        with pytest.raises(WorkerDied, match=text):
            await events_until(executor, ())
        await executor.kill()


def test_the_worker_ends_with_its_server():
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "eztinker.engine.worker.process", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.sendall(frame(SETTINGS))
    assert ours.recv(4)  # it is ready
    ours.close()
    assert process.wait(20) == 0


async def test_plugins_register_losses(qwen2_folder, tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text(
        "from eztinker.ops.losses import register_loss_function\n"
        "register_loss_function('mine', lambda logits, labels, weights=None: logits.mean())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    executor = SubprocessExecutor()
    await executor.start(WorkerSettings(epoch=1, num_threads=1, plugins=("my_plugin",)))
    assert (await events_until(executor, WorkerReady)).loss_functions == ["mine"]
    await executor.kill()


def test_frames_carry_any_message_and_refuse_unknown_ones():
    from eztinker.types.commands import RunPass
    from eztinker.types.operations import TrainingPass
    from eztinker.types.plans import PassPlan
    from eztinker.types.training import LossSpec

    command = RunPass("j", "r", TrainingPass([datum(1, 5)], LossSpec()), PassPlan([[0]]))
    back = message_of(frame(command)[4:], COMMAND_TYPES)
    assert back.operation.data[0].tokens_T.tolist() == datum(1, 5).tokens_T.tolist()
    with pytest.raises(StorageError, match="RunPass"):
        message_of(frame(command)[4:], EVENT_TYPES)


def test_executors_import_no_torch():
    code = (
        "import sys, eztinker.engine.executors.subprocess, eztinker.engine.executors.inline;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
