"""Atomic writes: after a crash a file has its old content or its new content, never a mixture."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path``; readers get the old file or the new one, never a part."""
    return replace_atomically(path, lambda temporary: temporary.write_bytes(content))


def replace_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call ``write`` with a temporary path, then rename that file to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner only, but reports are meant to be shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
