"""Features of pretrained networks that are installed, in the place of pictures or texts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.backbones.pretrained.features import featurise
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.pretrained.registry import CARDS
from quickstudy.base.door import to_unit
from quickstudy.base.errors import first_line
from quickstudy.base.trees import map_tree
from quickstudy.base.trees import rows as number_of_rows
from quickstudy.tasks.rows import LabelledRows

OF_PICTURES = "efficientnet-lite0"
OF_TEXTS = "all-MiniLM-L6-v2"

SHARE = 0.25
"""Of the time, that computing features may take at most."""

SMALL = 84
"""Side in pixels of the pictures that a network is trained on from scratch, at most."""

_TIMED = 8


@dataclass(frozen=True)
class View:
    """The three parts with features of one network in the place of inputs."""

    name: str
    title: str
    train: LabelledRows
    val: LabelledRows
    test: LabelledRows | None


@dataclass
class Pretrained:
    """The networks that read inputs like those at hand.

    ``name``      of the network; "" for none.
    ``why_none``  where there is none.
    ``seconds``   that computing features may take.
    ``pretend``   take random numbers in place of features: for a plan, which only needs their size.
    ``left_out``  filled while features are computed: what is not there, and why.
    """

    name: str
    why_none: str = ""
    rules: tuple[str, ...] = ()
    seconds: float = float("inf")
    pretend: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def views(
        self, train: LabelledRows, val: LabelledRows, test: LabelledRows | None
    ) -> list[View]:
        """The parts as features: one view, or none with the reason in ``left_out``.

        Without time for the features of training rows their part has no classes, so that nothing
        is trained on features.
        """
        if not self.name:
            if self.why_none:
                self.left_out["pretrained features"] = self.why_none
            return []
        try:
            backbone = pretrained(self.name)
            each = _seconds_each(backbone, val)
        except Exception as error:  # such as weights that are not there: never stops the race
            self.left_out[CARDS[self.name].title] = first_line(error)
            return []
        needed = each * sum(number_of_rows(part.inputs) for part in (val, test) if part is not None)
        if needed > self.seconds:
            self.left_out[CARDS[self.name].title] = (
                f"computing its features takes about {needed:.0f} s, and {self.seconds:.0f} s are "
                "left for that; give more minutes"
            )
            return []
        rows = number_of_rows(train.inputs)
        own = train if rows and needed + each * rows <= self.seconds else None
        if own is None and rows:
            self.left_out[f"training on {CARDS[self.name].title}"] = (
                "computing the features of training rows takes too long; give more minutes"
            )
        parts = [None if p is None else self._featurised(p, backbone) for p in (own, val, test)]
        assert parts[1] is not None
        first = parts[1].without_classes() if parts[0] is None else parts[0]
        return [View(self.name, CARDS[self.name].title, first, parts[1], parts[2])]

    def _featurised(self, rows: LabelledRows, backbone: nn.Module) -> LabelledRows:
        if self.pretend:
            size = (number_of_rows(rows.inputs), int(backbone.features))  # type: ignore[arg-type]
            return replace(
                rows, inputs=torch.rand(size, generator=torch.Generator().manual_seed(0))
            )
        return featurise(rows, backbone)


def shrunk(rows: LabelledRows) -> LabelledRows:
    """``rows`` with pictures (uint8) of a side of :data:`SMALL` pixels at most (bicubic)."""
    if not is_pictures(rows.inputs) or rows.inputs.shape[-1] <= SMALL or not len(rows):
        return rows
    parts = [
        F.interpolate(to_unit(part), (SMALL, SMALL), mode="bicubic", antialias=True).clamp_(0, 1)
        for part in rows.inputs.split(64)
    ]
    pixels = torch.cat([(255 * part).round_().to(torch.uint8) for part in parts])
    return replace(rows, inputs=pixels)


def is_pictures(inputs: Any) -> bool:
    """Whether inputs are pictures as data sets store them: uint8 (n, channels, h, w)."""
    there = isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.dtype == torch.uint8
    return there and inputs.shape[1] in (1, 3)


def side_of_folders() -> int:
    """The side to which pictures of a folder are read: that of the network, where it is there."""
    if find_spec(CARDS[OF_PICTURES].module) is None:
        return SMALL
    backbone: Any = pretrained(OF_PICTURES)
    return int(backbone.input_shape[-1])


def _seconds_each(backbone: nn.Module, rows: LabelledRows) -> float:
    some = map_tree(lambda leaf: leaf[:_TIMED], rows.inputs)
    few = LabelledRows(some, torch.tensor([number_of_rows(some)]), ("some",))
    began = time.perf_counter()
    featurise(few, backbone, cache=False)
    return (time.perf_counter() - began) / number_of_rows(some)


def for_pictures(rows: LabelledRows, seconds: float, pretend: bool) -> Pretrained:
    """The network for these inputs, if they are pictures; none for other inputs."""
    inputs = rows.inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return Pretrained("", rules=("new classes",))
    rules = ("photographs", "other pictures", "new classes")
    if find_spec(CARDS[OF_PICTURES].module) is None:
        return Pretrained("", f"not installed: {CARDS[OF_PICTURES].install}", rules)
    return Pretrained(OF_PICTURES, "", rules, seconds, pretend)


def for_texts(seconds: float, pretend: bool) -> Pretrained:
    """The network for tokens of its own tokenizer."""
    if find_spec(CARDS[OF_TEXTS].module) is None:
        return Pretrained("", f"not installed: {CARDS[OF_TEXTS].install}", ("texts",))
    return Pretrained(OF_TEXTS, "", ("texts",), seconds, pretend)
