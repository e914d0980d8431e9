"""Pretrained backbones: networks whose weights come from elsewhere, known by name and hash.

``quickstudy.pretrained(name)`` gives one. The facts about each, :data:`CARDS`, are read without
torch. ``module.pretrained_source`` says where a module's weights come from, and :func:`unchanged`
whether they still are those.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quickstudy.backbones.pretrained.registry import CARDS, PREFIXES, PretrainedCard, card

if TYPE_CHECKING:
    from quickstudy.backbones.pretrained.source import PretrainedSource, source_of, unchanged

__all__ = [
    "CARDS", "PREFIXES", "PretrainedCard", "PretrainedSource", "card", "source_of", "unchanged",
]  # fmt: skip

_MODULES = {
    "PretrainedSource": "source",
    "source_of": "source",
    "unchanged": "source",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
