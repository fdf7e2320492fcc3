"""A run on disk and back."""

from __future__ import annotations

import gc
import hashlib
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from eztinker.engine.worker import state
from eztinker.types.commands import OpenRun, ReadState, WriteState
from eztinker.types.events import StateWritten
from eztinker.types.training import LoRAConfig
from tests.unit.worker.test_training import DATA, same_state
from tests.worker_harness import Harness


@pytest.fixture
def trained(harness):
    harness.open_run(lora_dropout=0.2)
    for _ in range(3):
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=1e-2)
    return harness


def write(harness, folder, *, run_id="r", with_optimizer=True, background=False) -> StateWritten:
    folder.mkdir(exist_ok=True)
    events = harness.do(WriteState("w", run_id, str(folder), with_optimizer, background))
    harness.worker._writes.join()
    return events[-1] if events else harness.events[-1]


@pytest.mark.parametrize("background", [False, True])
def test_a_snapshot_opens_as_the_same_bits_and_goes_on_the_same(
    trained, qwen2_folder, tmp_path, background
):
    written = write(trained, tmp_path / "s", background=background)
    assert written.step == 3
    for name, digest in written.files.items():
        assert hashlib.sha256((tmp_path / "s" / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in (tmp_path / "s").iterdir()} == set(written.files)
    assert written.size_bytes == sum(p.stat().st_size for p in (tmp_path / "s").iterdir())
    other = Harness(qwen2_folder)
    other.open_run(snapshot_folder=str(tmp_path / "s"), lora_dropout=0.2)
    assert same_state(trained.run_state(), other.run_state())
    for harness in (trained, other):
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=1e-2)
    assert same_state(trained.run_state(), other.run_state())


def test_reading_restores_the_state_and_drops_the_gradient(trained, tmp_path):
    before = trained.run_state()
    write(trained, tmp_path / "s")
    trained.forward_backward(DATA)
    trained.optim_step(learning_rate=0.1)
    trained.forward_backward(DATA)
    event = trained.answer(ReadState("x", "r", str(tmp_path / "s"), True))
    assert event.step == 3
    assert same_state(before, trained.run_state())


def test_reading_without_optimizer_starts_a_fresh_one(trained, tmp_path):
    write(trained, tmp_path / "s", with_optimizer=False)
    assert not (tmp_path / "s" / "optimizer.safetensors").exists()
    weights = trained.run_state().weights.flat_P
    assert trained.answer(ReadState("x", "r", str(tmp_path / "s"), False)).step == 0
    assert torch.equal(trained.run_state().weights.flat_P, weights)
    assert not trained.run_state().adam.exp_avg_P.any()
    event = trained.failure(ReadState("x", "r", str(tmp_path / "s"), True))
    assert event.error.code == "no_optimizer_state"


def test_the_folder_is_a_peft_adapter_with_tokenizer(trained, tmp_path):
    written = write(trained, tmp_path / "s")
    config = json.loads((tmp_path / "s" / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["fan_in_fan_out"] is False
    assert config["base_model_name_or_path"] == "m"
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(written.files)
    keys = load_file(tmp_path / "s" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys


@pytest.mark.parametrize(
    ("lora", "field"),
    [({"r": 5}, "r"), ({"lora_alpha": 3.0}, "lora_alpha"), ({"use_rslora": True}, "use_rslora")],
)
def test_a_state_of_another_shape_is_refused(trained, tmp_path, lora, field):
    write(trained, tmp_path / "s")
    trained.open_run("other", **lora)
    before = trained.run_state("other")
    event = trained.failure(ReadState("x", "other", str(tmp_path / "s"), True))
    assert (event.error.code, event.error.field) == ("state_mismatch", field)
    assert same_state(before, trained.run_state("other"))


def test_other_modules_are_refused(trained, tmp_path):
    write(trained, tmp_path / "s")
    command = OpenRun(
        "x", "other", "m", LoRAConfig(r=4, target_modules=("q_proj",)), 1, str(tmp_path / "s")
    )
    event = trained.failure(command)
    assert event.error.code == "state_mismatch"
    assert "other" not in trained.worker._residents.runs


def test_a_damaged_file_is_a_storage_error(trained, tmp_path):
    write(trained, tmp_path / "s")
    before = trained.run_state()
    path = tmp_path / "s" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    event = trained.failure(ReadState("x", "r", str(tmp_path / "s"), True))
    assert event.error.code == "storage_error"
    assert same_state(before, trained.run_state())


def test_writing_where_nothing_can_be_written_is_a_storage_error(trained, tmp_path):
    (tmp_path / "file").write_text("")
    event = trained.failure(WriteState("x", "r", str(tmp_path / "file"), True))
    assert event.error.code == "storage_error"


def test_a_foreign_adapter_can_be_sampled_and_an_odd_one_is_refused(trained, tmp_path):
    write(trained, tmp_path / "s", with_optimizer=False)
    prompt = [5, 6, 7]
    current = trained.sample(prompt, max_tokens=8, seed=3)
    saved = trained.sample(prompt, max_tokens=8, seed=3, folder=str(tmp_path / "s"))
    assert saved.sequences == current.sequences
    assert (current.step, saved.step) == (3, 0)
    path = tmp_path / "s" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    tensors = load_file(tmp_path / "s" / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "s" / "adapter_model.safetensors")
    command = trained.sample_command(prompt, folder=str(tmp_path / "s"))
    assert "use_dora" in trained.failure(command).error.message


def test_reading_again_and_again_leaves_nothing_behind(tmp_path):
    """Integers beyond 256 are objects of their own, and a reader that keeps shapes keeps those."""
    path = tmp_path / "weights.safetensors"
    save_file({f"layer{i}": torch.zeros(300, 2 + i) for i in range(20)}, path)
    state._load_tensors(path)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(40):
        state._load_tensors(path)
    gc.collect()
    assert sys.getallocatedblocks() - before < 40
