"""Pushing, against a hub in memory: what goes up, and how its refusals read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from typer.testing import CliRunner

from eztinker.cli.main import app
from eztinker.deploy.push import KEPT_HERE, push
from eztinker.errors import AuthError, EZTinkerError, NotFoundError, ServerUnreachableError


class Hub:
    """Remembers what it was asked; raises ``failure`` if there is one."""

    def __init__(self) -> None:
        self.repos: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def create_repo(self, _api: HfApi, repo_id: str, **kwargs: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        self.repos.append({"repo_id": repo_id, **kwargs})
        return SimpleNamespace(repo_id=repo_id, __str__=lambda: repo_id)

    def upload_folder(self, _api: HfApi, **kwargs: Any) -> None:
        self.uploads.append(kwargs)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    for name in ("create_repo", "upload_folder"):
        method = getattr(hub, name)
        monkeypatch.setattr(HfApi, name, lambda *a, _m=method, **k: _m(*a, **k))
    return hub


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_folder_goes_up_private_and_without_what_is_ours(hub: Hub, adapter: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(adapter), "me/mine"])
    assert done.exit_code == 0, done.output
    assert hub.repos == [{"repo_id": "me/mine", "private": True, "exist_ok": True}]
    assert hub.uploads[0]["folder_path"] == adapter
    assert hub.uploads[0]["ignore_patterns"] == KEPT_HERE
    assert "optimizer.safetensors" in KEPT_HERE


def test_what_is_no_model_stays_here(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        push(tmp_path, "me/mine")
    assert hub.repos == hub.uploads == []


def refusal(status: int) -> HfHubHTTPError:
    request = httpx.Request("POST", "https://hub.invalid")
    return HfHubHTTPError("refused", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("failure", "cls", "exit_code"),
    [
        (LocalTokenNotFoundError("no token"), AuthError, 5),
        (refusal(403), AuthError, 5),
        (refusal(400), EZTinkerError, 2),
        (OfflineModeIsEnabled("offline"), ServerUnreachableError, 3),
        (httpx.ConnectError("nobody"), ServerUnreachableError, 3),
    ],
)
def test_refusals_say_what_to_do(
    hub: Hub, adapter: Path, failure: Exception, cls: type, exit_code: int
) -> None:
    hub.failure = failure
    with pytest.raises(cls) as caught:
        push(adapter, "me/mine")
    assert caught.value.exit_code == exit_code
    assert hub.uploads == []
