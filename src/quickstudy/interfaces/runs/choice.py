"""Choosing backbone and learner for pictures of a user's own, by comparing on validation tasks.

Pretrained weights that stay as they are need no training over tasks. Whether training a network
from scratch would be better is asked of a pilot: the same training with a twentieth of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from quickstudy.backbones.pretrained.registry import CARDS
from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.core import Learner, TaskSource
from quickstudy.datasets.dataset import Dataset
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.assemble import (
    load_data,
    make_learner,
    make_sources,
)
from quickstudy.interfaces.runs.featured import (
    backbone_of,
    featured,
    on_features,
    with_splits,
)
from quickstudy.interfaces.runs.fitted import limits
from quickstudy.interfaces.runs.pretrained_backbone import with_own_size
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.selection.recommending.candidates import Candidate as Raced
from quickstudy.selection.recommending.candidates import Problem, Sources
from quickstudy.selection.recommending.on_pretrained import shrunk
from quickstudy.selection.recommending.plan import Plan
from quickstudy.selection.recommending.race import Runner, race
from quickstudy.training.optimisers import adam, sgd

FILE = "choice.json"
PRETRAINED = "efficientnet-lite0"
"""The pretrained backbone that is compared, where it is installed."""

FROZEN = ("simple_shot", "linear_probe")
"""The learners that are compared on it, the simplest first. A logistic head was no better than the
ridge of ``linear_probe``, and takes twenty times as long."""

PILOT = 20
"""The pilot takes one step for so many of the training from scratch."""

TASKS = 100
"""Validation tasks of the comparison."""

_OF_TRAINING = (
    "steps", "tasks_per_step", "rate", "optimiser", "clip", "validate_every", "patience",
    "train_ways", "train_queries", "augment", "channels", "norm", "options",
)  # fmt: skip
"""Settings that only mean something where a network is trained."""


@dataclass(frozen=True)
class Candidate:
    """A learner that was compared: its score on validation tasks, ``half`` its 95% interval.

    ``steps``  of training over tasks, of so many that a whole training has (``of``).
    """

    backbone: str
    learner: str
    mean: float
    half: float
    steps: int = 0
    of: int = 0

    @property
    def figure(self) -> str:
        """The score, such as "91.3% ± 0.9"."""
        return f"{100 * self.mean:.1f}% ± {100 * self.half:.1f}"

    @property
    def words(self) -> str:
        """What it is, in words."""
        title = LEARNERS[self.learner].title
        if not self.of:
            return f"{title} on {self.backbone}, nothing trained"
        return (
            f"{title} on {self.backbone}, trained from scratch for {self.steps} of {self.of} steps"
        )


@dataclass(frozen=True)
class Choice:
    """What was compared, on how many validation tasks, which was taken, and why."""

    candidates: tuple[Candidate, ...]
    taken: int
    tasks: int
    why: str

    @property
    def lines(self) -> list[str]:
        """The comparison in words, the candidate that was taken first."""
        others = (i for i in range(len(self.candidates)) if i != self.taken)
        order = [self.taken, *others] if self.candidates else []
        compared = [f"{self.candidates[i].words}: {self.candidates[i].figure}" for i in order]
        return [*compared, self.why]

    def to_json(self) -> dict[str, Any]:
        """The choice as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> Choice:
        """The choice of which :meth:`to_json` gave ``values``."""
        candidates = tuple(
            Candidate(
                str(c["backbone"]), str(c["learner"]), float(c["mean"]), float(c["half"]),
                int(c["steps"]), int(c["of"]),
            )
            for c in values["candidates"]
        )  # fmt: skip
        taken = int(values["taken"])
        if not all(c.learner in LEARNERS for c in candidates) or taken not in range(
            max(1, len(candidates))
        ):
            raise ValueError("its choice is none of its candidates")
        return Choice(candidates, taken, int(values["tasks"]), str(values["why"]))


def keep_choice(path: Path, choice: Choice) -> None:
    """Write the choice to run folder ``path``."""
    write_atomically(path / FILE, (json.dumps(choice.to_json(), indent=1) + "\n").encode())


def kept_choice(path: Path) -> Choice | None:
    """The choice in run folder ``path``; None where nothing was chosen."""
    file = path / FILE
    if not file.is_file():
        return None
    with damage_names(file):
        return Choice.from_json(read_json(file))


def is_open(values: Mapping[str, Any]) -> bool:
    """Whether a recipe with only these ``values`` leaves backbone and learner to be chosen."""
    given = {name for name, value in values.items() if value is not None}
    return values.get("data") == "folder" and not given & {"learner", "backbone", *_OF_TRAINING}


def with_usual_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the pretrained backbone for transfer learners on a user's own pictures."""
    card = LEARNERS.get(str(values.get("learner")))
    if values.get("data") != "folder" or values.get("backbone") is not None or card is None:
        return dict(values)
    works = card.family == "transfer" and not card.head and not card.maps
    return {**values, "backbone": PRETRAINED} if works and is_installed() else dict(values)


def is_installed() -> bool:
    """Whether the pretrained backbone is there."""
    return find_spec(CARDS[PRETRAINED].module) is not None


def tip(values: Mapping[str, Any]) -> str:
    """What pretrained weights would bring to a run with these ``values``; "" where it has them."""
    if values.get("data") != "folder" or values.get("backbone") is not None:
        return ""
    facts = CARDS[PRETRAINED]
    if not is_installed():
        return (
            f"Pretrained weights are not installed. On photographs they tell new classes apart far "
            f"better than training from scratch, and need none: {facts.install}"
        )
    if is_open(values):
        return ""
    given = next((n for n in ("learner", *_OF_TRAINING) if values.get(n) is not None), "")
    return (
        f"Training from scratch, since {given} is given. {PRETRAINED} is installed: leave {given} "
        "out to compare the two, or give --backbone."
    )


