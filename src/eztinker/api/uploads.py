"""A folder in the body of a request: a tar archive of the files that were asked for, and nothing else.

It goes to disk as it arrives; what is read is bounded, and no name of a member becomes a path. Called by
``routes/imports.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path

from starlette.requests import Request

from eztinker.errors import InvalidRequestError, TooLargeError, UserError

CONTENT_TYPE = "application/x-tar"
_ARCHIVE = "upload.tar"
_PIECE_BYTES = 1024 * 1024


async def receive_files(
    request: Request, folder: Path, *, names: Collection[str], max_bytes: int
) -> str:
    """Put the archive's files into ``folder``; sha256 in hex of the archive.

    Args:
        folder: empty.
        names: all of them must be there, and no others.
        max_bytes: of the archive.

    Raises:
        UserError: code ``unsupported_media_type``.
        TooLargeError: code ``body_too_large``.
        InvalidRequestError: it is no such archive.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != CONTENT_TYPE:
        raise UserError(
            f"The body must be a tar archive ({CONTENT_TYPE}) of {' and '.join(names)}, got Content-Type "
            f"{kind[:100] or 'none'!r}.",
            code="unsupported_media_type",
            field="Content-Type",
        )
    digest = await _store(request, folder / _ARCHIVE, max_bytes)
    await asyncio.to_thread(_unpack, folder, names)
    return digest


async def _store(request: Request, path: Path, max_bytes: int) -> str:
    digest, num_bytes, piece = hashlib.sha256(), 0, bytearray()
    with path.open("wb") as file:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise TooLargeError(
                    f"The archive has more than {max_bytes} bytes. Raise limits.max_import_bytes in the "
                    "server's settings.",
                    code="body_too_large",
                    details={"limit": max_bytes, "setting": "limits.max_import_bytes"},
                )
            digest.update(chunk)
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                await asyncio.to_thread(file.write, bytes(piece))
                piece.clear()
        await asyncio.to_thread(file.write, bytes(piece))
    return digest.hexdigest()


def _unpack(folder: Path, names: Collection[str]) -> None:
    found: set[str] = set()
    try:
        with tarfile.open(folder / _ARCHIVE, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in names or not member.isreg() or name in found:
                    raise InvalidRequestError(
                        f"The archive holds {member.name[:100]!r}; expected {' and '.join(names)}, each once."
                    )
                content = archive.extractfile(member)
                if content is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                found.add(name)
    except tarfile.TarError as error:
        raise InvalidRequestError(f"The body is no tar archive: {error}.") from None
    missing = sorted(set(names) - found)
    if missing:
        raise InvalidRequestError(f"The archive lacks {' and '.join(missing)}.")
    (folder / _ARCHIVE).unlink()
