"""Freed memory is kept, which a process of its own has to show."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from quickstudy.compute.memory import keep_freed_memory
print(keep_freed_memory())
for _ in range(20):
    torch.ones(10_000_000).add(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000).add(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told so under Linux alone")
def test_the_second_pass_finds_its_memory_unless_the_environment_says_otherwise() -> None:
    kept, faults = page_faults()
    if kept == "False":
        pytest.skip("this system's malloc is not glibc's")
    declined, more = page_faults(MALLOC_MMAP_MAX_="65536")
    assert declined == "False"
    assert faults < 1000 < more
