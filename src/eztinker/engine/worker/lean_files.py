"""A model of the Llama family read from its files without transformers, whose import takes longer than torch's.

``read_lean_model`` covers what it knows to the letter: files and a ``config.json`` that say everything and
nothing unusual (whole heads rotated by plain frequencies, no window, no file format of a quantiser). Of
everything else it says None, and transformers reads it. The result has the modules that ``lean_weights.py`` looks
for, under the names that transformers gives them, and computes nothing itself. Called by ``base_model.py``,
which compares what comes of it with numbers of transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

_BIASES = {
    "LlamaForCausalLM": "configured",
    "MistralForCausalLM": "none",
    "Qwen2ForCausalLM": "inputs",
    "Qwen3ForCausalLM": "configured",
}
"""Architecture -> which projections have a bias: as the config says, none, or queries, keys and values."""
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class LeanConfig:
    """What ``config.json`` and ``generation_config.json`` say, as far as a decoder asks.

    Attributes:
        architecture: class name in transformers.
        head_dim: size of a head.
        rope_theta: base of the rotary frequencies.
        biased: last names of the projections that have a bias.
        eos_token_id: as the files have it.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    vocab_size: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    biased: frozenset[str]
    eos_token_id: int | list[int] | None
    sliding_window: None = None

    def get_text_config(self) -> LeanConfig:
        """Itself; models of several parts have one for text."""
        return self


def read_lean_model(folder: Path, dtype: torch.dtype | None) -> LeanModel | None:
    """The model in a folder; None if it is not plainly one of those that this file knows.

    Args:
        folder: with ``config.json`` and safetensors files.
        dtype: of its weights; None keeps that of the files.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    config = _read_config(folder)
    paths = _weight_files(folder)
    if config is None or not paths:
        return None
    with torch.device("meta"):
        model = LeanModel(config)
    wanted = {name for name, _ in model.named_parameters()}
    tensors = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if not names <= wanted or names & tensors.keys():
                return None
            tensors |= {name: file.get_tensor(name) for name in names}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        return None  # transformers says what is missing
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    model.fill(tensors)
    return model


def _read_config(folder: Path) -> LeanConfig | None:
    stated = _json(folder / "config.json")
    generation = _json(folder / "generation_config.json") if stated else {}
    architecture = next(iter(stated.get("architectures") or [""]))
    rope_theta = _plain_rope_theta(stated)
    eos = generation.get("eos_token_id", stated.get("eos_token_id"))
    if (
        architecture not in _BIASES
        or rope_theta is None
        or eos is None
        or any(type(stated.get(name)) is not int for name in _SIZES)
        or type(stated.get("tie_word_embeddings")) is not bool
        or stated.get("hidden_act") != "silu"
        or "rms_norm_eps" not in stated
        or "quantization_config" in stated
        or _has_window(stated, architecture)
    ):
        return None
    head_dim = stated.get("head_dim")
    if head_dim is None:
        if architecture == "Qwen3ForCausalLM":
            return None  # its default is a number of its own
        head_dim = stated["hidden_size"] // stated["num_attention_heads"]
    return LeanConfig(
        architecture,
        **{name: stated[name] for name in _SIZES},
        head_dim=head_dim,
        rms_norm_eps=stated["rms_norm_eps"],
        rope_theta=rope_theta,
        tie_word_embeddings=stated["tie_word_embeddings"],
        biased=_biased(stated, architecture),
        eos_token_id=eos,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain_rope_theta(stated: dict[str, Any]) -> float | None:
    """The base of frequencies that nothing scales; None otherwise. Two spellings are in use."""
    if "rope_parameters" in stated:
        rope = stated["rope_parameters"] or {}
        is_plain = rope.keys() <= {"rope_type", "rope_theta"} and rope.get("rope_type") == "default"
        return rope.get("rope_theta") if is_plain else None
    if stated.get("rope_scaling") or stated.get("partial_rotary_factor", 1) != 1:
        return None
    return stated.get("rope_theta")


def _has_window(stated: dict[str, Any], architecture: str) -> bool:
    if any(kind != "full_attention" for kind in stated.get("layer_types") or ()):
        return True
    if architecture == "MistralForCausalLM":
        return stated.get("sliding_window", 4096) is not None
    return bool(stated.get("use_sliding_window", False))


def _biased(stated: dict[str, Any], architecture: str) -> frozenset[str]:
    inputs, mlp = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"}
    match _BIASES[architecture]:
        case "none":
            return frozenset()
        case "inputs":
            return frozenset(inputs)
    chosen = inputs | {"o_proj"} if stated.get("attention_bias") else set()
    if architecture == "LlamaForCausalLM" and stated.get("mlp_bias"):
        chosen |= mlp
    return frozenset(chosen)


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would take."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    places = _json(folder / "model.safetensors.index.json").get("weight_map", {})
    return [folder / name for name in sorted(set(places.values()))]


class Linear(nn.Linear):
    """A linear layer without numbers; those come from files, and drawing some would take seconds."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Draw nothing."""


class LeanModel(nn.Module):
    """The modules of a Llama, Mistral, Qwen2 or Qwen3 model, in transformers' order and by its names.

    Args:
        config: sizes.
    """

    def __init__(self, config: LeanConfig) -> None:
        super().__init__()
        self.config = self.generation_config = config
        self.model = _Body(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def base_model(self) -> _Body:
        """All but the vocabulary head."""
        return self.model

    def get_output_embeddings(self) -> Linear:
        """The vocabulary head."""
        return self.lm_head

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Put in weights, one for each parameter; frozen, and not copied."""
        self.load_state_dict(tensors, strict=False, assign=True)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.eval().requires_grad_(False)


class _Body(nn.Module):
    def __init__(self, config: LeanConfig) -> None:
        super().__init__()
        self.embed_tokens = _Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = _Norm(config.hidden_size)
        self.rotary_emb = PlainRotation(config.rope_theta, config.head_dim)


class _Layer(nn.Module):
    def __init__(self, config: LeanConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _MLP(config)
        self.input_layernorm = _Norm(config.hidden_size)
        self.post_attention_layernorm = _Norm(config.hidden_size)


class _Attention(nn.Module):
    def __init__(self, config: LeanConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        for name, num_outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            bias = name in config.biased
            self.add_module(name, Linear(config.hidden_size, num_outputs, bias=bias))
        self.o_proj = Linear(queries, config.hidden_size, bias="o_proj" in config.biased)
        if config.architecture == "Qwen3ForCausalLM":
            self.q_norm = _Norm(config.head_dim)
            self.k_norm = _Norm(config.head_dim)


class _MLP(nn.Module):
    def __init__(self, config: LeanConfig) -> None:
        super().__init__()
        outer, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(outer, inner, bias="gate_proj" in config.biased)
        self.up_proj = Linear(outer, inner, bias="up_proj" in config.biased)
        self.down_proj = Linear(inner, outer, bias="down_proj" in config.biased)
        self.act_fn = nn.SiLU()


class _Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))


class PlainRotation(nn.Module):
    """Cosines and sines of rotary position embedding (Su et al. 2021, arXiv:2104.09864), nothing scaled.

    Args:
        theta: base of the frequencies theta^(-2i/E).
        head_size: E.
    """

    rope_type = "default"

    def __init__(self, theta: float, head_size: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_size, 2, dtype=torch.float, device="cpu") / head_size
        self.inv_freq = 1.0 / (theta**exponents)

    def forward(self, like: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, T, E] in the type and on the device of ``like``; both halves of E are equal."""
        half = positions_BT[..., None].float() * self.inv_freq.to(like.device)
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)
