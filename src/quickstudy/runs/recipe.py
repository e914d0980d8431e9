"""What a run is: every choice that a command line or a YAML file can make, with its default.

Importing this module imports no torch, so that a wrong recipe is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from quickstudy.datasets.registry import card
from quickstudy.registry import BACKBONES, LEARNERS, nearest


class Budget(NamedTuple):
    """How a learner trains unless told otherwise: about a minute for Conv4 on two CPU cores."""

    steps: int
    tasks_per_step: int
    train_ways: int | None  # None: as many as in testing


# Metric learners learn faster from more ways than they are tested on (Snell et al., 2017).
BUDGETS = {
    "prototypical": Budget(800, 1, 20),
    "linear_probe": Budget(600, 1, 20),
    "maml": Budget(400, 4, None),
}


@dataclass(frozen=True)
class Recipe:
    """One run. None means the default of the learner or of the data set.

    ``data``, ``root``, ``split``, ``size``, ``rotations``  what :func:`datasets.load` takes.
    ``learner``, ``options``       its name, and arguments of its constructor.
    ``backbone``, ``channels``, ``norm``   the network; ``channels`` is Conv4's width.
    ``ways``, ``shots``, ``queries``       of the test tasks.
    ``train_ways``, ``train_queries``      of the training tasks.
    ``steps``, ``tasks_per_step``, ``rate``  of training: Adam, along a cosine.
    ``validate_every``, ``patience``   validation on the way; the best weights are kept.
    ``test_tasks``, ``seed``, ``threads``  evaluation, randomness, CPU threads.
    """

    data: str = "glyphs"
    root: str | None = None
    split: str | None = None
    size: int | None = None
    rotations: bool = False
    learner: str = "prototypical"
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = "conv4"
    channels: int = 64
    norm: str = "group"
    ways: int = 5
    shots: int = 1
    queries: int = 15
    train_ways: int | None = None
    train_queries: int = 5
    steps: int | None = None
    tasks_per_step: int | None = None
    rate: float = 1e-3
    validate_every: int | None = None
    patience: int | None = None
    test_tasks: int = 600
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        card(self.data)
        if self.learner not in LEARNERS:
            raise nearest("learner", self.learner, LEARNERS)
        if self.backbone not in BACKBONES:
            raise nearest("backbone", self.backbone, BACKBONES)
        for name in ("ways", "shots", "queries", "train_queries", "test_tasks", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be positive; found {getattr(self, name)}.")

    def complete(self) -> Recipe:
        """The recipe with every default of the learner filled in, as a run records it."""
        budget = BUDGETS[self.learner]
        steps = budget.steps if self.steps is None else self.steps
        return replace(
            self,
            steps=steps,
            tasks_per_step=self.tasks_per_step or budget.tasks_per_step,
            train_ways=self.train_ways or budget.train_ways or self.ways,
            validate_every=self.validate_every or max(1, -(-steps // 4)),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON (and YAML) values."""
        return asdict(self)


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; ValueError for an unknown name or a value of the wrong type."""
    hints = get_type_hints(Recipe)
    known = {f.name: hints[f.name] for f in fields(Recipe)}
    for name, value in values.items():
        if name not in known:
            raise nearest("recipe", name, known)
        kinds = getattr(known[name], "__args__", (known[name],)) if known[name] is not dict else ()
        if name == "options":
            kinds = (dict,)
        if float in kinds:
            kinds = (*kinds, int)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(k.__name__ for k in kinds if k is not type(None))
            raise ValueError(f"recipe: {name} must be {expected}; found {value!r}.")
    return Recipe(**values)


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The values of a YAML file; ValueError where it is not a mapping of names to values."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe.")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: a recipe is lines of `name: value`; found {type(values).__name__}."
        )
    return values
