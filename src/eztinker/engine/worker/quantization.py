"""Frozen linear layers held in few bits, made full again where a product needs them.

``nf4``: 4-bit NormalFloat in blocks of 64 whose scales are quantised once more (Dettmers et al. 2023,
arXiv:2305.14314). ``int8``: one scale for each output (the vector-wise scheme of Dettmers et al. 2022,
arXiv:2208.07339), of weights only: activations keep the compute type. bitsandbytes does the arithmetic of
both, on CPU and CUDA. Embeddings, norms, biases and the vocabulary head are not quantised.

A weight is made full for one product, some outputs at a time, and never kept for the backward pass, which
makes it again. Knows no adapters, runs and files. Called by ``base_model.py`` when a model is loaded and by
``deploy`` for the numbers that an adapter was trained against; the decoders know ``QuantizedLinear`` and
``QuantizedProjection``.

Axes: N rows, O outputs, D inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from eztinker.errors import UnsupportedError
from eztinker.types.training import MISSING_QLORA

Kind = Literal["nf4", "int8"]

_BLOCK_SIZE = 64
_INT8_ROWS = 128
# Fits into a cache; and glibc gives back what is much larger, page by page, to ask for it anew.
_SLAB_NUMBERS = 2**20
_SLAB_NUMBERS_CUDA = 2**27

Slabs = Iterator[tuple[int, int, Tensor]]
"""(first output, end, weight [end - first, D] made full)."""


class NF4Weight:
    """A weight [O, D] in 4 bits a number.

    Args:
        weight_OD: float32, bfloat16 or float16, where it shall lie.
        dtype: of the weight made full again.
    """

    def __init__(self, weight_OD: Tensor, dtype: torch.dtype) -> None:
        self.shape, self._dtype = weight_OD.shape, dtype
        # As rows of one block each: bitsandbytes' CPU kernel takes the wrong scales for rows that do not
        # end with a block, and the numbers are the same.
        packed, self._scales = _bitsandbytes().quantize_4bit(
            pad(weight_OD.flatten(), (0, -weight_OD.numel() % _BLOCK_SIZE)).view(-1, _BLOCK_SIZE),
            blocksize=_BLOCK_SIZE,
            compress_statistics=True,
            quant_type="nf4",
        )
        self._packed: Tensor = packed.view(-1, _BLOCK_SIZE // 2)

    def slabs(self) -> Slabs:
        """The dequantised weight, some outputs at a time; new memory."""
        num_inputs = self.shape[1]
        nested = self._scales.state2
        scale = torch.ops.bitsandbytes.dequantize_blockwise.default(
            self._scales.absmax, nested.absmax, nested.code, nested.blocksize, nested.dtype
        ).add_(self._scales.offset)
        # 64 outputs always end with a block; the last ones may end within one.
        for first, end in _cuts(self.shape, self._packed.device, multiple_of=_BLOCK_SIZE):
            blocks = slice(first * num_inputs // _BLOCK_SIZE, -(-end * num_inputs // _BLOCK_SIZE))
            shape = (scale[blocks].shape[0], _BLOCK_SIZE)
            full = torch.ops.bitsandbytes.dequantize_4bit.default(
                self._packed[blocks], scale[blocks], _BLOCK_SIZE, "nf4", shape, self._dtype
            )
            numbers = full.view(-1)[: (end - first) * num_inputs]
            yield first, end, numbers.view(end - first, num_inputs)

    @property
    def size_bytes(self) -> int:
        """Memory it holds, its scales counted in."""
        kept = (self._packed, self._scales.absmax, self._scales.state2.absmax)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


class Int8Weight:
    """A weight [O, D] in 8 bits a number; arguments as ``NF4Weight``."""

    def __init__(self, weight_OD: Tensor, dtype: torch.dtype) -> None:
        quantize = _bitsandbytes().int8_vectorwise_quant
        self.shape, self._dtype = weight_OD.shape, dtype
        # bitsandbytes defines it for float16, which is also what transformers hands it. Outputs are
        # independent, and a few at a time stay in the cache.
        parts = [quantize(part.half())[:2] for part in weight_OD.contiguous().split(_INT8_ROWS)]
        self._codes_OD = torch.cat([codes for codes, _ in parts])
        self._scale_O1 = torch.cat([absmax for _, absmax in parts])[:, None] / 127

    def slabs(self) -> Slabs:
        """The dequantised weight, some outputs at a time; new memory."""
        for first, end in _cuts(self.shape, self._codes_OD.device, multiple_of=1):
            full = self._codes_OD[first:end] * self._scale_O1[first:end]
            yield first, end, full.to(self._dtype)

    @property
    def size_bytes(self) -> int:
        """Memory it holds, its scales counted in."""
        return self._codes_OD.numel() + 4 * self._scale_O1.numel()


def _cuts(
    shape: torch.Size, device: torch.device, *, multiple_of: int
) -> Iterator[tuple[int, int]]:
    num_outputs, num_inputs = shape
    most = _SLAB_NUMBERS_CUDA if device.type == "cuda" else _SLAB_NUMBERS
    step = max(1, most // (num_inputs * multiple_of)) * multiple_of
    for first in range(0, num_outputs, step):
        yield first, min(first + step, num_outputs)


_WEIGHTS: dict[str, Callable[[Tensor, torch.dtype], NF4Weight | Int8Weight]] = {
    "nf4": NF4Weight,
    "int8": Int8Weight,
}


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer of transformers, whose weight is [in, out]; asked by name."""
    return type(module).__name__ == "Conv1D"


