"""Attention of a pass: causal over packed or padded sequences, and over the key-value cache.

``attend`` is registered with transformers under ``ATTENTION_NAME``; it finds the layout of the pass in
progress on the module that calls it (``pass_state``, put there by ``hf_decoder.py``) and leaves the rest
to it. It knows no adapters and no requests. A layout never builds a mask for plain causal attention.

Axes: B rows of the pass, T positions, H query heads, G key-value heads, D head size, S cached positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eztinker.engine.worker import varlen_attention
from eztinker.engine.worker.kv_cache import KVCache, PromptKV
from eztinker.errors import UnsupportedError

ATTENTION_NAME = "eztinker"

# Keywords of attention functions that change the numbers and that are not implemented below.
_NOT_IMPLEMENTED = ("s_aux", "position_bias", "head_mask")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a layer asks for beyond softmax(q·k)·v.

    Attributes:
        scaling: factor on q·k; None means 1/sqrt(D).
        sliding_window: positions a query sees, itself included; None sees all before it.
        softcap: c in c·tanh(q·k / c).
    """

    scaling: float | None = None
    sliding_window: int | None = None
    softcap: float | None = None


class Layout(Protocol):
    """How the tokens of one pass belong together."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
        """Attention output [B, H, T, D] for q of that shape, k and v [B, G, T, D]."""
        ...


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; output [B, T, H, D].

    Raises:
        UnsupportedError: the architecture needs a kind of attention that is not implemented.
    """
    for name in _NOT_IMPLEMENTED:
        if kwargs.get(name) is not None:
            raise UnsupportedError(f"Attention with {name!r} is not implemented.")
    variant = Variant(scaling, sliding_window, softcap)
    state = module.pass_state
    state.num_attention_calls += 1  # type: ignore[union-attr, operator]
    out = state.layout.attend(module.layer_idx, query, key, value, variant)  # type: ignore[union-attr]
    return out.transpose(1, 2), None


