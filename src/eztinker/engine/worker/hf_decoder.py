"""A decoder driven through the modules of transformers, with our attention, adapters, cache and head.

Covers every causal language model of transformers that calls the attention interface; architectures
that ``decoder.py`` knows run there. Knows no runs and no requests; ``trainer.py`` and ``sampler.py``
drive it through ``decoder_base.py``.

Axes: B rows of a pass, T positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from eztinker.engine.worker.adapted_linear import AdaptedLinear, PassState
from eztinker.engine.worker.adapter_rows import Segments
from eztinker.engine.worker.attention import ATTENTION_NAME, Layout, attend
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.lora import Dropout
from eztinker.errors import UnsupportedError

AttentionInterface.register(ATTENTION_NAME, attend)


class HFDecoder(Decoder):
    """A causal language model of transformers, ready for passes of any run.

    Args:
        model: as loaded; ``adapt`` replaces its linear layers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._body = _body_of(model)
        self.state = PassState()

    def adapt(self) -> None:
        """Put our attention and adapters into the model; once, after which it only runs through us."""
        modules = dict(self._model.named_modules())
        for site in self.sites:
            if not site.is_head:
                parent, _, name = site.name.rpartition(".")
                setattr(modules[parent], name, AdaptedLinear(modules[site.name], site, self.state))
        for module in self._model.modules():
            if hasattr(module, "layer_idx"):
                module.pass_state = self.state
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = _checkpointed(module.forward, self.state)  # type: ignore[method-assign]
            if hasattr(module, "config"):
                module.config._attn_implementation = ATTENTION_NAME  # type: ignore[union-attr]

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
        self.state.layout = layout
        self.state.segments = segments
        self.state.dropouts = dropouts or [None] * len(segments)
        self.state.checkpointing = checkpointing
        return self._body(
            input_ids=tokens_BT, position_ids=positions_BT, use_cache=False
        ).last_hidden_state

    def _packed_logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        self.state.num_attention_calls = 0
        logits = super()._packed_logits(texts)
        if self.state.num_attention_calls != self.num_layers:
            raise UnsupportedError(
                f"{type(self._model).__name__}: {self.state.num_attention_calls} of {self.num_layers} "
                "layers use the attention interface. This architecture is not supported."
            )
        return logits


def _body_of(model: Any) -> nn.Module:
    body = model.base_model
    if body is model or not hasattr(body, "forward"):
        raise UnsupportedError(f"{type(model).__name__} has no decoder body apart from its head.")
    return body


def _checkpointed(forward: Callable[..., Any], state: PassState) -> Callable[..., Any]:
    """A layer's forward that recomputes itself in the backward pass when the pass asks for it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if state.checkpointing and torch.is_grad_enabled():
            return checkpoint(
                forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
            )
        return forward(*args, **kwargs)

    return run