class QuantizedLinear(nn.Module):
    """Stands for a frozen ``Linear`` or ``Conv1D`` of transformers, its weight quantised.

    Args:
        module: what it replaces; its weight is read, not kept.
        kind: how to quantise.
        device, dtype: where the weight lies and computes.

    Attributes:
        is_transposed: it replaced a ``Conv1D``, whose ``weight`` is [in, out].
    """

    def __init__(
        self, module: nn.Module, kind: Kind, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        weight: Tensor = module.weight.data.to(device)  # type: ignore[union-attr, assignment]
        self.is_transposed = is_conv1d(module)
        weight_OD = weight.t() if self.is_transposed else weight
        self.out_features, self.in_features = weight_OD.shape
        self.quantized = _WEIGHTS[kind](weight_OD, dtype)
        self.bias: Tensor | None = getattr(module, "bias", None)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, laid out as that of the module it replaced; new memory."""
        full_OD = torch.cat([slab for _, _, slab in self.quantized.slabs()])
        return full_OD.t() if self.is_transposed else full_OD

    def forward(self, x: Tensor) -> Tensor:
        """Output of the frozen layer, as a new tensor; leaves no trace for a backward pass."""
        x_ND = x.reshape(-1, self.in_features)
        with torch.no_grad():
            y_NO = x_ND.new_empty(x_ND.shape[0], self.out_features)
            for first, end, slab in self.quantized.slabs():
                torch.mm(x_ND, slab.t(), out=y_NO[:, first:end])
            if self.bias is not None:
                y_NO += self.bias
        return y_NO.view(*x.shape[:-1], self.out_features)

    def pulled_back(self, grad: Tensor) -> Tensor:
        """Gradient of the input."""
        grad_NO = grad.reshape(-1, self.out_features)
        grad_ND = grad_NO.new_zeros(grad_NO.shape[0], self.in_features)
        for first, end, slab in self.quantized.slabs():
            grad_ND.addmm_(grad_NO[:, first:end], slab)
        return grad_ND.view(*grad.shape[:-1], self.in_features)


@dataclass(frozen=True, slots=True)
class QuantizedProjection:
    """``lean_layer.FrozenLayers`` whose layers are quantised each by itself, as they would be alone.

    Attributes:
        layers: on the same input, in turn.
        parts: of each, (index of its site, first output, end).
    """

    layers: tuple[QuantizedLinear, ...]
    parts: tuple[tuple[int, int, int], ...]

    @property
    def num_outputs(self) -> int:
        """Outputs of all layers together."""
        return self.parts[-1][2]

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Output of the frozen layers, part beside part."""
        outputs = [layer(x_ND) for layer in self.layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def added_to(self, y_NO: Tensor, x_ND: Tensor) -> Tensor:
        """y + W·x + b, as a new tensor."""
        return self(x_ND).add_(y_NO)

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        grads = [
            layer.pulled_back(grad_NO[:, start:end])
            for (_, start, end), layer in zip(self.parts, self.layers, strict=True)
        ]
        return grads[0] if len(grads) == 1 else sum(grads[1:], grads[0])


@torch.no_grad()
def quantize_model(model: Any, kind: Kind, *, device: torch.device, dtype: torch.dtype) -> None:
    """Quantise the linear layers of a model in place, but for the vocabulary head; the rest is copied.

    Layer by layer, so that at no time more than one of them exists in full beside what the files map.

    Args:
        model: of transformers, its weights in the type of their files.
        kind: how.
        device, dtype: where it shall lie and compute.

    Raises:
        UnsupportedError: bitsandbytes is missing, or the model keeps its weights elsewhere than in linear
            layers (mixtures of experts in one tensor).
    """
    _bitsandbytes()
    _refuse_stacked(model, kind)
    modules = dict(model.named_modules())
    for name, module in _quantizable(model):
        parent, _, last = name.rpartition(".")
        setattr(modules[parent], last, QuantizedLinear(module, kind, device, dtype))
    # Copies: what is left must not keep the files mapped.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device=device, dtype=dtype, copy=True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


@torch.no_grad()
def put_dequantized(model: Any, kind: Kind) -> None:
    """Give an ordinary model, in place, the numbers that runs on its quantised twin are trained against.

    A merge adds an adapter to these. They equal those of the engine bit for bit if the model's type is the
    engine's compute type and the files hold no wider one.

    Args:
        model: of transformers, in full; its type is kept.
        kind: how the twin is quantised.

    Raises:
        UnsupportedError: as in ``quantize_model``.
    """
    _refuse_stacked(model, kind)
    for _, module in _quantizable(model):
        weight = module.weight
        layer = QuantizedLinear(module, kind, weight.device, weight.dtype)  # type: ignore[arg-type]
        weight.data.copy_(layer.weight)  # type: ignore[operator, union-attr]


def _quantizable(model: Any) -> list[tuple[str, nn.Module]]:
    head = model.get_output_embeddings()
    return [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and module is not head
    ]


def _refuse_stacked(model: Any, kind: Kind) -> None:
    stacked = [name for name, parameter in model.named_parameters() if parameter.ndim > 2]
    if stacked:
        raise UnsupportedError(
            f"quantization: {type(model).__name__} keeps weights in one tensor for several layers "
            f"({stacked[0]}), which {kind} does not cover. Use quantization 'none'.",
            field="quantization",
        )


def _bitsandbytes() -> ModuleType:
    # It mentions optional kernels of a hub whenever it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise UnsupportedError(MISSING_QLORA, code="missing_extra", field="quantization") from error
    return bitsandbytes.functional
