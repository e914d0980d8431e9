"""Free memory of a device."""

from __future__ import annotations

from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Free bytes of a device; for a CPU, what is available without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:  # MemAvailable includes file caches that the kernel can drop
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return 4 << 30  # a cautious guess on other systems
