"""Our decoder, adapters and sampler against transformers and PEFT on the same weights, per family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from eztinker.engine.worker import base_model
from eztinker.engine.worker.decoder import LeanDecoder
from eztinker.engine.worker.hf_decoder import HFDecoder
from eztinker.errors import UnsupportedError
from eztinker.types.commands import LoadBaseModel, OpenRun, WriteState
from eztinker.types.operations import RunCreated, SampleResult
from eztinker.types.training import Datum, LoRAConfig
from tests.model_factory import CONFIGS, LEAN_FAMILIES, write_model
from tests.worker_harness import Harness, datum, tokens

DATA = [datum(1, 12, 4), datum(2, 33), datum(3, 5), datum(4, 17, 16)]
# PEFT asks transformers by an old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]
STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


BOTH = [(name, "lean") for name in LEAN_FAMILIES] + [
    (name, "transformers") for name in sorted(CONFIGS) if name != "llama_dynamic"
]


@pytest.fixture(scope="module", params=BOTH, ids=["-".join(names) for names in BOTH])
def written(request, tmp_path_factory):
    family, decoder = request.param
    return write_model(tmp_path_factory.mktemp(family), family), decoder


@pytest.fixture
def folder(written, monkeypatch):
    """A model's folder; models are loaded into the decoder that the test is for."""
    path, decoder = written
    if decoder == "transformers":
        monkeypatch.setattr(base_model, "obstacle", lambda model: "switched off")
    return path


def decoder_of(harness):
    return harness.worker._residents.base_models["m"].decoder


def test_the_decoder_is_the_one_this_test_is_for(folder, written):
    expected = LeanDecoder if written[1] == "lean" else HFDecoder
    assert isinstance(decoder_of(Harness(folder)), expected)


def test_positions_that_depend_on_the_length_are_left_to_transformers(tmp_path):
    folder = write_model(tmp_path / "m", "llama_dynamic")
    assert isinstance(decoder_of(Harness(folder)), HFDecoder)


def test_a_model_that_our_decoder_gets_wrong_runs_in_the_other(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "qwen2")
    monkeypatch.setattr(base_model.LeanDecoder, "_tables", _standing_still)
    assert isinstance(decoder_of(Harness(folder)), HFDecoder)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [("falcon", "does not run with packed attention"), ("mamba", "use the attention interface")],
)
def test_an_architecture_that_cannot_run_here_is_refused_by_name(tmp_path, architecture, said):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(architecture, **sizes, max_position_embeddings=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=said):
        base_model.load_base_model(
            "m", tmp_path, quantization="none", device=torch.device("cpu"), dtype="float32"
        )


def _standing_still(self, position):
    """Rotations of position 0 everywhere."""
    size = self._head_size
    return torch.ones(1024, 1, size), torch.zeros(1024, 1, size)


def test_a_fused_weight_is_held_once(tmp_path):
    decoder = decoder_of(Harness(write_model(tmp_path / "m", "qwen2")))
    layer = decoder._model.model.layers[0]
    fused = decoder._layers[0].qkv.weight.untyped_storage().data_ptr()
    for module in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
        assert module.weight.untyped_storage().data_ptr() == fused


@pytest.mark.parametrize("lora_dropout", [0.0, 0.3])
def test_recomputing_layers_changes_no_bit(tmp_path, lora_dropout):
    folder = write_model(tmp_path / "m", "qwen3")
    gradients = []
    for checkpointing in (False, True, True):
        harness = Harness(folder)
        harness.open_run(lora_dropout=lora_dropout)
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=0.02)
        command = harness.pass_command(DATA)
        harness.do(replace(command, plan=replace(command.plan, checkpointing=checkpointing)))
        gradients.append(harness.run_state().gradient_P)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[1], gradients[2])


def test_dropout_gives_the_same_gradients_in_both_decoders(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "qwen2")
    gradients = []
    for _ in range(2):
        harness = Harness(folder)
        harness.open_run(lora_dropout=0.3)
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=0.02)
        harness.forward_backward(DATA)
        gradients.append(harness.run_state().gradient_P)
        monkeypatch.setattr(base_model, "obstacle", lambda model: "switched off")
    error = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    assert 0 < error < 1e-4


