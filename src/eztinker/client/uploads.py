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
    _check(path)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in FILES:
            entry = tarfile.TarInfo(name)  # no owner and no time: the same folder, the same bytes
            entry.size = (path / name).stat().st_size
            with (path / name).open("rb") as file:
                tar.addfile(entry, file)
    return archive.getvalue()


def _check(path: Path) -> None:
    missing = next((name for name in FILES if not (path / name).is_file()), None)
    if missing is None:
        return
    if not path.is_dir():
        what = f"{path} is a file" if path.exists() else f"There is no folder {path}"
    else:
        what = f"{path} has no {missing}"
        if missing.endswith(".safetensors") and path.joinpath("adapter_model.bin").is_file():
            what += (
                "; its adapter_model.bin is a pickle, which can run code: save it as safetensors"
            )
    raise NotFoundError(
        f"{what}. Expected the folder of a PEFT adapter, with {' and '.join(FILES)}.",
        code="adapter_not_found",
        field="folder",
    )
