"""Quantised models against plain transformers on the dequantised weights, and those against bitsandbytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from eztinker.engine.worker import base_model
from eztinker.engine.worker.decoder import LeanDecoder
from eztinker.engine.worker.hf_decoder import HFDecoder
from eztinker.engine.worker.quantization import QuantizedLinear, put_dequantized
from eztinker.types.commands import LoadBaseModel, OpenRun, RunSample, WriteState
from eztinker.types.operations import RunCreated, Sample, SampleResult
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import LoRAConfig, resident_key
from tests.model_factory import write_model
from tests.parity.test_models import DATA, mean_loss, trainable
from tests.worker_harness import Harness, datum, tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]
CASES = [
    ("qwen2", "lean", "nf4"),
    ("llama_biased", "lean", "nf4"),
    ("qwen3", "lean", "int8"),
    ("gpt2", "transformers", "nf4"),
    ("gpt_neox", "transformers", "int8"),
]
LORA = {"r": 4, "lora_dropout": 0.0}


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def case(request, tmp_path, monkeypatch):
    family, decoder, kind = request.param
    if decoder == "transformers":
        monkeypatch.setattr(base_model, "obstacle", lambda model: "switched off")
    return QuantizedHarness(write_model(tmp_path / "m", family), kind), decoder, kind


class QuantizedHarness(Harness):
    """A worker whose runs are on the quantised model; the full one is resident beside it."""

    def __init__(self, folder, kind, **settings):
        super().__init__(folder, **settings)
        self.folder, self.kind = folder, kind
        (self.loaded,) = self.do(LoadBaseModel("m", str(folder), kind))

    def open_run(self, run_id="r", seed=7, **lora):
        config = LoRAConfig(**{**LORA, **lora})
        command = OpenRun(self.job_id(), run_id, "m", config, seed, quantization=self.kind)
        return self.answer(command, RunCreated)

    def base(self, kind=None):
        return self.worker._residents.base_models[resident_key("m", kind or self.kind)]

    def plain_model(self):
        """transformers' own model with the numbers that the engine uses."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        put_dequantized(model, self.kind)
        return model.eval()

    def save(self, folder):
        folder.mkdir()
        self.do(WriteState("w", "r", str(folder), False))
        return folder


def test_the_forward_pass_is_that_of_the_dequantised_weights(case):
    harness, decoder, _ = case
    assert isinstance(harness.base().decoder, LeanDecoder if decoder == "lean" else HFDecoder)
    harness.open_run()
    loss = harness.forward(DATA).loss
    model = harness.plain_model()
    with torch.no_grad():
        assert loss == pytest.approx(float(mean_loss(model, DATA)), rel=2e-5)
    full = float(mean_loss(read(harness.folder), DATA).detach())
    assert abs(loss - full) > 1e-4  # it is not the full model by mistake


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_gradients_and_a_step_are_those_of_peft_on_the_dequantised_base(case, tmp_path):
    harness, _, _ = case
    harness.open_run()
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)  # else B is zero and hides A's gradient
    adapter = harness.save(tmp_path / "adapter")
    harness.forward_backward(DATA)
    peft = PeftModel.from_pretrained(harness.plain_model(), adapter, is_trainable=True)
    mean_loss(peft, DATA).backward()
    expected = {name: p.grad for name, p in trainable(peft).items()}
    spec = harness.run_state().weights.spec
    ours = dict(
        zip(
            [key for key, _ in spec.tensor_shapes],
            harness.run_state().gradient_P.split([a * b for _, (a, b) in spec.tensor_shapes]),
            strict=True,
        )
    )
    assert ours.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(
            ours[key].view_as(gradient),
            gradient,
            rtol=1e-3,
            atol=2e-5 * float(gradient.abs().max()),
        )


