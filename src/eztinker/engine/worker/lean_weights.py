"""A model's weights as the layers of our own decoder read them.

Weights stay those that were read from files; projections on the same input are laid one below the other, and the
model's own parameters become views of them. Knows no pass and no copy in another layout (``packed_projection.py``).
Called by ``decoder.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from eztinker.engine.worker.attention import Variant
from eztinker.engine.worker.lean_adapters import FrozenLayers, Projection
from eztinker.engine.worker.lean_layer import LayerWeights
from eztinker.engine.worker.quantization import QuantizedLinear, QuantizedProjection


def lay_out(model: Any, index_of: Mapping[str, int]) -> list[LayerWeights]:
    """The layers of a model.

    Args:
        model: one that ``lean_coverage.py`` finds no obstacle in.
        index_of: the number of each linear layer that can have an adapter, by its name.
    """
    names = {module: name for name, module in model.named_modules()}

    def projection(*modules: nn.Linear) -> FrozenLayers:
        return _projection(modules, [index_of[names[module]] for module in modules])

    return [_layer_weights(layer, projection, model.config) for layer in model.base_model.layers]


def variants(model: Any) -> list[Variant]:
    """What is special in the attention of each layer."""
    return [_variant(layer.self_attn, model.config) for layer in model.base_model.layers]


def _layer_weights(
    layer: Any, projection: Callable[..., FrozenLayers], config: Any
) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    num_q, num_k = (
        module.out_features // attention.head_dim for module in (attention.q_proj, attention.k_proj)
    )
    norm_qk = None
    if hasattr(attention, "q_norm"):
        norm_qk = torch.cat(
            [attention.q_norm.weight.expand(num_q, -1), attention.k_norm.weight.expand(num_k, -1)]
        )
    return LayerWeights(
        norm_in=layer.input_layernorm.weight,
        norm_mid=layer.post_attention_layernorm.weight,
        norm_qk_HE=norm_qk,
        qkv=projection(attention.q_proj, attention.k_proj, attention.v_proj),
        out=projection(attention.o_proj),
        gate_up=projection(mlp.gate_proj, mlp.up_proj),
        down=projection(mlp.down_proj),
        num_rotated=num_q + num_k,
        head_size=attention.head_dim,
        eps=config.rms_norm_eps,
    )


def _projection(modules: Sequence[nn.Linear], sites: Sequence[int]) -> FrozenLayers:
    """Lay weights one below the other; the modules' parameters become views, so nothing is held twice."""
    parts, start = [], 0
    for module, site in zip(modules, sites, strict=True):
        parts.append((site, start, start + module.out_features))
        start += module.out_features
    quantized = [module for module in modules if isinstance(module, QuantizedLinear)]
    if quantized:
        return QuantizedProjection(tuple(quantized), tuple(parts))
    weight, bias = modules[0].weight.data, modules[0].bias
    if len(modules) > 1:
        weight = torch.cat([module.weight.data for module in modules])
        for module, (_, first, end) in zip(modules, parts, strict=True):
            module.weight.data = weight[first:end]
        if bias is not None:
            bias = torch.cat([module.bias.data for module in modules])
    return Projection(weight, None if bias is None else bias.detach(), tuple(parts))


def _variant(attention: Any, config: Any) -> Variant:
    """Mistral's layers ask the config for their window, the others hold their own."""
    if type(attention).__name__ == "MistralAttention":
        window = getattr(config, "sliding_window", None)
    else:
        window = getattr(attention, "sliding_window", None)
    return Variant(attention.scaling, window, None)
