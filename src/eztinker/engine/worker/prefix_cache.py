"""Keys and values of prompts that were read before, so that their beginnings need not be read again.

A prompt is cut into blocks of ``BLOCK`` tokens. A block is found by its tokens and the block before it, so
prompts that begin alike share blocks, and what is found is exactly the beginning that was asked for.
Blocks belong to the weights that computed them: weights are immutable objects, an optimizer step makes new
ones, and with the old object its blocks are gone. The least recently used blocks make room for new ones.
Knows no request and no attention; called by ``prefill.py`` and ``sampler.py``.

Axes: L layers, G key-value heads, T positions, D head size.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.kv_cache import PromptKV
from eztinker.engine.worker.lora import AdapterWeights

BLOCK = 16
"""Tokens of a block."""

_Key = tuple[int, bytes]
"""(number of the block before, or 0; own tokens)."""


@dataclass(slots=True)
class _Block:
    number: int
    last_use: int
    keys_LGTD: Tensor
    values_LGTD: Tensor


_Blocks = OrderedDict[_Key, _Block]
"""Least recently used first."""


class PrefixCache:
    """Blocks of one base model under its various weights.

    Args:
        max_tokens: bound on tokens in all blocks; less than a block switches the cache off.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_blocks = max_tokens // BLOCK
        self._of_base: _Blocks = OrderedDict()
        self._of_adapter: WeakKeyDictionary[AdapterWeights, _Blocks] = WeakKeyDictionary()
        self._numbers, self._clock = count(1), count(1)

    @property
    def is_on(self) -> bool:
        """Whether anything is remembered."""
        return self._max_blocks > 0

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks."""
        return BLOCK * sum(map(len, self._tables()))

    def find(self, adapter: AdapterWeights | None, tokens_T: np.ndarray) -> list[_Block]:
        """The blocks that a text begins with, as far as they are known; they count as used."""
        table, found, before = self._table(adapter), [], 0
        for key_tokens in _cut(tokens_T):
            block = table.get((before, key_tokens))
            if block is None:
                break
            found.append((before, key_tokens))
            before = block.number
        # From the last to the first: a block without the one before it cannot be found.
        for key in reversed(found):
            table[key].last_use = next(self._clock)
            table.move_to_end(key)
        return [table[key] for key in found]

    def add(self, adapter: AdapterWeights | None, tokens_T: np.ndarray, kv: PromptKV) -> None:
        """Remember the whole blocks of a text that was read."""
        if not self.is_on or kv.keys_LGTD is None or kv.values_LGTD is None:
            return
        known = self.find(adapter, tokens_T)
        table, before = self._table(adapter), known[-1].number if known else 0
        new: list[_Key] = []
        for i, key_tokens in enumerate(_cut(tokens_T)[: self._max_blocks]):
            if i < len(known):
                continue
            part = slice(i * BLOCK, (i + 1) * BLOCK)
            keys, values = kv.keys_LGTD[:, :, part].clone(), kv.values_LGTD[:, :, part].clone()
            block = _Block(next(self._numbers), 0, keys, values)
            new.append((before, key_tokens))
            table[new[-1]] = block
            before = block.number
        for key in reversed(new):
            table[key].last_use = next(self._clock)
            table.move_to_end(key)
        self._evict()

    def clear(self) -> None:
        """Forget everything."""
        self._of_base.clear()
        self._of_adapter.clear()

    def _table(self, adapter: AdapterWeights | None) -> _Blocks:
        if adapter is None:
            return self._of_base
        return self._of_adapter.setdefault(adapter, OrderedDict())

    def _tables(self) -> list[_Blocks]:
        return [self._of_base, *self._of_adapter.values()]

    def _evict(self) -> None:
        while sum(map(len, self._tables())) > self._max_blocks:
            filled = [table for table in self._tables() if table]
            oldest = min(filled, key=lambda table: next(iter(table.values())).last_use)
            oldest.popitem(last=False)


def joined(blocks: list[_Block]) -> tuple[Tensor, Tensor]:
    """Keys and values [L, G, T, D] of blocks in a row."""
    keys = torch.cat([block.keys_LGTD for block in blocks], dim=2)
    return keys, torch.cat([block.values_LGTD for block in blocks], dim=2)


def _cut(tokens_T: np.ndarray) -> list[bytes]:
    whole = tokens_T[: len(tokens_T) // BLOCK * BLOCK].astype(np.int32)
    return [block.tobytes() for block in whole.reshape(-1, BLOCK)]
