"""What stage 7 refuses, and the commands that it becomes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import (
    EZTinkerError,
    InvalidRequestError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.recipes.finance import deployment
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.terminal import SilentProgress


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An adapter and a merged model that nobody can load."""
    for name, file in (("grpo_lora", "adapter_config.json"), ("merged_model", "config.json")):
        (tmp_path / "ckpts" / name).mkdir(parents=True)
        (tmp_path / "ckpts" / name / file).write_text("{}", encoding="utf-8")
    return tmp_path


def act(root: Path, action: str, **more: Any) -> dict[str, Any]:
    overwrite = more.pop("overwrite", False)
    config = FinanceConfig(root=root, overwrite=overwrite).with_parts(
        deploy={"port": more.pop("port", 8000)}
    )
    return deployment.act(config, None, SilentProgress(), action=action, **more)


def test_without_an_adapter_the_stage_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"stage 5 first: python scripts/5_train_grpo\.py"):
        act(tmp_path, "merge")


def test_a_merged_model_is_not_merged_again_and_stays(root: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--overwrite") as finished:
        act(root, "merge")
    assert finished.value.code == "output_exists"
    with pytest.raises(InvalidRequestError, match="is a whole model"):
        act(root, "merge", model_path=str(root / "ckpts" / "merged_model"))
    with pytest.raises(EZTinkerError, match="was not merged") as refused:
        act(root, "merge", overwrite=True)  # the adapter is no adapter
    assert refused.value.code == "merge_failed"
    assert (root / "ckpts" / "merged_model" / "config.json").is_file()
    assert sorted(path.name for path in (root / "ckpts").iterdir()) == ["grpo_lora", "merged_model"]


@pytest.mark.parametrize("action", ["serve", "simple"])
def test_only_a_merged_model_is_served(root: Path, tmp_path: Path, action: str) -> None:
    with pytest.raises(InvalidRequestError, match="Merge it first"):
        act(root, action, model_path=str(root / "ckpts" / "grpo_lora"))
    with pytest.raises(NotFoundError, match="--action merge"):
        act(root, action, model_path=str(tmp_path / "nothing"))


@pytest.mark.parametrize("action", ["serve", "simple"])
def test_a_port_in_use_is_said_before_anything_is_started(root: Path, action: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InvalidRequestError, match="--port names another") as refused,
    ):
        act(root, action, port=taken.getsockname()[1])
    assert refused.value.code == "port_in_use"


def test_serving_becomes_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []

    def become(path: str, command: list[str]) -> None:
        found.append(command)
        raise SystemExit

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit):
        act(root, "simple", port=0)
    assert found[0][2:5] == ["eztinker", "serve", deployment.DEFAULT_NAME]


def test_nobody_answers(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(ServerUnreachableError, match="--action serve"):
            act(root, "test", port=port)
