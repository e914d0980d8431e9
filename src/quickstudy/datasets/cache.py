"""Decoded images on disk: written once, atomically; memory-mapped and verified at each load.

There are two files per recipe: ``decoded-<hash>.npy`` (the rows of all splits, uint8) and
``decoded-<hash>.json`` (class names, counts, images left out, and a SHA-256 over these and the
rows). The hash of the recipe in the name keeps versions and options apart. The JSON is written
last; rows without it are ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.atomic import remove_abandoned, replace_atomically, write_errors_name
from quickstudy.base.json_text import read_json
from quickstudy.tasks.rows import LabelledRows

Splits = dict[str, LabelledRows]
Recipe = Mapping[str, str | int | bool]
"""Everything that determines the decoded bytes: version of the code, options, size."""


class Decoded(NamedTuple):
    """Decoded splits, possibly without unreadable images.

    ``left_out``  the error of each image that is missing from ``splits``.
    """

    splits: Splits
    left_out: tuple[str, ...] = ()


def data_root(root: str | Path | None) -> Path:
    """The folder of data sets: ``root``, else ``$QUICKSTUDY_DATA``, else the user's cache."""
    chosen = root or os.environ.get("QUICKSTUDY_DATA")
    return Path(chosen).expanduser() if chosen else user_cache()


def user_cache() -> Path:
    """The folder for caches of quickstudy on this platform."""
    import pooch

    return Path(pooch.os_cache("quickstudy"))


def writable_folder(root: Path, name: str) -> Path:
    """``root/name`` where it is writable, else ``name`` in the user's cache folder.

    A folder without any write permission is not used even by the superuser, who could write to it.
    """
    folder = root / name
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    allowed = nearest.is_dir() and nearest.stat().st_mode & (
        stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    )
    chosen = folder if allowed and os.access(nearest, os.W_OK) else user_cache() / name
    with write_errors_name(chosen):
        chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def cached(root: Path, name: str, recipe: Recipe, build: Callable[[], Splits]) -> Splits:
    """The splits of ``recipe``, from an intact copy on disk where there is one, else from
    ``build``.

    Rows are memory-mapped copy-on-write: shared between processes, never written back. Processes
    that build at the same time write the same bytes under the same name, each atomically.
    """
    return cached_incomplete(root, name, recipe, lambda: Decoded(build())).splits


def cached_incomplete(
    root: Path, name: str, recipe: Recipe, build: Callable[[], Decoded], *, complete: bool = False
) -> Decoded:
    """Like :func:`cached`, for a ``build`` that may leave out images; with the list of these.

    ``complete``  call ``build`` again where the copy on disk lacks images.
    """
    key = hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    folder = writable_folder(root, name)
    rows, index = folder / f"decoded-{key}.npy", folder / f"decoded-{key}.json"
    remove_abandoned(folder)
    found = _read(rows, index, recipe)
    if found is None or (complete and found.left_out):
        _write(rows, index, recipe, build())
        found = _read(rows, index, recipe)
    if found is None:
        raise OSError(
            f"{rows}: the decoded copy of {name} was written but cannot be read back. "
            "Check the disk, or choose another root."
        )
    return found


def _read(rows: Path, index: Path, recipe: Recipe) -> Decoded | None:
    """The copy on disk; None where it is absent, incomplete, altered or of another recipe."""
    try:
        meta = read_json(index, most=2**26)
        array = np.load(rows, mmap_mode="c", allow_pickle=False)
        digest = meta.pop("sha256")
        if array.dtype != np.uint8 or meta["recipe"] != dict(recipe):
            return None
        if _digest(meta, array.shape, array) != digest:
            return None
        return Decoded(
            _split_rows(torch.from_numpy(array), meta["splits"]), tuple(meta["left_out"])
        )
    except Exception:  # readers may raise any error for damaged bytes; the copy is then built again
        return None


def _split_rows(rows: Tensor, index: dict[str, Any]) -> Splits:
    """The rows of each split, as views."""
    counts = {name: torch.tensor(part["counts"]) for name, part in index.items()}
    parts = rows.split([int(count.sum()) for count in counts.values()])
    return {
        name: LabelledRows(part, counts[name], tuple(index[name]["names"]))
        for name, part in zip(index, parts, strict=True)
    }


def _write(rows: Path, index: Path, recipe: Recipe, decoded: Decoded) -> None:
    splits, left_out = decoded
    parts = [np.ascontiguousarray(part.inputs.numpy()) for part in splits.values()]
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    meta: dict[str, Any] = {
        "recipe": dict(recipe),
        "left_out": list(left_out),
        "splits": {
            name: {"names": list(part.names), "counts": part.counts.tolist()}
            for name, part in splits.items()
        },
    }
    meta["sha256"] = _digest(meta, shape, *parts)
    replace_atomically(rows, lambda temporary: _save(temporary, shape, parts))
    text = json.dumps(meta, ensure_ascii=False, indent=1)
    replace_atomically(index, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _save(path: Path, shape: tuple[int, ...], parts: list[np.ndarray]) -> None:
    """Write all parts to one .npy file, without copying them in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.data)  # not tofile, whose errors do not say that the disk is full


def _digest(meta: dict[str, Any], shape: tuple[int, ...], *parts: np.ndarray) -> str:
    """SHA-256 over the index (all but its digest), and the shape and bytes of the rows."""
    digest = hashlib.sha256(json.dumps([meta, shape], sort_keys=True).encode())
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()