def read_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def mean_loss(model, data):
    """Σ w·nll / Σ w with full logits, one datum at a time: the plainest way."""
    total, weight = 0, 0
    for d in data:
        logits = model(torch.from_numpy(d.tokens_T.astype(np.int64))[None]).logits[0]
        targets = torch.from_numpy(d.loss_fn_inputs["target_tokens"])
        w = torch.from_numpy(d.loss_fn_inputs["weights"])
        p = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        total, weight = total - (w * p).sum(), weight + w.sum()
    return total / weight


def save(harness, folder, run_id="r"):
    folder.mkdir()
    harness.do(WriteState("w", run_id, str(folder), False))
    return folder


def trainable(peft_model) -> dict[str, torch.Tensor]:
    return {
        name.replace(".default", ""): p
        for name, p in peft_model.named_parameters()
        if p.requires_grad
    }


def peft_twin(harness, folder, tmp_path, name="adapter"):
    """The run as PEFT reads it from our files, trainable."""
    path = save(harness, tmp_path / name)
    return PeftModel.from_pretrained(read_model(folder), path, is_trainable=True).eval()


def test_target_logprobs_equal_the_models_own(folder):
    harness = Harness(folder)
    harness.open_run()
    result = harness.forward(DATA, reduction="sum")
    model = read_model(folder)
    for d, ours in zip(DATA, result.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(d.tokens_T.astype(np.int64))[None]).logits[0]
        expected = torch.log_softmax(logits, -1)
        expected = expected.gather(1, torch.from_numpy(d.loss_fn_inputs["target_tokens"])[:, None])
        np.testing.assert_allclose(ours, expected[:, 0].numpy(), atol=1e-4)


def test_padded_rows_and_packed_sequences_agree(folder):
    harness = Harness(folder)
    harness.open_run()
    even = [datum(i, 10 + i % 2) for i in range(5)]
    padded = harness.forward(even, reduction="sum")
    apart = harness.forward(even, reduction="sum", plan=[[i] for i in range(5)])
    packed = harness.forward([*even, datum(9, 60)], reduction="sum")
    for i in range(5):
        np.testing.assert_allclose(padded.logprobs[i], apart.logprobs[i], atol=1e-4)
        np.testing.assert_allclose(packed.logprobs[i], apart.logprobs[i], atol=1e-4)


def test_adapter_gradients_and_twenty_steps_equal_peft(folder, tmp_path):
    harness = Harness(folder)
    harness.open_run(lora_alpha=8, use_rslora=True)
    twin = peft_twin(harness, folder, tmp_path)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=3e-3, weight_decay=0.1)
    for step in range(20):
        data = DATA[step % 2 :]
        result = harness.forward_backward(data)
        optimizer.zero_grad()
        loss = mean_loss(twin, data)
        loss.backward()
        assert result.loss == pytest.approx(loss.item(), rel=2e-4)
        if step in (0, 5):
            compare_gradients(harness, twin)
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        ours = harness.optim_step(learning_rate=3e-3, weight_decay=0.1, grad_clip_norm=0.5)
        assert ours.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        optimizer.step()
    assert result.loss < 0.98 * harness_first_loss(folder)


def harness_first_loss(folder):
    harness = Harness(folder)
    harness.open_run()
    return harness.forward(DATA[1:]).loss


def compare_gradients(harness, twin):
    state = harness.run_state()
    shapes = state.weights.spec.tensor_shapes
    parts = state.gradient_P.split([rows * columns for _, (rows, columns) in shapes])
    theirs = trainable(twin)
    assert set(theirs) == {key for key, _ in shapes}
    scale = max(p.grad.abs().max() for p in theirs.values())
    for part, (key, shape) in zip(parts, shapes, strict=True):
        error = (part.view(shape) - theirs[key].grad).abs().max() / scale
        assert error < 1e-5, key


