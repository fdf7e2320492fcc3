"""vLLM's command line, and starting it, with a stand-in for an interpreter that has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest

from eztinker.errors import (
    EZTinkerError,
    InvalidRequestError,
    ServerUnreachableError,
    UnsupportedError,
)
from eztinker.recipes.finance import answering, evaluation
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.vllm_server import vllm_command, vllm_running
from eztinker.recipes.terminal import SilentProgress

STAND_IN = """#!{python}
import http.server, json, sys
words = sys.argv[1:]
if words[0] == "-c":
    sys.exit({lacks})
if {dies}:
    sys.exit("RuntimeError: Unsupported head_dim=40")
named = dict(zip(words, words[1:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == named["--served-model-name"], asked
        text = "<answer>%s</answer>" % asked["temperature"]
        self.answer({{"choices": [{{"message": {{"content": text}}, "finish_reason": "stop"}}]}})
    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
http.server.HTTPServer((named["--host"], int(named["--port"])), Handler).serve_forever()
"""


def stand_in(folder: Path, *, lacks: bool = False, dies: bool = False) -> str:
    path = folder / "python-of-vllm"
    path.write_text(
        STAND_IN.format(python=sys.executable, lacks=int(lacks), dies=dies), encoding="utf-8"
    )
    path.chmod(0o755)
    return str(path)


def settings(root: Path, python: str | None, **model: object) -> FinanceConfig:
    folder = root / "ckpts" / "merged_model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model), encoding="utf-8")
    return FinanceConfig(root=root).with_parts(deploy={"vllm_python": python})


def command(config: FinanceConfig) -> str:
    return " ".join(vllm_command(config, config.paths.merged_model, "m"))


def test_the_command_serves_the_folder_as_our_own_server_would(tmp_path: Path) -> None:
    config = settings(tmp_path, stand_in(tmp_path), dtype="float32", max_position_embeddings=512)
    text = command(config)
    assert text.startswith(str(tmp_path / "python-of-vllm"))
    assert f"--model {tmp_path}/ckpts/merged_model --served-model-name m" in text
    assert "--host 127.0.0.1 --port 8000" in text
    assert "--max-model-len 512" in text
    assert "--generation-config vllm" in text
    assert text.endswith("--dtype float32")
    config = settings(tmp_path, stand_in(tmp_path), torch_dtype="bfloat16")
    text = command(config.with_parts(deploy={"vllm_options": ["--tensor-parallel-size", "2"]}))
    assert "--dtype" not in text
    assert f"--max-model-len {config.model.model_max_length}" in text
    assert text.endswith("--tensor-parallel-size 2")


def test_an_interpreter_without_vllm_and_one_that_is_not_there(tmp_path: Path) -> None:
    config = settings(tmp_path, stand_in(tmp_path, lacks=True))
    for refuse in (command, lambda one: evaluation.check_vllm(one, None)):
        with pytest.raises(UnsupportedError, match=r"--vllm_python .*--action simple") as refused:
            refuse(config)
        assert refused.value.code == "missing_extra"
    with pytest.raises(InvalidRequestError, match="is no program"):
        command(settings(tmp_path, "no-such-python"))
    config.paths.merged_model.joinpath("config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EZTinkerError, match="cannot be read"):
        command(config.with_parts(deploy={"vllm_python": stand_in(tmp_path)}))


def test_one_that_is_started_answers_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "HTTP_PROXY", "http://127.0.0.1:9"
    )  # no proxy reaches this machine's own address
    monkeypatch.setattr(answering, "_opening", lambda folder: "<think>")
    config = settings(tmp_path, stand_in(tmp_path))
    with answering.vllm_answerer(config, None, SilentProgress()) as answerer:
        found = dict(answerer.outputs({3: "2 + 2?"}))
        url = answerer.base_url
    assert found == {3: [answering.Output("<think><answer>0.0</answer>", "stop")]}
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_one_that_ends_at_its_start_says_why(tmp_path: Path) -> None:
    config = settings(tmp_path, stand_in(tmp_path, dies=True))
    with (
        pytest.raises(ServerUnreachableError, match=r"exit code 1: .*head_dim=40.*vllm\.log"),
        vllm_running(config, config.paths.merged_model, "m", SilentProgress()),
    ):
        pass
