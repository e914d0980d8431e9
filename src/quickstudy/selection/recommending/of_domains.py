"""A target with few labelled rows and sources of other places: alone, pooled, gated or aligned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.backbones.joined import Features
from quickstudy.core import Examples, Learner, Task, TaskSource, TaskSpec
from quickstudy.evaluation import wording
from quickstudy.evaluation.negative_transfer import negative_transfer
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.learners.domains.safe_gate import SafeGate
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.support_vectors import SVM
from quickstudy.selection.recommending.candidates import FEWEST, Candidate, Problem, Sources
from quickstudy.tasks.examples import take
from quickstudy.tasks.transfer import TransferTasks, transfer

REPEATS = 5
"""Divisions of the target rows on which each source is judged."""

BOOSTING = {"tradaboost": {"rounds": 10}, "tradaboost_r2": {"steps": 3, "rounds": 3}}
"""Fewer rounds than usual, so that the race takes minutes."""

QUERIES = 200
"""Target rows that a task asks about at most."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Tasks of ``source`` with the support rows of some groups alone; 0 is the target."""

    source: TaskSource
    groups: tuple[int, ...]

    def __call__(self, generator: torch.Generator) -> Task:
        """One task."""
        task = self.source(generator)
        assert isinstance(task.support, Examples)
        kept = torch.isin(task.support.groups, torch.tensor(self.groups))
        return task._replace(support=take(task.support, kept))


def problem_of_domains(
    sources: Mapping[str, Examples],
    target: Examples,
    spec: TaskSpec,
    labelled: int,
    seed: int,
    name: str = "domains",
    unlabelled: int = 0,
) -> Problem:
    """What fits rows of sources and few labelled rows of the target.

    ``labelled``  rows of the target that a learner gets: of each class, or of all.
    """
    rows = len(target.weights)
    classes = isinstance(spec.answer, Classes)
    smallest = (
        int(torch.bincount(target.targets, minlength=spec.outputs).min()) if classes else rows
    )
    about = (
        f"{name}: {labelled} labelled target rows{' of each class' if classes else ''}, beside "
        f"{', '.join(f'{len(s.weights)} rows of {n}' for n, s in sources.items())}"
    )
    rules = ("one source",) if len(sources) == 1 else ("several sources", "one source")
    if smallest < FEWEST or not isinstance(target.inputs, Tensor):
        return Problem("domains", about, "row", smallest, (), rules)
    scaled = _standardised([*sources.values(), target])
    given, own = dict(zip(sources, scaled[:-1], strict=True)), scaled[-1]
    size = int(own.inputs.shape[1])
    halves = _halves(own, spec, labelled, seed)
    parts = [
        transfer(list(given.values()), half, spec, labelled=min(labelled, _most(half, spec)),
                 unlabelled=unlabelled if len(halves) == 1 else 0,
                 queries=_queries(half, spec, labelled))
        for half in halves
    ]  # fmt: skip
    notes, harmful = _judged(given, halves[0], spec, min(labelled, _most(halves[0], spec)), seed)
    candidates = _candidates(given, parts, size, spec, harmful)
    left_out = {} if find_spec("skada") else {
        "CORAL": "not installed: pip install 'quickstudy[transfer]'"
    }  # fmt: skip
    return Problem("domains", about, "row", smallest, tuple(candidates), rules, left_out,
                   notes=tuple(notes))  # fmt: skip


def of_transfer_tasks(tasks: TransferTasks, seed: int) -> Problem:
    """What fits the tasks of :func:`quickstudy.tasks.transfer`."""
    groups = sorted(set(tasks.source.groups.tolist()))
    sources = {f"source {k}": take(tasks.source, tasks.source.groups == k) for k in groups}
    return problem_of_domains(
        sources, tasks.target, tasks.spec, max(1, tasks.labelled), seed,
        unlabelled=tasks.unlabelled,
    )  # fmt: skip


def _standardised(parts: list[Examples]) -> list[Examples]:
    """Inputs as vectors with mean 0 and variance 1 over all rows; labels are not read."""
    every = torch.cat([part.inputs.flatten(1) for part in parts])
    mean, scale = every.mean(0), every.std(0, unbiased=False)
    scale = scale.where(scale > 0, torch.ones_like(scale))
    return [part._replace(inputs=(part.inputs.flatten(1) - mean) / scale) for part in parts]


def _most(rows: Examples, spec: TaskSpec) -> int:
    """Labelled rows (of each class) that leave some to ask about."""
    if isinstance(spec.answer, Classes):
        return max(1, int(torch.bincount(rows.targets, minlength=spec.outputs).min()) - 1)
    return max(1, len(rows.weights) - 1)


