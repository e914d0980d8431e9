"""Trees of tensors on disk: one safetensors file each, written atomically, without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.base.atomic import write_atomically
from quickstudy.base.errors import out_of_memory
from quickstudy.base.modules import raw_bytes

_HEADER, _DIGEST = "quickstudy", "sha256"

LARGEST_HEADER = 2**23
"""Bytes of JSON in a file, enough for the structure of 50,000 tensors. Parsed, a hostile header
takes 25 times its size."""

_ERROR_LENGTH = 300
"""Characters of the reason in an error, which may show values from the file."""


def save_tree(path: Path, tree: Any, about: dict[str, Any]) -> Path:
    """Write every tensor of ``tree`` to one file; the tree's structure and ``about`` in its header.

    ``tree``   nested dicts, lists and tuples of tensors or JSON scalars; NamedTuples are loaded as
               plain tuples.
    ``about``  any JSON.

    The file holds a SHA-256 digest of all of these. Raises ValueError where structure and ``about``
    take more than :data:`LARGEST_HEADER` bytes.
    """
    tensors: dict[str, Tensor] = {}

    def skeleton(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"{len(tensors):05d}"
            tensors[name] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[key, skeleton(value)] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [skeleton(value) for value in node]}
        return {"value": node}

    header = json.dumps({"tree": skeleton(tree), "about": about})
    if len(header) > LARGEST_HEADER:
        raise ValueError(
            f"{path}: needs a header of {len(header)} bytes, but at most {LARGEST_HEADER} can be "
            "loaded again. Store less in info, or fewer and larger tensors."
        )
    metadata = {_HEADER: header, _DIGEST: _digest(header, tensors)}
    return write_atomically(path, to_safetensors(tensors, metadata=metadata))


def load_tree(path: Path) -> tuple[Any, dict[str, Any]]:
    """The tree and ``about`` that :func:`save_tree` wrote; ValueError for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    with errors_name(path):
        _refuse_large_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies are aligned as torch aligns its own tensors: how products round depends on it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if _HEADER not in metadata:
            raise ValueError("it has no header of quickstudy")
        if _DIGEST not in metadata:
            raise ValueError("it has no digest: an earlier version may have written it")
        header = metadata[_HEADER]
        if metadata[_DIGEST] != _digest(header, tensors):
            raise ValueError("its contents have changed since they were written: another digest")
        parsed = json.loads(header)
        tree, about = _unflatten(parsed["tree"], tensors), dict(parsed["about"])
        if tensors:
            raise ValueError(f"its tree leaves out {len(tensors)} of its tensors")
        return tree, about


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header, and of the name, dtype, shape and bytes of every tensor."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _refuse_large_header(path: Path) -> None:
    """safetensors alone would accept 100 MB, and needs several times as much to parse them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > 2 * LARGEST_HEADER:
        raise ValueError(f"its header of {length} bytes is too large")


def _unflatten(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree, each of whose tensors is taken out of ``tensors``, so that none is there twice."""
    match node:
        case {"tensor": str() as name} if name in tensors:
            return tensors.pop(name)
        case {"dict": [*pairs]}:
            children = {key: _unflatten(child, tensors) for key, child in pairs}
            if len(children) == len(pairs):
                return children
        case {"list": [*children]}:
            return [_unflatten(child, tensors) for child in children]
        case {"tuple": [*children]}:
            return tuple(_unflatten(child, tensors) for child in children)
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
    raise ValueError("its tree is malformed")


@contextmanager
def errors_name(
    path: Path,
    what: str = "not a file that quickstudy wrote, or a damaged one",
    remedy: str = "Save it again, or use another copy.",
) -> Iterator[None]:
    """Turn whatever a wrong file leads to into one ValueError that names it.

    All code that handles what was read stands inside of this. Errors of the system, as of a disk,
    and of memory pass unchanged; one that a package is missing gets the name of the file.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except ImportError as error:
        raise ImportError(f"{path}: {error}") from error
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, ValueError | RuntimeError):
            reason = f"{type(error).__name__}: {reason}"
        if len(reason) > _ERROR_LENGTH:
            reason = f"{reason[:_ERROR_LENGTH]} …"
        raise ValueError(f"{path}: {what} ({reason.removesuffix('.')}). {remedy}") from error
