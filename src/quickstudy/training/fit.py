"""Training a learner over many tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from quickstudy.base.modules import device_of
from quickstudy.compute.compiled import CompiledGradients, refuse_without_compiler
from quickstudy.compute.engine import GRADIENT_MAKERS
from quickstudy.compute.memory import accumulate_within
from quickstudy.compute.plan import Compute, Plan
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.evaluation.evaluate import Evaluation, evaluate
from quickstudy.files.registry import describe
from quickstudy.objectives import Objective, Outcome, objective_of, set_progress
from quickstudy.tasks.inspection import Look, look_at
from quickstudy.tasks.numbering import Fingerprint, draw, draw_stacked, task_seed
from quickstudy.tasks.stacks import to_device
from quickstudy.training.checkpoint import RunFolder
from quickstudy.training.display import Display, Interrupts
from quickstudy.training.log import Log
from quickstudy.training.optimisers import OptimiserMaker, adam
from quickstudy.training.plan import make_plan
from quickstudy.training.population import estimate_population
from quickstudy.training.preflight import prepare
from quickstudy.training.schedules import Schedule, constant

_VALIDATION, _POPULATION = 1 << 20, 1 << 21  # added to the seed: streams of tasks of their own


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names step and task seeds."""


@dataclass(frozen=True)
class Training:
    """What training did: the log's rows, the best validation, and how batches were computed."""

    rows: list[dict[str, Any]]
    steps: int
    seconds: float
    best_step: int
    best_score: float | None
    finished: bool
    plan: Plan


@dataclass(frozen=True)
class Validation:
    """How training is judged on the way: every ``every`` steps on the same ``tasks`` tasks.

    ``patience``  validations without a new best after which training stops; None for never.
    """

    source: TaskSource
    every: int = 500
    tasks: int = 200
    patience: int | None = None

    def identity(self) -> str:
        """What a resumed run must have in common with the one it continues."""
        first = _fingerprint(draw(self.source, 0, 0))
        return f"every {self.every}, {self.tasks} tasks, patience {self.patience}, {first}"


def fit(
    learner: Learner,
    source: TaskSource,
    steps: int,
    tasks_per_step: int = 16,
    *,
    optimiser: OptimiserMaker | None = None,
    schedule: Schedule = constant,
    objective: Objective | None = None,
    validation: Validation | None = None,
    seed: int = 0,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
    run: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    log_every: int = 20,
    progress: bool = True,
) -> Training:
    """Minimise the mean objective over tasks of ``source``; ``learner`` is changed in place.

    ``steps``, ``tasks_per_step``  optimiser steps, and tasks whose gradients each step averages.
    ``optimiser``   parameters -> optimiser; Adam at 1e-3 by default
                    (:mod:`quickstudy.training.optimisers`).
    ``schedule``    of the learning rate (:mod:`quickstudy.training.schedules`), or your own.
    ``objective``   (learner, task) -> scalar; by default the learner's own, or the query loss.
    ``validation``  where given, the weights of the best validation are the ones kept.
    ``compute``     how steps are computed.
    ``run``         a folder for ``metrics.jsonl`` and ``checkpoint.safetensors``. With ``resume``
                    the run there goes on, and its end is bit-equal to that of an unbroken run
                    (same machine, same number of threads). It keeps the plan that it was started
                    by, whatever ``compute`` says.
    ``progress``    show a progress bar.

    Ctrl-C ends training after the current step. With ``run`` there is then a checkpoint, and
    ``finished`` is False; without, KeyboardInterrupt is raised.

    Raises :class:`quickstudy.contract.check.BrokenLaw` before the first step for a learner whose
    results would be silently wrong, :class:`NonFiniteLoss` where a loss is not finite,
    :class:`quickstudy.compute.memory.TaskTooLarge` where one task alone does not fit in memory,
    RuntimeError where ``engine="vmap"`` is not right, ValueError for arguments out of range, for
    ``compile`` without a compiler and where a resumed run had other settings, FileExistsError where
    ``run`` holds another run.
    """
    if steps < 1:
        raise ValueError(f"fit: steps must be positive; found {steps}.")
    objective = objective or objective_of(learner)
    folder = RunFolder(run, resume)
    trainer = _Trainer(learner, source, objective, seed, tasks_per_step)
    two = prepare(learner, objective, trainer.task, tasks_per_step)
    opt = (optimiser or adam())([p for p in learner.parameters() if p.requires_grad])
    base_rates = [group["lr"] for group in opt.param_groups]
    settings = {
        "steps": steps, "tasks_per_step": tasks_per_step, "seed": seed,
        "learner": _identity(learner), "first task": _fingerprint(trainer.task(0)),
        "optimiser": f"{type(opt).__name__} {opt.defaults}", "schedule": _name(schedule),
        "objective": _name(objective), "validation": validation and validation.identity(),
    }  # fmt: skip
    state = folder.restore(learner, opt, settings)
    state.plan = state.plan or make_plan(learner, two, objective, tasks_per_step, compute)
    trainer.follow(state.plan)
    log = Log(folder.log, state.step)
    began = time.perf_counter() - state.seconds
    interrupted = False
    with Display(steps, state.step, progress) as display, Interrupts() as interrupts:
        while state.step < steps and not (state.stopped_early or interrupted):
            for group, rate in zip(opt.param_groups, base_rates, strict=True):
                group["lr"] = rate * schedule(state.step / steps)
            set_progress(learner, objective, state.step / steps)
            loss, score = trainer.step(opt, state.step)
            state.plan = trainer.plan  # another, perhaps, where it could not be followed
            state.count(loss, score)
            state.seconds = time.perf_counter() - began
            speed = display.advance(state.step, tasks_per_step, loss, score)
            if state.step % log_every == 0 or state.step == steps:
                log.add({"step": state.step, **state.means(), "tasks_per_second": round(speed, 3),
                         "seconds": round(state.seconds, 3)})  # fmt: skip
            if validation and (state.step % validation.every == 0 or state.step == steps):
                result = trainer.validate(validation)
                state.judge(result, learner, validation.patience)
                log.add({"step": state.step, "validation": result.mean,
                         "half_width": result.half_width,
                         "seconds": round(time.perf_counter() - began, 3)})  # fmt: skip
                display.validated(result)
            interrupted = interrupts.requested and state.step < steps
            if state.step % checkpoint_every == 0 or state.step == steps or interrupted:
                folder.save(learner, opt, state, settings)
    trainer.finish(state.best_weights)
    if interrupted and run is None:
        raise KeyboardInterrupt  # there is no folder to go on from
    return Training(log.rows, state.step, state.seconds, state.best_step, state.best_score,
                    not interrupted, trainer.plan)  # fmt: skip


