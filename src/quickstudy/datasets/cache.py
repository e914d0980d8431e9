"""Decoded images on disk: written once, atomically; memory-mapped and verified at each load.

Two files per recipe: ``<recipe>.npy`` (all rows of all splits, uint8) and ``<recipe>.json`` (class
names, counts, and the SHA-256 of the rows). The recipe is part of the file name, so files of
different versions or options never mix; the JSON is written last, so rows without it do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy.tasks.classes import Classes

Splits = dict[str, Classes]
Recipe = Mapping[str, str | int | bool]
"""All that decides the decoded bytes: version of the code, options, size."""


def data_root(root: str | Path | None) -> Path:
    """Where data sets lie: ``root``, else ``$QUICKSTUDY_DATA``, else the user's cache folder."""
    chosen = root or os.environ.get("QUICKSTUDY_DATA")
    return Path(chosen).expanduser() if chosen else user_cache()


def user_cache() -> Path:
    """The folder that this platform gives to caches of quickstudy."""
    import pooch

    return Path(pooch.os_cache("quickstudy"))


def writable_folder(root: Path, name: str) -> Path:
    """``root/name`` where it may be written to, else ``name`` in the user's cache folder.

    A folder without any write permission is left alone even by the superuser, who could write.
    """
    folder = root / name
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    allowed = nearest.is_dir() and nearest.stat().st_mode & (
        stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    )
    chosen = folder if allowed and os.access(nearest, os.W_OK) else user_cache() / name
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def cached(root: Path, name: str, recipe: Recipe, build: Callable[[], Splits]) -> Splits:
    """The splits of ``recipe``, from disk where an intact copy lies there, else from ``build``.

    Rows come back memory-mapped copy-on-write: shared between processes, never written back.
    Processes that build at once write the same bytes under the same name, each in one step.
    """
    key = hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    folder = writable_folder(root, name)
    rows, index = folder / f"decoded-{key}.npy", folder / f"decoded-{key}.json"
    found = _read(rows, index)
    if found is None:
        _write(rows, index, recipe, build())
        found = _read(rows, index)
    if found is None:
        raise OSError(
            f"{rows}: the decoded copy of {name} was written but cannot be read back. "
            "Check the disk, or choose another root."
        )
    return found


def _read(rows: Path, index: Path) -> Splits | None:
    """The splits on disk, or None where they are absent, torn or altered."""
    try:
        meta = json.loads(index.read_text(encoding="utf-8"))
        array = np.load(rows, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # JSONDecodeError is a ValueError
        return None
    if array.dtype != np.uint8 or _digest(array.shape, array) != meta.get("sha256"):
        return None
    data, splits, start = torch.from_numpy(array), {}, 0
    for name, part in meta["splits"].items():
        counts = torch.tensor(part["counts"], dtype=torch.int64)
        stop = start + int(counts.sum())
        splits[name] = Classes(data[start:stop], counts, tuple(part["names"]))
        start = stop
    return splits


def _write(rows: Path, index: Path, recipe: Recipe, splits: Splits) -> None:
    parts = [np.ascontiguousarray(part.inputs.numpy()) for part in splits.values()]
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    meta: dict[str, Any] = {
        "recipe": dict(recipe),
        "sha256": _digest(shape, *parts),
        "splits": {
            name: {"names": list(part.names), "counts": part.counts.tolist()}
            for name, part in splits.items()
        },
    }
    replace_atomically(rows, lambda temporary: _save(temporary, shape, parts))
    text = json.dumps(meta, ensure_ascii=False, indent=1)
    replace_atomically(index, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _save(path: Path, shape: tuple[int, ...], parts: list[np.ndarray]) -> None:
    """One .npy file of all parts, without a copy of them in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            part.tofile(stream)


def _digest(shape: tuple[int, ...], *parts: np.ndarray) -> str:
    """SHA-256 over shape and bytes."""
    digest = hashlib.sha256(str(shape).encode())
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a temporary file beside ``path``, then put it in place in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
