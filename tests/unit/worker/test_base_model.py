from __future__ import annotations

import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from eztinker.engine.worker import decoder_base
from eztinker.types.codec import decode
from eztinker.types.commands import CloseRun, LoadBaseModel, OpenRun, UnloadBaseModel
from eztinker.types.events import BaseModelFailed, BaseModelLoaded
from eztinker.types.operations import RunCreated, SampleResult
from eztinker.types.training import LoRAConfig
from tests.model_factory import write_model


def test_a_base_model_is_loaded_once(harness, qwen2_folder, gpt2_folder):
    (first,) = harness.events
    assert isinstance(first, BaseModelLoaded)
    assert (first.architecture, first.context_length, first.vocab_size) == (
        "Qwen2ForCausalLM",
        96,
        300,
    )
    assert first.dtype == "float32"
    resident = harness.worker._residents.base_models["m"]
    (again,) = harness.do(LoadBaseModel("m", str(qwen2_folder)))
    assert again == first
    assert harness.worker._residents.base_models["m"] is resident
    (other,) = harness.do(LoadBaseModel("m", str(gpt2_folder)))
    assert isinstance(other, BaseModelFailed)


def test_one_copy_of_a_folder_under_two_names(harness, qwen2_folder):
    first = harness.worker._residents.base_models["m"]
    by_detour = qwen2_folder / ".." / qwen2_folder.name
    (event,) = harness.do(LoadBaseModel("alias", str(by_detour)))
    assert event.base_model == "alias"
    second = harness.worker._residents.base_models["alias"]
    assert second.decoder is first.decoder
    commands = [
        harness.sample_command([5, 6, 7], run_id=None, base_model=name, seed=1, max_tokens=5)
        for name in ("m", "alias", "m")
    ]
    events = harness.do(*commands)
    results = [decode(event.result, SampleResult).sequences[0].tokens for event in events]
    assert results == [results[0]] * 3
    assert isinstance(harness.do(LoadBaseModel("alias", str(qwen2_folder)))[0], BaseModelLoaded)


@pytest.mark.parametrize("damage", ["lack", "shape"])
def test_weights_that_are_not_there_are_never_random(harness, tmp_path, damage):
    write_model(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:, 1:].contiguous()
    if damage == "lack":
        del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    (event,) = harness.do(LoadBaseModel("x", str(tmp_path)))
    assert event.error.code == "invalid_request"
    assert name in event.error.message
    assert damage in event.error.message


def test_what_cannot_be_loaded_is_said_clearly(harness, tmp_path, qwen2_folder):
    (missing,) = harness.do(LoadBaseModel("x", str(tmp_path)))
    assert (missing.error.code, "config.json" in missing.error.message) == ("not_found", True)
    (tmp_path / "config.json").write_text((qwen2_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (pickled,) = harness.do(LoadBaseModel("x", str(tmp_path)))
    assert pickled.error.code == "unsupported"
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    (damaged,) = harness.do(LoadBaseModel("x", str(tmp_path)))
    assert damaged.error.code == "model_unreadable"


def test_an_architecture_that_computes_otherwise_is_refused(harness, tmp_path, monkeypatch):
    folder = write_model(tmp_path, "llama")
    real = decoder_base.own_logits
    shifted = lambda model, texts: [t + torch.arange(t.shape[-1]) for t in real(model, texts)]  # noqa: E731
    monkeypatch.setattr("eztinker.engine.worker.base_model.own_logits", shifted)
    (event,) = harness.do(LoadBaseModel("x", str(folder)))
    assert event.error.code == "unsupported"


def test_gpt2_layers_can_be_named(harness, gpt2_folder):
    harness.do(LoadBaseModel("g", str(gpt2_folder)))
    lora = LoRAConfig(r=2, target_modules=("c_attn", "c_proj"))
    created = harness.answer(OpenRun("o", "g", "g", lora, 1), RunCreated)
    assert created.target_modules == ["c_attn", "c_proj"]
    hidden = 32
    attention, projections = 2 * (hidden + 3 * hidden), 2 * (2 * hidden) + 2 * (5 * hidden)
    assert created.num_trainable_parameters == 2 * (attention + projections)
    event = harness.failure(OpenRun("o", "h", "g", LoRAConfig(target_modules=("q_proj",)), 1))
    assert event.error.code == "unknown_module"
    assert "c_proj" in event.error.message


def test_an_unloaded_base_model_is_named(harness):
    event = harness.failure(OpenRun("o", "h", "nothere", LoRAConfig(), 1))
    assert event.error.code == "not_found"
    assert "nothere" in event.error.message


def test_an_unloaded_model_is_gone_with_its_runs_and_comes_back(harness, qwen2_folder):
    harness.do(LoadBaseModel("alias", str(qwen2_folder)))
    harness.open_run()
    decoder = weakref.ref(harness.worker._residents.base_models["m"].decoder)
    first = harness.sample([5, 6, 7], run_id=None, seed=1, max_tokens=5).sequences[0]
    harness.do(CloseRun("r"), UnloadBaseModel("alias"))
    assert harness.worker._residents.base_models == {}
    assert decoder() is None  # nothing else holds its memory
    failed = harness.failure(harness.sample_command([5, 6, 7], run_id=None, max_tokens=5))
    assert failed.error.code == "not_found"
    harness.do(LoadBaseModel("m", str(qwen2_folder)))
    again = harness.sample([5, 6, 7], run_id=None, seed=1, max_tokens=5).sequences[0]
    assert again.logprobs == first.logprobs
