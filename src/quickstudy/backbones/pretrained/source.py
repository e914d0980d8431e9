"""Where a module's weights come from, and whether it still has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from quickstudy.base.modules import raw_bytes

Options = Mapping[str, int | str | bool]


class PretrainedSource(NamedTuple):
    """Where the weights of a module come from; enough to make it again, and plain JSON.

    ``name``     for :func:`quickstudy.pretrained`.
    ``digest``   of the tensors, by :func:`digest_of`.
    ``options``  of :func:`quickstudy.pretrained` that it was made with. Those that the module has
                 as attributes are its settings.
    """

    name: str
    digest: str
    options: Options


_ATTRIBUTE = "pretrained_source"


def mark(module: nn.Module, source: PretrainedSource) -> None:
    """Note on ``module`` where its weights come from."""
    setattr(module, _ATTRIBUTE, source)


def source_of(module: nn.Module) -> PretrainedSource | None:
    """Where the weights of ``module`` come from: its attribute ``pretrained_source``, or None.

    They may have been changed since: see :func:`unchanged`.
    """
    source = getattr(module, _ATTRIBUTE, None)
    return source if isinstance(source, PretrainedSource) else None


def pretrained_parts(module: nn.Module) -> dict[str, nn.Module]:
    """The modules inside ``module``, itself included, that have a source, by name."""
    return {name: part for name, part in module.named_modules() if source_of(part) is not None}


def unchanged(module: nn.Module) -> bool:
    """Whether ``module`` has the weights and the settings of its source, bit for bit.

    False for a module without a source, for one that was trained further or converted to another
    type of numbers, and for one whose settings (``size``) were changed.
    """
    source = source_of(module)
    if source is None:
        return False
    return settings(module, source.options) == dict(source.options) and (
        digest_of(module) == source.digest
    )


def settings(module: nn.Module, options: Options) -> dict[str, int | str | bool]:
    """``options`` with the values that ``module`` has now, where it has plain ones."""
    now = {name: getattr(module, name, value) for name, value in options.items()}
    return {
        name: value if isinstance(value, (int, str)) else options[name]
        for name, value in now.items()
    }


def digest_of(thing: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) over names, types, shapes and bytes of a module's tensors.

    It does not depend on the device, nor on the order of the names.
    """
    tensors = thing.state_dict() if isinstance(thing, nn.Module) else thing
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()
