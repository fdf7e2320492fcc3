"""Settings: the order of layers, strictness, and messages that name where a mistake came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eztinker.config import CLIENT_VARIABLES, ServerConfig, load_config, user_file
from eztinker.errors import InvalidRequestError


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and home."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def write_user_file(text: str) -> None:
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(text, encoding="utf-8")


def write_project_file(text: str) -> None:
    Path("eztinker.yaml").write_text(text, encoding="utf-8")


def resolve(flags: dict[str, Any] | None = None, /, **environ: str) -> ServerConfig:
    return load_config(flags, environ={f"EZTINKER_{key}": text for key, text in environ.items()})


def test_defaults_are_the_documented_ones() -> None:
    config = resolve()
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.state_dir == Path("eztinker-data")
    assert config.checkpoints_path == Path("eztinker-data/checkpoints")
    assert config.limits.max_rank == 256
    assert config.limits.max_body_bytes == 64 * 1024 * 1024
    assert config.limits.max_data == 1024
    assert config.durability == "full"


def test_each_layer_overrides_the_one_below() -> None:
    write_user_file("port: 1\n")
    assert resolve().port == 1
    write_project_file("port: 2\n")
    assert resolve().port == 2
    assert resolve(PORT="3").port == 3
    assert resolve({"port": 4}, PORT="3").port == 4
    assert resolve({"port": None}, PORT="3").port == 3


def test_a_named_file_takes_the_place_of_the_project_file(tmp_path: Path) -> None:
    write_project_file("port: 2\nhost: 0.0.0.0\n")
    named = tmp_path / "other.yaml"
    named.write_text("port: 7\n")
    config = load_config(config_file=named, environ={})
    assert (config.port, config.host) == (7, "127.0.0.1")


def test_layers_meet_inside_limits_and_aliases() -> None:
    """Raising one limit in a project must not reset another that the user's file has set."""
    write_user_file("limits: {max_rank: 8}\naliases: {small: nano}\n")
    write_project_file("limits: {max_data: 3}\naliases: {big: other}\n")
    config = resolve()
    assert (config.limits.max_rank, config.limits.max_data) == (8, 3)
    assert config.aliases == {"small": "nano", "big": "other"}


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        resolve().port = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "field", "expected"),
    [
        ("PORT", "9", "port", 9),
        ("MODELS", "nano, other/model", "models", ("nano", "other/model")),
        ("MODELS", "[nano, other]", "models", ("nano", "other")),
        ("MODELS", "", "models", ()),
        ("MODELS", "7", "models", ("7",)),
        ("ALIASES", "{a: b}", "aliases", {"a": "b"}),
        ("DEVICE", "cuda:0", "device", "cuda:0"),
        ("DEVICE", "cuda", "device", "cuda"),
        ("HOST", "::1", "host", "::1"),
        ("HOST", "[::", "host", "[::"),
        ("HOST", "null", "host", "null"),
        ("STATE_DIR", "2024", "state_dir", Path("2024")),
        ("STATE_DIR", "2024-01-01", "state_dir", Path("2024-01-01")),
        ("STATE_DIR", "a: b", "state_dir", Path("a: b")),
        ("REPLAY_BUDGET_S", "1.5", "replay_budget_s", 1.5),
    ],
)
def test_variables_are_read_as_written(
    variable: str, text: str, field: str, expected: object
) -> None:
    assert getattr(resolve(**{variable: text}), field) == expected


def test_limits_by_variable() -> None:
    assert resolve(LIMITS="{max_rank: 3}").limits.max_rank == 3


def test_unreadable_yaml_in_a_variable_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(InvalidRequestError, match="EZTINKER_ALIASES"):
        resolve(ALIASES="{a: ")


@pytest.mark.parametrize("variable", sorted(CLIENT_VARIABLES))
def test_variables_of_the_client_are_left_alone(variable: str) -> None:
    assert load_config(environ={variable: "anything"}) == ServerConfig()  # type: ignore[call-arg]


def test_variables_of_others_are_left_alone() -> None:
    assert load_config(environ={"PORT": "1", "NOT_EZTINKER_PORT": "1"}).port == 8000


def test_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="EZTINKER_PORT") as caught:
        resolve(PROT="1")
    assert caught.value.code == "unknown_field"
    assert "EZTINKER_PROT" in caught.value.message


@pytest.mark.parametrize("where", ["user", "project"])
def test_unknown_key_in_a_file_names_file_and_nearest(where: str) -> None:
    (write_user_file if where == "user" else write_project_file)("state_dri: x\n")
    with pytest.raises(InvalidRequestError, match=r"yaml.*state_dir") as caught:
        resolve()
    assert (caught.value.code, caught.value.field) == ("unknown_field", "state_dri")


def test_unknown_limit_names_the_nearest() -> None:
    write_project_file("limits: {max_rnak: 3}\n")
    with pytest.raises(InvalidRequestError, match=r"limits\.max_rank") as caught:
        resolve()
    assert (caught.value.code, caught.value.field) == ("unknown_field", "limits.max_rnak")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- a\n- b\n", "list"),
        ("just words\n", "str"),
        ("a: [\n", "YAML"),
        ("a: \x00\n", "YAML"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(text: str, word: str) -> None:
    write_project_file(text)
    with pytest.raises(InvalidRequestError, match=r"eztinker\.yaml") as caught:
        resolve()
    assert word in caught.value.message


def test_an_empty_file_changes_nothing() -> None:
    write_project_file("# nothing yet\n")
    assert resolve() == ServerConfig()  # type: ignore[call-arg]


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="does not exist"):
        load_config(config_file=tmp_path / "missing.yaml", environ={})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "many"),
        ("workers", "0"),
        ("durability", "maybe"),
        ("dtype", "float16"),
        ("device", "gpu"),
        ("device", "cuda:first"),
        ("snapshot_cost_share", "0"),
        ("worker_hang_timeout_s", "0"),
    ],
)
def test_a_wrong_value_names_setting_and_value(key: str, wrong: str) -> None:
    with pytest.raises(InvalidRequestError, match=key) as caught:
        resolve(**{key.upper(): wrong})
    assert wrong in caught.value.message
    assert caught.value.field == key


def test_a_wrong_limit_names_its_path() -> None:
    with pytest.raises(InvalidRequestError, match="max_rank") as caught:
        resolve({"limits": {"max_rank": 0}})
    assert caught.value.field == "limits.max_rank"
