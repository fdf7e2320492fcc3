"""An adapter that someone sends: whatever is in its files, the answer is a refusal in words, soon."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eztinker.client.uploads import adapter_archive
from eztinker.engine.worker.peft_folder import read_peft_folder
from eztinker.errors import NotFoundError, UserError

NAME = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    tensors = {
        f"{NAME}.lora_A.weight": torch.ones(2, 8),
        f"{NAME}.lora_B.weight": torch.ones(8, 2),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert read_peft_folder(tmp_path).modules[0].scaling == 2.0
    return tmp_path


def header(entries: object, *, length: int | None = None, data: bytes = b"\0" * 128) -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def matrix(start: int, end: int, shape: tuple[int, ...] = (2, 8), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


A, B = f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"
FILES = {
    "empty": b"",
    "shorter than a length": b"\1\2",
    "a header that is not there": struct.pack("<Q", 100),
    "a header of 2**63 bytes": header({}, length=2**63),
    "a header of 2**64 - 1 bytes": header({}, length=2**64 - 1),
    "a header of 4 GB": header({}, length=2**32),
    "no JSON": header(b"{" * 64),
    "deep JSON": header(b"[" * 100_000),
    "no object": header([1, 2]),
    "not text": header(b"\xff\xfe" * 8),
    "no offsets": header({A: {"dtype": "F32", "shape": [2, 8]}}),
    "backwards": header({A: matrix(64, 0), B: matrix(64, 128, (8, 2))}),
    "overlapping": header({A: matrix(0, 64), B: matrix(32, 96, (8, 2))}),
    "behind the end": header({A: matrix(0, 64), B: matrix(64, 2**40, (8, 2))}),
    "a shape that is not its size": header({A: matrix(0, 64, (2**31, 2**31)), B: matrix(64, 128)}),
    "a shape that overflows": header({A: matrix(0, 64, (2**63, 2, 2)), B: matrix(64, 128)}),
    "negative shape": header({A: matrix(0, 64, (-2, -8)), B: matrix(64, 128, (8, 2))}),
    "an unknown type": header({A: matrix(0, 64, dtype="F33"), B: matrix(64, 128, (8, 2))}),
    "numbers of another type": header({A: matrix(0, 16, dtype="BOOL"), B: matrix(16, 32)}),
    "a hole": header({A: matrix(0, 64), B: matrix(96, 160, (8, 2))}, data=b"\0" * 160),
    "the same name twice": header(
        b'{"x.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"x.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "no tensors": header({}, data=b""),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_header_is_refused(adapter: Path, name: str) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(FILES[name])
    with pytest.raises(UserError):
        read_peft_folder(adapter)


def test_a_file_cut_short_anywhere_is_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for num_bytes in range(0, len(whole), 7):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(UserError):
            read_peft_folder(adapter)


VALUES = [
    None,
    True,
    -1,
    0,
    2.5,
    1e308,
    "x",
    "",
    [],
    [1],
    {},
    {"q_proj": "x"},
    {"\\\\": 1},
    {"": 0},
]
SETTINGS = ["r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora"]


@pytest.mark.parametrize("field", [*SETTINGS, "bias", "base_model_name_or_path", "peft_type"])
def test_a_setting_of_any_type_is_read_or_refused(adapter: Path, field: str) -> None:
    for value in VALUES:
        rewritten(adapter, **{field: value})
        try:
            read = read_peft_folder(adapter)
        except UserError:
            continue
        assert isinstance(read.base_model, str)
        assert math.isfinite(read.modules[0].scaling), value


@pytest.mark.parametrize("text", [b"", b"[1]", b"[" * 100_000, b"\xff\xfe", b"{", b"null"])
def test_a_config_that_is_no_object_is_refused(adapter: Path, text: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(text)
    with pytest.raises(UserError):
        read_peft_folder(adapter)


def rewritten(adapter: Path, **changes: object) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))


def of_type(adapter: Path, dtype: torch.dtype) -> None:
    tensors = {A: torch.ones(2, 8).to(dtype), B: torch.ones(8, 2).to(dtype)}
    save_file(tensors, adapter / "adapter_model.safetensors")


REFUSALS = {
    "not DoRA": lambda a: rewritten(a, use_dora=True),
    "kasa_config": lambda a: rewritten(a, kasa_config={"beta": 1}),
    "use_wonders": lambda a: rewritten(a, use_wonders=True, eva_config={"rho": 2}),
    "not biases": lambda a: rewritten(a, bias="all"),
    "not 'pissa', which changes": lambda a: rewritten(a, init_lora_weights="pissa"),
    "and '2' by": lambda a: rewritten(a, r="2"),
    "torch.int8": lambda a: of_type(a, torch.int8),
    "not fully covered": lambda a: (a / "adapter_model.safetensors").write_bytes(
        (a / "adapter_model.safetensors").read_bytes()[:-9]
    ),
    "not finite": lambda a: (
        of_type(a, torch.float16)
        or save_file(
            {A: torch.full((2, 8), float("nan")), B: torch.ones(8, 2)},
            a / "adapter_model.safetensors",
        )
    ),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_names_the_file_and_what_to_do(adapter: Path, words: str) -> None:
    """The folder may be a place inside a server, which is nobody's business."""
    REFUSALS[words](adapter)
    with pytest.raises(UserError) as caught:
        read_peft_folder(adapter)
    message = caught.value.message
    assert words in message
    assert "adapter_" in message
    assert str(adapter) not in message
    assert message.count(". ") >= 1  # after what is wrong comes what to do


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_floats_of_any_width_are_read(adapter: Path, dtype: torch.dtype) -> None:
    of_type(adapter, dtype)
    assert read_peft_folder(adapter).modules[0].a.dtype == torch.float32


def test_a_folder_that_is_none_is_told_from_one_without_the_files(adapter: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        adapter_archive(adapter / "nowhere")
    with pytest.raises(NotFoundError, match="is a file"):
        adapter_archive(adapter / "adapter_config.json")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(NotFoundError, match="pickle"):
        adapter_archive(adapter)


def test_a_pattern_cannot_hold_up_the_worker(adapter: Path) -> None:
    for pattern in ("(.*)*(.*)*(.*)*!", "(a|b|ab|.)*!", "((.+)+)+!", "q_proj" * 20_000):
        config = {**CONFIG, "alpha_pattern": {pattern: 8}}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        began_s = time.process_time()
        with pytest.raises(UserError, match="alpha_pattern"):
            read_peft_folder(adapter)
        assert time.process_time() - began_s < 1


def test_patterns_as_peft_writes_them_are_read(adapter: Path) -> None:
    for pattern in ("q_proj", r"layers\.0\.self_attn\.q_proj", "model.layers.0.self_attn.q_proj"):
        config = {**CONFIG, "alpha_pattern": {pattern: 8}}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        assert read_peft_folder(adapter).modules[0].scaling == 4.0
