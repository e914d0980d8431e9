"""Before training: is the learner lawful, which way of mapping tasks is right and fast, and how
many tasks fit in memory at a time?"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quickstudy.core import Learner, Task
from quickstudy.learners.objectives import Objective
from quickstudy.modules import convolves_on_cpu
from quickstudy.tasks.sampling import generator
from quickstudy.tasks.targets import check_targets
from quickstudy.testing import BrokenLaw, applicable, check_laws, doubled
from quickstudy.training.engine import Mapping, Plan
from quickstudy.training.laws import meta_gradient
from quickstudy.trees import leaves, map_tree

Engine = Literal["auto", "vmap", "loop"]

TOLERANCE = 1e-8
"""Relative difference in float64 up to which two ways of mapping count as the same gradient."""


def check_lawful(learner: Learner, task: Task) -> None:
    """Refuse, before any training, a learner whose results would be silently wrong.

    Raises ValueError for one without trainable parameters, and
    :class:`quickstudy.testing.BrokenLaw` for running statistics updated in ``forward``, randomness
    in ``adapt``, predictions of a wrong shape, and, where undeclared, queries that see one another
    and rows of weight 0 that count.
    """
    if not any(parameter.requires_grad for parameter in learner.parameters()):
        raise ValueError(
            f"fit: {type(learner).__name__} has no trainable parameters, so there is nothing to "
            "learn. Use it as it is, or set requires_grad=True on some."
        )
    for name, module in learner.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training and module.running_mean is not None
        ):
            raise BrokenLaw(
                f"{name} is a {type(module).__name__} that updates running statistics in forward, "
                "so adapting would change the learner. Use a norm of quickstudy.backbones.norms "
                "(norm='group', 'support', 'batch' or 'running'), or build it with "
                "track_running_stats=False, or keep it in eval mode by overriding train()."
            )
    check_targets("query", task.query.targets, task.spec)
    small = _few_queries(task, 2 * task.spec.outputs)
    laws = [law for law in applicable(learner) if law in _BEFORE_TRAINING]
    try:
        check_laws(_in_double(learner), doubled(small), laws)
    except RuntimeError as error:
        if "mutate a captured Tensor" not in str(error):
            raise
        buffers = [name for name, _ in learner.named_buffers()]
        raise BrokenLaw(
            "adapt must change nothing in the module, but forward changes something in place "
            f"(its buffers are {', '.join(buffers) or 'none'}). Statistics that move by themselves "
            "do this: compute them anew in every pass, or freeze them."
        ) from error


def refuse_sorted(learner: Learner, tasks: Iterable[Task]) -> None:
    """A sequence whose classes always come in one order teaches the order, not the classes.

    Raises ValueError for a learner of sequences where all of ``tasks`` come class by class.
    """
    if "support_order_is_irrelevant" not in learner.exceptions:
        return
    targets = [task.support.targets for task in tasks]
    if any(t.is_floating_point() or len(t) < 3 for t in targets):
        return
    if all(bool((t.diff() >= 0).all()) for t in targets):
        raise ValueError(
            f"fit: {type(learner).__name__} reads its support rows as a sequence, but they come "
            "class by class, so it would learn their places. Draw tasks with "
            "episodes(..., shuffled=True)."
        )


_BEFORE_TRAINING = (
    "shape_is_right_and_finite",
    "adapt_is_pure",
    "queries_are_independent",
    "weight_zero_is_absent",
)
"""Laws without which results are silently wrong, and which take but a few adaptations to see."""


def make_plan(
    learner: Learner,
    batch: Task,
    objective: Objective,
    tasks: int,
    engine: Engine = "auto",
    memory: int | None = None,
    workers: int = 1,
) -> Plan:
    """How to compute steps of ``tasks`` tasks such as the two or more of ``batch``.

    ``engine``  "auto" takes the faster mapping that is proven to give the loop's gradient for this
                learner; "vmap" insists and raises where it does not; "loop" is always right.
    ``memory``  bytes that the graphs of a chunk of tasks may hold; half of what is free by default.
    ``workers``  threads among which a loop shares its tasks: see
                 :mod:`quickstudy.training.workers` for what they ask of learner and objective.
    """
    if workers < 1:
        raise ValueError(f"workers: must be 1 or more threads; found {workers}.")
    if engine not in ("auto", "vmap", "loop"):
        raise ValueError(f"engine: must be 'auto', 'vmap' or 'loop'; found {engine!r}.")
    mapping, why = _choose(learner, batch, objective, engine)
    each = max(1, graph_bytes(learner, batch, objective))
    fits = int((memory or _free_memory(next(leaves(batch.support.inputs)).device) // 2) // each)
    fits = max(1, min(fits, tasks))
    if mapping is not Mapping.LOOP:
        return Plan(mapping, why, fits)
    return Plan(mapping, why, tasks, min(fits, workers))


def _choose(
    learner: Learner, batch: Task, objective: Objective, engine: Engine
) -> tuple[Mapping, str]:
    if engine == "loop":
        return Mapping.LOOP, "asked for"
    if engine == "auto" and convolves_on_cpu(learner):
        return Mapping.LOOP, "on a CPU, the feature maps of one task stay in the cache"
    mapping = Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP
    problem = _difference_from_loop(learner, batch, mapping, objective)
    if problem is None:
        return mapping, "asked for" if engine == "vmap" else "equals the loop in float64"
    if engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {problem}. Use 'auto'.")
    return Mapping.LOOP, problem


def _difference_from_loop(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective
) -> str | None:
    """Why ``mapping`` cannot be trusted with this learner, or None where it can."""
    judged = _in_general_position(_in_double(learner))
    task = doubled(_few_queries(batch, 4))
    two = Task(
        map_tree(lambda leaf: leaf[:2], task.support),
        map_tree(lambda leaf: leaf[:2], task.query),
        task.spec,
    )
    expected = meta_gradient(judged, two, Mapping.LOOP, objective)
    try:
        found = meta_gradient(judged, two, mapping, objective)
    except Exception as error:  # whatever vmap cannot map, the loop can
        return f"vmap cannot map it: {str(error).strip().splitlines()[0][:120]}"
    difference = float((expected - found).norm() / expected.norm().clamp_min(1e-30))
    if difference <= TOLERANCE:
        return None
    return f"vmap's meta-gradient differs from the loop's by {difference:.1g}"


def _in_double(learner: Learner) -> Learner:
    return copy.deepcopy(learner).double()


def _in_general_position(learner: Learner) -> Learner:
    """Every parameter moved a little: ones and zeros of an initialisation can hide a wrong term."""
    noise = generator(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            shift = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter.add_(0.05 * shift.to(parameter.device))
    return learner


def _few_queries(task: Task, n: int) -> Task:
    """The first ``n`` query rows: enough to compare two computations, and cheap."""
    batched = task.query.weights.ndim == 2

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :n] if batched else leaf[:n]

    return task._replace(query=map_tree(cut, task.query))


class _CountBytes(TorchDispatchMode):
    """Adds up the memory that operators allocate for their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            outputs = result if isinstance(result, (list, tuple)) else [result]
            self.total += sum(t.nbytes for t in outputs if isinstance(t, Tensor))
        return result


def graph_bytes(learner: Learner, batch: Task, objective: Objective) -> int:
    """An upper bound on what the graph of one task holds: every result of its forward pass."""
    one: Task = Task(
        map_tree(lambda leaf: leaf[0], batch.support),
        map_tree(lambda leaf: leaf[0], batch.query),
        batch.spec,
    )
    with _CountBytes() as counted:
        objective(learner, one)
    return int(counted.total)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:  # what the kernel would give out without swapping, its file cache included
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return 4 << 30  # a cautious guess where the system does not say
