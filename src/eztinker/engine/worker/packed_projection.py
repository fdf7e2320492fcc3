"""A layer's projections with a second copy of their weights, laid out for passes without gradients.

The copy takes as much memory as the weight, so it is made where that leaves most of the memory free.
Training keeps to the plain weight, whose numbers its replays repeat. Called by ``decoder.py``.

Axes: N rows, D inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from eztinker.engine.worker.lean_adapters import FrozenLayers, Projection
from eztinker.engine.worker.lean_layer import LayerWeights
from eztinker.ops.packed_linear import is_better_plain, pack, packed_linear, packed_linear_added


@dataclass(frozen=True, slots=True)
class PackedProjection:
    """``FrozenLayers`` whose weights are also there in oneDNN's layout.

    Attributes:
        plain: the same layers.
        packed: their weight, opaque.
    """

    plain: Projection
    packed: Tensor

    @property
    def parts(self) -> tuple[tuple[int, int, int], ...]:
        """Of each layer, (index of its site, first output, end)."""
        return self.plain.parts

    @property
    def num_outputs(self) -> int:
        """Outputs of all layers together."""
        return self.plain.num_outputs

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Outputs, part beside part, as a new tensor."""
        if is_better_plain(x_ND, self.plain.weight):
            return self.plain(x_ND)
        return packed_linear(x_ND, self.packed, self.plain.bias)

    def added_to(self, y_NO: Tensor, x_ND: Tensor) -> Tensor:
        """y + W·x + b, as a new tensor."""
        if is_better_plain(x_ND, self.plain.weight):
            return self.plain.added_to(y_NO, x_ND)
        return packed_linear_added(y_NO, x_ND, self.packed, self.plain.bias)

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        return self.plain.pulled_back(grad_NO)


def packed_layer(layer: LayerWeights) -> LayerWeights:
    """The same layer with packed projections; quantised ones stay as they are."""
    return replace(
        layer,
        qkv=_packed(layer.qkv),
        out=_packed(layer.out),
        gate_up=_packed(layer.gate_up),
        down=_packed(layer.down),
    )


def _packed(layers: FrozenLayers) -> FrozenLayers:
    if not isinstance(layers, Projection):
        return layers
    return PackedProjection(layers, pack(layers.weight))