def causal(q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
    """Causal attention of sequences that start at their first position; [B, H, T, D]."""
    length = q.shape[2]
    windowed = variant.sliding_window is not None and length > variant.sliding_window
    if variant.softcap is None and not windowed:
        return scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=length > 1,
            scale=variant.scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    position = torch.arange(length, device=q.device)
    distance = position[:, None] - position[None, :]
    visible = distance >= 0
    if windowed:
        visible &= distance < variant.sliding_window  # type: ignore[operator]
    return masked(q, k, v, visible, variant)


def masked(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, variant: Variant) -> Tensor:
    """Attention with a mask, True where a query sees a key; the mask broadcasts to [B, H, T, S]."""
    if variant.softcap is None:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=visible, scale=variant.scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scaling = q.shape[-1] ** -0.5 if variant.scaling is None else variant.scaling
    scores = torch.matmul(q, k.transpose(2, 3)) * scaling
    scores = variant.softcap * torch.tanh(scores / variant.softcap)
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


class PaddedLayout:
    """Rows of (nearly) equal length, padded on the right: what pads comes last, so no query sees it."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
        """Plain causal attention of every row."""
        return causal(q, k, v, variant)


class PackedLayout:
    """Stretches one after another in a single row; each attends to itself and to the one before it.

    Args:
        lengths: of the stretches.
        prefixes: of each, the stretch whose tokens come before its own, or -1; empty for none at all.
            Keys and values of a common beginning are held once and gather gradient from all who use it.

    Attributes:
        lengths, prefixes: as given; the second filled up.
    """

    def __init__(self, lengths: Sequence[int], prefixes: Sequence[int] = ()) -> None:
        self.lengths = list(lengths)
        self.prefixes = list(prefixes) or [-1] * len(self.lengths)
        self._bounds: varlen_attention.Bounds | None = None

    @property
    def has_prefixes(self) -> bool:
        """Whether a common beginning is held once."""
        return any(before >= 0 for before in self.prefixes)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
        """Causal attention inside each sequence."""
        if len(self.lengths) == 1:
            return causal(q, k, v, variant)
        if variant.softcap is None and not self.has_prefixes and varlen_attention.can_attend(q):
            if self._bounds is None:
                self._bounds = varlen_attention.Bounds.of(self.lengths, q.device)
            window = variant.sliding_window
            return varlen_attention.attend(q, k, v, self._bounds, variant.scaling, window)
        qs, ks, vs = (x.split(self.lengths, dim=2) for x in (q, k, v))
        outputs = []
        for i, before in enumerate(self.prefixes):
            if before < 0:
                outputs.append(causal(qs[i], ks[i], vs[i], variant))
            else:
                keys, values = (torch.cat([x[before], x[i]], dim=2) for x in (ks, vs))
                outputs.append(continued(qs[i], keys, values, variant))
        return torch.cat(outputs, dim=2)


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Some tokens of a prompt in a pass, and where their keys and values go.

    Attributes:
        row, start, length: the row of the pass, the first place in it, how many.
        kv: of the whole prompt; what lies before ``offset`` is there already.
        offset: position of the first token in its prompt.
    """

    row: int
    start: int
    length: int
    kv: PromptKV
    offset: int = 0


class PrefillLayout:
    """Prompts, or parts of them, that are also remembered.

    Args:
        layout: how the tokens lie in the pass; attention from the first position on is left to it.
        parts: what the pass reads.
    """

    def __init__(self, layout: Layout, parts: Sequence[PromptPart]) -> None:
        self._layout = layout
        self._parts = parts
        self._continues = any(part.offset for part in parts)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
        """Causal attention to the prompt so far; keys and values are stored."""
        stored = [
            part.kv.write(layer, part.offset, *(x[part.row, :, _span(part)] for x in (k, v)))
            for part in self._parts
        ]
        if not self._continues:
            return self._layout.attend(layer, q, k, v, variant)
        out = q.new_zeros(*q.shape[:3], v.shape[-1])
        for part, (keys, values) in zip(self._parts, stored, strict=True):
            queries = q[part.row : part.row + 1, :, _span(part)]
            out[part.row, :, _span(part)] = continued(queries, keys[None], values[None], variant)[0]
        return out


def _span(part: PromptPart) -> slice:
    return slice(part.start, part.start + part.length)


def continued(q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
    """Causal attention of the last T of S positions: q [B, H, T, D], k and v [B, G, S, D]."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys:
        return causal(q, k, v, variant)
    places = torch.arange(num_keys, device=q.device)
    age_TS = places[num_keys - num_queries :, None] - places
    visible = age_TS >= 0
    if variant.sliding_window is not None:
        visible &= age_TS < variant.sliding_window
    return masked(q, k, v, visible, variant)


@dataclass(frozen=True, slots=True)
class SharedPrompt:
    """Rows next to one another whose prompt is stored once, outside their rows of the cache.

    Attributes:
        start, end: the rows.
        kv: of the prompt.
    """

    start: int
    end: int
    kv: PromptKV


class DecodeLayout:
    """One new token per row of a cache.

    Args:
        cache: holds the rows of the pass side by side.
        places_R: where in their rows of the cache the new tokens go.
        width: number of cached positions to read, the largest place plus one.
        shared: prompts that rows see besides what lies in the cache; on a CPU, for plain attention.
        first_row: of the pass in the cache.

    Attributes:
        cache, places_R, width, shared, first_row: as given.
        bias_R11S: as ``_bias`` gives it.
    """

    def __init__(
        self,
        cache: KVCache,
        places_R: Tensor,
        width: int,
        shared: Sequence[SharedPrompt] = (),
        first_row: int = 0,
    ) -> None:
        self.cache = cache
        self.places_R = places_R
        self.width = width
        self.shared = shared
        self.first_row = first_row
        self.bias_R11S = _bias(cache.dtype, places_R, width)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, variant: Variant) -> Tensor:
        """Store the new keys and values, then attend to everything stored in the row."""
        keys, values = self.cache.append(layer, self.first_row, self.places_R, k, v, self.width)
        rows, heads, _, size = q.shape
        # Query heads of one group become positions: keys and values are read once, never copied.
        grouped = q.reshape(rows, keys.shape[1], heads // keys.shape[1], size)
        window = variant.sliding_window
        if variant.softcap is not None or (window is not None and window < self.width):
            out = masked(grouped, keys, values, self._visible(window), variant)
        else:
            prompts = [prompt.kv.layer(layer) for prompt in self.shared]
            out = attend_cached(
                grouped,
                keys,
                values,
                self.bias_R11S,
                variant.scaling,
                [prompt.start for prompt in self.shared],
                [prompt.end for prompt in self.shared],
                [keys for keys, _ in prompts],
                [values for _, values in prompts],
            )
        return out.reshape(rows, heads, 1, values.shape[-1])

    def _visible(self, window: int | None) -> Tensor:
        """Which cached positions each row sees [R, 1, 1, S]."""
        places_S = torch.arange(self.width, device=self.places_R.device)
        age_RS = self.places_R[:, None] - places_S
        visible_RS = age_RS >= 0
        if window is not None:
            visible_RS &= age_RS < window
        return visible_RS[:, None, None, :]


def _bias(dtype: torch.dtype, places_R: Tensor, width: int) -> Tensor | None:
    """0 where a row sees a cached position, else -inf [R, 1, 1, S]; None where every row sees them all."""
    # An accelerator would have to be waited for.
    if places_R.device.type == "cpu" and int(places_R.min()) == width - 1:
        return None
    visible_RS = places_R[:, None] >= torch.arange(width, device=places_R.device)
    bias_RS = torch.zeros(visible_RS.shape, dtype=dtype, device=places_R.device)
    return bias_RS.masked_fill_(~visible_RS, -torch.inf)[:, None, None, :]


def attend_cached(
    q_RGED: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    scaling: float | None,
    starts: list[int],
    ends: list[int],
    prompt_keys: list[Tensor],
    prompt_values: list[Tensor],
) -> Tensor:
    """Attention of one token per row to its row of the cache and to its shared prompt, if it has one.

    The two are joined by their shares of the softmax's sum. A prompt's keys are read once for all its rows:
    their queries (E per row and group) become positions of one call.

    Args:
        q_RGED: queries.
        keys, values: cached [R, G, S, D].
        bias: as ``_bias`` gives it.
        starts, ends: of the rows that share a prompt.
        prompt_keys, prompt_values: its own [G, T, D].
    """
    if len(starts) == 0:
        return scaled_dot_product_attention(q_RGED, keys, values, attn_mask=bias, scale=scaling)
    out, total = _attend_with_sum(q_RGED, keys, values, bias, scaling)
    groups, size = q_RGED.shape[1], q_RGED.shape[-1]
    for i, start in enumerate(starts):
        end = ends[i]
        queries = q_RGED[start:end].transpose(0, 1).reshape(1, groups, -1, size)
        seen, seen_total = _attend_with_sum(
            queries, prompt_keys[i][None], prompt_values[i][None], None, scaling
        )
        share = seen_total.view(groups, end - start, -1).transpose(0, 1) - total[start:end]
        seen = seen.view(groups, end - start, -1, seen.shape[-1]).transpose(0, 1)
        joined = torch.lerp(out[start:end], seen, share.sigmoid_()[..., None].to(out.dtype))
        out[start:end] = joined
    return out


def _attend_with_sum(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention output and log Σ exp of its scores; on a CPU."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=bias, scale=scaling
    )
