"""Training a learner over many tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from quickstudy.balancing.combine import Combine, check_combine, mean
from quickstudy.balancing.step import NotFinite, combined, refuse_not_finite, see_result
from quickstudy.base.dropout import active_dropout
from quickstudy.base.modules import device_of
from quickstudy.compute.compiled import CompiledGradients, refuse_without_compiler
from quickstudy.compute.engine import GRADIENT_MAKERS
from quickstudy.compute.plan import Compute, Plan
from quickstudy.compute.prepare import Prepared, prepare_stack
from quickstudy.core import Learner, TaskSource, TaskSpec
from quickstudy.evaluation.evaluate import check_call, evaluate
from quickstudy.evaluation.kinds import join, kind_of_all
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.validation import Validation
from quickstudy.files.registry import describe
from quickstudy.objectives import Objective, Outcome, objective_of, set_progress
from quickstudy.tasks.numbering import Stream, draw_stacks, dropout_seed, fingerprint
from quickstudy.training.checkpoint import RunFolder
from quickstudy.training.display import Display, Interrupts
from quickstudy.training.log import Log, Step, Training
from quickstudy.training.optimisers import FirstSteps, OptimiserMaker, adam, make_optimiser
from quickstudy.training.plan import checked_again, make_plan
from quickstudy.training.population import estimate_population
from quickstudy.training.preflight import check_settings, first_tasks, prepare
from quickstudy.training.schedules import Schedule, constant


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names step and task seeds."""