def test_sampled_logprobs_are_the_trainers(case):
    harness, _, _ = case
    harness.open_run()
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)
    prompt = tokens(5, 9)
    sequence = harness.sample(prompt, seed=3, max_tokens=8).sequences[0]
    whole = np.concatenate([prompt, np.array(sequence.tokens, np.int32)])
    inputs = {"target_tokens": whole[1:].astype(np.int64)}
    d = datum(0, len(whole) - 1)
    d = type(d)(whole[:-1], inputs)
    trained = harness.forward([d], reduction="sum").logprobs[0][len(prompt) - 1 :]
    np.testing.assert_allclose(sequence.logprobs, trained, atol=2e-4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_numbers_are_bitsandbytes_own(tmp_path, kind):
    """transformers quantises with bitsandbytes' modules; made full again, those are our weights.

    Of a width that whole blocks fill: for others bitsandbytes' own modules are wrong on a CPU.
    """
    torch.manual_seed(5)
    folder = tmp_path / "m"
    config = GPT2Config(vocab_size=99, n_embd=64, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    settings = (
        BitsAndBytesConfig(load_in_8bit=True)
        if kind == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=settings
    )
    theirs.dequantize()
    modules = dict(theirs.named_modules())
    compared = 0
    for name, module in QuantizedHarness(folder, kind).plain_model().named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and name != "lm_head":
            weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
            torch.testing.assert_close(weight, modules[name].weight, rtol=1e-6, atol=1e-7)
            compared += 1
    assert compared == 4


def test_both_copies_are_resident_and_the_quantised_one_is_small(case):
    harness, _, kind = case
    full, small = harness.base("none").decoder, harness.base().decoder
    assert harness.loaded.quantization == kind
    assert small.num_parameters == full.num_parameters
    held = [m for m in small._model.modules() if isinstance(m, QuantizedLinear)]
    saved = full.size_bytes - small.size_bytes
    per_number = 4 - (1 if kind == "int8" else 0.5)
    numbers = sum(m.in_features * m.out_features for m in held)
    assert 0.85 * per_number * numbers < saved < per_number * numbers
    command = harness.sample_command([5, 6, 7], run_id=None, seed=1, max_tokens=6)
    quantized = RunSample(harness.job_id(), command.operation, quantization=kind)
    answers = [
        harness.answer(it, SampleResult).sequences[0] for it in (command, quantized, command)
    ]
    assert answers[0].logprobs == answers[2].logprobs
    assert answers[0].logprobs != answers[1].logprobs


def test_a_saved_state_is_read_again_bit_by_bit(case, tmp_path):
    harness, _, kind = case
    harness.open_run(lora_dropout=0.2)
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)
    folder = tmp_path / "state"
    folder.mkdir()
    harness.do(WriteState("w", "r", str(folder), True))
    other = QuantizedHarness(harness.folder, kind)
    command = OpenRun("o", "r", "m", LoRAConfig(r=4, lora_dropout=0.2), 7, str(folder), kind)
    other.answer(command, RunCreated)
    for one, two in zip(harness.forward(DATA).logprobs, other.forward(DATA).logprobs, strict=True):
        np.testing.assert_array_equal(one, two)
    for each in (harness, other):
        each.forward_backward(DATA)
    assert torch.equal(harness.run_state().gradient_P, other.run_state().gradient_P)


def test_a_checkpoint_is_sampled_on_the_base_it_names(case, tmp_path):
    harness, _, kind = case
    harness.open_run()
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)
    folder = str(harness.save(tmp_path / "adapter"))
    operation = Sample(
        WeightsRef("m", "r", "c"), tokens(5, 9), SamplingParams(seed=3, max_tokens=6)
    )
    results = {
        q: harness.answer(RunSample(harness.job_id(), operation, folder, q), SampleResult)
        for q in ("none", kind)
    }
    live = harness.sample(tokens(5, 9), seed=3, max_tokens=6).sequences[0]
    assert results[kind].sequences[0].logprobs == live.logprobs
    assert results["none"].sequences[0].logprobs != live.logprobs


