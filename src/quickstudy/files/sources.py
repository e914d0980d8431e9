"""Pretrained networks in files: named, with the digest of their weights, instead of copied.

A network that :func:`quickstudy.pretrained` made has ``pretrained_source``: its name, the SHA-256
of its weights and its options. Files say these three, and hold only those of its tensors that were
changed since. Loading makes the network again, offline, and takes the other tensors from it.

Importing this module does not import torch.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

from quickstudy.base.shown import shown
from quickstudy.files.annotated import is_a

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from quickstudy.backbones.pretrained.source import PretrainedSource

LARGEST_OPTION = 2048
"""The largest number among the options, as the side of pictures: larger ones fill the memory."""


def source_of(thing: Any) -> PretrainedSource | None:
    """The source of a pretrained network, with its options as they are now; else None."""
    from quickstudy.backbones.pretrained.source import settings, source_of

    found = source_of(thing)
    return None if found is None else found._replace(options=settings(thing, found.options))


def describe_source(source: PretrainedSource) -> dict[str, Any]:
    """The source as JSON, of which :func:`build_source` makes the network."""
    return {
        "pretrained": source.name, "digest": source.digest, "options": dict(source.options),
    }  # fmt: skip


def build_source(description: Mapping[str, Any]) -> nn.Module:
    """The network with the pretrained weights that a file names.

    It is in evaluation mode, and not frozen where it can be trained.

    Raises ValueError for a name that is unknown, options that it does not take, and where the
    weights here have another digest; ImportError that names the extra where the package that has
    the weights is not installed. Nothing is downloaded.
    """
    name, digest, options = (description.get(key) for key in ("pretrained", "digest", "options"))
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ValueError(
            f"a pretrained network must have a name and options; found {shown(name)} and "
            f"{shown(options)}"
        )
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"the digest of {shown(name)} must be a SHA-256; found {shown(digest)}")
    make = _maker()
    _check_options(name, options, make)
    # Files list frozen parameters themselves; weights without gradients are always frozen.
    network = make(name, frozen=not _is_trainable(name), **options)
    found = source_of(network)
    if found is None or found.digest != digest:
        raise ValueError(
            f"it was made with weights of {shown(name)} that have the SHA-256 {digest[:16]}…, but "
            f"those here have {found.digest[:16] if found else 'none'}…: install the version of "
            "their package that it was made with"
        )
    return network


def _maker() -> Callable[..., nn.Module]:
    from quickstudy.backbones.pretrained.load import pretrained

    return pretrained


def empty_network(description: Mapping[str, Any]) -> nn.Module:
    """What :func:`build_source` makes, without numbers and so without memory.

    Each network is made once in a process: what gives it numbers checks the weights anyway.
    """
    about = {key: description.get(key) for key in ("pretrained", "digest", "options")}
    return copy.deepcopy(_empty_network(json.dumps(about, sort_keys=True)))


@lru_cache(maxsize=8)
def _empty_network(description: str) -> nn.Module:
    from quickstudy.base.modules import without_numbers

    return without_numbers(build_source(json.loads(description)))


def _is_trainable(name: str) -> bool:
    from quickstudy.backbones.pretrained.registry import card

    try:
        return card(name).trainable
    except ValueError:  # the error is up to whoever makes the network
        return True


def _check_options(name: str, options: Mapping[str, Any], make: Callable[..., Any]) -> None:
    """ValueError for an option that ``make`` does not have, or of another type."""
    hints = get_type_hints(make)
    valid = {each: hints.get(each, object) for each in list(inspect.signature(make).parameters)[1:]}
    for other in ("download", "frozen"):  # they are up to whoever loads the file
        valid.pop(other, None)
    for option, value in options.items():
        if option not in valid or not is_a(value, valid[option]):
            raise ValueError(f"{shown(name)} takes no {shown(option)}={shown(value)}")
        if isinstance(value, int) and value > LARGEST_OPTION:
            raise ValueError(
                f"{shown(name)}: {option} must be at most {LARGEST_OPTION}; found {shown(value)}"
            )


class Originals:
    """The tensors of pretrained networks as they were made, each network made once."""

    def __init__(self) -> None:
        self._networks: dict[str, nn.Module] = {}

    def network(self, entry: Mapping[str, Any]) -> nn.Module:
        """The network that ``entry`` of :func:`named_networks` describes, in its dtype."""
        key = repr(sorted(entry.items(), key=str))
        if key not in self._networks:
            made = build_source(entry)
            self._networks[key] = made.to(dtype=_dtype(entry["dtype"])) if entry["dtype"] else made
        return self._networks[key]


def named_networks(module: nn.Module) -> dict[str, dict[str, Any]]:
    """By path, every pretrained network inside ``module``, as JSON: its source and dtype."""
    return {
        path: {**describe_source(source), "dtype": _float_dtype(part)}
        for path, part, source in _networks(module)
    }


def _networks(module: nn.Module) -> Iterator[tuple[str, nn.Module, PretrainedSource]]:
    """The outermost pretrained networks inside ``module``, under each of their names."""
    inside: list[str] = []
    for path, part in module.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{outer}.") or not outer for outer in inside):
            continue
        if (source := source_of(part)) is not None:
            inside.append(path)
            yield path, part, source


def without_originals(
    weights: Mapping[str, Tensor], networks: Mapping[str, Mapping[str, Any]], originals: Originals
) -> dict[str, Tensor]:
    """``weights`` without the tensors of pretrained ``networks`` that are as they were made."""
    kept = dict(weights)
    for path, entry in networks.items():
        for name, tensor in originals.network(entry).state_dict().items():
            full = f"{path}.{name}" if path else name
            if full in kept and _same(kept[full], tensor):
                del kept[full]
    return kept


def with_originals(
    weights: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]], originals: Originals
) -> dict[str, Any]:
    """``weights`` with the tensors that :func:`without_originals` left out."""
    complete = dict(weights)
    for path, entry in networks.items():
        for name, tensor in originals.network(entry).state_dict().items():
            full = f"{path}.{name}" if path else name
            if full not in complete:
                complete[full] = tensor.clone()  # else two networks of one source would share it
    return complete


def check_networks(networks: Any, module: nn.Module) -> dict[str, dict[str, Any]]:
    """The ``networks`` that a file names; ValueError unless ``module`` has just these inside."""
    if not isinstance(networks, dict) or not all(isinstance(n, dict) for n in networks.values()):
        raise ValueError("its list of pretrained networks is damaged")
    own = named_networks(module)
    for path in {**networks, **own}:
        saved, found = (
            {key: each.get(path, {}).get(key) for key in ("pretrained", "digest", "options")}
            for each in (networks, own)
        )
        if saved != found:
            raise ValueError(
                f"{path or 'it'} has the pretrained weights {_in_words(saved)} in the file, but "
                f"{_in_words(found)} here"
            )
    for entry in networks.values():
        if entry.get("dtype") is not None:
            _dtype(entry["dtype"])
    return {path: {"dtype": None, **entry} for path, entry in networks.items()}


def take_other_buffers(module: nn.Module, originals: Originals) -> None:
    """Give the pretrained networks inside ``module`` the buffers that no state dict holds."""
    for path, part, source in list(_networks(module)):
        entry = {**describe_source(source), "dtype": _float_dtype(part)}
        made = originals.network(entry)
        saved = made.state_dict().keys()
        for name, buffer in made.named_buffers():
            if name not in saved:
                owner, _, leaf = f"{path}.{name}".strip(".").rpartition(".")
                module.get_submodule(owner)._buffers[leaf] = buffer.clone()


def _same(one: Tensor, other: Tensor) -> bool:
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.detach().cpu(), other)


def _float_dtype(module: nn.Module) -> str | None:
    """The dtype of the floating-point tensors of ``module``; None without any."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            return str(tensor.dtype).removeprefix("torch.")
    return None


def _dtype(name: Any) -> torch.dtype:
    import torch

    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"the dtype of pretrained weights must be one of reals; found {name!r}")
    return found


def _in_words(source: Mapping[str, Any]) -> str:
    if source["pretrained"] is None:
        return "of no package"
    return f"{shown(source['pretrained'])} ({str(source['digest'])[:16]}…, {source['options']})"