def fit(
    learner: Learner,
    source: TaskSource,
    steps: int,
    tasks_per_step: int = 16,
    *,
    optimiser: OptimiserMaker | None = None,
    schedule: Schedule = constant,
    clip: float | None = None,
    objective: Objective | None = None,
    combine: Combine = mean,
    validation: Validation | None = None,
    seed: int = 0,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
    run: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    log_every: int = 20,
    progress: bool = True,
    on_step: Callable[[Step], object] | None = None,
) -> Training:
    """Minimise the mean objective over tasks of ``source``; ``learner`` is changed in place.

    ``steps``, ``tasks_per_step``  optimiser steps, and tasks whose gradients each step averages.
    ``optimiser``   parameters -> optimiser; Adam at 1e-3 by default
                    (:mod:`quickstudy.training.optimisers`).
    ``schedule``    of the learning rate, a factor (:mod:`quickstudy.training.schedules`).
    ``clip``        greatest norm of a step's gradient, all parameters together; None for no
                    clipping. It is applied after ``combine``.
    ``objective``   (learner, task) -> scalar; by default the learner's own, or the query loss.
    ``combine``     how the tasks of a step are combined into one gradient: by default the mean of
                    their losses (:mod:`quickstudy.balancing`, ``docs/balancing.md``).
    ``validation``  if given, training ends with the weights of the best validation, by its
                    ``select`` or the first score of the answer, whatever the objective.
    ``compute``     how steps are computed.
    ``run``         a folder for ``metrics.jsonl`` and ``checkpoint.safetensors``. With ``resume``
                    that run is continued, with results bit-equal to those of an uninterrupted
                    run (same machine and number of threads). Settings must be the same; functions
                    are compared by name. It keeps the plan with which it was started, whatever
                    ``compute`` says. ``steps`` may be more than before, to train a finished run
                    further. Where a schedule depends on the share of training that is done, the
                    result is then not that of so many steps from the start.
    ``progress``    show a progress bar.
    ``on_step``     called with the :class:`Step` after each optimiser step, and after the
                    validation and the checkpoint that follow it: for logging elsewhere. Steps
                    since the last checkpoint are repeated when a killed run is resumed.

    Ctrl-C, SIGTERM and SIGHUP end training after the current optimiser step. With ``run`` there is
    then a checkpoint, and ``finished`` is False; without, the signal then acts as it does outside
    of ``fit`` (Ctrl-C raises KeyboardInterrupt).

    Raises :class:`quickstudy.testing.BrokenLaw` before the first step for a learner whose
    results would be silently wrong, :class:`NonFiniteLoss` where a loss is not finite,
    :class:`quickstudy.compute.memory.TaskTooLarge` where one task alone does not fit in memory,
    RuntimeError where ``engine="vmap"`` gives a wrong gradient, ValueError for arguments out of
    range, for a source with a memory, where the loss or the optimiser would train no parameter, for
    ``compile`` without a compiler and where a resumed run had other settings, FileExistsError where
    ``run`` holds another run. Warns, after the first step, of parameters that are not trained.
    """
    check_call("fit", learner, seed)
    check_settings(schedule, objective, validation, compute, {
        "steps": steps, "tasks_per_step": tasks_per_step, "log_every": log_every,
        "checkpoint_every": checkpoint_every,
    })  # fmt: skip
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"fit: clip must be a positive number; found {clip}.")
    check_combine(combine)
    deciding = validation.deciding_key(learner, seed) if validation else ("", "")
    objective = objective or objective_of(learner)
    folder = RunFolder(run, resume)
    trainer = _Trainer(learner, source, objective, combine, seed, tasks_per_step, clip=clip)
    drawn = first_tasks(source, seed)
    first = prepare(learner, objective, drawn, tasks_per_step)
    trainer.scored = kind_of_all(task.spec for task in drawn)
    opt = make_optimiser(optimiser or adam(), [p for p in learner.parameters() if p.requires_grad])
    parts = {(t.spec.answer.kind, learner.name_key(t.spec)) for t in drawn}
    trainer.first_steps = FirstSteps(learner, opt, alike=len(parts) == 1)
    base_rates = [group["lr"] for group in opt.param_groups]
    settings = {
        "steps": steps, "tasks_per_step": tasks_per_step, "seed": seed,
        "learner": _identity(learner), "first tasks": fingerprint(drawn),
        "optimiser": f"{type(opt).__name__} {opt.defaults}", "schedule": _name(schedule),
        "clip": clip, "objective": _name(objective), "combine": _combine_name(combine),
        "validation": validation and validation.identity(seed),
    }  # fmt: skip
    state = folder.restore(learner, opt, combine, settings)
    if state.plan:
        with folder.errors():
            state.plan = checked_again(state.plan, learner, first, objective, combine)
    else:
        state.plan = make_plan(learner, first, objective, tasks_per_step, compute, combine)
    trainer.follow(state.plan)
    log = Log(folder.log, state.step)
    began = time.perf_counter() - state.seconds
    began_cpu = time.process_time() - state.cpu_seconds
    interrupted, resumed_at = 0, state.step
    with Display(steps, state.step, progress) as display, Interrupts() as interrupts:
        while state.step < steps and not (state.stopped_early or interrupted):
            for group, rate in zip(opt.param_groups, base_rates, strict=True):
                group["lr"] = rate * schedule(state.step / steps)
            set_progress(learner, objective, state.step / steps)
            step = trainer.step(opt, state.step)
            state.plan = trainer.plan  # may have changed, when memory ran out
            state.count(step.loss, step.score)
            state.seconds = time.perf_counter() - began
            speed = display.advance(state.step, tasks_per_step, step.loss, step.score)
            if state.step % log_every == 0 or state.step == steps:
                log.add({"step": state.step, **state.means(), "tasks_per_second": round(speed, 3),
                         "seconds": round(state.seconds, 3)})  # fmt: skip
            if validation and (state.step % validation.every == 0 or state.step == steps):
                result = trainer.validate(validation).row(*deciding)
                state.record_validation(result, learner, validation.patience)
                log.add({"step": state.step, "validation": result.mean,
                         "half_width": result.half_width,
                         "seconds": round(time.perf_counter() - began, 3)})  # fmt: skip
                display.validated(result)
                step = step._replace(validation=result)
            if state.step < steps:
                interrupted = interrupts.requested
            ended = state.step == steps or state.stopped_early or interrupted
            state.cpu_seconds = time.process_time() - began_cpu
            if state.step % checkpoint_every == 0 or ended:
                folder.save(learner, opt, combine, state, settings)
            if on_step is not None:
                on_step(step)
    if trainer.first_steps and state.step > resumed_at:
        trainer.first_steps.end()
    trainer.finish(state.best_weights)
    if interrupts.requested and (run is None or not interrupted):
        interrupts.deliver()  # nothing can be resumed, or nothing is left to do
    return Training(log.rows, state.step, state.seconds, state.best_step, state.best_score,
                    interrupted, trainer.plan, state.cpu_seconds)  # fmt: skip


def _name(function: Any) -> str:
    """A function's name; for callable dataclasses their repr, which includes the settings."""
    if is_dataclass(function):
        return repr(function)
    return getattr(function, "__qualname__", type(function).__name__)


def _combine_name(combine: Combine) -> str:
    """Its repr where it has one of its own, which includes the settings."""
    own = type(combine).__repr__ is not object.__repr__
    return repr(combine) if own else _name(combine)


def _identity(learner: Learner) -> Any:
    try:
        return describe(learner)
    except ValueError:  # a class outside of this library
        return repr(learner)


