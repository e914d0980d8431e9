"""Affinity of tasks by their gradients: at given weights, and over training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.words import count, first_few
from quickstudy.compute.engine import computing, losses_of_tasks
from quickstudy.compute.gradients import as_outcome
from quickstudy.compute.jacobian import shared_and_own
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import Prepared, in_step_order, names_of, prepare_tasks
from quickstudy.core import Learner, Task
from quickstudy.evaluation.evaluate import check_call
from quickstudy.objectives import Objective, objective_of
from quickstudy.relations.affinity import Affinity
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.tasks.stacks import unstack
from quickstudy.training.log import Step


def gradient_cosines(
    learner: Learner, tasks: Iterable[Task], objective: Objective | None = None
) -> Affinity:
    """cos(g_i, g_j): whether a step for task i lowers the loss of task j, at these weights.

        g_i = gradient of task i's loss, for the parameters that all tasks share

    ``tasks``      named tasks; the gradients of several of one name are averaged.
    ``objective``  by default the learner's own, or the query loss.

    -1 says that what lowers one loss raises the other. A single measurement is noisy and belongs to
    these weights; :class:`AffinityRecorder` takes the mean over training. NaN where a gradient is
    zero. Parameters that belong to single tasks (``learner.per_task``) are left out.

    Raises ValueError for fewer than 2 names, tasks without a name, and for a learner that shares
    no parameter.

    Reference: Du et al. (2018), Adapting Auxiliary Losses Using Gradient Similarity.

    >>> import torch, quickstudy as qs
    >>> x = torch.linspace(-1, 1, 20)[:, None]
    >>> tasks = qs.tasks.domains({"up": (x, x, qs.regression()),
    ...                           "steep": (x, 3 * x, qs.regression())})
    >>> learner = qs.HardSharing(qs.backbones.MLP(1, (8,)), tasks.outputs)
    >>> found = qs.relations.gradient_cosines(learner, tasks.tested_on(tasks).tasks)
    >>> found.names, found.what
    (('up', 'steep'), 'gradient cosine')
    """
    measured = _Measurement(learner, list(tasks), objective, "gradient_cosines")
    return Affinity("gradient cosine", measured.names, measured.cosines())


def lookahead_affinity(
    learner: Learner,
    tasks: Iterable[Task],
    rate: float = 0.01,
    objective: Objective | None = None,
) -> Affinity:
    """Z_ij = 1 - L_j(θ - rate g_i) / L_j(θ): the share of task j's loss that a step for i removes.

    ``rate``  of the step, on the shared parameters alone; others as :func:`gradient_cosines`.

    NaN where L_j is 0. To first order in ``rate``, Z_ij = rate ⟨g_i, g_j⟩ / L_j: unlike a cosine it
    is not symmetric, and grows with the size of the gradient of i.

    Reference: Fifty et al. (2021), Efficiently Identifying Task Groupings for Multi-Task Learning,
    NeurIPS (equation 1). Differs from the paper in the step, which is always a plain gradient step,
    and in reading the same rows before and after it, as the paper does.
    """
    _refuse_rate("lookahead_affinity", rate)
    measured = _Measurement(learner, list(tasks), objective, "lookahead_affinity")
    return Affinity("lookahead affinity", measured.names, measured.lookahead(rate))


@final
class AffinityRecorder:
    """Measures both affinities every so many steps of training: ``qs.fit(on_step=recorder)``.

    ``learner``  the learner that is trained.
    ``tasks``    the training tasks; each measurement draws rows of every one.
    ``every``    steps between measurements. One costs as much as about ``2 + tasks`` steps of all
                 tasks; with ``rate=None``, which leaves out the lookahead, as much as 1.
    ``rows``     of each task in a measurement.
    ``rate``     of the lookahead's step.

    ``history``  (step, cosines, lookahead) of each measurement.

    Raises ValueError for fewer than 2 tasks, and numbers below 1.
    """

    def __init__(
        self,
        learner: Learner,
        tasks: NamedTasks,
        *,
        every: int = 50,
        rows: int = 64,
        rate: float | None = 0.01,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> None:
        check_call("AffinityRecorder", learner, seed)
        check_count("AffinityRecorder", "every", every, 1)
        if rate is not None:
            _refuse_rate("AffinityRecorder", rate)
        _refuse_few("AffinityRecorder", tuple(tasks))
        self.learner, self.every, self.rate, self.seed = learner, every, rate, seed
        self.objective = objective
        self._sources = {name: tasks.only([name]).batches(rows) for name in tasks}
        self.history: list[tuple[int, Tensor, Tensor]] = []

    def __call__(self, step: Step) -> None:
        """Measure, after every ``every``-th step."""
        if step.step % self.every:
            return
        number = step.step // self.every
        drawn = [draw(s, self.seed, number, Stream.TRAINING) for s in self._sources.values()]
        measured = _Measurement(self.learner, drawn, self.objective, "AffinityRecorder")
        cosines = measured.cosines()
        nothing = torch.full_like(cosines, torch.nan)
        ahead = nothing if self.rate is None else measured.lookahead(self.rate)
        self.history.append((step.step, cosines, ahead))

    @property
    def cosines(self) -> Affinity:
        """The mean gradient cosines over the measurements so far; ValueError before the first."""
        return self._mean("gradient cosine", [cosines for _, cosines, _ in self.history])

    @property
    def lookahead(self) -> Affinity:
        """The mean lookahead affinity over the measurements so far."""
        return self._mean("lookahead affinity", [ahead for _, _, ahead in self.history])

    def _mean(self, what: str, matrices: list[Tensor]) -> Affinity:
        if not matrices:
            raise ValueError(
                f"AffinityRecorder: nothing was measured yet; a measurement is taken after every "
                f"{count(self.every, 'step')}. Train longer, or lower every."
            )
        return Affinity(what, tuple(self._sources), torch.stack(matrices).nanmean(0), len(matrices))


class _Measurement:
    """The gradients of the shared parameters at a learner's weights, a row per name."""

    def __init__(
        self, learner: Learner, tasks: Sequence[Task], objective: Objective | None, who: str
    ) -> None:
        check_call(who, learner, 0)
        shared = shared_entries(learner, who)
        self.learner = in_evaluation_mode(learner)
        self.objective = objective or objective_of(learner)
        self.step = prepare_tasks(self.learner, tasks)
        self.of_task = names_of(self.step)
        self.names = tuple(dict.fromkeys(self.of_task))
        _refuse_few(who, self.names)
        gradients, self.losses = flat_gradients(self.learner, self.step, self.objective)
        self.shared = shared
        self.gradients = by_name(gradients[:, shared], self.of_task, self.names)

    def cosines(self) -> Tensor:
        """(names, names)."""
        sizes = self.gradients.norm(dim=1, keepdim=True)
        units = self.gradients / sizes.where(sizes > 0, torch.nan)
        cosines: Tensor = units @ units.T
        return cosines.cpu()

    def lookahead(self, rate: float) -> Tensor:
        """(names, names): what a step for each task does to the loss of each."""
        scratch = copy.deepcopy(self.learner)
        parameters = [p for p in scratch.parameters() if p.requires_grad]
        start = torch.cat([p.detach().flatten() for p in parameters])
        before = by_name(self.losses, self.of_task, self.names)
        rows, loop = [], Plan(Mapping.LOOP, "one task after the other", 1)
        for gradient in self.gradients:
            moved = start.clone()
            moved[self.shared] -= (rate * gradient).to(moved)
            write_flat(parameters, moved)
            losses = losses_of_tasks(scratch, self.step, self.objective, loop).loss.double()
            after = by_name(losses, self.of_task, self.names)
            rows.append(1 - after / before.where(before != 0, torch.nan))
        return torch.stack(rows).cpu()


