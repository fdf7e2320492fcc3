"""Which models our own decoder covers: only what is known to be computed as there.

Looks at a model's parts and settings, not at its numbers. Called by ``base_model.py``, which runs everything else in
``hf_decoder.py``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from eztinker.engine.worker.lean_files import LeanModel, Linear
from eztinker.engine.worker.quantization import QuantizedLinear

_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
# Whose inverse frequencies do not depend on the length of a text.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_BODY_PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}


def obstacle(model: Any) -> str | None:
    """Why a model cannot run here; None when it can.

    Args:
        model: of transformers or of ``lean_files.py``, untouched.
    """
    name = type(model).__name__
    is_theirs = type(model).__module__.startswith("transformers.models.")
    if not isinstance(model, LeanModel) and (name not in _ARCHITECTURES or not is_theirs):
        return f"{name} is not one of {', '.join(_ARCHITECTURES)}"
    body = model.base_model
    rope_type = getattr(body.rotary_emb, "rope_type", None)
    if rope_type not in _ROPE_TYPES:
        return f"rope type {rope_type!r}"
    if _children(body) != _BODY_PARTS:
        return "unknown parts beside the layers"
    for layer in body.layers:
        reason = _layer_obstacle(layer, body.rotary_emb.inv_freq.shape[0])
        if reason is not None:
            return reason
    return None


def _layer_obstacle(layer: Any, num_frequencies: int) -> str | None:
    attention, mlp = layer.self_attn, layer.mlp
    norms = _children(attention) - _ATTENTION_PARTS
    if (
        _children(layer) != _LAYER_PARTS
        or norms not in (set(), {"q_norm", "k_norm"})
        or not _children(attention) >= _ATTENTION_PARTS
        or _children(mlp) != _MLP_PARTS
    ):
        return "unknown parts in a layer"
    plain = (nn.Linear, Linear, QuantizedLinear)
    if any(type(m) not in plain for n, m in layer.named_modules() if n.endswith("_proj")):
        return "projections that are not plain linear layers"
    if not isinstance(mlp.act_fn, nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
        return f"activation {type(mlp.act_fn).__name__}"
    if attention.head_dim != 2 * num_frequencies:
        return "positions rotate a part of each head only"
    if attention.scaling != attention.head_dim**-0.5:
        return "attention scaled in its own way"
    biases = [(getattr(attention, n).bias is None) for n in ("q_proj", "k_proj", "v_proj")]
    biases_mlp = [(getattr(mlp, n).bias is None) for n in ("gate_proj", "up_proj")]
    if len(set(biases)) > 1 or len(set(biases_mlp)) > 1:
        return "a bias on some projections of a group only"
    return None


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}
