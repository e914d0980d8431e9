"""Features of a backbone on disk, by the content of each input.

One folder per backbone (its weights and options), in it files ``<hash>.safetensors`` of two
tensors: ``keys`` (n, 32), the SHA-256 of each input, and ``features`` (n, ...). A file's name is
the beginning of its own SHA-256, so that a damaged one is noticed, and left out. Files are written
once and never changed: several processes may write at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.backbones.pretrained.source import PretrainedSource
from quickstudy.backbones.pretrained.weights import LARGEST_FILE, read_safetensors
from quickstudy.base.atomic import remove_abandoned, write_atomically
from quickstudy.base.modules import raw_bytes
from quickstudy.base.trees import named_leaves
from quickstudy.datasets.cache import data_root, writable_folder

_FORMAT = 1
"""To be raised where the code of a network changes what it gives."""

_MOST_FILES = 32
"""More than these are joined to one."""

Key = bytes


class FeatureStore:
    """The features that are kept for one backbone: a mapping from keys to rows, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remove_abandoned(folder)

    def read(self) -> dict[Key, Tensor]:
        """The features of every intact file, by key."""
        return {key: row for path in self._files() for key, row in _read(path).items()}

    def write(self, features: Mapping[Key, Tensor]) -> None:
        """Keep ``features``, in one new file; where there are many files, join them."""
        if features:
            self._write(features)
        files = self._files()
        if len(files) > _MOST_FILES:
            kept = self._write(self.read())
            for path in files:
                if path != kept:
                    with suppress(OSError):  # another process has removed it
                        path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _write(self, features: Mapping[Key, Tensor]) -> Path:
        keys = torch.frombuffer(bytearray(b"".join(features)), dtype=torch.uint8)
        content = to_safetensors(
            {"keys": keys.view(len(features), -1), "features": torch.stack([*features.values()])}
        )
        name = hashlib.sha256(content).hexdigest()[:32]
        return write_atomically(self.folder / f"{name}.safetensors", content)


def _read(path: Path) -> dict[Key, Tensor]:
    """The features in a file by key; none where it is absent or damaged."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return {}
        content = path.read_bytes()
        if not hashlib.sha256(content).hexdigest().startswith(path.stem):
            return {}
        _, tensors = read_safetensors(content)
        keys = [bytes(raw_bytes(key)) for key in tensors["keys"]]
        return dict(zip(keys, tensors["features"], strict=True))
    except (OSError, ValueError, LookupError):
        return {}


def feature_cache(source: PretrainedSource) -> FeatureStore | None:
    """The cache for the backbone of ``source``; None where no folder can be written.

    It is ``features`` in ``$QUICKSTUDY_DATA``, else in the user's cache folder.
    """
    about = [_FORMAT, source.name, source.digest, dict(source.options)]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    readable = re.sub(r"[^\w.-]+", "-", source.name)[:60]
    try:
        return FeatureStore(writable_folder(data_root(None) / "features", f"{readable}-{key}"))
    except OSError:
        return None


def keys_of(inputs: Any, rows: int) -> list[Key]:
    """The SHA-256 of each row of ``inputs``: names, types, shapes and bytes of its leaves."""
    leaves = list(named_leaves(inputs))
    head = [(name, str(leaf.dtype), tuple(leaf.shape[1:])) for name, leaf in leaves]
    start = hashlib.sha256(json.dumps(head).encode())
    return [_key(start.copy(), [leaf[row] for _, leaf in leaves]) for row in range(rows)]


def _key(digest: hashlib._Hash, parts: Iterable[Tensor]) -> Key:
    for part in parts:
        digest.update(raw_bytes(part))
    return digest.digest()
