"""What the machine offers: device, cores, memory.

Called at the worker's start and when a base model is loaded; threads also by ``sampler.py`` and
``micro_batch.py``. Knows no model.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from eztinker.engine.machine_memory import machine_memory_bytes
from eztinker.errors import InvalidRequestError

_CACHE_SHARE = 0.25
_FALLBACK_MEMORY_BYTES = 4 * 1024**3
_FLOPS_PER_THREAD = 40e6
"""Half a millisecond of products. Threads with less to do wait for each other longer than they gain."""


def choose_device(name: str) -> torch.device:
    """The device that a setting names; ``auto`` prefers CUDA.

    Raises:
        InvalidRequestError: a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    present = device.type == "cpu" or (
        device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    )
    if not present:
        raise InvalidRequestError(
            f"device={name!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; this machine has "
            f"{torch.cuda.device_count()} CUDA devices.",
            field="device",
        )
    return device


def set_num_threads(wanted: int) -> int:
    """Set torch's threads (0: one per physical core) and return how many there are."""
    torch.set_num_threads(wanted or num_physical_cores())
    return torch.get_num_threads()


@contextlib.contextmanager
def threads_for(num_flops: float) -> Iterator[None]:
    """Use no more of torch's threads than so much arithmetic keeps busy, until the block ends.

    Equal work always gets equal threads, so that it is rounded alike.
    """
    most = torch.get_num_threads()
    fewer = min(most, 1 + int(num_flops / _FLOPS_PER_THREAD))
    if fewer == most:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(most)


def num_physical_cores() -> int:
    """Physical cores this process may use; logical ones where the system does not tell."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    num_logical = len(allowed) if allowed else os.cpu_count() or 1
    cores = set()
    for cpu in allowed or ():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(tuple((topology / f).read_text() for f in ("physical_package_id", "core_id")))
        except OSError:
            return num_logical
    return len(cores) or num_logical


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _FALLBACK_MEMORY_BYTES
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def total_memory_bytes(device: torch.device) -> int:
    """Memory of a device, or of the machine; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return machine_memory_bytes()


def default_cache_tokens(device: torch.device, bytes_per_token: int) -> int:
    """Cached tokens that a quarter of the free memory holds, the cache's spare room counted in."""
    return max(1, int(free_memory_bytes(device) * _CACHE_SHARE / (2 * bytes_per_token)))


def give_back_freed_memory(device: torch.device) -> None:
    """Return to the system what has been freed; allocators keep much of it otherwise."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
