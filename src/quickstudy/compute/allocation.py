"""Keeping freed memory in the process, where the next step finds it without a page fault.

Feature maps are megabytes large. glibc gives such blocks back to the system as soon as they are
free, so every operator asks for its result anew, and the kernel clears each page of it: at 84x84
this is a third to a half of a training step.

Threads beside the main one still lose blocks of more than 64 MiB, which are too large for the heaps
that glibc makes for them. One heap for all (M_ARENA_MAX) helps only if it is asked for before any
other thread has run, and slows MAML's steps by a tenth at 28x28, so it is not.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>


@cache
def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, from now on and for the whole process; True where it does.

    Only memory use changes: it stays at its peak, about a fifth higher. Nothing happens outside of
    glibc, or where the environment already says how to allocate (``MALLOC_...``,
    ``GLIBC_TUNABLES``, ``LD_PRELOAD``); so ``MALLOC_MMAP_MAX_=65536``, glibc's default, declines.
    """
    chosen = ("GLIBC_TUNABLES", "LD_PRELOAD")
    if any(name.startswith("MALLOC_") or name in chosen for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (absent from other C libraries)
        settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
        return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no CDLL(None)
        return False