def _queries(rows: Examples, spec: TaskSpec, labelled: int) -> int:
    given = min(labelled, _most(rows, spec))
    used = given * spec.outputs if isinstance(spec.answer, Classes) else given
    return max(1, min(QUERIES, len(rows.weights) - used))


def _halves(rows: Examples, spec: TaskSpec, labelled: int, seed: int) -> list[Examples]:
    """Target rows to race on, and others to test on, where both have enough of each class."""
    order = torch.randperm(len(rows.weights), generator=torch.Generator().manual_seed(seed))
    parts = [take(rows, order[0::2]), take(rows, order[1::2])]
    return parts if all(_most(part, spec) >= labelled for part in parts) else [rows]


def _judged(
    sources: Mapping[str, Examples], target: Examples, spec: TaskSpec, labelled: int, seed: int
) -> tuple[list[str], list[int]]:
    """Sentences on sources that harm, and their numbers."""
    found = negative_transfer(
        LinearProbe(Features(int(target.inputs.shape[1]))), sources, target, spec,
        labelled=labelled, queries=_queries(target, spec, labelled), repeats=REPEATS, seed=seed,
    )  # fmt: skip
    notes = [
        f"{row.name} harms: {wording.difference(row.effect, found.unit)} ± "
        f"{wording.half_width(row.half_width, found.unit)} in {found.score} where its rows are "
        "pooled; leave it out"
        for row in found.table if row.verdict == "harms"
    ]  # fmt: skip
    return notes, [k for k, name in enumerate(sources, 1) if name in found.harmful]


def _candidates(
    sources: Mapping[str, Examples], parts: list[TransferTasks], size: int, spec: TaskSpec,
    harmful: list[int],
) -> list[Candidate]:  # fmt: skip
    every = tuple(range(len(sources) + 1))
    test = parts[1] if len(parts) > 1 else None

    def of(groups: tuple[int, ...]) -> Sources:
        if groups == every:
            return Sources(None, parts[0], test)
        return Sources(None, Kept(parts[0], groups), None if test is None else Kept(test, groups))

    def probe() -> Learner:
        return LinearProbe(Features(size))

    def kernel() -> Learner:
        return SVM(Features(size), tol=1e-3)

    alone, all_of = of((0,)), of(every)
    found = [
        Candidate("target only, linear", "a linear model of the target rows", "target only",
                  "Train on your data alone: a linear model of the target rows", probe, alone),
        Candidate("target only, kernel", "a kernel machine of the target rows", "target only",
                  "Train on your data alone: a support vector machine of the target rows",
                  kernel, alone),
        Candidate("pooled, linear", "a linear model of all rows", "pooled",
                  "Pool the rows of target and sources: a linear model", probe, all_of),
        Candidate("pooled, kernel", "a kernel machine of all rows", "pooled",
                  "Pool the rows of target and sources: a support vector machine", kernel, all_of),
    ]  # fmt: skip
    if harmful and len(harmful) < len(sources):
        kept = tuple(k for k in every if k not in harmful)
        found.append(Candidate(
            "pooled without harmful", "a linear model of all rows but those that harm", "pooled",
            "Pool the rows of the target and of the sources that do not harm: a linear model",
            probe, of(kept),
        ))  # fmt: skip
    found.append(Candidate(
        "safe_gate", "a gate around pooled rows", "transfer",
        "Use qs.SafeGate: it takes source rows only where they help on left-out target rows",
        lambda: SafeGate(probe()), all_of,
    ))  # fmt: skip
    boost = "tradaboost" if isinstance(spec.answer, Classes) else "tradaboost_r2"
    title = LEARNERS[boost].title
    made: Any = resolve("learner", boost, LEARNERS)
    found.append(Candidate(
        boost, title, "transfer", f"Transfer by {title}, which weighs source rows",
        lambda: made(probe(), **BOOSTING[boost]),
        all_of,
    ))  # fmt: skip
    if find_spec("skada"):
        coral: Any = resolve("learner", "coral", LEARNERS)
        found += [
            Candidate("coral", "CORAL", "transfer",
                      "Transfer by CORAL: source rows with the target's covariance",
                      lambda: coral(Features(size)), all_of),
            Candidate("safe_gate with coral", "a gate around pooled rows and CORAL", "transfer",
                      "Use qs.SafeGate around pooled rows and CORAL",
                      lambda: SafeGate([probe(), coral(Features(size))]), all_of),
        ]  # fmt: skip
    return found
