"""Tensors of the Tinker wire to numpy and back. Pure.

Raw bytes are little-endian; a sparse tensor is two-dimensional, in compressed rows, and 0 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eztinker.errors import InvalidRequestError
from eztinker.models.proto.tinker_public import DTYPES, Tensor
from eztinker.models.tinker import TensorData

_NUMPY_TYPES = {
    DTYPES["float32"]: np.dtype("<f4"),
    DTYPES["int64"]: np.dtype("<i8"),
    DTYPES["int32"]: np.dtype("<i4"),
}
_INDEX = np.dtype("<i8")
MAX_DENSE_ELEMENTS = 2**26
"""Bound on what a few sparse bytes may unfold to."""


def from_bytes(data: bytes, dtype: np.dtype, *, field: str) -> np.ndarray:
    """A flat array over raw bytes.

    Raises:
        InvalidRequestError: their number is no multiple of the element's size.
    """
    if len(data) % dtype.itemsize:
        raise _invalid(field, f"{len(data)} bytes are no whole number of {dtype.name} values")
    return np.frombuffer(data, dtype)


def from_message(tensor: Any, *, field: str) -> np.ndarray:
    """A ``Tensor`` as a dense array of its shape.

    Raises:
        InvalidRequestError: type, sizes or indices do not fit together.
    """
    dtype = _NUMPY_TYPES.get(tensor.dtype)
    if dtype is None:
        raise _invalid(field, f"dtype {tensor.dtype} is not float32, int64 or int32")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        csr = tensor.sparse_csr
        return _densify(
            from_bytes(csr.values, dtype, field=field),
            from_bytes(csr.crow_indices, _INDEX, field=field),
            from_bytes(csr.col_indices, _INDEX, field=field),
            list(tensor.shape),
            field=field,
        )
    return _shaped(from_bytes(tensor.dense, dtype, field=field), list(tensor.shape), field=field)


def from_json(tensor: TensorData, *, field: str, fill: int = 0) -> np.ndarray:
    """A tensor in JSON as a dense array of its shape; errors as in ``from_message``.

    Args:
        fill: what stands in the cells that a sparse tensor does not list.
    """
    values = np.array(tensor.data, dtype=np.float64)
    if tensor.dtype == "int64" and not np.array_equal(values, np.trunc(values)):
        raise _invalid(field, "an int64 tensor has whole numbers only")
    values = values.astype(np.int64 if tensor.dtype == "int64" else np.float32)
    if tensor.sparse_crow_indices is None or tensor.sparse_col_indices is None:
        return _shaped(values, tensor.shape or [], field=field)
    rows = np.array(tensor.sparse_crow_indices, dtype=np.int64)
    columns = np.array(tensor.sparse_col_indices, dtype=np.int64)
    return _densify(values, rows, columns, tensor.shape or [], field=field, fill=fill)


def to_message(values: np.ndarray) -> Any:
    """A dense ``Tensor`` of float32 or int64 values."""
    name = "int64" if values.dtype.kind == "i" else "float32"
    data = np.ascontiguousarray(values, dtype=_NUMPY_TYPES[DTYPES[name]])
    return Tensor(dense=data.tobytes(), dtype=DTYPES[name], shape=values.shape)


def to_json(values: np.ndarray) -> dict[str, Any]:
    """A dense float32 tensor in JSON."""
    return {"data": values.ravel().tolist(), "dtype": "float32", "shape": list(values.shape)}


def to_sparse_message(values: np.ndarray, listed: np.ndarray) -> Any:
    """A float32 ``Tensor`` in compressed rows of the cells where ``listed`` [rows, columns] is true."""
    message = Tensor(dtype=DTYPES["float32"], shape=values.shape)
    csr = message.sparse_csr
    csr.values = values[listed].astype("<f4").tobytes()
    csr.crow_indices = np.cumsum([0, *listed.sum(axis=1)], dtype=_INDEX).tobytes()
    csr.col_indices = np.nonzero(listed)[1].astype(_INDEX).tobytes()
    return message


def _shaped(values: np.ndarray, shape: list[int], *, field: str) -> np.ndarray:
    if not shape:
        return values
    if any(length < 0 for length in shape) or math.prod(shape) != values.size:
        raise _invalid(field, f"{values.size} values do not fill the shape {shape[:8]}")
    return values.reshape(shape)


def _densify(
    values: np.ndarray,
    crow: np.ndarray,
    columns: np.ndarray,
    shape: list[int],
    *,
    field: str,
    fill: int = 0,
) -> np.ndarray:
    if len(shape) != 2 or min(shape) < 0 or math.prod(shape) > MAX_DENSE_ELEMENTS:
        raise _invalid(field, f"a sparse tensor of the shape {shape[:8]}")
    num_rows, num_columns = shape
    fits = (
        len(crow) == num_rows + 1
        and len(values) == len(columns)
        and crow[0] == 0
        and crow[-1] == len(values)
        and bool((np.diff(crow) >= 0).all())
        and bool(((columns >= 0) & (columns < num_columns)).all())
    )
    if not fits:
        raise _invalid(
            field, "row pointers, columns and values of a sparse tensor do not fit together"
        )
    dense = np.full(shape, fill, values.dtype)
    dense[np.repeat(np.arange(num_rows), np.diff(crow)), columns] = values
    return dense


def _invalid(field: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field}: {problem}. Send it as the tinker SDK's TensorData does.",
        code="invalid_tensor",
        field=field,
    )
