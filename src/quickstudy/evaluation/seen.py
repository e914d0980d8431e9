"""What the pretrained weights inside a learner have seen: their classes may be those of a test."""

from __future__ import annotations

from torch import nn

from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.source import pretrained_parts, source_of


def weights_seen(module: nn.Module) -> dict[str, str]:
    """By name, what each of the pretrained networks inside ``module`` was trained on; in words."""
    sources = (source_of(part) for part in pretrained_parts(module).values())
    return {source.name: _seen(source.name) for source in sources if source is not None}


def _seen(name: str) -> str:
    try:
        return card(name).seen
    except ValueError:
        return "data that are not known here: classes of your data may not be new to it"
