"""The async client is the sync client, awaited."""

import asyncio
import inspect

import pytest

from eztinker import errors
from eztinker.client.async_client import AsyncEZTinkerClient
from eztinker.client.client import EZTinkerClient
from eztinker.client.jobs import AsyncJobHandle, JobHandle
from tests.unit.client import fake_service
from tests.unit.client.fake_service import FakeService

DOCUMENTED = [
    "health",
    "get_runs",
    "get_logprobs",
    "import_adapter",
    "get_log",
    "delete_run",
    "create_run",
    "sample",
    "forward_backward",
    "forward",
    "optim_step",
    "evaluate",
    "save_checkpoint",
    "load_checkpoint",
    "get_checkpoints",
    "get_checkpoint_files",
    "download_checkpoint",
    "delete_checkpoint",
    "keep_checkpoint",
    "prune_checkpoints",
    "get_tokenizer",
    "wait_for_job",
    "get_job",
    "get_jobs",
    "cancel_job",
    "get_models",
    "create_key",
    "get_keys",
    "revoke_key",
    "submit_sample",
    "submit_forward_backward",
    "submit_forward",
    "submit_optim_step",
    "submit_save_checkpoint",
    "submit_load_checkpoint",
    "submit_evaluate",
    "embedded",
    "close",
]


def public(cls: type) -> dict[str, inspect.Signature]:
    methods = inspect.getmembers(cls, callable)
    return {
        name: inspect.signature(method).replace(return_annotation=inspect.Signature.empty)
        for name, method in methods
        if not name.startswith("_")
    }


def test_both_clients_have_the_documented_methods_and_no_others():
    assert set(public(EZTinkerClient)) == set(DOCUMENTED)


@pytest.mark.parametrize(
    ("sync", "asynchronous"),
    [(EZTinkerClient, AsyncEZTinkerClient), (JobHandle, AsyncJobHandle)],
)
def test_sync_and_async_have_the_same_methods_and_parameters(sync, asynchronous):
    assert public(sync) == public(asynchronous)


@pytest.mark.parametrize("cls", [EZTinkerClient, AsyncEZTinkerClient])
def test_every_method_is_described(cls):
    for name in public(cls):
        assert inspect.getdoc(getattr(cls, name)), name


def test_parameters_are_shown_as_documented():
    signature = inspect.signature(EZTinkerClient("http://fake").optim_step)
    assert list(signature.parameters)[:3] == ["run_id", "learning_rate", "weight_decay"]
    assert signature.parameters["learning_rate"].default == 2e-4


async def test_loop_with_retries_and_handles(monkeypatch: pytest.MonkeyPatch):
    async def no_pause(seconds: float) -> None:
        assert seconds >= 0

    monkeypatch.setattr("eztinker.client.transport.asyncio.sleep", no_pause)
    service = FakeService()
    async with AsyncEZTinkerClient("http://fake", transport=service.transport()) as client:
        run_id = await client.create_run("nano")
        service.script = [fake_service.broken(), fake_service.refused()]
        handle = await client.submit_forward_backward(run_id, [1, 2, 3])
        assert (await handle.result())["run_id"] == run_id
        assert await handle.status() == "completed"
        assert (await handle.cancel())["status"] == "cancelled"
        assert (await client.wait_for_job((await client.submit_sample("x")).job_id))["result"]
        assert await client.sample("hi", num_samples=1) == [" answer 0"]
        assert (await client.health())["status"] == "ok"
        assert len(await client.get_runs()) == 1
        with pytest.raises(errors.NotFoundError):
            await client.delete_run("other")


async def test_tasks_share_one_client():
    service = FakeService()
    async with AsyncEZTinkerClient("http://fake", transport=service.transport()) as client:
        texts = await asyncio.gather(*(client.sample(str(n)) for n in range(64)))
    assert texts == [f"{n} answer 0" for n in range(64)]
