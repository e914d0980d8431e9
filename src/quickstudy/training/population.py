"""Population statistics of ``norm="running"``, estimated over training tasks."""

from __future__ import annotations

import torch

from quickstudy.backbones.norms import RunningNorm, estimating
from quickstudy.base.dropout import dropout_off
from quickstudy.base.modules import device_of
from quickstudy.core import Learner, TaskSource
from quickstudy.objectives import predict_queries
from quickstudy.tasks.acting import run_acting
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.tasks.stacks import to_device

TASKS = 32


def estimate_population(learner: Learner, source: TaskSource, seed: int) -> None:
    """Set the statistics that every :class:`RunningNorm` uses in evaluation mode.

    Moments over all rows of ``TASKS`` tasks with the current weights, instead of a moving average
    over past optimiser steps (Wu and Johnson, 2021,
    Rethinking "Batch" in BatchNorm, section 3). Does nothing without such layers.
    The learner must be in training mode; layers that are kept in evaluation mode do not change.
    """
    if not any(isinstance(module, RunningNorm) and module.training for module in learner.modules()):
        return
    with torch.no_grad(), estimating(), dropout_off(learner):
        for index in range(TASKS):
            task = to_device(draw(source, seed, index, Stream.POPULATION), device_of(learner))
            predict_queries(learner, run_acting(learner, task))
