"""Tiny random base models, written to a folder as a user's would be: config, safetensors, tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCAB_SIZE = 300
CONTEXT = 96
EOS = 1

_COMMON = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": None}
_LLAMA_LIKE = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
CONFIGS = {
    "qwen2": lambda: Qwen2Config(**_LLAMA_LIKE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_LLAMA_LIKE, head_dim=8, tie_word_embeddings=False),
    "llama": lambda: LlamaConfig(**_LLAMA_LIKE),
    "gpt2": lambda: GPT2Config(**_COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT),
    "gpt_neox": lambda: GPTNeoXConfig(
        **_COMMON,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    ),
    "gemma": lambda: GemmaConfig(**{**_LLAMA_LIKE, "head_dim": 8}),
    "mistral": lambda: MistralConfig(**_LLAMA_LIKE, sliding_window=8),
    "qwen2_windowed": lambda: Qwen2Config(
        **_LLAMA_LIKE,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": CONTEXT // 2,
        },
    ),
    "llama_biased": lambda: LlamaConfig(
        **_LLAMA_LIKE,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": CONTEXT // 2,
        },
    ),
    "llama_dynamic": lambda: LlamaConfig(
        **_LLAMA_LIKE,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    ),
}
LEAN_FAMILIES = ("llama", "llama_biased", "mistral", "qwen2", "qwen2_windowed", "qwen3")
"""Those that our own decoder runs."""


def build_model(family: str, seed: int = 0):
    """A random model with weights large enough that positions and tokens matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(6)
            elif (
                name.endswith("bias") or "norm" in name
            ):  # else zeros and ones, which hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def write_model(folder: Path, family: str, seed: int = 0) -> Path:
    """Write such a model; the folder."""
    build_model(family, seed).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: id = byte + 2, after the two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": EOS} | {piece: i + 2 for i, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
