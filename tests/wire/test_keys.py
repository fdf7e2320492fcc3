"""A server with keys: the SDK, our client and the command line get in with one, and not without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from eztinker import EZTinkerClient
from eztinker.client.embedded import EmbeddedServer
from eztinker.errors import AuthError, NotFoundError


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eztinker", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server whose keys are made by the command line, before and while it runs."""
    state_dir = tmp_path_factory.mktemp("guarded")
    assert command("keys", "create", "first", "--state-dir", str(state_dir)).returncode == 0
    server = EmbeddedServer(["nano"], state_dir=state_dir, settings={"num_threads": 1})
    yield server
    server.close()


@pytest.fixture(scope="module")
def alice(guarded: EmbeddedServer) -> str:
    made = command("keys", "create", "alice", "--state-dir", str(guarded.state_dir))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_the_command_line_with_and_without_a_key(guarded: EmbeddedServer, alice: str) -> None:
    url = ("--base-url", guarded.base_url)
    assert command("list-runs", *url).returncode == 5
    refused = command("list-runs", *url, "--api-key", "tml-wrong")
    assert refused.returncode == 5
    assert "Traceback" not in refused.stderr
    assert command("list-runs", *url, "--api-key", alice).returncode == 0
    forbidden = command("keys", "list", *url, "--api-key", alice)
    assert forbidden.returncode == 5
    assert "admin" in forbidden.stderr
    listed = command("keys", "list", "--state-dir", str(guarded.state_dir), "--json")
    assert [key["name"] for key in json.loads(listed.stdout)["keys"]] == ["first", "alice"]


def test_our_client_with_and_without_a_key(guarded: EmbeddedServer, alice: str) -> None:
    with EZTinkerClient(guarded.base_url) as client:
        assert client.health()["status"] == "ok"
        with pytest.raises(AuthError):
            client.get_runs()
    with EZTinkerClient(guarded.base_url, guarded.api_key) as admin:
        admins = admin.create_run("nano", 1)
        bob = admin.create_key("bob")["key"]
    with EZTinkerClient(guarded.base_url, alice) as client:
        run_id = client.create_run("nano", 1)
        client.forward_backward(run_id, [1, 2, 3])
        assert [run["run_id"] for run in client.get_runs()] == [run_id]
        with pytest.raises(NotFoundError):
            client.optim_step(admins)
    with EZTinkerClient(guarded.base_url, bob) as client:
        assert client.get_runs() == []
        with pytest.raises(NotFoundError):
            client.delete_run(run_id)


def test_the_sdk_with_a_key(sdk, guarded: EmbeddedServer, alice: str) -> None:
    with sdk.ServiceClient(base_url=guarded.base_url, api_key=alice) as service:
        model = service.create_lora_training_client(base_model="nano", rank=1, seed=1).result()
        sampler = model.save_weights_and_get_sampling_client().result()
        prompt = sdk.ModelInput.from_ints([1, 2, 3])
        answer = sampler.sample(prompt, 1, sdk.SamplingParams(max_tokens=2)).result()
        assert len(answer.sequences) == 1
        model_id = model.model_id
    with EZTinkerClient(guarded.base_url, alice) as client:
        assert model_id in [run["run_id"] for run in client.get_runs()]


def test_the_sdk_with_a_wrong_key_is_told_so(sdk, guarded: EmbeddedServer) -> None:
    with pytest.raises(sdk.AuthenticationError, match="needs a key"):
        sdk.RestClient(base_url=guarded.base_url, api_key="tml-wrong")
