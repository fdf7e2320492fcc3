"""Adapters in the form in which the layers of our own decoder take them, made once and kept while they live.

Knows no pass. Called by ``decoder.py``, by two threads at once where it runs beside itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from weakref import WeakKeyDictionary, ref

import torch

from eztinker.engine.worker.lean_adapters import GroupAdapter
from eztinker.engine.worker.lean_layer import LayerAdapters, LayerWeights
from eztinker.engine.worker.lora import AdapterWeights

_MAX_COMBINED = 6
"""Combinations of alike adapters that stay side by side: halves of a pass and of a decode step, two to spare."""


class HeldAdapters:
    """Those of one decoder.

    Args:
        layers: the weights that they add to.
    """

    def __init__(self, layers: Sequence[LayerWeights]) -> None:
        self._layers = layers
        self._lock = Lock()
        self._single: WeakKeyDictionary[AdapterWeights, list[LayerAdapters]] = WeakKeyDictionary()
        self._combined: dict[tuple[ref[AdapterWeights], ...], list[LayerAdapters]] = {}

    def of(self, adapters: tuple[AdapterWeights, ...]) -> list[LayerAdapters]:
        """One entry for each layer, for adapters of one shape that are computed together."""
        with self._lock:
            if len(adapters) == 1:
                return self._of_one(adapters[0])
            return self._of_several(adapters)

    def _of_one(self, adapter: AdapterWeights) -> list[LayerAdapters]:
        held = self._single.get(adapter)
        if held is None:
            held = self._single[adapter] = self._new([adapter])
        return held

    def _of_several(self, adapters: tuple[AdapterWeights, ...]) -> list[LayerAdapters]:
        """Of the last few combinations; each is a copy of its adapters."""
        key = tuple(map(ref, adapters))
        for known in [known for known in self._combined if any(r() is None for r in known)]:
            del self._combined[known]
        held = self._combined.pop(key, None) or self._new(adapters)
        self._combined[key] = held
        if len(self._combined) > _MAX_COMBINED:
            del self._combined[next(iter(self._combined))]
        return held

    def _new(self, adapters: Sequence[AdapterWeights]) -> list[LayerAdapters]:
        with torch.inference_mode(False), torch.no_grad():
            leaves = [adapter.leaf_P.detach() for adapter in adapters]
            numbers_AP = torch.stack(leaves) if len(leaves) > 1 else leaves[0][None]
            return [
                LayerAdapters(
                    *(
                        GroupAdapter(projection, adapters, numbers_AP)
                        for projection in (layer.qkv, layer.out, layer.gate_up, layer.down)
                    )
                )
                for layer in self._layers
            ]
