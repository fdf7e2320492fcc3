"""The command line of the official SDK, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wire.conftest import MODEL
from tests.wire.data import datum

CE = "cross_entropy"


@pytest.fixture
def tinker_cli(sdk, running_server, monkeypatch: pytest.MonkeyPatch):
    """Runs ``tinker --format json WORDS`` and returns what it printed, parsed where it is JSON."""
    from click.testing import CliRunner
    from tinker.cli.__main__ import main_cli

    monkeypatch.setenv("TINKER_BASE_URL", running_server.base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-local")

    def run(*words: str):
        done = CliRunner().invoke(main_cli, ["--format", "json", *words])
        assert done.exception is None, (words, done.output, done.exception)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return done.output

    return run


@pytest.fixture
def path(sdk, model) -> str:
    model.forward_backward([datum()], CE)
    model.optim_step(sdk.AdamParams(learning_rate=1e-2)).result()
    return model.save_state("mine").result().path


def test_models_and_runs(tinker_cli, model, path: str) -> None:
    assert MODEL in json.dumps(tinker_cli("model", "list"))
    assert model.model_id in json.dumps(tinker_cli("run", "list", "--limit", "5"))
    shown = json.dumps(tinker_cli("run", "info", model.model_id))
    assert model.model_id in shown
    assert path in shown


def test_a_checkpoint_is_listed_shown_shared_given_a_lifetime_and_deleted(
    tinker_cli, model, rest, path: str
) -> None:
    def entry():
        return rest.list_checkpoints(model.model_id).result().checkpoints[0]

    assert path in json.dumps(tinker_cli("checkpoint", "list", "--run-id", model.model_id))
    assert path in json.dumps(tinker_cli("checkpoint", "info", path))
    tinker_cli("checkpoint", "publish", path)
    assert entry().public
    tinker_cli("checkpoint", "unpublish", path)
    assert not entry().public
    tinker_cli("checkpoint", "set-ttl", path, "--ttl", "7200")
    assert entry().expires_at is not None
    tinker_cli("checkpoint", "set-ttl", path, "--remove")
    assert entry().expires_at is None
    tinker_cli("checkpoint", "delete", path, "--yes")
    assert rest.list_checkpoints(model.model_id).result().checkpoints == []


def test_a_checkpoint_is_downloaded_as_an_adapter(
    tinker_cli, model, path: str, tmp_path: Path
) -> None:
    tinker_cli("checkpoint", "download", path, "--output", str(tmp_path))
    names = {file.name for file in tmp_path.rglob("*")}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    listed = json.dumps(tinker_cli("checkpoint", "list"))
    assert "external_weights/download" not in listed  # the export on the way is gone


def test_a_session_is_exported_as_a_timeline(tinker_cli, model, path: str, tmp_path: Path) -> None:
    session_id = model.model_id.partition(":")[0]
    told = tinker_cli("session", "export-trace", session_id, "--url-only")
    assert told["url"].endswith("/trace.json")


def test_what_is_not_there_is_said_at_once(sdk, running_server, monkeypatch) -> None:
    from click.testing import CliRunner
    from tinker.cli.__main__ import main_cli

    monkeypatch.setenv("TINKER_BASE_URL", running_server.base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-local")
    done = CliRunner().invoke(main_cli, ["checkpoint", "info", "tinker://nobody/weights/x"])
    assert done.exit_code != 0
    assert "nobody" in f"{done.output} {done.exception}"