def flat_gradients(
    learner: Learner, step: Sequence[Prepared], objective: Objective
) -> tuple[Tensor, Tensor]:
    """Each task's gradient (tasks, p) for all trained parameters, and its loss; in float64."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    parts = []
    for prepared in step:
        rows, losses = [], []
        with computing(learner, prepared.task, prepared.inspection):
            for task in unstack(prepared.task):
                loss = as_outcome(objective(learner, task)).loss
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
                pairs = zip(found, parameters, strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                                       for g, p in pairs]))  # fmt: skip
                losses.append(loss.detach())
        parts.append((torch.stack(rows), torch.stack(losses)))
    gradients, of_tasks = (in_step_order(step, part) for part in zip(*parts, strict=True))
    return gradients.double(), of_tasks.double()


def shared_entries(learner: Learner, who: str) -> Tensor:
    """(p,): which entries of the trained parameters belong to all tasks.

    ValueError where there is none.
    """
    shared, _ = shared_and_own(learner)
    kept = [
        torch.full((p.numel(),), name in shared)
        for name, p in learner.named_parameters()
        if p.requires_grad
    ]
    entries = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.bool)
    if not bool(entries.any()):
        raise ValueError(
            f"{who}: affinities are those of parameters that tasks share; found none in "
            f"{type(learner).__name__}. Use a learner with a shared part, such as HardSharing."
        )
    return entries


def by_name(values: Tensor, of_task: Sequence[str], names: Sequence[str]) -> Tensor:
    """(names, ...): the mean of ``values`` (tasks, ...) over the tasks of each name."""
    places = [[i for i, each in enumerate(of_task) if each == name] for name in names]
    return torch.stack([values[of].mean(0) for of in places])


def write_flat(parameters: Sequence[Tensor], flat: Tensor) -> None:
    """Copy the entries of ``flat`` (p,) into ``parameters``, one after the other."""
    with torch.no_grad():
        for parameter, part in zip(
            parameters, flat.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))


def _refuse_rate(who: str, rate: float) -> None:
    if not (isinstance(rate, int | float) and 0 < rate < torch.inf):
        raise ValueError(
            f"{who}: rate must be a positive number; found {rate!r}. Leave it out for 0.01."
        )


def _refuse_few(who: str, names: Sequence[str]) -> None:
    if len(names) < 2 or "" in names:
        found = first_few(list(map(repr, names))) or "none"
        raise ValueError(
            f"{who}: needs tasks of at least 2 names; found {found}. "
            "Make named tasks by qs.tasks.domains or qs.tasks.columns."
        )
