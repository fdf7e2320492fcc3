"""Names of base models: what they stand for, what is refused, and that offline is quick."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eztinker.config import ServerConfig
from eztinker.errors import EZTinkerError, InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.service import base_models, hub
from eztinker.service.base_models import BaseModels
from eztinker.types.principal import Principal
from tests.unit.api.tiny_model import CONTEXT_LENGTH, VOCAB_SIZE, write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(base_models, "NANO_FOLDER", tmp_path / "nano")


def models(**settings: Any) -> BaseModels:
    return BaseModels(ServerConfig.model_validate(settings))


async def test_a_folder(folder: Path) -> None:
    record = await models().resolve(str(folder))
    assert record.name == record.folder == str(folder)
    assert record.architecture == "Qwen2ForCausalLM"
    assert (record.context_length, record.vocab_size) == (CONTEXT_LENGTH, VOCAB_SIZE)


async def test_an_alias_of_an_alias(folder: Path) -> None:
    found = models(aliases={"Qwen/Qwen3-8B": "small", "small": str(folder)})
    record = await found.resolve("Qwen/Qwen3-8B")
    assert record.name == "Qwen/Qwen3-8B"
    assert record.folder == str(folder)


async def test_aliases_in_a_circle_are_named() -> None:
    with pytest.raises(EZTinkerError, match="a -> b -> a") as caught:
        await models(aliases={"a": "b", "b": "a"}).resolve("a")
    assert caught.value.code == "alias_circle"


async def test_nano_is_the_built_in_model(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "nano")
    record = await models().resolve("nano")
    assert record.folder == str(tmp_path / "nano")
    assert (await models(aliases={"x": "nano"}).resolve("x")).folder == record.folder


async def test_an_alias_may_replace_nano(folder: Path) -> None:
    assert (await models(aliases={"nano": str(folder)}).resolve("nano")).folder == str(folder)


@pytest.mark.parametrize(
    "name",
    ["org/none", "none", "", "../..", "/nowhere", "a\0b", "~nobody_at_all/x", "x" * 300, "x" * 5000, "x/" * 2000,
     "\ud800", "org/model/more", "name with blanks", "..", "http://host/model"],
)  # fmt: skip
async def test_an_unknown_name_says_what_was_tried_and_what_to_do(name: str) -> None:
    began_s = time.perf_counter()
    with pytest.raises(NotFoundError) as caught:
        await models().resolve(name)
    assert time.perf_counter() - began_s < 1
    assert caught.value.code == "model_not_found"
    assert len(caught.value.message) < 2000


async def test_the_refusal_of_a_hub_id_tells_how_to_go_on_offline() -> None:
    with pytest.raises(NotFoundError) as caught:
        await models().resolve("org/model")
    message = caught.value.message
    for part in (
        "no folder",
        "hub cache",
        "HF_HUB_OFFLINE",
        "--alias org/model=FOLDER",
        "safetensors",
    ):
        assert part in message


async def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match="safetensors") as caught:
        await models().resolve(str(folder))
    assert caught.value.code == "pickle_refused"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
async def test_an_incomplete_folder_says_what_is_missing(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(NotFoundError, match=missing.replace("model", r"\*")):
        await models().resolve(str(folder))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"n_positions": 1024, "vocab_size": 50257}, (1024, 50257)),
        ({"text_config": {"max_position_embeddings": 512, "vocab_size": 99}}, (512, 99)),
        ({"max_position_embeddings": 32, "vocab_size": 9, "text_config": None}, (32, 9)),
    ],
)
async def test_configurations_of_several_families(
    config: dict[str, Any], expected: tuple[int, int], folder: Path
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "family", **config}))
    record = await models().resolve(str(folder))
    assert (record.context_length, record.vocab_size) == expected
    assert record.architecture == "family"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"vocab_size": 5}', '{"n_positions": "8", "vocab_size": true}', "[" * 9999],
)
async def test_an_unreadable_configuration(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidRequestError, match=r"config\.json"):
        await models().resolve(str(folder))


async def test_each_name_is_resolved_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = base_models.find_folder
    monkeypatch.setattr(base_models, "find_folder", lambda *a: calls.append(a) or real(*a))
    found = models()
    records = await asyncio.gather(*(found.resolve(str(folder)) for _ in range(5)))
    assert len({id(record) for record in records}) == 1
    assert len(calls) == 1


async def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    found = models()
    with pytest.raises(NotFoundError):
        await found.resolve(str(tmp_path / "later"))
    write_tiny_model(tmp_path / "later")
    assert (await found.resolve(str(tmp_path / "later"))).vocab_size == VOCAB_SIZE


async def test_the_tokenizer_is_loaded_once(folder: Path) -> None:
    found = models(aliases={"tiny": str(folder)})
    first, second = await asyncio.gather(found.tokenizer("tiny"), found.tokenizer("tiny"))
    assert first is second
    assert first.decode(first.encode("hi")) == "hi"


async def test_what_is_known_without_the_hub(folder: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "nano")
    found = models(
        aliases={"tiny": str(folder), "broken": "nowhere", "a": "a"}, models=("org/remote",)
    )
    assert [record.name for record in found.known()] == ["nano", "tiny"]
    await found.resolve(str(folder))
    assert [record.name for record in found.known()] == ["nano", "tiny", str(folder)]


def test_the_default_model() -> None:
    assert models(models=("a", "b")).default_model("c") == "a"
    assert models().default_model("c") == "c"
    assert models().default_model() == "nano"


# Hub ----------------------------------------------------------------------------------------------


def cached(root: Path, name: str) -> Path:
    repository = root / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return write_tiny_model(repository / "snapshots" / "abc")


async def test_the_cache_of_the_hub_answers_offline(tmp_path: Path) -> None:
    folder = cached(tmp_path, "org/model")
    record = await models().resolve("org/model")
    assert (record.name, record.folder) == ("org/model", str(folder))


async def test_a_half_downloaded_model_is_not_taken(tmp_path: Path) -> None:
    folder = cached(tmp_path, "org/model")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError, match="only a part"):
        await models().resolve("org/model")


async def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_file_names", lambda *_: released.wait(10) and None)
    began_s = time.perf_counter()
    with pytest.raises(NotFoundError, match="did not answer within"):
        await models(hub_timeout_s=0.1).resolve("org/model")
    assert time.perf_counter() - began_s < 2
    released.set()


async def test_a_silent_hub_is_asked_once_and_then_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def no_network(model_id: str, *_: Any) -> None:
        asked.append(model_id)
        raise ConnectionError("the hub cannot be reached (ConnectError)")

    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_file_names", no_network)
    found = models()
    with pytest.raises(NotFoundError, match="cannot be reached"):
        await found.resolve("org/one")
    with pytest.raises(NotFoundError, match="did not answer a moment ago"):
        await found.resolve("org/two")
    assert asked == ["org/one"]
    monkeypatch.setattr(hub, "SILENCE_S", 0)
    later = models()
    for _ in range(2):
        with pytest.raises(NotFoundError, match="cannot be reached"):
            await later.resolve("org/three")


async def test_without_a_network_the_probe_fails_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoNetwork:
        def model_info(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("no route")

    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr("huggingface_hub.HfApi", NoNetwork)
    with pytest.raises(NotFoundError, match="cannot be reached"):
        await models().resolve("org/model")


async def test_a_download_takes_no_code_and_no_pickles(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    names = ["config.json", "model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "modeling.py",
             "tokenizer.json", "onnx/model.safetensors", "README.md", "chat_template.jinja", "merges.txt"]  # fmt: skip
    asked: list[Any] = []

    def download(model_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((model_id, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_file_names", lambda *_: names)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    record = await models().resolve("org/model")
    assert record.folder == str(folder)
    expected = [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
    ]
    assert asked == [("org/model", expected)]


@pytest.mark.parametrize(
    ("names", "code"),
    [(["config.json", "pytorch_model.bin"], "pickle_refused"), (["README.md"], "no_weights")],
)
async def test_models_of_the_hub_without_safetensors(
    names: list[str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_file_names", lambda *_: names)
    with pytest.raises(UnsupportedError) as caught:
        await models().resolve("org/model")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "possible"),
    [("gpt2", True), ("Qwen/Qwen2-0.5B-Instruct", True), ("a/b/c", False), ("../x", False), ("/x", False),
     ("~x/y", False), ("a b", False), ("", False), ("模型/x", False), ("a--b/c", False)],
)  # fmt: skip
def test_what_may_be_an_id_of_the_hub(name: str, possible: bool) -> None:
    assert hub.may_be_id(name) is possible


async def test_a_relative_folder_is_found_again_from_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder.parent)
    assert (await models().resolve("tiny")).folder == str(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = models()
    with pytest.raises(NotFoundError):
        await found.resolve("tiny")
    found.remember({"tiny": str(folder)})
    assert (await found.resolve("tiny")).folder == str(folder)
    write_tiny_model(tmp_path / "elsewhere" / "tiny")
    here = models()
    here.remember({"tiny": str(folder)})
    assert (await here.resolve("tiny")).folder == str(tmp_path / "elsewhere" / "tiny")


async def test_a_name_with_a_quantization(folder: Path) -> None:
    found = models(aliases={"tiny": str(folder), "judge": "tiny:int8"})
    record = await found.resolve("tiny:nf4")
    assert (record.name, record.bare_name, record.quantization) == ("tiny:nf4", "tiny", "nf4")
    assert record.folder == str(folder)
    judge = await found.resolve("judge")
    assert (judge.bare_name, judge.quantization, judge.folder) == ("judge", "int8", str(folder))
    for name in ("tiny:q5", "tiny:nf4:int8", "judge:nf4", ":nf4"):
        with pytest.raises(NotFoundError):
            await found.resolve(name)


async def test_a_folder_may_be_called_so(tmp_path: Path) -> None:
    odd = write_tiny_model(tmp_path / "tiny:nf4")
    record = await models().resolve(str(odd))
    assert (record.folder, record.quantization) == (str(odd), "none")
    quantized = await models().resolve(f"{odd}:int8")
    assert (quantized.folder, quantized.quantization) == (str(odd), "int8")


async def test_a_tenant_may_quantise_what_is_offered(folder: Path) -> None:
    found = models(aliases={"tiny": str(folder)}).seen_by(Principal("anna", frozenset({"sample"})))
    assert (await found.resolve("tiny:nf4")).quantization == "nf4"
    with pytest.raises(NotFoundError, match="offers no model"):
        await found.resolve(f"{folder}:nf4")
