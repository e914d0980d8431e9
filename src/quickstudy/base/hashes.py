"""Hashes of files, by which published ones are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path


def sha256_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that over their names and the hash of each, by name."""
    hashes = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def refuse_other_hash(path: Path, expected: str, who: str) -> None:
    """ValueError unless the file's SHA-256 is ``expected``; FileNotFoundError without the file.

    ``who``  begins the message.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: {path} is missing. Install its package again.")
    found = sha256_of_files([path])
    if found != expected:
        raise ValueError(
            f"{who}: {path} must have the SHA-256 {expected}; found {found}. The file is damaged "
            "or another version: install its package again."
        )