def _fingerprint(task: Task) -> str:
    digest = Fingerprint()
    digest.add(task)
    return digest.value


def _name(function: Callable[..., Any]) -> str:
    """A function's name; a dataclass that is called has its settings in its own."""
    if is_dataclass(function):
        return repr(function)
    return getattr(function, "__qualname__", type(function).__name__)


def _identity(learner: Learner) -> Any:
    try:
        return describe(learner)
    except ValueError:  # of a class that is not ours: what it says of itself
        return repr(learner)


@dataclass
class _Trainer:
    """One step, one validation: what training repeats."""

    learner: Learner
    source: TaskSource
    objective: Objective
    seed: int
    tasks_per_step: int
    plan: Plan = None  # type: ignore[assignment]  # made once two tasks have been drawn
    compiled: CompiledGradients | None = None

    def task(self, index: int) -> Task:
        return to_device(draw(self.source, self.seed, index), device_of(self.learner))

    def follow(self, plan: Plan) -> None:
        """Compute steps by ``plan``."""
        self.plan = plan
        if plan.compiled:
            refuse_without_compiler(device_of(self.learner))
            like, _ = self.batch(0)
            maker = GRADIENT_MAKERS[plan.mapping]
            self.compiled = CompiledGradients(self.learner, self.objective, like, maker)

    def batch(self, step: int) -> tuple[Task, Look]:
        """The tasks of a step where the learner is, and what was seen of them before they moved."""
        first = step * self.tasks_per_step
        drawn = draw_stacked(self.source, self.seed, range(first, first + self.tasks_per_step))
        return to_device(drawn, device_of(self.learner)), look_at(drawn)

    def step(self, optimiser: Optimizer, step: int) -> tuple[float, float]:
        """Mean loss and score of the tasks of a step, taken unless something is not finite."""
        batch, look = self.batch(step)
        optimiser.zero_grad(set_to_none=True)
        outcome, self.plan = accumulate_within(
            self.learner, batch, self.objective, self.plan, self.compiled, look
        )
        losses, scores, norm = self._sync_scalars(outcome)
        if not all(map(math.isfinite, [*losses, norm])):
            raise self._not_finite(losses, step)
        optimiser.step()
        return sum(losses) / len(losses), sum(scores) / len(scores)

    def _sync_scalars(self, outcome: Outcome) -> tuple[list[float], list[float], float]:
        """Losses, scores and the gradient's norm: what a step asks a device, in one transfer."""
        gradients = [p.grad for p in self.learner.parameters() if p.grad is not None]
        told = (*outcome, torch.nn.utils.get_total_norm(gradients).reshape(1))
        *numbers, norm = torch.cat([t.to(outcome.loss.device) for t in told]).tolist()
        tasks = len(outcome.loss)
        return numbers[:tasks], numbers[tasks:], norm

    def _not_finite(self, losses: list[float], step: int) -> NonFiniteLoss:
        bad = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
        what = f"loss of a task became {losses[bad[0]]}" if bad else "gradient is not finite"
        first = step * self.tasks_per_step
        seeds = [task_seed(self.seed, first + i) for i in bad or range(len(losses))]
        return NonFiniteLoss(
            f"fit: the {what} at step {step}; its tasks: source(torch.Generator().manual_seed(s)) "
            f"for s in {seeds}. Lower the learning rate (of the optimiser, or of the learner's "
            "inner steps), or look at the data of these tasks."
        )

    def validate(self, validation: Validation) -> Evaluation:
        estimate_population(self.learner, self.source, self.seed + _POPULATION)
        seed = self.seed + _VALIDATION
        return evaluate(self.learner, validation.source, validation.tasks, seed=seed)

    def finish(self, best_weights: dict[str, Tensor]) -> None:
        """Leave the learner ready for use: the best weights, or the last ones."""
        if best_weights:
            self.learner.load_state_dict(best_weights)
        else:
            estimate_population(self.learner, self.source, self.seed + _POPULATION)
        set_progress(self.learner, self.objective, 1.0)
        self.learner.eval()
