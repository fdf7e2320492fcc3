"""Base models read without transformers: the same modules, numbers and answers as with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eztinker.engine.worker import base_model
from eztinker.engine.worker.decoder import LeanDecoder
from eztinker.engine.worker.known_logits import PACKAGED, KnownLogits, columns
from eztinker.engine.worker.lean_files import LeanModel, read_lean_model
from eztinker.service.base_models import NANO_FOLDER
from eztinker.types.training import Quantization
from tests.model_factory import CONFIGS, build_model, write_model
from tests.worker_harness import Harness, datum

PLAIN = ("llama", "qwen2", "qwen3", "mistral_plain", "llama_all_biases")


@pytest.fixture
def families(monkeypatch):
    """Families beside those of the factory: no window, biases everywhere."""
    mistral, llama = CONFIGS["mistral"], CONFIGS["llama"]

    def mistral_plain():
        config = mistral()
        config.sliding_window = None
        return config

    def llama_all_biases():
        config = llama()
        config.attention_bias = config.mlp_bias = True
        config.tie_word_embeddings = True
        return config

    monkeypatch.setitem(CONFIGS, "mistral_plain", mistral_plain)
    monkeypatch.setitem(CONFIGS, "llama_all_biases", llama_all_biases)


def load(folder: Path, kept: Path | None, quantization: Quantization = "none"):
    return base_model.load_base_model(
        "m",
        folder,
        quantization=quantization,
        device=torch.device("cpu"),
        dtype="float32",
        known_logits=kept,
    )


@pytest.mark.parametrize("family", PLAIN)
def test_modules_and_numbers_are_those_of_transformers(families, tmp_path, family):
    folder = write_model(tmp_path, family)
    ours = read_lean_model(folder, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert ours is not None
    assert ours.config.architecture == type(theirs).__name__
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name
    assert base_model._stop_token_ids(ours) == base_model._stop_token_ids(theirs)
    first, second = LeanDecoder(ours), LeanDecoder(theirs.eval())
    assert first.sites == second.sites
    for name in ("num_layers", "context_length", "vocab_size", "size_bytes", "num_parameters"):
        assert getattr(first, name) == getattr(second, name)
    assert first.cache_bytes_per_token == second.cache_bytes_per_token
    texts = base_model._probe_texts(ours)
    assert texts == base_model._probe_texts(theirs)
    assert torch.equal(first._packed_logits(texts), second._packed_logits(texts))
    assert torch.equal(first._decoded_logits(texts), second._decoded_logits(texts))


@pytest.mark.parametrize("family", ["qwen2_windowed", "llama_biased", "mistral", "gpt2"])
def test_what_is_unusual_is_left_to_transformers(tmp_path, family):
    assert read_lean_model(write_model(tmp_path, family), torch.float32) is None


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"tie_word_embeddings": None},
        {"num_key_value_heads": None},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"attention_bias": True},
        {"vocab_size": 301},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_does_not_fit_is_left_to_transformers(tmp_path, change):
    folder = write_model(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    assert read_lean_model(folder, torch.float32) is None


def test_files_with_too_few_or_too_many_tensors_are_left_to_transformers(tmp_path):
    folder = write_model(tmp_path, "llama")
    path = folder / "model.safetensors"
    whole = load_file(path)
    for tensors in (
        {name: t for name, t in whole.items() if "layers.1.mlp.up" not in name},
        whole | {"model.layers.0.self_attn.sinks": torch.zeros(4)},
    ):
        save_file(tensors, path, metadata={"format": "pt"})
        assert read_lean_model(folder, torch.float32) is None


def test_a_model_in_several_files(tmp_path):
    model = build_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert not (tmp_path / "model.safetensors").exists()
    ours = read_lean_model(tmp_path, None)
    assert ours is not None
    for name, parameter in model.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_second_load_gives_the_same_bits_without_transformers(tmp_path, quantization):
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    folder, kept = write_model(tmp_path / "m", "qwen2"), tmp_path / "kept"
    first, second = (load(folder, kept, quantization) for _ in range(2))
    assert not isinstance(first.decoder._model, LeanModel)
    assert isinstance(second.decoder._model, LeanModel)
    assert (first.architecture, first.stop_token_ids) == (
        second.architecture,
        second.stop_token_ids,
    )
    texts = [[5, 6, 7, 8], [9, 10]]
    assert torch.equal(first.decoder._packed_logits(texts), second.decoder._packed_logits(texts))


def test_training_does_not_depend_on_who_read_the_model(tmp_path):
    folder, kept = write_model(tmp_path / "m", "qwen3"), tmp_path / "kept"
    gradients = []
    for _ in range(2):
        harness = Harness(folder, known_logits=str(kept))
        harness.open_run(lora_dropout=0.2)
        harness.forward_backward([datum(1, 12, 4), datum(2, 33)])
        harness.optim_step(learning_rate=0.02)
        harness.forward_backward([datum(3, 17)])
        gradients.append(harness.run_state().gradient_P)
    assert torch.equal(*gradients)


def test_numbers_that_differ_from_the_kept_ones_ask_transformers_again(tmp_path):
    folder, kept = write_model(tmp_path / "m", "qwen2"), tmp_path / "kept"
    load(folder, kept)
    (path,) = kept.iterdir()
    good = np.load(path)
    for damaged in (good + 1.0, good[:, :0], np.full_like(good, np.nan), b"no array"):
        if isinstance(damaged, bytes):
            path.write_bytes(damaged)
        else:
            np.save(path, damaged)
        assert not isinstance(load(folder, kept).decoder._model, LeanModel)
        assert np.array_equal(np.load(path), good)


def test_other_weights_have_other_numbers(tmp_path):
    names = set()
    for seed in (1, 2):
        folder = write_model(tmp_path / str(seed), "qwen2", seed)
        for conditions in (("float32", "none"), ("bfloat16", "none"), ("float32", "nf4")):
            names.add(KnownLogits.of(folder, *conditions, written=None).name)
    assert len(names) == 6


def test_the_packaged_numbers_are_those_of_transformers():
    model = AutoModelForCausalLM.from_pretrained(NANO_FOLDER, dtype=torch.float32)
    texts = base_model._probe_texts(model)
    expected = torch.cat(base_model.own_logits(model, texts))
    kept = KnownLogits.of(NANO_FOLDER, "float32", "none", "cpu", written=None).read()
    assert kept is not None, "run `python -m tools.nano.known_logits`"
    torch.testing.assert_close(kept, expected[:, columns(expected.shape[1])], atol=1e-4, rtol=1e-4)
    assert len(list(PACKAGED.iterdir())) == 3


def test_the_built_in_model_needs_no_transformers():
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from eztinker.engine.worker import worker, base_model\n"
        f"base_model.load_base_model('nano', Path({str(NANO_FOLDER)!r}), quantization='none',"
        " device=torch.device('cpu'), dtype='auto')\n"
        "print([name for name in ('transformers', 'peft', 'torch._dynamo', 'sympy')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
