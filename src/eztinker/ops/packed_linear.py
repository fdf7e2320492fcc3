"""Products with a weight that was laid out once for them; on a CPU, without gradients.

A plain product lays out its weight anew at every call, which for the few rows of a decode step costs more
than the product: laid out once for oneDNN, it is up to twice as fast (``docs/performance.md``). One or two rows
of float32 are different: their product is a reading of the weight, and a transposed copy is read fastest
where there are more outputs than inputs, the weight as it is where there are not. Pure functions; called
by ``engine/worker/packed_projection.py`` and ``ops/logprobs.py``.

Axes: N rows, D inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

_ROWS_LAID_OUT_FOR = 32
_SMALL_WEIGHT = 2**18
"""Numbers up to which the float32 product of very few rows is faster as it is than laid out for oneDNN."""
_VERY_FEW = 2


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch can lay out such weights."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def pack(weight_OD: Tensor) -> Tensor:
    """A copy of a weight in oneDNN's layout, opaque; good for few rows and for many."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OD.contiguous(), _ROWS_LAID_OUT_FOR)


def packed_linear(x_ND: Tensor, packed: Tensor, bias_O: Tensor | None) -> Tensor:
    """W·x + b [N, O]."""
    return torch.ops.mkldnn._linear_pointwise(x_ND, packed, bias_O, "none", [], "")


def packed_linear_added(
    y_NO: Tensor, x_ND: Tensor, packed: Tensor, bias_O: Tensor | None
) -> Tensor:
    """y + W·x + b [N, O], as a new tensor."""
    return torch.ops.mkldnn._linear_pointwise(x_ND, y_NO, packed, bias_O, "add")


def is_better_plain(num_rows: int, weight_OD: Tensor) -> bool:
    """Whether so small a product is faster without."""
    if num_rows > _VERY_FEW or weight_OD.dtype != torch.float32:
        return False
    num_outputs, num_inputs = weight_OD.shape
    return num_outputs <= num_inputs or weight_OD.numel() <= _SMALL_WEIGHT


def turned(weight_OD: Tensor) -> Tensor | None:
    """A transposed copy [D, O] for very few rows; None where they gain nothing by it."""
    num_outputs, num_inputs = weight_OD.shape
    if weight_OD.dtype != torch.float32 or num_outputs <= num_inputs:
        return None
    return weight_OD.t().contiguous()


def is_better_turned(num_rows: int, turned_DO: Tensor | None) -> bool:
    """Whether there is such a copy, and so few rows that it is the faster one."""
    return turned_DO is not None and num_rows <= _VERY_FEW


def turned_linear(x_ND: Tensor, turned_DO: Tensor, bias_O: Tensor | None) -> Tensor:
    """W·x + b [N, O] of very few rows."""
    return x_ND @ turned_DO if bias_O is None else torch.addmm(bias_O, x_ND, turned_DO)


def held_linear(x_ND: Tensor, weight: Tensor, bias_O: Tensor | None, layout: str) -> Tensor:
    """W·x + b [N, O], with the weight "plain", "turned" or "packed"."""
    if layout == "packed":
        return packed_linear(x_ND, weight, bias_O)
    if layout == "turned":
        return turned_linear(x_ND, weight, bias_O)
    return linear(x_ND, weight, bias_O)


def held_linear_added(
    y_NO: Tensor, x_ND: Tensor, weight: Tensor, bias_O: Tensor | None, layout: str
) -> Tensor:
    """y + W·x + b [N, O] as a new tensor, with the weight "plain" or "packed"."""
    if layout == "packed":
        return packed_linear_added(y_NO, x_ND, weight, bias_O)
    total_NO = torch.addmm(y_NO, x_ND, weight.t())
    return total_NO if bias_O is None else total_NO.add_(bias_O)