@dataclass
class _Trainer:
    """Single optimiser steps and validations of :func:`fit`."""

    learner: Learner
    source: TaskSource
    objective: Objective
    combine: Combine
    seed: int
    tasks_per_step: int
    plan: Plan = None  # type: ignore[assignment]  # made once two tasks have been drawn
    compiled: CompiledGradients | None = None
    scored: TaskSpec | None = None  # only scores of tasks of this kind have a mean
    first_steps: FirstSteps | None = None  # until every parameter was seen to be trained
    clip: float | None = None  # greatest norm of the gradient

    def follow(self, plan: Plan) -> None:
        """Use ``plan`` for the following steps."""
        self.plan = plan
        if plan.compiled:
            refuse_without_compiler(device_of(self.learner))
            like, maker = self.tasks(0)[0].task, GRADIENT_MAKERS[plan.mapping]
            self.compiled = CompiledGradients(self.learner, self.objective, like, maker)

    def tasks(self, step: int) -> list[Prepared]:
        """The tasks of a step in prepared stacks, on the learner's device."""
        first = step * self.tasks_per_step
        numbers = range(first, first + self.tasks_per_step)
        drawn = draw_stacks(self.source, self.seed, numbers, name_key=self.learner.name_key)
        prepared = [prepare_stack(self.learner, stack) for stack in drawn]
        if not active_dropout(self.learner):
            return prepared
        return [
            each._replace(dropout=tuple(dropout_seed(self.seed, first + i) for i in each.places))
            for each in prepared
        ]

    def step(self, optimiser: Optimizer, step: int) -> Step:
        """Take an optimiser step, the ``step``-th from 0.

        Raises NonFiniteLoss, before the step, where a loss or the gradient is not finite.
        """
        tasks = self.tasks(step)
        optimiser.zero_grad(set_to_none=True)
        with self._not_finite_refused(step):
            outcome, self.plan = combined(
                self.combine, self.learner, tasks, self.objective, self.plan, self.compiled
            )
            losses, scores, norm = self._sync_scalars(outcome)
            refuse_not_finite(self.learner, tasks, self.objective, losses, norm)
        if self.clip is not None:
            clip_grads_with_norm_(self.learner.parameters(), self.clip, torch.tensor(norm))
        rate = optimiser.param_groups[0]["lr"]
        if self.first_steps is None:
            optimiser.step()
        elif not self.first_steps.step():
            self.first_steps = None
        with self._not_finite_refused(step):
            see_result(self.combine, self.learner, tasks, self.objective, self.plan)
        score = sum(scores) / len(scores) if self._are_scored(tasks) else math.nan
        return Step(step + 1, sum(losses) / len(losses), score, norm, rate)

    def _are_scored(self, tasks: Sequence[Prepared]) -> bool:
        """Whether all tasks are of the kind whose score is logged."""
        kind = self.scored
        return kind is not None and all(
            {*prepared.names} == {kind.name} and join(kind.answer, prepared.task.spec.answer)
            for prepared in tasks
        )

    def _sync_scalars(self, outcome: Outcome) -> tuple[list[float], list[float], float]:
        """Losses, scores and the gradient's norm, read from the device in a single transfer."""
        gradients = [p.grad for p in self.learner.parameters() if p.grad is not None]
        scalars = (*outcome, torch.nn.utils.get_total_norm(gradients).reshape(1))
        *numbers, norm = torch.cat([s.to(outcome.loss.device) for s in scalars]).tolist()
        tasks = len(outcome.loss)
        return numbers[:tasks], numbers[tasks:], norm

    @contextmanager
    def _not_finite_refused(self, step: int) -> Iterator[None]:
        """Errors of code inside that name tasks of the step become one that says how to draw them.

        Raises NonFiniteLoss.
        """
        try:
            yield
        except NotFinite as error:
            numbers = [step * self.tasks_per_step + place for place in error.places]
            raise NonFiniteLoss(
                f"fit: {error} at step {step}; drawn again by quickstudy.tasks.draw(source, "
                f"{self.seed}, i) for i in {numbers}. Lower the learning rate (of the optimiser, "
                "or of the learner's inner steps), or look at the data of these tasks."
            ) from error

    def validate(self, validation: Validation) -> Evaluation:
        """Evaluate the learner on the validation tasks."""
        estimate_population(self.learner, self.source, self.seed)
        return evaluate(
            self.learner, validation.source, validation.tasks,
            seed=validation.seed_beside(self.seed), stream=Stream.VALIDATION, baselines=False,
        )  # fmt: skip

    def finish(self, best_weights: dict[str, Tensor]) -> None:
        """Make the learner ready for use, with the best weights if there are any.

        Raises NonFiniteLoss where the last step made weights NaN or infinite.
        """
        if best_weights:
            self.learner.load_state_dict(best_weights)
        elif not all(bool(p.isfinite().all()) for p in self.learner.parameters()):
            raise NonFiniteLoss(
                "fit: weights became NaN or infinite in the last step. Lower the learning rate."
            )
        else:
            estimate_population(self.learner, self.source, self.seed)
        set_progress(self.learner, self.objective, 1.0)
        self.learner.eval()
