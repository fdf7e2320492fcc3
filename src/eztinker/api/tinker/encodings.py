"""Compressed bodies of the Tinker wire: zstd, with a bound on what it unfolds to.

A few bytes of zstd can stand for gigabytes, so the same limit holds before and after. Pure. Called by
``endpoint.py``.
"""

from __future__ import annotations

import zstandard

from eztinker.errors import InvalidRequestError, TooLargeError, UserError

MAX_WINDOW_BYTES = 2**27
"""Memory that a frame may ask for; the official client's need 8 MiB at most."""


def decoded(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its ``Content-Encoding``.

    Raises:
        UserError: code ``unsupported_media_type``, an encoding that is not read here.
        TooLargeError: code ``body_too_large``, it unfolds to more than ``max_bytes``.
        InvalidRequestError: code ``invalid_encoding``, the bytes are no zstd.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return raw
    if encoding != "zstd":
        raise UserError(
            f"Content-Encoding {encoding[:100]!r} is not read here. Send zstd, or the body as it is.",
            code="unsupported_media_type",
            field="Content-Encoding",
        )
    try:
        size = zstandard.frame_content_size(raw)
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return unpack.decompress(raw, max_output_size=max_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidRequestError(
            f"The body is called zstd and cannot be unpacked: {error}. Send one whole frame that says its "
            f"size, of at most {max_bytes} bytes unpacked (limits.max_body_bytes).",
            code="invalid_encoding",
            field="Content-Encoding",
        ) from None


def _too_large(num_bytes: int, max_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"The body unfolds to {num_bytes} bytes, and this server reads at most {max_bytes}. Split the "
        "request, or raise limits.max_body_bytes in the server's settings.",
        code="body_too_large",
        details={"limit": max_bytes, "setting": "limits.max_body_bytes"},
    )
