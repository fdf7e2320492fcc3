"""Small disks of a test's own: an ext4 image whose plug can be pulled, a tmpfs that fills up.

Mounting needs rights that not every machine gives; ``mounted`` skips with the reason then.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

IMAGE_BYTES = 48 * 1024 * 1024


def make_image(path: Path) -> Path:
    """An empty ext4 file system in a file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 on this machine")
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", path], check=True)
    return path


def cut(image: Path, copy: Path) -> Path:
    """What the disk holds at this moment, without what the system has not written to it yet."""
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    """Mount at ``folder`` for the time of a ``with``; skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