def test_recomputing_layers_changes_no_bit(tmp_path):
    harness = QuantizedHarness(write_model(tmp_path / "m", "qwen2"), "nf4")
    harness.open_run()
    gradients = []
    for checkpointing in (False, True):
        command = harness.pass_command(DATA)
        harness.do(type(command)(
            command.job_id, "r", command.operation,
            type(command.plan)(command.plan.micro_batches, checkpointing=checkpointing),
        ))  # fmt: skip
        gradients.append(harness.run_state().gradient_P)
    assert torch.equal(gradients[0] * 2, gradients[1])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_bfloat16_compute_stays_near_float32(tmp_path, kind):
    folder = write_model(tmp_path / "m", "qwen2")
    losses = []
    for dtype in ("float32", "bfloat16"):
        harness = QuantizedHarness(folder, kind, dtype=dtype)
        harness.open_run()
        losses.append(harness.forward(DATA).loss)
        assert harness.loaded.dtype == dtype
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_a_weight_made_full_in_slabs_is_the_one_made_full_at_once(monkeypatch):
    import bitsandbytes.functional as functional

    from eztinker.engine.worker import quantization

    monkeypatch.setattr(quantization, "_SLAB_NUMBERS", 64 * 96)
    weight = torch.randn(200, 96, generator=torch.Generator().manual_seed(3))
    held = quantization.NF4Weight(weight, torch.float32)
    slabs = list(held.slabs())
    assert [end - first for first, end, _ in slabs] == [64, 64, 64, 8]
    packed, state = functional.quantize_4bit(
        weight.view(-1, 64), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    whole = functional.dequantize_4bit(packed, state).view(200, 96)
    assert torch.equal(torch.cat([slab for _, _, slab in slabs]), whole)


@pytest.mark.parametrize("shape", [(5, 7), (3, 50), (70, 96), (64, 64), (1, 1)])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_no_number_is_further_off_than_its_scale_allows(shape, kind):
    from eztinker.engine.worker.quantization import Int8Weight, NF4Weight

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    held = NF4Weight(weight, torch.float32) if kind == "nf4" else Int8Weight(weight, torch.float32)
    full = torch.cat([slab for _, _, slab in held.slabs()])
    if kind == "int8":
        bound = weight.abs().amax(1, keepdim=True).expand_as(weight) * (0.51 / 127 + 2**-11)
    else:  # half the widest gap between two codes, and what the scale itself is rounded by
        blocks = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True).expand_as(blocks)
        bound = (0.153 * scale + 0.03 * scale.max()).flatten()[: weight.numel()].view(shape)
    assert (full - weight).abs().le(bound).all()


def test_the_vocabulary_head_can_be_adapted_and_embeddings_cannot(tmp_path):
    harness = QuantizedHarness(write_model(tmp_path / "m", "qwen3"), "nf4")
    assert "lm_head" in harness.open_run(train_unembed=True).target_modules
    harness.forward_backward(DATA)
    assert harness.optim_step(learning_rate=0.01).grad_norm > 0
    config = LoRAConfig(target_modules=("q_proj", "embed_tokens"))
    failed = harness.failure(OpenRun("o", "x", "m", config, 1, quantization="nf4"))
    assert (failed.error.code, failed.error.field) == ("unsupported", "target_modules")
    assert "'embed_tokens' is an embedding" in failed.error.message


def test_without_bitsandbytes_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    harness = Harness(write_model(tmp_path / "m", "qwen2"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    (event,) = harness.do(LoadBaseModel("m", str(tmp_path / "m"), "nf4"))
    assert (event.error.code, event.quantization) == ("missing_extra", "nf4")
    assert 'pip install "eztinker[qlora]"' in event.error.message
    assert harness.open_run().run_id == "r"  # the full one is as before


def test_peft_trains_on_the_saved_adapter(tmp_path):
    """What was trained on a quantised base is an ordinary PEFT folder."""
    harness = QuantizedHarness(write_model(tmp_path / "m", "qwen2"), "nf4")
    harness.open_run()
    saved = load_file(harness.save(tmp_path / "a") / "adapter_model.safetensors")
    fresh = get_peft_model(harness.plain_model(), LoraConfig(r=4, target_modules="all-linear"))
    assert saved.keys() == trainable(fresh).keys()
