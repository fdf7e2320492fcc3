"""All layers of a decode step in one call of torch's interpreter (``ops/interpreted.py``).

The operations are those of ``lean_layer.enter``, ``DecodeLayout.attend`` and ``lean_layer.leave``, on the same
tensors in the same order, so that the numbers are the same to the last bit; what is saved is Python between
them, about fifty operations a layer, and Python's lock, so that two halves of a batch can be computed side by
side. On a CPU, for weights that are not quantised and attention that sees its whole row. Knows no requests; called by
``decoder.py``.

Axes: N rows of the step, D hidden size, H heads of queries, keys and values together, E head size, R rows of
the cache, G key-value heads, S positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from eztinker.engine.worker.attention import DecodeLayout, Variant, attend_cached
from eztinker.engine.worker.lean_adapters import Projection
from eztinker.engine.worker.lean_layer import (
    LayerAdapters,
    LayerWeights,
    Rotation,
    rms_norm,
    rotate_,
)
from eztinker.engine.worker.packed_projection import PackedProjection
from eztinker.ops.interpreted import interpreted
from eztinker.ops.packed_linear import held_linear, held_linear_added

AdapterRows = tuple[list[LayerAdapters], int, int]
"""(an adapter in every layer, first row, end)."""


class DecodeLayers:
    """The layers of a model, ready for decode steps.

    Args:
        layers: without quantised projections.
        variants: of their attention, without softcap.
        num_q: query heads.
        num_kv: key-value heads.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], variants: Sequence[Variant], num_q: int, num_kv: int
    ) -> None:
        self._groups = [
            (projection, is_added)
            for layer in layers
            for projection, is_added in (
                (layer.qkv, False),
                (layer.out, True),
                (layer.gate_up, False),
                (layer.down, True),
            )
            if isinstance(projection, (Projection, PackedProjection))
        ]
        self._biases = [projection.bias for projection, _ in self._groups]
        self._norms_in = [layer.norm_in for layer in layers]
        self._norms_mid = [layer.norm_mid for layer in layers]
        self._norms_qk = [layer.norm_qk_HE for layer in layers]
        self._eps, self._heads = layers[0].eps, (num_q, num_kv)
        self._scaling = variants[0].scaling
        windows = [v.sliding_window for v in variants if v.sliding_window is not None]
        self._window = min(windows, default=None)
        self._held: dict[int, tuple[list[Tensor], list[str]]] = {}

    @staticmethod
    def fits(layers: Sequence[LayerWeights]) -> bool:
        """Whether these layers can be run here: on a CPU with oneDNN, not quantised."""
        groups = [group for x in layers for group in (x.qkv, x.out, x.gate_up, x.down)]
        return (
            layers[0].norm_in.device.type == "cpu"
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
            and all(isinstance(group, (Projection, PackedProjection)) for group in groups)
        )

    def sees_all(self, layout: DecodeLayout) -> bool:
        """Whether no sliding window hides anything that is cached."""
        return self._window is None or layout.width <= self._window

    def __call__(
        self, x_ND: Tensor, rotation: Rotation, layout: DecodeLayout, rows: Sequence[AdapterRows]
    ) -> Tensor:
        """The residual stream [N, D] after the last layer; new keys and values are stored in the cache."""
        weights, layouts = self._weights_for(len(x_ND))
        keys, values = layout.cache.buffers(layout.first_row, len(x_ND))
        prompts = [prompt.kv.all_layers() for prompt in layout.shared]
        return _layers(
            x_ND,
            [rotation.cos_N1E, rotation.sin_N1E],
            self._norms_in,
            self._norms_mid,
            self._norms_qk,
            weights,
            self._biases,
            layouts,
            [low_rank for groups, _, _ in rows for low_rank in _low_ranks(groups)],
            [(start, end) for _, start, end in rows],
            keys,
            values,
            layout.places_R,
            layout.width,
            layout.bias_R11S,
            [prompt.start for prompt in layout.shared],
            [prompt.end for prompt in layout.shared],
            [keys_LGTE for keys_LGTE, _ in prompts],
            [values_LGTE for _, values_LGTE in prompts],
            self._heads,
            self._scaling,
            self._eps,
        )

    def _weights_for(self, num_rows: int) -> tuple[list[Tensor], list[str]]:
        """The copies of the weights that are best for so many rows, and their layouts."""
        if num_rows not in self._held:
            held = [group.held_for(num_rows, to_add=added) for group, added in self._groups]
            self._held[num_rows] = [weight for weight, _ in held], [name for _, name in held]
        return self._held[num_rows]


