"""Messages on a byte stream: one frame each, its class name and its payload.

A frame is its length (4 bytes, big-endian), the length of the name (1 byte), the name, and what
``types/codec.py`` makes of the message. Used by both ends of the socket to an engine worker; knows
neither sockets nor torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from eztinker.errors import StorageError
from eztinker.types.codec import decode, encode

LENGTH_BYTES = 4


def frame(message: Any) -> bytes:
    """The frame of a message."""
    name, payload = type(message).__name__.encode(), encode(message)
    return struct.pack(f">IB{len(name)}s", 1 + len(name) + len(payload), len(name), name) + payload


def frame_length(head: bytes) -> int:
    """Bytes that follow the first ``LENGTH_BYTES`` of a frame."""
    return struct.unpack(">I", head)[0]


def message_of(body: bytes, types: Mapping[str, type]) -> Any:
    """The message in a frame's body.

    Args:
        body: what follows the length.
        types: message classes by name.

    Raises:
        StorageError: code ``damaged_payload``, unknown class or damaged content.
    """
    name = body[1 : 1 + body[0]].decode("ascii", "replace")
    if name not in types:
        raise StorageError(f"Unknown message {name!r}.", code="damaged_payload")
    return decode(body[1 + body[0] :], types[name])


def read_message(read_exactly: Callable[[int], bytes], types: Mapping[str, type]) -> Any:
    """The next message of a blocking stream.

    Args:
        read_exactly: gives so many bytes, or raises ``EOFError``.
        types: message classes by name.
    """
    return message_of(read_exactly(frame_length(read_exactly(LENGTH_BYTES))), types)