def choose(recipe: Recipe, progress: bool = True) -> tuple[Recipe, Choice | None]:
    """``recipe`` with the backbone and the learner that do best, and the comparison.

    Without pretrained weights the recipe is as it was, and there is no choice. On a tie a learner
    without training is taken, and the simplest of these.
    """
    if not is_installed():
        return recipe, None
    first = FROZEN[0]
    frozen = {name: replace(recipe, backbone=PRETRAINED, learner=name) for name in FROZEN}
    if recipe.folds:
        why = (
            f"{LEARNERS[first].title} on {PRETRAINED} was taken without a comparison, because a "
            "cross-validation tests on every class, so none is left to compare on."
        )
        return frozen[first], Choice((), 0, 0, why)
    compared = _compared(recipe, frozen, progress)
    best = max(range(len(compared)), key=lambda i: (_rounded(compared[i].mean), -i))
    taken = compared[best]
    scratch = compared[-1]
    if best == len(compared) - 1:
        why = (
            f"Trained from scratch, because already {scratch.steps} of {scratch.of} steps were "
            "better on these pictures than pretrained weights."
        )
        return recipe, Choice(compared, best, TASKS, why)
    why = (
        f"Nothing is trained, because pretrained weights were at least as good as {scratch.steps} "
        f"of {scratch.of} steps of training from scratch. The whole training may do better: "
        "compare with --backbone conv4."
    )
    return frozen[taken.learner], Choice(compared, best, TASKS, why)


def _rounded(mean: float) -> float:
    return round(mean, 4)


def _compared(
    recipe: Recipe, frozen: Mapping[str, Recipe], progress: bool
) -> tuple[Candidate, ...]:
    """Each of the ``frozen`` recipes, and last the pilot of ``recipe``, on validation tasks.

    A race of one rung (:func:`quickstudy.selection.recommending.race.race`).
    """
    own = with_own_size(next(iter(frozen.values())))
    data = load_data(own)
    split = "val" if len(data.val) else "train"
    shape = tuple(data.train.inputs.shape[1:])
    most = limits(own, data)
    learners = {
        name: make_learner(replace(each, size=own.size).complete(most), shape)
        for name, each in frozen.items()
    }
    backbone = backbone_of(next(iter(learners.values())))
    found = featured(data, backbone.to(choose_device(recipe.device)), (split,))
    complete = own.complete(most)
    raced = []
    for name, learner in learners.items():
        source = _validation_source(complete, found.features, learner, split)
        raced.append(_raced(name, partial(on_features, learner), Sources(None, source, None)))
    pilot, steps, of = _pilot(recipe, _small(data), split)
    raced.append(pilot)
    problem = Problem("few-shot classes", recipe.data, "class", 0, tuple(raced), ())
    plan = Plan(({pilot.name: steps},), (1,), TASKS, {}, 1, TASKS)

    def say(text: str) -> None:
        if progress:
            click.echo(f"  {text}", err=True)

    with TemporaryDirectory(prefix="quickstudy-race-") as folder:
        *on_weights, last = race(problem, plan, Path(folder), recipe.seed, say)
    return (
        *(_candidate(PRETRAINED, each.name, each) for each in on_weights),
        _candidate(recipe.backbone, recipe.learner, last, steps, of),
    )


def _small(data: Dataset) -> Dataset:
    """``data`` with the small pictures that a network is trained on from scratch."""
    splits = {name: shrunk(rows) for name, rows in data.splits.items() if len(rows)}
    return with_splits(data, splits)


def _raced(
    name: str, make: Callable[[], Learner], sources: Sources, steps: int = 0, **training: Any
) -> Raced:
    title = LEARNERS[name].title
    return Raced(name, title, LEARNERS[name].family, title, make, sources, steps, **training)


def _pilot(recipe: Recipe, data: Dataset, split: str) -> tuple[Raced, int, int]:
    """The recipe's own training, its steps as a pilot, and those that a whole training has."""
    complete = recipe.complete(limits(recipe, data))
    budget = complete.budget()
    shape, device = tuple(data.train.inputs.shape[1:]), choose_device(recipe.device)
    train = make_sources(complete, data, make_learner(complete, shape)).train
    source = _validation_source(complete, data, make_learner(complete, shape), split)
    pilot = _raced(
        recipe.learner, lambda: make_learner(complete, shape).to(device),
        Sources(train, source, None), budget.steps, tasks_per_step=budget.tasks_per_step,
        optimiser={"adam": adam, "sgd": sgd}[budget.optimiser](budget.rate),
    )  # fmt: skip
    return pilot, max(1, budget.steps // PILOT), budget.steps


def _validation_source(recipe: Recipe, data: Dataset, learner: Learner, split: str) -> TaskSource:
    sources = make_sources(recipe, data, learner)
    source = sources.val if split == "val" else sources.train
    assert source is not None
    return source


def _candidate(
    backbone: str, learner: str, found: Runner, steps: int = 0, of: int = 0
) -> Candidate:
    if found.failure:
        raise ValueError(f"{learner} on {backbone}: {found.failure}")
    result = found.laps[-1].result
    return Candidate(backbone, learner, result.mean, result.half_width, steps, of)
