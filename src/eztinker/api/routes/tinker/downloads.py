"""Checkpoints leaving the house on the Tinker wire: file by file, or as one tar for older clients.

The files are those on disk: an adapter in PEFT's layout.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.responses import FileResponse, RedirectResponse, Response

from eztinker.api.answers import iso_time
from eztinker.api.tinker.endpoint import CHECKPOINT, Call, answer, endpoint, named_checkpoint
from eztinker.errors import NotFoundError

VALID_S = 24 * 3600
"""How long addresses are said to hold; ours hold as long as the checkpoint."""


async def external_weights_urls(call: Call) -> Response:
    """Where to fetch each file of a checkpoint."""
    path = named_checkpoint(call)
    files = await call.service.checkpoints.files(path.run_id, path.stored_name)
    here = f"/training_runs/{quote(path.run_id)}/checkpoints/{path.kind}/{quote(path.name)}"
    expires = datetime.datetime.now(datetime.UTC).timestamp() + VALID_S
    urls = {file.name: call.address(f"{here}/files/{quote(file.name)}") for file in files}
    return answer({"urls": urls, "expires": iso_time(expires)})


async def file(call: Call) -> Response:
    """One file of a checkpoint."""
    path, wanted = named_checkpoint(call), call.path("file")
    files = await call.service.checkpoints.files(path.run_id, path.stored_name)
    found = next((entry for entry in files if entry.name == wanted), None)
    if found is None:
        raise NotFoundError(
            f"{path} has no file {wanted[:100]!r}. It has: {', '.join(entry.name for entry in files)}.",
            code="file_not_found",
        )
    return FileResponse(found, media_type="application/octet-stream")


async def archive(call: Call) -> Response:
    """Older clients ask here and are sent on to the archive itself."""
    path = named_checkpoint(call)
    await call.service.checkpoints.get(path.run_id, path.stored_name)
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=VALID_S)
    here = f"/training_runs/{quote(path.run_id)}/checkpoints/{path.kind}/{quote(path.name)}"
    headers = {"Expires": expires.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    return RedirectResponse(call.address(f"{here}/archive.tar"), 302, headers)


async def archive_file(call: Call) -> Response:
    """A checkpoint as a tar."""
    path = named_checkpoint(call)
    files = await call.service.checkpoints.files(path.run_id, path.stored_name)
    packed = await asyncio.to_thread(_pack, files)
    remove = BackgroundTask(packed.unlink, missing_ok=True)
    return FileResponse(
        packed, media_type="application/x-tar", filename=f"{path.name}.tar", background=remove
    )


def _pack(files: list[Path]) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="eztinker-", suffix=".tar")
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as packed:
        for entry in files:
            packed.add(entry, entry.name)
    return Path(name)


ROUTES = (
    endpoint("GET", f"{CHECKPOINT}/external_weights_urls", external_weights_urls),
    endpoint("GET", f"{CHECKPOINT}/files/{{file}}", file),
    endpoint("GET", f"{CHECKPOINT}/archive", archive),
    endpoint("GET", f"{CHECKPOINT}/archive.tar", archive_file),
)
