"""quickstudy without one of its fast paths: the other sides of ``fast_paths.py``."""

from __future__ import annotations

from importlib import import_module

import quickstudy as qs
from contest.contenders.ours import prepare
from contest.work import Contest, Tasks, Weights, Workload
from quickstudy.training import preflight


def mapping(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other."""
    return prepare(work, weights, tasks, qs.Compute("loop"))


def task_axis(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """vmap over tasks in place of a learner's ``over_tasks``."""
    return prepare(work, weights, tasks, qs.Compute("vmap"))


def kernels(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """torch's own operators and derivatives in place of ``backbones/kernels``."""
    for name in ("convolution", "pooling", "standardise"):
        module = import_module(f"quickstudy.backbones.kernels.{name}")
        module.custom_gradient_allowed = lambda: False  # type: ignore[attr-defined]
    return prepare(work, weights, tasks, qs.Compute())


def channels_last(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """torch's default layout of images and weights."""
    backbone = import_module("quickstudy.backbones.conv4")
    backbone.fast_on_cpu = lambda images: images  # type: ignore[attr-defined]
    preflight.convolves_on_cpu = lambda _: False  # type: ignore[attr-defined]
    preflight.keep_freed_memory()
    return prepare(work, weights, tasks, qs.Compute())


def freed_memory(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """malloc as it is, which returns large freed blocks to the system."""
    preflight.keep_freed_memory = lambda: False  # type: ignore[assignment]
    return prepare(work, weights, tasks, qs.Compute())
