"""A layer's projections with copies of their weights: laid out for oneDNN, one to apply and one to pull back,
and one for very few rows.

A copy takes as much memory as the weight; ``decoder.py``, which calls this, decides where there is room.

Axes: N rows, D inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from eztinker.engine.worker.lean_adapters import FrozenLayers, Projection
from eztinker.engine.worker.lean_layer import LayerWeights
from eztinker.ops.packed_linear import (
    held_linear,
    held_linear_added,
    is_better_plain,
    is_better_turned,
    pack,
    packed_linear,
    turned,
)


@dataclass(frozen=True, slots=True)
class PackedProjection:
    """``FrozenLayers`` whose weights are also there in the layouts that products like best.

    Attributes:
        plain: the same layers.
        packed: their weight, opaque.
        packed_back: the transposed weight, opaque; None where only passes without gradients come here.
        turned_DO: the transposed weight for very few rows; None where they do without.
    """

    plain: Projection
    packed: Tensor
    packed_back: Tensor | None = None
    turned_DO: Tensor | None = None

    @property
    def parts(self) -> tuple[tuple[int, int, int], ...]:
        """Of each layer, (index of its site, first output, end)."""
        return self.plain.parts

    @property
    def num_outputs(self) -> int:
        """Outputs of all layers together."""
        return self.plain.num_outputs

    @property
    def bias(self) -> Tensor | None:
        """Of all layers."""
        return self.plain.bias

    def held_for(self, num_rows: int, *, to_add: bool) -> tuple[Tensor, str]:
        """The copy that is best for a product of so many rows, and the name of its layout.

        Args:
            to_add: the product is added to something.
        """
        if not to_add and self.turned_DO is not None and is_better_turned(num_rows, self.turned_DO):
            return self.turned_DO, "turned"
        if is_better_plain(num_rows, self.plain.weight):
            return self.plain.weight, "plain"
        return self.packed, "packed"

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Outputs, part beside part, as a new tensor."""
        weight, layout = self.held_for(len(x_ND), to_add=False)
        return held_linear(x_ND, weight, self.plain.bias, layout)

    def added_to(self, y_NO: Tensor, x_ND: Tensor) -> Tensor:
        """y + W·x + b, as a new tensor."""
        weight, layout = self.held_for(len(x_ND), to_add=True)
        return held_linear_added(y_NO, x_ND, weight, self.plain.bias, layout)

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        if self.packed_back is None or is_better_plain(len(grad_NO), self.plain.weight):
            return self.plain.pulled_back(grad_NO)
        return packed_linear(grad_NO, self.packed_back, None)


def packed_layer(layer: LayerWeights) -> LayerWeights:
    """The same layer with packed projections; quantised ones stay as they are."""
    return _with_each(layer, lambda plain: PackedProjection(plain, pack(plain.weight)))


def packed_layer_for_training(layer: LayerWeights) -> LayerWeights:
    """The same with the transposed weights as well."""
    return _with_each(
        layer,
        lambda plain: PackedProjection(plain, pack(plain.weight), pack(plain.weight.t())),
    )


def with_turned(layer: LayerWeights) -> LayerWeights:
    """The same packed layer with copies for very few rows where those gain by them."""

    def changed(layers: FrozenLayers) -> FrozenLayers:
        if not isinstance(layers, PackedProjection):
            return layers
        return replace(layers, turned_DO=turned(layers.plain.weight))

    # Only what is called by itself: what is added to the residual stream has few outputs.
    return replace(layer, qkv=changed(layer.qkv), gate_up=changed(layer.gate_up))


def copies_bytes(layer: LayerWeights) -> int:
    """Memory of the copies of a layer's weights."""
    return sum(
        copy.numel() * copy.element_size()
        for group in (layer.qkv, layer.out, layer.gate_up, layer.down)
        if isinstance(group, PackedProjection)
        for copy in (group.packed, group.packed_back, group.turned_DO)
        if copy is not None
    )


def _with_each(
    layer: LayerWeights, packed: Callable[[Projection], PackedProjection]
) -> LayerWeights:
    def changed(layers: FrozenLayers) -> FrozenLayers:
        return packed(layers) if isinstance(layers, Projection) else layers

    return replace(
        layer,
        qkv=changed(layer.qkv),
        out=changed(layer.out),
        gate_up=changed(layer.gate_up),
        down=changed(layer.down),
    )
