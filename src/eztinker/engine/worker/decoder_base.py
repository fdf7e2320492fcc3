"""What every decoder of a causal language model can do; how it does it is its own matter.

``decoder.py`` (our own code for the Llama family) and ``hf_decoder.py`` (modules of transformers, for
every other architecture) implement it; ``trainer.py`` and ``sampler.py`` know only this file. Whether a
decoder gives the model's own numbers is not assumed but tried: ``verify`` compares both on short texts
when a model is loaded. Knows no runs and no requests.

Axes: B rows of a pass, T positions, D hidden size, R rows, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from eztinker.engine.worker.adapter_rows import Segments
from eztinker.engine.worker.attention import (
    DecodeLayout,
    Layout,
    PackedLayout,
    PrefillLayout,
    PromptPart,
)
from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.engine.worker.kv_cache import KVCache, PromptKV
from eztinker.engine.worker.lora import AdapterWeights, Dropout, LinearSite
from eztinker.engine.worker.quantization import QuantizedLinear, is_conv1d
from eztinker.errors import EZTinkerError, UnsupportedError
from eztinker.ops.logprobs import Head


class Decoder(ABC):
    """A causal language model, ready for passes of any run.

    Args:
        model: of transformers, as loaded; its weights are frozen.

    Attributes:
        sites: linear layers that adapters can be put on.
        num_layers, context_length, vocab_size: of the model.
        device, dtype: of its weights.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)
        head_module = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.num_layers: int = config.num_hidden_layers
        self.context_length = _context_length(config)
        self.vocab_size: int = head_module.weight.shape[0]
        self.dtype: torch.dtype = head_module.weight.dtype
        self.device: torch.device = head_module.weight.device
        self.sites = _linear_sites(model, head_module)
        self._head = _plain_head(head_module, config)
        self._head_site = next((site for site in self.sites if site.is_head), None)

    @cached_property
    def num_parameters(self) -> int:
        """Numbers in the frozen model."""
        whole = sum(parameter.numel() for parameter in self._model.parameters())
        return whole + sum(m.in_features * m.out_features for m in self._quantized())

    @property
    def can_share_prompts(self) -> bool:
        """Whether rows may attend to a prompt that is stored once for all of them."""
        return False

    @property
    def can_run_beside_itself(self) -> bool:
        """Whether two passes may be in progress at one time, in two threads, and that pays."""
        return False

    @property
    def can_be_recorded(self) -> bool:
        """Whether a decode step never waits for the device and reads the same memory each time."""
        return False

    @property
    def decodes_beside_itself(self) -> bool:
        """Whether the same holds for two halves of a decode step."""
        return False

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory of one position in the key-value cache."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * self.num_layers * heads * size * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Memory of the frozen model."""
        whole = sum(p.numel() * p.element_size() for p in self._model.parameters())
        return whole + sum(module.quantized.size_bytes for module in self._quantized())

    @property
    def held_bytes(self) -> int:
        """Memory of the frozen model with every copy that was made of its weights."""
        return self.size_bytes

    def without_gradients(self) -> AbstractContextManager[Any]:
        """What sampling runs under, from the first pass to the last use of a cache that it filled."""
        return torch.no_grad()

    def _quantized(self) -> list[QuantizedLinear]:
        return [m for m in self._model.modules() if isinstance(m, QuantizedLinear)]

    @abstractmethod
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
        """Last hidden states [B, T, D].

        Args:
            tokens_BT: int64 ids.
            positions_BT: int64 position of each token in its sequence.
            layout: how the tokens belong together.
            segments: which flat rows use which adapter; rows in none use the bare model. With
                gradients the backward pass must run before the next call.
            dropouts: on the adapters' inputs, one per segment; empty for none.
            checkpointing: recompute each layer in the backward pass.
        """

    def head(self, adapter: AdapterWeights | None) -> Head:
        """The vocabulary head as a run sees it."""
        site = self._head_site
        pair = adapter.pairs[site.index] if adapter is not None and site is not None else None
        if adapter is None or pair is None:
            return self._head
        return replace(self._head, lora=(*pair, adapter.scaling))

    def logits(self, hidden_RD: Tensor, segments: Segments) -> Tensor:
        """Float32 logits [R, V] of rows with their adapters; ``segments`` cover the rows."""
        if not any(a is not None and self.head(a) is not self._head for a, _, _ in segments):
            return self._head.logits(hidden_RD)
        return torch.cat([self.head(a).logits(hidden_RD[start:end]) for a, start, end in segments])

    @torch.no_grad()
    def verify(
        self, expected: Tensor, texts: Sequence[Sequence[int]], columns: Tensor | None = None
    ) -> None:
        """Compare our logits, packed and decoded step by step, with the model's own.

        Args:
            expected: the model's own logits [T, V] of all texts, taken before anything of it was changed.
            texts: the token ids.
            columns: the ids whose logits ``expected`` has; None for all.

        Raises:
            UnsupportedError: they differ; the architecture does something that this file does not know.
        """
        tolerance = 2e-3 if self.dtype == torch.float32 else 6e-2
        expected = expected.to(self.device, torch.float32)
        for ours in self._logits_both_ways(texts):
            ours = ours if columns is None else ours[:, columns.to(self.device)]
            error = (ours - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
            if not bool(error <= tolerance):
                raise UnsupportedError(
                    f"{type(self._model).__name__} does not give its own numbers with packed "
                    f"attention (relative error {float(error):.1e}). This architecture is not supported."
                )

    def _logits_both_ways(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        try:
            return self._packed_logits(texts), self._decoded_logits(texts)
        except EZTinkerError:
            raise
        except Exception as error:  # whatever foreign code does without the mask that it expects
            if is_out_of_memory(error):
                raise
            raise UnsupportedError(
                f"{type(self._model).__name__} does not run with packed attention ({type(error).__name__}: {error}). "
                "This architecture is not supported."
            ) from error

    def _packed_logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        tokens, positions, lengths = _packed(texts, self.device)
        return self._head.logits(self.hidden(tokens, positions, PackedLayout(lengths), [])[0])

    def _decoded_logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The first half of each text read in two parts, the rest decoded token by token."""
        halves = [text[: max(2, len(text) // 2)] for text in texts]
        prompts = [PromptKV(self.num_layers, len(h), self.dtype, self.device) for h in halves]
        first = self._part_logits([h[:1] for h in halves], prompts, 0)
        second = self._part_logits([h[1:] for h in halves], prompts, 1)
        rows = [[*a, *b] for a, b in zip(first, second, strict=True)]
        cache = KVCache(self.num_layers, self.dtype, self.device)
        cache.reserve(len(texts), max(map(len, texts)))
        for row, prompt in enumerate(prompts):
            cache.store_prompt(row, prompt)
        for step in range(max(len(t) - len(h) for t, h in zip(texts, halves, strict=True))):
            at = [min(len(h) + step, len(t) - 1) for t, h in zip(texts, halves, strict=True)]
            token_R1 = torch.tensor(
                [[t[i]] for t, i in zip(texts, at, strict=True)], device=self.device
            )
            position_R = torch.tensor(at, device=self.device)
            layout = DecodeLayout(cache, position_R, max(at) + 1)
            logits = self._head.logits(self.hidden(token_R1, position_R[:, None], layout, [])[:, 0])
            for row, text, i, logits_V in zip(rows, texts, at, logits, strict=True):
                if len(row) < len(text) and len(row) == i:
                    row.append(logits_V)
        return torch.stack([logits_V for row in rows for logits_V in row])

    def _part_logits(
        self, texts: Sequence[Sequence[int]], prompts: Sequence[PromptKV], offset: int
    ) -> list[Tensor]:
        """Logits [T, V] of each text, the part of its prompt that begins at ``offset``."""
        tokens, positions, lengths = _packed(texts, self.device)
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        parts = [
            PromptPart(0, start, length, prompt, offset)
            for start, length, prompt in zip(starts, lengths, prompts, strict=True)
        ]
        layout = PrefillLayout(PackedLayout(lengths), parts)
        hidden = self.hidden(tokens, positions + offset, layout, [])[0]
        return list(self._head.logits(hidden).split(lengths))


@torch.no_grad()
def own_logits(model: Any, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits [T, V] that an untouched model gives each text."""
    device = model.get_output_embeddings().weight.device
    return [
        model(input_ids=torch.tensor([list(text)], device=device), use_cache=False)
        .logits[0]
        .float()
        for text in texts
    ]


def _packed(
    texts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor, list[int]]:
    lengths = [len(text) for text in texts]
    tokens = torch.tensor([[token for text in texts for token in text]], device=device)
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    return tokens, positions, lengths


def _context_length(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise UnsupportedError("config.json does not say how long the model's context is.")


def _linear_sites(model: nn.Module, head: nn.Module) -> list[LinearSite]:
    sites = []
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            transposed, shape = module.is_transposed, (module.out_features, module.in_features)
        elif isinstance(module, nn.Linear) or is_conv1d(module):
            transposed = is_conv1d(module)
            weight: Tensor = module.weight  # type: ignore[assignment]
            shape = weight.shape[::-1] if transposed else weight.shape
        else:
            continue
        sites.append(
            LinearSite(
                index=len(sites),
                name=name,
                in_features=shape[1],
                out_features=shape[0],
                is_head=module is head,
                is_transposed=transposed,
            )
        )
    return sites


def _plain_head(module: nn.Module, config: Any) -> Head:
    scale = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    return Head(
        weight_VD=module.weight,  # type: ignore[arg-type]
        bias_V=getattr(module, "bias", None),
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=float(scale) if scale else 1 / float(divisor) if divisor else 1.0,
    )
