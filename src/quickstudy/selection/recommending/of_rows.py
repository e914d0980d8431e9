"""Many labelled rows of one table: there are no other tasks to learn from, only these rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.backbones.joined import Features
from quickstudy.backbones.mlp import MLP
from quickstudy.core import Examples, Learner, Task, TaskSource, TaskSpec
from quickstudy.learners.transfer.fine_tune import FineTune
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.learners.transfer.support_vectors import SVM
from quickstudy.selection.recommending.candidates import FEWEST, Candidate, Problem, Sources
from quickstudy.selection.recommending.on_pretrained import Pretrained
from quickstudy.tasks.examples import take
from quickstudy.tasks.rows import LabelledRows

SUPPORT, QUERIES = 2000, 300
"""Rows that a division trains on, and rows that it asks about, at most."""

IN_SUPPORT = 0.8
"""Share of the rows to race on that a division trains on."""

NETWORK_STEPS = 50
"""Of a small network, on the support rows of each division."""

HELD_OUT = 4
"""Every so many rows one is kept for the expected score."""

DIVISIONS = 20
"""Into support and query rows, of validation and of the test, at most."""


@dataclass(frozen=True, eq=False)
class Divisions:
    """A source of tasks that divide rows at random into support and query.

    ``rows``     of which the support is drawn.
    ``support``  how many of them; at least one of each class.
    ``asked``    rows of which three quarters are the queries; None for the rows that remain.
    ``shots``    support rows of each class, in place of ``support``; 0 for that.
    """

    rows: Examples
    spec: TaskSpec
    support: int
    asked: Examples | None = None
    shots: int = 0

    def __call__(self, generator: torch.Generator) -> Task:
        """One division."""
        order = torch.randperm(len(self.rows.weights), generator=generator)
        chosen = self._of_each_class(order)
        if not self.shots:
            rest = order[~torch.isin(order, chosen)]
            chosen = torch.cat([chosen, rest[: max(0, self.support - len(chosen))]])
        query, places = self.rows, order[~torch.isin(order, chosen)]
        if self.asked is not None:
            query = self.asked
            places = torch.randperm(len(query.weights), generator=generator)
            places = places[: max(1, 3 * len(places) // 4)]
        return Task(take(self.rows, chosen), take(query, places[:QUERIES]), self.spec)

    def _of_each_class(self, order: Tensor) -> Tensor:
        """The first rows of each class in ``order``; none for other answers."""
        if not isinstance(self.spec.answer, Classes):
            return order[:0]
        ids, shots = self.rows.targets[order], self.shots or 1
        return torch.cat([order[ids == k][:shots] for k in range(self.spec.outputs)])


def problem_of_rows(
    name: str, rows: Examples, spec: TaskSpec, pretrained: Pretrained, seed: int
) -> Problem:
    """What predicts new rows of the same classes, or the same numbers.

    ``rows``  all labelled rows; class ids from 0.
    """
    n, classes = len(rows.weights), isinstance(spec.answer, Classes)
    smallest = int(torch.bincount(rows.targets, minlength=spec.outputs).min()) if classes else n
    of = f"{spec.outputs} classes, {smallest} or more of each" if classes else "real targets"
    about = f"{name}: {n} labelled rows of {of}; scored on other rows of the same"
    unit = "row of the smallest class" if classes else "row"
    others = tuple(rule for rule in pretrained.rules if rule != "new classes")
    rules = ("many rows", *others)
    if smallest < FEWEST or not isinstance(rows.inputs, Tensor):
        return Problem("rows", about, unit, smallest, (), rules, pretrained.left_out)
    parts = _parts(rows, spec, seed)
    flat = _standardised(rows.inputs.flatten(1).to(torch.get_default_dtype()), parts[0])
    views: list[tuple[str, str, Tensor]] = [("", "", flat)]
    nothing = LabelledRows(rows.inputs[:0], torch.zeros(0, dtype=torch.long), ())
    every = LabelledRows(rows.inputs, torch.tensor([n]), ("rows",))
    for view in pretrained.views(nothing, every, None):
        views.append((view.name, view.title, view.val.inputs))
    candidates = []
    for short, title, inputs in views:
        candidates += _candidates(rows._replace(inputs=inputs), spec, parts, short, title)
    shots = max(1, int(IN_SUPPORT * smallest) // 8) if classes else 0
    return Problem(
        "rows", about, unit, smallest, tuple(candidates), rules, pretrained.left_out, shots,
        DIVISIONS,
    )  # fmt: skip


def _parts(rows: Examples, spec: TaskSpec, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of rows to race on and of those that are held out, of each class alike."""
    order = torch.randperm(len(rows.weights), generator=torch.Generator().manual_seed(seed))
    if isinstance(spec.answer, Classes):
        order = order[rows.targets[order].argsort(stable=True)]
    held = torch.arange(len(order)) % HELD_OUT == HELD_OUT - 1
    return order[~held], order[held]


def _standardised(inputs: Tensor, own: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1 over the rows to race on; constant ones are 0."""
    mean, scale = inputs[own].mean(0), inputs[own].std(0, unbiased=False)
    return (inputs - mean) / scale.where(scale > 0, torch.ones_like(scale))


def _candidates(
    rows: Examples, spec: TaskSpec, parts: tuple[Tensor, Tensor], short: str, title: str
) -> list[Candidate]:
    """Learners of the rows in one view: inputs, or features of the network ``short``."""
    own, held = take(rows, parts[0]), take(rows, parts[1])
    size, support = int(rows.inputs.shape[1]), min(SUPPORT, int(IN_SUPPORT * len(parts[0])))
    sources = Sources(
        None, Divisions(own, spec, support), Divisions(own, spec, support, held)
    )  # fmt: skip
    classes = isinstance(spec.answer, Classes)
    smallest = int(torch.bincount(own.targets).min()) if classes else 0

    def of_shots(shots: int) -> TaskSource:
        if shots > smallest:
            raise ValueError(
                f"{shots} shots of each class; the smallest has {smallest} to train on"
            )
        return Divisions(own, spec, support, held, shots)

    def features() -> Any:
        return Features(size)

    kinds: list[tuple[str, str, Callable[[], Learner]]] = [
        ("ridge", "ridge regression", lambda: LinearProbe(features())),
        ("svm", "a support vector machine, Gaussian kernel", lambda: SVM(features(), tol=1e-3)),
    ]
    if classes:
        kinds = [
            ("nearest_mean", "nearest class means", lambda: SimpleShot(features(), bool(short))),
            *kinds,
            ("logistic", "logistic regression", lambda: LinearProbe(features(), logistic)),
        ]  # fmt: skip
    if not short:
        kinds.append((
            "network", "a small network",
            lambda: FineTune(MLP(size, (64, 64)), steps=NETWORK_STEPS, rate=0.01),
        ))  # fmt: skip
    where = f" on features of {title}" if short else ""
    advice = f"Take features of {title}, no training of it" if short else "Train on your data alone"
    return [
        Candidate(
            f"{name} on {short}" if short else name, f"{what}{where}",
            "pretrained" if short else "target only", f"{advice}: {what}", make, sources,
            shots=of_shots if classes else None,
        )
        for name, what, make in kinds
    ]  # fmt: skip
