"""Tokenizer files become a tokenizer, wherever they say they lie."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from eztinker.client.client import EZTinkerClient
from eztinker.client.tokenizer import load_tokenizer, store_files
from eztinker.errors import ServerError
from tests.unit.client.fake_service import FakeService


def word_tokenizer() -> dict[str, str]:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    config = '{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "T"}'
    return {"tokenizer.json": backend.to_str(), "tokenizer_config.json": config}


def test_files_make_a_transformers_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = load_tokenizer(word_tokenizer())
    assert tokenizer("b a c")["input_ids"] == [1, 0, 2]
    assert tokenizer.chat_template == "T"


def test_same_files_same_folder_other_files_another(tmp_path: Path):
    first = store_files({"a": "x", "b": "y"}, tmp_path)
    assert store_files({"b": "y", "a": "x"}, tmp_path) == first
    assert store_files({"a": "xb", "b": ""}, tmp_path) != first
    assert sorted(path.name for path in first.iterdir()) == ["a", "b"]
    assert not list(tmp_path.glob("draft-*"))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "..", "", "a\\b", "/abs", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ServerError, match="no plain name"):
        store_files({name: "x"}, tmp_path / "cache")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_a_name_the_servers_default_model_is_asked_for(
    client: EZTinkerClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.client.tokenizer.load_tokenizer", dict)
    assert set(client.get_tokenizer()) == {"tokenizer.json", "config.json"}
    client.get_tokenizer("Qwen/Qwen2-0.5B")
    asked = [request.url.raw_path.decode() for request in service.seen]
    assert asked == [
        "/v1/models",
        "/v1/base_models/nano/tokenizer",
        "/v1/base_models/Qwen%2FQwen2-0.5B/tokenizer",
    ]
