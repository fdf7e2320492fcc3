"""Memory is kept while there is work, and given back afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from eztinker.engine.worker.allocator import give_back, keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
torch.set_num_threads(1)
for _ in range(4):  # how many places the first blocks take depends on where the heap lies
    torch.ones(30_000_000)
before = resident()
for _ in range(6):
    torch.ones(30_000_000)
kept = resident() - before
give_back()
print(os.environ.get("THP_MEM_ALLOC_ENABLE"), before, kept, resident())
"""


def figures(mode: str) -> tuple[str, int, int, int]:
    command = [sys.executable, "-c", PROGRAM, mode]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return words[0], int(words[1]), int(words[2]), int(words[3])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_stay_until_they_are_given_back():
    size = 4 * 30_000_000
    _, before_plain, _, after_plain = figures("plain")
    pages, before, kept, after = figures("keep")
    assert pages == "1"
    assert abs(after_plain - before_plain) < size / 4
    assert kept < size / 4, "later blocks took the places of earlier ones"
    assert before - after > size / 2, "the kept block was given back"
