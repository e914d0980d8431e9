"""Baselines with a network, or a head on raw inputs: what a comparison always has beside learners.

target only         a head fitted to the raw rows of each support set, and nothing else
untrained backbone  the features of a network with its initial weights
pretrained probe    a head on pretrained features, where a learner has them
fine-tuned head     the same head after gradient steps; more layers by a learner of one's own
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.joined import Flat
from quickstudy.backbones.pretrained.source import source_of
from quickstudy.core import Answer, Learner, Task, TaskSource
from quickstudy.evaluation.untrained import refuse_pretrained, untrained, without_head
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.learners.transfer.fine_tune import FineTune
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.selection.comparing.comparison import BASELINE
from quickstudy.selection.comparing.contenders import Contender, Train, Trained

TARGET_ONLY, UNTRAINED, PROBE, TUNED = "target_only", "untrained", "probe", "fine_tuned_head"


def target_only(task: Task, source: TaskSource) -> Contender:
    """A ridge head on raw inputs, fitted to each support set alone.

    ``task``    one of ``source``, for the shape of its inputs.

    Raises ValueError for an answer or inputs that no linear head fits.
    """
    answer, inputs = task.spec.answer, task.support.inputs
    if not isinstance(answer, (Classes, Reals, Labels)):
        raise ValueError(f"no head on raw inputs gives {answer.kind}")
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise ValueError("the inputs are not one tensor of real numbers")
    learner = LinearProbe(Flat(math.prod(inputs.shape[1:])))
    return Contender(
        TARGET_ONLY, "target only: linear probe on raw inputs", BASELINE,
        lambda seed, on_step: Trained(learner, source), seeded=False,
    )  # fmt: skip


def untrained_backbone(
    make: Callable[[int], Learner], answer: Answer, ready: Callable[[Learner], Trained]
) -> Contender:
    """The nearest mean of features of an untrained backbone, or a ridge head on them.

    ``make``    seed -> a learner with initial weights, whose backbone is taken.
    ``ready``   a learner that needs no training over tasks -> how it is tested.

    Raises ValueError for a learner without a backbone, or with a pretrained one.
    """
    backbone = backbone_of(make(0))
    if backbone is None:
        raise ValueError("no learner has a backbone")
    refuse_pretrained(backbone)

    def train(seed: int, on_step: object) -> Trained:
        made = backbone_of(make(seed))
        assert made is not None
        return ready(_on_features(without_head(made), answer).requires_grad_(False))

    _on_features(without_head(untrained(backbone)), answer)
    title = f"untrained {type(backbone).__name__}"
    return Contender(UNTRAINED, title, BASELINE, train)


def _on_features(backbone: nn.Module, answer: Answer) -> Learner:
    if isinstance(answer, Classes):
        return Prototypical(backbone)
    if isinstance(answer, (Reals, Labels)):
        return LinearProbe(backbone)
    raise ValueError(f"no head on features gives {answer.kind}")


def backbone_of(learner: Learner) -> nn.Module | None:
    """The backbone of a learner, where it has one with parameters."""
    backbone = getattr(learner, "backbone", None)
    if isinstance(backbone, nn.Module) and next(backbone.parameters(), None) is not None:
        return backbone
    return None


def on_pretrained(
    learner: Learner, answer: Answer, ready: Callable[[Learner], Trained]
) -> list[Contender]:
    """A probe on the pretrained backbone of ``learner``, and the probe's head after more steps.

    ``ready``  a learner that needs no training over tasks -> how it is tested.

    None of them where it has no pretrained backbone, or for answers that no linear head gives.
    """
    backbone = backbone_of(learner)
    source_facts = None if backbone is None else source_of(backbone)
    if backbone is None or source_facts is None or not isinstance(answer, (Classes, Reals, Labels)):
        return []
    made = {
        PROBE: (LinearProbe(backbone), f"linear probe on {source_facts.name}"),
        TUNED: (FineTune(backbone, adapts="head"), f"fine-tuned head on {source_facts.name}"),
    }
    return [
        Contender(name, title, BASELINE, _as_it_is(ready, each), seeded=False)
        for name, (each, title) in made.items()
    ]


def _as_it_is(ready: Callable[[Learner], Trained], learner: Learner) -> Train:
    return lambda seed, on_step: ready(learner)
