"""Proof, on the learner at hand, that a way of computing its gradient gives the loop's."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import torch
from torch import Tensor

from quickstudy.base.errors import in_a_line, out_of_memory, where_it_fits
from quickstudy.base.trees import map_tree
from quickstudy.compute.compiled import Compiled
from quickstudy.compute.engine import COMPOSITES, Mapping, Plan, accumulate
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective
from quickstudy.tasks.numbering import generator
from quickstudy.training.precision import Precision
from quickstudy.training.untold import untold_progress

TOLERANCE = 1e-8
"""Relative difference in float64 up to which two ways of mapping count as the same gradient."""

LIKENESS = 0.99
"""Cosine to the gradient in float32 from which on one in bfloat16 will do.

Measured on a CPU, on two tasks of glyphs, before training and after 50 to 400 steps: over it are
Prototypical (0.991 to 0.997), Matching (0.995 to 0.998), Siamese (0.998), Relation (0.999) and ANIL
(0.996 to 0.999) on Conv4 of 64 channels, and MAML of 1 or 5 steps on sinusoids (0.998 to 1.000).
About it are MAML of 1 step on Conv4 (0.983 to 0.999) and Prototypical on 16 channels (0.968 to
0.998); under it FOMAML of 5 steps (0.67 to 0.98), and R2D2 (0.31 to 0.70), whose solver magnifies
rounding. Gradients of other tasks of the same training have a cosine of -0.7 to 0.9: what passes is
little beside the noise of sampling.
"""


def difference_from_loop(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool = False
) -> str | None:
    """Why ``mapping``, perhaps compiled, cannot be trusted with this learner; None where it can."""
    return where_it_fits(
        lambda: _difference(learner, batch, mapping, objective, compile),
        lambda: "the comparison in float64 does not fit in memory",
    )


def _difference(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool
) -> str | None:
    judged = _in_general_position(in_double(learner))
    two = _first_two(doubled(few_queries(batch, 4)))
    way = "compiled code" if compile else mapping.value
    # With progress an objective might come to look at inputs that features have replaced, or adapt
    # at more than over_tasks does.
    once = mapping in (Mapping.FEATURES, Mapping.TASK_AXIS)
    try:
        compiled = Compiled(judged, objective, two, COMPOSITES[mapping]) if compile else None
        with untold_progress(judged) if once else nullcontext():
            found = _gradients(judged, two, objective, mapping, compiled)
            expected = _gradients(judged, two, objective, Mapping.LOOP)
    except Exception as error:  # whatever they cannot take, the loop can
        if out_of_memory(error):
            raise
        return f"{way} cannot map it: {in_a_line(error)}"
    if [g is None for g in expected] != [g is None for g in found]:
        return f"{way} gives gradients to other parameters than the loop"
    right, ours = _flat(expected), _flat(found)
    if not right.norm() > 0:
        return f"the tasks compared have no gradient, which says nothing of {way}"
    difference = float((right - ours).norm() / right.norm())
    if difference <= TOLERANCE:
        return None
    return f"the meta-gradient of {way} differs from the loop's by {difference:.1g}"


def harm_of_bfloat16(
    learner: Learner, batch: Task, objective: Objective, mapping: Mapping
) -> str | None:
    """Why ``mapping`` should not be in bfloat16 with this learner; None where it may be.

    Judged on two tasks, of as many rows as in training: by few rows a gradient is more noise.
    """
    return where_it_fits(
        lambda: _harm(copy.deepcopy(learner), _first_two(batch), objective, mapping),
        lambda: "the comparison with float32 does not fit in memory",
    )


def _harm(learner: Learner, two: Task, objective: Objective, mapping: Mapping) -> str | None:
    others = {p.dtype for p in learner.parameters()} - {torch.float32}
    if others:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        return f"it is for parameters of float32, but some are {names}"
    expected = _gradients(learner, two, objective, Mapping.LOOP)
    try:
        found = _gradients(learner, two, objective, mapping, precision="bfloat16")
    except Exception as error:  # of operators that do not know the type
        if out_of_memory(error):
            raise
        return f"{mapping.value} cannot be computed in it: {in_a_line(error)}"
    if [g is None for g in expected] != [g is None for g in found]:
        return "it gives gradients to other parameters"
    right, ours = _flat(expected).double(), _flat(found).double()
    if not math.isfinite(float(ours.norm())):
        return "a gradient is not finite in it"
    if not right.norm() > 0:
        return "the tasks compared have no gradient, which says nothing of it"
    likeness = float(torch.cosine_similarity(right, ours, dim=0))
    if likeness >= LIKENESS:
        return None
    return f"its meta-gradient has a cosine of {likeness:.3f} to float32's, under {LIKENESS}"


def _first_two(batch: Task) -> Task:
    support, query = (map_tree(lambda leaf: leaf[:2], part) for part in batch[:2])
    return Task(support, query, batch.spec)


def _gradients(
    learner: Learner,
    batch: Task,
    objective: Objective,
    mapping: Mapping,
    compiled: Compiled | None = None,
    precision: Precision = "float32",
) -> list[Tensor | None]:
    """The meta-gradient of each parameter, None for those that the objective does not reach."""
    learner.zero_grad()
    accumulate(learner, batch, objective, Plan(mapping, "", 2, precision=precision), compiled)
    return [p.grad for p in learner.parameters()]


def _flat(gradients: list[Tensor | None]) -> Tensor:
    there = [g.flatten() for g in gradients if g is not None]
    return torch.cat(there) if there else torch.zeros(1)


def in_double(learner: Learner) -> Learner:
    """A copy in float64."""
    return copy.deepcopy(learner).double()


def _in_general_position(learner: Learner) -> Learner:
    """Every parameter moved a little: ones and zeros of an initialisation can hide a wrong term."""
    noise = generator(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            shift = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter.add_(0.05 * shift.to(parameter.device))
    return learner


def few_queries(task: Task, n: int) -> Task:
    """The first ``n`` query rows: enough to compare two computations, and cheap."""
    batched = task.query.weights.ndim == 2

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :n] if batched else leaf[:n]

    return task._replace(query=map_tree(cut, task.query))
