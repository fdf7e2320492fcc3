"""An adapter's folder on this machine as the archive that a server takes.

Knows PEFT's two files and nothing of what is in them. Called by ``import_adapter`` of the two clients.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from eztinker.errors import NotFoundError

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_archive(folder: str | os.PathLike[str]) -> bytes:
    """A tar archive of the two files.

    Raises:
        NotFoundError: code ``adapter_not_found``: a file is missing.
    """
    path = Path(folder)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in FILES:
            if not (path / name).is_file():
                raise NotFoundError(
                    f"{path} has no {name}. Expected the folder of a PEFT adapter.",
                    code="adapter_not_found",
                    field="folder",
                )
            entry = tarfile.TarInfo(name)  # no owner and no time: the same folder, the same bytes
            entry.size = (path / name).stat().st_size
            with (path / name).open("rb") as file:
                tar.addfile(entry, file)
    return archive.getvalue()