def test_the_initial_adapter_has_pefts_distribution(folder):
    harness = Harness(folder)
    harness.open_run(r=8)
    ours = harness.run_state().weights.tensors
    targets = sorted({key.split(".")[-3] for key in ours})
    theirs = trainable(
        get_peft_model(
            read_model(folder), LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")
        )
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    for key, tensor in ours.items():
        if ".lora_B." in key:
            assert not tensor.any()
            continue
        bound = tensor.shape[1] ** -0.5
        for a in (tensor, theirs[key]):
            assert 0.9 * bound < a.abs().max() <= bound
            assert a.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_saved_adapter_gives_the_same_logits_in_peft(folder, tmp_path):
    harness = Harness(folder)
    harness.open_run(lora_alpha=32)
    for _ in range(3):
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=0.02)
    twin = peft_twin(harness, folder, tmp_path)
    result = harness.forward(DATA)
    with torch.no_grad():
        expected = mean_loss(twin, DATA).item()
        base = mean_loss(read_model(folder), DATA).item()
    assert result.loss == pytest.approx(expected, rel=1e-4)
    assert abs(result.loss - base) > 0.01


@pytest.mark.parametrize("prompt_length", [1, 7, 30])
def test_greedy_equals_generate(folder, prompt_length):
    harness = Harness(folder)
    prompt = tokens(3, prompt_length)
    ours = harness.sample(
        prompt, run_id=None, num_samples=2, max_tokens=20, temperature=0, stop_token_ids=()
    )
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    theirs = read_model(folder).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=None,
        pad_token_id=0,
    )[0, prompt_length:]
    for sequence in ours.sequences:
        assert sequence.tokens == theirs.tolist()


def test_sampler_and_trainer_agree_on_logprobs(folder):
    """The stated tolerance: 2e-4 in float32, with an adapter, prompts of several lengths together."""
    harness = Harness(folder)
    harness.open_run()
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)
    commands = [
        harness.sample_command(
            tokens(i, 3 + 9 * i), num_samples=2, max_tokens=25, seed=i, stop_token_ids=()
        )
        for i in range(3)
    ]
    answers = harness.answers(*commands, cls=SampleResult)
    for i, command in enumerate(commands):
        prompt = tokens(i, 3 + 9 * i)
        for sequence in answers[command.job_id].sequences:
            whole = np.concatenate([prompt, sequence.tokens]).astype(np.int32)
            d = Datum(whole[:-1], {"target_tokens": whole[1:].astype(np.int64)})
            scored = harness.forward([d], reduction="sum").logprobs[0][len(prompt) - 1 :]
            np.testing.assert_allclose(sequence.logprobs, scored, atol=2e-4)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")  # PEFT: merging would need a copy
@pytest.mark.parametrize("family", ["qwen2", "qwen3"], ids=["tied", "untied"])
def test_an_adapter_on_the_head_equals_peft(tmp_path, family):
    folder = write_model(tmp_path / family, family)
    harness = Harness(folder)
    harness.open_run(train_unembed=True, train_attn=False)
    for _ in range(2):
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=0.02)
    assert any("lm_head" in key for key in harness.run_state().weights.tensors)
    twin = peft_twin(harness, folder, tmp_path)
    result = harness.forward_backward(DATA)
    loss = mean_loss(twin, DATA)
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-4)
    compare_gradients(harness, twin)
    sequence = harness.sample(tokens(1, 5), max_tokens=5, stop_token_ids=()).sequences[0]
    whole = np.concatenate([tokens(1, 5), sequence.tokens]).astype(np.int32)
    d = Datum(whole[:-1], {"target_tokens": whole[1:].astype(np.int64)})
    np.testing.assert_allclose(
        sequence.logprobs, harness.forward([d], reduction="sum").logprobs[0][4:], atol=2e-4
    )


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the real model in ../shared/models")
def test_a_real_model_trains_and_tells_stories(tmp_path):
    harness = Harness(STORIES)
    model = read_model(STORIES)
    prompt = np.array([1, 403, 407], np.int32)
    ours = harness.sample(prompt, run_id=None, max_tokens=40, temperature=0, stop_token_ids=())
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
    )
    assert ours.sequences[0].tokens == theirs[0, 3:].tolist()
    harness.do(LoadBaseModel("m", str(STORIES)))
    created = harness.answer(OpenRun("o", "r", "m", LoRAConfig(r=4, lora_dropout=0), 1), RunCreated)
    assert created.num_trainable_parameters > 0
    story = np.array(ours.sequences[0].tokens, np.int32)
    data = [Datum(story[:-1], {"target_tokens": story[1:].astype(np.int64)})]
    first = harness.forward_backward(data).loss
    harness.optim_step(learning_rate=1e-2)
    assert harness.forward(data).loss < first
    assert load_file(save(harness, tmp_path / "s") / "adapter_model.safetensors")
