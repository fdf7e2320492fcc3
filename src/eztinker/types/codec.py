"""Dataclasses of this package to bytes and back: the log's payloads and the worker's messages.

MessagePack by msgspec, arrays as ``[dtype, shape, raw little-endian bytes]``. Types are checked on
the way in, so a damaged payload is an error here and not a surprise later. Never pickle: nothing that
was read can run.
"""

from typing import Any, TypeVar

import msgspec
import numpy as np

from eztinker.errors import StorageError

T = TypeVar("T")

_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
            "float16", "float32", "float64")  # fmt: skip
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _NUMBERS}


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _DTYPES:
            raise TypeError(f"cannot encode an array of {value.dtype}")
        little_endian = np.ascontiguousarray(value, dtype=_DTYPES[value.dtype.name])
        return [value.dtype.name, list(value.shape), little_endian.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot encode {type(value).__name__}")


def _decode_array(cls: type, value: Any) -> Any:
    if cls is np.ndarray:
        name, shape, data = value
        if not isinstance(name, str) or name not in _DTYPES:
            raise TypeError(f"unknown kind of array {name!r}")
        if not all(isinstance(length, int) and 0 <= length < 2**31 for length in shape):
            raise ValueError(f"impossible shape {shape!r}")
        return np.frombuffer(data, dtype=_DTYPES[name]).reshape(shape)
    raise TypeError(f"cannot decode {cls.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: Any) -> bytes:
    """Bytes of a dataclass instance. Its type is not in the bytes: store it beside them."""
    return _encoder.encode(value)


def decode(data: bytes, cls: type[T]) -> T:
    """The instance of ``cls`` that ``encode`` turned into ``data``; arrays come back read-only.

    Raises:
        StorageError: code ``damaged_payload``, if the bytes are no such instance.
    """
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = msgspec.msgpack.Decoder(cls, dec_hook=_decode_array)
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise StorageError(
            f"A stored {cls.__name__} cannot be read ({error}). The database or message is damaged.",
            code="damaged_payload",
        ) from error
