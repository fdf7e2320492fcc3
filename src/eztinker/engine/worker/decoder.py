"""Our own decoder of the Llama family: Llama, Mistral, Qwen2, Qwen2.5, Qwen3, SmolLM.

The order of a pass, and how many copies of the weights it may use. Weights are laid out by ``lean_weights.py``,
``lean_coverage.py`` says of which models; the arithmetic of a layer is in ``lean_layer.py``, attention in
``attention.py``. Knows no runs and no requests. Made by ``base_model.py``.

Axes: B rows of a pass, T positions, N = B·T flat rows, D hidden size, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from eztinker.engine.worker.adapter_rows import Segments, alike_rows
from eztinker.engine.worker.attention import DecodeLayout, Layout, PackedLayout
from eztinker.engine.worker.decode_layers import DecodeLayers
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.devices import free_memory_bytes
from eztinker.engine.worker.held_adapters import HeldAdapters
from eztinker.engine.worker.lean_adapters import (
    Gradients,
    RowAdapters,
    TrainedRows,
)
from eztinker.engine.worker.lean_layer import (
    Enter,
    LayerAdapters,
    Leave,
    Rotation,
    TrainedAdapters,
    enter,
    leave,
    rms_norm,
)
from eztinker.engine.worker.lean_weights import lay_out, variants
from eztinker.engine.worker.lora import Dropout
from eztinker.engine.worker.packed_attention import can_attend, packed_attention
from eztinker.engine.worker.packed_projection import (
    copies_bytes,
    packed_layer,
    packed_layer_for_training,
    with_turned,
)
from eztinker.ops.interpreted import IS_SUPPORTED
from eztinker.ops.packed_linear import can_pack, pack, turned

_PACKED_SHARE = 0.25
"""Of the free memory, for a second copy of the weights in the layout that products like best."""
_LARGEST_READ_TWICE_BYTES = 64 * 2**20
"""Weights that two halves of a decode step may both read; the last cache holds most of them."""


class LeanDecoder(Decoder):
    """A model of the Llama family, ready for passes of any run.

    Args:
        model: one that ``lean_coverage.py`` finds no obstacle in.
        num_copies: of the weights, at most: with one sampling is faster, with two training passes are, with a third
            very few rows. How many the memory budget allows is ``memory_model.num_copies``'s affair.
    """

    def __init__(self, model: Any, num_copies: int = 3) -> None:
        super().__init__(model)
        body = model.base_model
        self._layers = lay_out(model, {site.name: site.index for site in self.sites})
        self._variants = variants(model)
        attention = body.layers[0].self_attn
        self._head_size: int = attention.head_dim
        self._num_kv = attention.k_proj.out_features // attention.head_dim
        self._num_q = attention.q_proj.out_features // attention.head_dim
        self._embedding_VD: Tensor = body.embed_tokens.weight
        self._norm: Tensor = body.norm.weight
        self._rotary = body.rotary_emb
        # An accelerator would have to be waited for at each pass to learn how far they must reach.
        self._cos_sin = self._tables(0 if self.device.type == "cpu" else self.context_length - 1)
        self._is_quantized = bool(self._quantized())
        self._adapters = HeldAdapters(self._layers)
        self._trained_layers = self._sampling_layers = self._layers
        self._pack(num_copies)
        self._decode_layers = None
        if DecodeLayers.fits(self._sampling_layers):
            self._decode_layers = DecodeLayers(
                self._sampling_layers, self._variants, self._num_q, self._num_kv
            )
        self._decodes_beside_itself = (
            IS_SUPPORTED
            and self._decode_layers is not None
            and self.size_bytes <= _LARGEST_READ_TWICE_BYTES
        )

    @property
    def can_share_prompts(self) -> bool:
        """On a CPU, where attention also tells the sum that joins its parts."""
        windows = (variant.sliding_window for variant in self._variants)
        is_plain = all(window is None or window >= self.context_length for window in windows)
        return self.device.type == "cpu" and is_plain

    @property
    def can_run_beside_itself(self) -> bool:
        """On a CPU; not with quantised weights, which each pass would expand for itself."""
        return self.device.type == "cpu" and not self._is_quantized

    @property
    def can_be_recorded(self) -> bool:
        """Not with quantised weights, whose kernels belong to others."""
        return not self._is_quantized

    @property
    def decodes_beside_itself(self) -> bool:
        """A small model, where Python's lock is not in the way."""
        return self._decodes_beside_itself

    @property
    def held_bytes(self) -> int:
        """Memory of the frozen model with every copy that was made of its weights."""
        copies = (self._head.packed_VD, self._head.packed_back_DV, self._head.turned_DV)
        in_head = sum(t.numel() * t.element_size() for t in copies if t is not None)
        return self.size_bytes + in_head + sum(map(copies_bytes, self._sampling_layers))

    def _pack(self, num_copies: int) -> None:
        """Lay out as many copies of the weights as are allowed; fewer only where the machine has no room for them.

        Whether training passes use them follows from the budget, not from what happens to be free: a replay
        rounds as the pass did. Only where two copies would not even fit is it otherwise.
        """
        if num_copies == 0 or not can_pack(self.device, self.dtype):
            return
        free_bytes, size_bytes = free_memory_bytes(self.device), self.size_bytes
        if num_copies >= 2 and 2 * size_bytes <= free_bytes / 2:
            self._trained_layers = [packed_layer_for_training(layer) for layer in self._layers]
            self._sampling_layers = self._trained_layers
            self._head = replace(self._head, packed_back_DV=pack(self._head.weight_VD.t()))
        elif size_bytes <= _PACKED_SHARE * free_bytes:
            self._sampling_layers = [packed_layer(layer) for layer in self._layers]
        else:
            return
        self._head = replace(self._head, packed_VD=pack(self._head.weight_VD))
        if num_copies == 3 and 3 * size_bytes <= free_bytes / 2:
            self._trained_layers = [with_turned(layer) for layer in self._trained_layers]
            self._sampling_layers = self._trained_layers
            self._head = replace(self._head, turned_DV=turned(self._head.weight_VD))

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Inference mode: the bookkeeping it saves is a tenth of a small step.

        Tensors made under it may not enter a pass with gradients, so what both kinds of passes share
        (``held_adapters.py``, ``_tables``) is made outside.
        """
        return torch.inference_mode()

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        layout: Layout,
        segments: Segments,
        *,
        dropouts: Sequence[Dropout | None] = (),
        checkpointing: bool = False,
    ) -> Tensor:
        """Last hidden states [B, T, D], as ``Decoder.hidden`` says."""
        shape = tokens_BT.shape
        x_ND = embedding(tokens_BT.reshape(-1), self._embedding_VD)
        rotation = self._rotation(positions_BT.reshape(-1))
        trained = self._trained(segments, dropouts) if torch.is_grad_enabled() else []
        if trained:
            way_out = Gradients.apply([rows for _, rows in trained], *_leaves(segments))
            for i in range(self.num_layers):
                adapters = _adapters_of_layer(way_out, trained, i, x_ND.shape[0])
                args = (x_ND, i, adapters, rotation, layout, shape)
                if checkpointing:
                    x_ND = checkpoint(
                        self._trained_layer, *args, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    x_ND = self._trained_layer(*args)
        else:
            x_ND = self._frozen_layers(x_ND, rotation, layout, segments, shape)
        normed_ND, _ = rms_norm(x_ND, self._norm, self._layers[0].eps)
        return normed_ND.view(*shape, -1)

    def _trained(
        self, segments: Segments, dropouts: Sequence[Dropout | None]
    ) -> list[tuple[list[LayerAdapters], TrainedRows]]:
        """Adapters of all layers, and the rows of each."""
        trained = []
        for alike in alike_rows(segments, dropouts):
            leaf_P = alike.adapters[0].leaf_P
            gradient_AP = leaf_P.new_zeros(len(alike.adapters), *leaf_P.shape)
            rows = TrainedRows(alike.start, alike.end, alike.dropouts, gradient_AP)
            trained.append((self._adapters.of(alike.adapters), rows))
        return trained

    def _trained_layer(
        self,
        x_ND: Tensor,
        index: int,
        adapters: TrainedAdapters,
        rotation: Rotation,
        layout: Layout,
        shape: torch.Size,
    ) -> Tensor:
        layer = self._trained_layers[index]
        way_out = adapters.way_out_of(adapters.qkv)
        heads = Enter.apply(x_ND, layer, rotation, adapters.qkv, way_out)
        if isinstance(layout, PackedLayout) and can_attend(heads, layout, self._variants[index]):
            attended = packed_attention(heads, self._num_q, layout.lengths)
        else:
            attended = self._attend(heads, index, layout, shape)
        way_out = adapters.way_out_of(adapters.out, adapters.gate_up, adapters.down)
        return Leave.apply(attended, x_ND, layer, adapters, way_out)

    def _frozen_layers(
        self,
        x_ND: Tensor,
        rotation: Rotation,
        layout: Layout,
        segments: Segments,
        shape: torch.Size,
    ) -> Tensor:
        # On an accelerator a recorded step (``decode_graph.py``) reads adapters for as long as it is held, which copies
        # of several side by side do not outlast; there calls cost nothing.
        alike = alike_rows(segments, may_join=self.device.type == "cpu")
        parts = [(self._adapters.of(rows.adapters), rows.start, rows.end) for rows in alike]
        steps = self._decode_layers
        if steps is not None and isinstance(layout, DecodeLayout) and steps.sees_all(layout):
            return steps(x_ND, rotation, layout, parts)
        for i, layer in enumerate(self._sampling_layers):
            here = [(groups[i], start, end) for groups, start, end in parts]
            heads = enter(x_ND, layer, rotation, [(g.qkv, s, e) for g, s, e in here])
            x_ND = leave(
                self._attend(heads, i, layout, shape),
                x_ND,
                layer,
                [(g.out, s, e) for g, s, e in here],
                [(g.gate_up, s, e) for g, s, e in here],
                [(g.down, s, e) for g, s, e in here],
            )
        return x_ND

    def _attend(self, heads_NHE: Tensor, index: int, layout: Layout, shape: torch.Size) -> Tensor:
        heads_BHTE = heads_NHE.view(*shape, -1, self._head_size).transpose(1, 2)
        q, k, v = heads_BHTE.split((self._num_q, self._num_kv, self._num_kv), dim=1)
        out_BHTE = layout.attend(index, q, k, v, self._variants[index])
        return out_BHTE.transpose(1, 2).reshape(heads_NHE.shape[0], -1)

    def _rotation(self, positions_N: Tensor) -> Rotation:
        cos, sin = self._cos_sin
        on_cpu = positions_N.device.type == "cpu"
        if on_cpu and (longest := int(positions_N.max())) >= cos.shape[0]:
            cos, sin = self._cos_sin = self._tables(longest)
        return Rotation(cos[positions_N], sin[positions_N])

    def _tables(self, position: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin [positions, 1, E] up to a position at least, computed as transformers does."""
        num = 1024
        while num <= position:
            num *= 2
        with torch.inference_mode(False), torch.no_grad():
            like = torch.empty(0, dtype=self.dtype, device=self.device)
            cos, sin = self._rotary(like, torch.arange(num, device=self.device)[None])
            sin[..., : self._head_size // 2].neg_()
            return cos[0][:, None], sin[0][:, None]


def _leaves(segments: Segments) -> list[Tensor]:
    """What gradients are taken of, in the order of the rows."""
    return [adapter.leaf_P for adapter, _, _ in segments if adapter is not None]


def _adapters_of_layer(
    way_out: Tensor,
    trained: Sequence[tuple[list[LayerAdapters], TrainedRows]],
    index: int,
    num_rows: int,
) -> TrainedAdapters:
    here = [(groups[index], rows) for groups, rows in trained]
    return TrainedAdapters(
        way_out,
        RowAdapters([(groups.qkv, rows) for groups, rows in here], num_rows),
        RowAdapters([(groups.out, rows) for groups, rows in here], num_rows),
        RowAdapters([(groups.gate_up, rows) for groups, rows in here], num_rows),
        RowAdapters([(groups.down, rows) for groups, rows in here], num_rows),
    )