def _low_ranks(groups: list[LayerAdapters]) -> list[Tensor | None]:
    """A and B of alike adapters, four pairs for each layer."""
    return [
        matrix
        for layer in groups
        for group in (layer.qkv, layer.out, layer.gate_up, layer.down)
        for matrix in group.low_rank
    ]


@interpreted
def _layers(
    x_ND: Tensor,
    cos_sin: list[Tensor],
    norms_in: list[Tensor],
    norms_mid: list[Tensor],
    norms_qk: list[Tensor | None],
    weights: list[Tensor],
    biases: list[Tensor | None],
    layouts: list[str],
    low_ranks: list[Tensor | None],
    rows: list[tuple[int, int]],
    keys: list[Tensor],
    values: list[Tensor],
    places_R: Tensor,
    width: int,
    bias: Tensor | None,
    starts: list[int],
    ends: list[int],
    prompt_keys: list[Tensor],
    prompt_values: list[Tensor],
    heads: tuple[int, int],
    scaling: float | None,
    eps: float,
) -> Tensor:
    """Four weights, biases and layouts for each layer, eight matrices for each layer and adapter."""
    num_rows, num_layers = x_ND.shape[0], len(norms_in)
    num_q, num_kv = heads
    row_R = torch.arange(num_rows)
    for i in range(num_layers):
        k = 4 * i
        h_ND, _ = rms_norm(x_ND, norms_in[i], eps)
        y = held_linear(h_ND, weights[k], biases[k], layouts[k])
        _adapt_(y, h_ND, low_ranks, rows, num_layers, k)
        y_NHE = y.view(num_rows, num_q + 2 * num_kv, -1)
        qk_NHE = y_NHE[:, : num_q + num_kv]
        norm_qk = norms_qk[i]
        if norm_qk is not None:
            qk_NHE, _ = rms_norm(qk_NHE, norm_qk, eps)
        rotate_(qk_NHE, cos_sin[0], cos_sin[1])
        keys[i][row_R, :, places_R] = qk_NHE[:, num_q:]
        values[i][row_R, :, places_R] = y_NHE[:, num_q + num_kv :]
        attended = attend_cached(
            qk_NHE[:, :num_q].reshape(num_rows, num_kv, num_q // num_kv, -1),
            keys[i][:, :, :width],
            values[i][:, :, :width],
            bias,
            scaling,
            starts,
            ends,
            [prompt[i] for prompt in prompt_keys],
            [prompt[i] for prompt in prompt_values],
        ).reshape(num_rows, -1)
        x_ND = held_linear_added(x_ND, attended, weights[k + 1], biases[k + 1], layouts[k + 1])
        _adapt_(x_ND, attended, low_ranks, rows, num_layers, k + 1)
        h_ND, _ = rms_norm(x_ND, norms_mid[i], eps)
        both = held_linear(h_ND, weights[k + 2], biases[k + 2], layouts[k + 2])
        _adapt_(both, h_ND, low_ranks, rows, num_layers, k + 2)
        gate, up = both.chunk(2, dim=1)
        inner_NI = silu(gate).mul_(up)
        x_ND = held_linear_added(x_ND, inner_NI, weights[k + 3], biases[k + 3], layouts[k + 3])
        _adapt_(x_ND, inner_NI, low_ranks, rows, num_layers, k + 3)
    return x_ND


def _adapt_(
    y: Tensor,
    x_ND: Tensor,
    low_ranks: list[Tensor | None],
    rows: list[tuple[int, int]],
    num_layers: int,
    place: int,
) -> None:
    """Add to a projection's outputs, in place, what the adapters of its rows add."""
    for i, (start, end) in enumerate(rows):
        a_AKD = low_ranks[8 * num_layers * i + 2 * place]
        b_AKO = low_ranks[8 * num_layers * i + 2 * place + 1]
        if a_AKD is not None and b_AKO is not None:
            num_alike = a_AKD.shape[0]
            x_ATD = x_ND[start:end].view(num_alike, -1, x_ND.shape[1])
            low_ATK = torch.bmm(x_ATD, a_AKD.transpose(1, 2))
            y[start:end].view(num_alike, -1, y.shape[1]).baddbmm_(low_ATK, b_AKO)
