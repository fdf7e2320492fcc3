"""Which architectures of transformers run here: tiny random models of each, against transformers alone.

``make architectures`` tries all of them, in full and quantised; docs/models.md has the list. CI tries a few.
The reference is transformers' own module with W + s·B·A in place of each adapted W: PEFT takes some layers of
mixtures of experts for others.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from eztinker.engine.worker.quantization import put_dequantized
from eztinker.types.commands import LoadBaseModel, OpenRun
from eztinker.types.events import BaseModelFailed
from eztinker.types.operations import RunCreated
from eztinker.types.training import LoRAConfig
from tests.model_factory import write_tokenizer
from tests.parity.test_models import mean_loss
from tests.worker_harness import Harness, datum, tokens

QUANTIZABLE = (
    "apertus", "arcee", "biogpt", "bitnet", "cohere", "cohere2", "cwm", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "helium", "hunyuan_v1_dense", "hyperclovax", "internlm3", "jais2",
    "llama", "minicpm3", "ministral", "ministral3", "mistral", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "youtu",
)  # fmt: skip
MIXTURES = (
    "cohere2_moe", "deepseek_v2", "deepseek_v3", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "granitemoe",
    "granitemoeshared", "hunyuan_v1_moe", "laguna", "minimax_m2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
"""Adapters go on attention, dense layers and shared experts; the experts themselves lie in one tensor, which is not
quantised."""
REFUSED = (
    "bamba", "bloom", "codegen", "falcon", "gpt_oss", "gptj", "jamba", "mamba", "mpt", "qwen3_5_text", "rwkv",
)  # fmt: skip

_LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu")
_SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "sliding_window": 8,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "state_size": 8,
}
_LATENT_SIZES = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
_GPT2_SIZES = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128, "rotary_dim": 8}
"""Also of those that took its names over."""

ALL = os.environ.get("ARCHITECTURES") == "1"
CASES = [(name, kind) for name in QUANTIZABLE for kind in ("none", "nf4", "int8")]
CASES += [(name, "none") for name in MIXTURES]
FEW = [("gemma3_text", "nf4"), ("deepseek_v3", "none")]
DATA = [datum(1, 12, 4), datum(2, 60), datum(3, 5), datum(4, 17, 16)]
PROMPT = tokens(3, 20)


def write_architecture(folder: Path, name: str) -> Path:
    """A random model whose attention and adapters matter, its windows shorter than the data."""
    sizes = _SIZES | _GPT2_SIZES
    if name in _LATENT:
        sizes |= _LATENT_SIZES
    if name in (*_LATENT, "falcon"):  # which derive it
        del sizes["head_dim"]
    if name == "olmoe":  # hands windows to its attention that its mask does not know
        del sizes["sliding_window"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in path:
                parameter.mul_(5)
            elif path.endswith("bias") or "norm" in path:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


class Added(nn.Module):
    """W + scaling·B·A."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scaling: float, transposed: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.scaling, self.transposed = scaling, transposed

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        delta = self.scaling * self.b @ self.a
        return weight + (delta.t() if self.transposed else delta)


def reference(folder: Path, kind: str, harness: Harness | None = None):
    """transformers' model; with the run of a harness its adapter, and that one's trainable tensors by key."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if kind != "none":
        put_dequantized(model, kind)
    model.requires_grad_(requires_grad=False)
    added = {}
    weights = harness.run_state().weights if harness else None
    for key, a in weights.tensors.items() if weights else ():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            module = model.get_submodule(name)
            b_key = key.replace("lora_A", "lora_B")
            config = weights.spec.config
            transposed = isinstance(module, Conv1D)
            one = Added(a, weights.tensors[b_key], config.lora_alpha / config.r, transposed)
            parametrize.register_parametrization(module, "weight", one)
            added |= {key: one.a, b_key: one.b}
    return model, added


@pytest.mark.parametrize(
    ("architecture", "kind"),
    CASES if ALL else FEW,
    ids=["-".join(case) for case in (CASES if ALL else FEW)],
)
def test_an_architecture_trains_and_samples_as_transformers_computes(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    if kind != "none":
        pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    folder = write_architecture(tmp_path / "m", architecture)
    harness = Harness(folder)
    if kind != "none":
        harness.do(LoadBaseModel("m", str(folder), kind))
    lora = LoRAConfig(r=4, lora_dropout=0.0)
    harness.answer(OpenRun(harness.job_id(), "r", "m", lora, 7, quantization=kind), RunCreated)
    compare_logprobs(harness, reference(folder, kind)[0])
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.02)
    model, added = reference(folder, kind, harness)
    compare_gradients(harness, model, added)
    compare_greedy(harness, model)


def compare_logprobs(harness: Harness, model) -> None:
    result = harness.forward(DATA, reduction="sum")
    for d, ours in zip(DATA, result.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(d.tokens_T.astype(np.int64))[None]).logits[0]
        targets = torch.from_numpy(d.loss_fn_inputs["target_tokens"])[:, None]
        expected = logits.log_softmax(-1).gather(1, targets)[:, 0].numpy()
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def compare_gradients(harness: Harness, model, added) -> None:
    result = harness.forward_backward(DATA)
    loss = mean_loss(model, DATA)
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=2e-4)
    state = harness.run_state()
    shapes = state.weights.spec.tensor_shapes
    parts = state.gradient_P.split([rows * columns for _, (rows, columns) in shapes])
    scale = max(p.grad.abs().max() for p in added.values() if p.grad is not None)
    for part, (key, shape) in zip(parts, shapes, strict=True):
        theirs = added[key].grad
        theirs = torch.zeros(shape) if theirs is None else theirs
        assert (part.view(shape) - theirs).abs().max() <= 1e-3 * scale, key


@torch.no_grad()
def compare_greedy(harness: Harness, model) -> None:
    """Each token is the likeliest one (within rounding) and has the log-probability that is told."""
    sampled = harness.sample(PROMPT, num_samples=2, max_tokens=20, temperature=0, stop_token_ids=())
    for sequence in sampled.sequences:
        whole = torch.tensor([[*PROMPT, *sequence.tokens]])
        logprobs_TV = model(whole[:, :-1]).logits[0, len(PROMPT) - 1 :].log_softmax(-1)
        drawn = logprobs_TV.gather(1, torch.tensor(sequence.tokens)[:, None])[:, 0]
        assert (logprobs_TV.max(-1).values - drawn).max() < 1e-3
        np.testing.assert_allclose(sequence.logprobs, drawn.numpy(), atol=5e-4)


@pytest.mark.parametrize("architecture", REFUSED if ALL else ("gpt_oss",))
def test_what_does_not_run_is_refused_by_name(tmp_path: Path, architecture: str) -> None:
    folder = write_architecture(tmp_path / "m", architecture)
    harness = Harness(folder)
    (failed,) = (event for event in harness.events if isinstance(event, BaseModelFailed))
    assert failed.error.code == "unsupported"
    assert not harness.worker._residents.base_models
