"""Whether a task's targets are what its spec asks for.

A wrong shape seldom fails: squared error broadcasts (n, 1) against (n,) to (n, n), and training
goes on. Shapes and kinds are looked at, not numbers, so that vmap and GPUs are asked nothing.
"""

from __future__ import annotations

from torch import Tensor

from quickstudy.core import Examples, TaskSpec
from quickstudy.tasks.examples import cross_entropy, squared_error


def check_support(support: Examples, spec: TaskSpec) -> None:
    """ValueError for a support set without rows, or whose targets are not what ``spec`` asks."""
    if len(support.weights) == 0:
        raise ValueError(
            "support: needs at least 1 row; found 0. Give a row of weight 0 where there is nothing "
            "to learn from."
        )
    check_targets("support", support.targets, spec)


def check_targets(what: str, targets: Tensor, spec: TaskSpec) -> None:
    """ValueError, in the name of ``what``, for ``targets`` of one task that ``spec`` cannot judge.

    Reals have shape (n, d); squared error asks for (n, outputs) of them, cross-entropy for class
    ids (n,). What another loss takes is its own affair.
    """
    shape, real = tuple(targets.shape), targets.is_floating_point()
    if spec.loss is cross_entropy and (real or len(shape) != 1):
        raise ValueError(
            f"{what}: classification asks for integer class ids (n,) as targets; found "
            f"{targets.dtype} of shape {shape}. Use integer ids, or qs.regression(outputs)."
        )
    if spec.loss is squared_error and not (real and shape[1:] == (spec.outputs,)):
        raise ValueError(
            f"{what}: regression asks for real targets (n, {spec.outputs}); found {targets.dtype} "
            f"of shape {shape}. {_remedy(real, shape)}"
        )
    if real and len(shape) != 2:
        raise ValueError(
            f"{what}: real targets must have shape (n, d); found {shape}. "
            "Write targets[:, None] for one output."
        )


def _remedy(real: bool, shape: tuple[int, ...]) -> str:
    if not real:
        return "Use real targets, or qs.classification(ways)."
    if len(shape) == 1:
        return "Write targets[:, None] for one output."
    return f"Give as many targets as outputs: qs.regression({shape[-1]})."
