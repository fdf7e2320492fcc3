"""The C library's memory: kept from one micro-batch to the next, given back when there is nothing to do.

By default glibc maps every large block anew and returns it when it is freed, so that each activation is
paid for twice: once computed, once as page faults. Knows no tensors. Called by ``process.py`` before torch
loads, and by ``worker.py``. Does nothing where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import os
import platform

IDLE_S = 2.0
"""Seconds without work after which memory is given back."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 2**31 - 1
_GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Serve large blocks from the heap, which grows in large steps; huge pages where the system has them."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_TOP_PAD, _GROWTH_BYTES)
        libc.mallopt(_ARENA_MAX, 1)  # a thread's own arena takes no large block and keeps none


def give_back() -> None:
    """Return what is free to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
