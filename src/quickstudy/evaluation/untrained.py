"""The same network untrained: what it does before it has learnt anything over tasks."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import like
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.backbones.pretrained.source import source_of
from quickstudy.base.modules import device_of
from quickstudy.base.weighting import counting
from quickstudy.core import Task
from quickstudy.files.registry import build, describe
from quickstudy.learners.gradient.network import head_of
from quickstudy.tasks.examples import counted_weights

Module = TypeVar("Module", bound=nn.Module)

_SEED = 0x9E3779B9
"""Of the initial weights, so that a learner is always compared with the same network. It is unlike
any that a user would take: artificial data of the same seed would be made of the same numbers.
"""


def untrained(module: Module) -> Module:
    """A copy of ``module`` with initial weights, in evaluation mode; always the same ones.

    A learner or backbone of this library is made again from its arguments. In any other module each
    part is re-initialised by its ``reset_parameters``.

    Raises ValueError for a part that has parameters but no such method.
    """
    # Drawn on the CPU, so that they do not depend on the device.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        try:
            made = cast("Module", build(describe(module)))
        except ValueError:  # a class outside of this library, or changed since
            made = copy.deepcopy(module).cpu()
            _reset(made)
    made = like(module, made)
    return made.to(device_of(module)).requires_grad_(False).eval()


def refuse_pretrained(module: nn.Module) -> None:
    """ValueError where a part of ``module`` has pretrained weights: there is no untrained one."""
    for part in module.modules():
        if (source := source_of(part)) is not None:
            raise ValueError(f"the weights of {source.name} are pretrained")


def _reset(module: nn.Module) -> None:
    """Re-initialise all parts in place, inner ones first."""
    for name, part in reversed(list(module.named_modules())):
        # torch's own attention and transformer call it _reset_parameters.
        reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
        if reset is not None:
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            where = f" ({name})" if name else ""
            raise ValueError(
                f"{type(part).__name__}{where} has parameters, but no method reset_parameters that "
                "initialises them"
            )


def without_head(backbone: nn.Module) -> nn.Module:
    """``backbone`` with its features as outputs, changed in place."""
    if head_of(backbone) is not None:
        backbone.head = nn.Identity()
    return backbone


@torch.no_grad()
def features_of(backbone: nn.Module, task: Task) -> Task:
    """``task`` with the features of ``backbone`` in the place of its inputs."""
    support, query, spec = task
    rows, statistics = embed_support(backbone, support)
    with counting(counted_weights(query, spec.answer)):
        queries: Tensor = embed_query(backbone, query.inputs, statistics)
    return Task(support._replace(inputs=rows), query._replace(inputs=queries), spec)
