"""The plan of a comparison: recipes of the same data and tasks, and the budget of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.interfaces.runs.fitted import limits
from quickstudy.interfaces.runs.loaded import Loaded
from quickstudy.interfaces.runs.pretrained_backbone import with_own_size
from quickstudy.interfaces.runs.recipe import Recipe, read_options, read_recipe, read_recipe_file
from quickstudy.selection.comparing.budget import Minutes
from quickstudy.selection.comparing.compare import check_matters, check_names

TASKS_PER_STEP = 4

OF_LEARNER = ("learner", "options", "backbone", "channels", "norm", "rate", "optimiser", "clip")
"""What a learner's own recipe says in a comparison; data, tasks and budget are those of all."""

OF_BUDGET = (
    "steps",
    "tasks_per_step",
    "validate_every",
    "patience",
    "seed",
    "test_seed",
    "test_tasks",
)
"""Settings of a learner's own recipe that a comparison does not read."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    ``recipes``     by name, complete but for seed and steps; of the same data and tasks.
    ``budget``      steps of each training, or minutes of CPU time.
    ``seeds``       number of trainings of each learner.
    ``tasks``       test tasks at most.
    ``matters``     the difference that matters, as a share.
    ``over_shots``  other numbers of shots, for the score over shots.
    """

    recipes: Mapping[str, Recipe]
    budget: int | Minutes
    seeds: int = 3
    tasks: int = 600
    matters: float = 0.005
    over_shots: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values, which say whether a comparison is the one that was begun."""
        minutes = isinstance(self.budget, Minutes)
        return {
            "learners": list(self.recipes),
            "budget": {"minutes": self.budget.minutes}
            if isinstance(self.budget, Minutes)
            else {"steps": self.budget},
            "seeds": self.seeds,
            "tasks": self.tasks,
            "matters": self.matters,
            "over_shots": list(self.over_shots),
            "recipes": {
                # The steps of a recipe are those of the budget, measured where it is in minutes.
                name: {k: v for k, v in recipe.to_json().items() if not (minutes and k == "steps")}
                for name, recipe in self.recipes.items()
            },
        }


def make_plan(
    base: Mapping[str, Any],
    learners: Sequence[str],
    options: Sequence[str] = (),
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seeds: int = 3,
    tasks: int = 600,
    matters: float = 0.005,
    over_shots: Sequence[int] = (),
) -> tuple[Plan, Loaded]:
    """A plan, and the data that it is for.

    ``base``      values of a recipe: data, tasks, backbone and device, for every learner.
    ``learners``  names of learners, or paths of recipes (YAML), whose file name is the learner's.
    ``options``   "LEARNER.NAME=VALUE", arguments of single learners.

    Raises ValueError for whatever cannot be compared.
    """
    budget = _budget(steps, minutes)
    for name, value, least in (("seeds", seeds, 1), ("tasks", tasks, 2)):
        if value < least:
            raise ValueError(f"compare: {name} must be at least {least}; found {value}.")
    check_matters(matters)
    for shots in over_shots:
        check_count("compare", "over_shots", shots, 1)
    named = [(_name(each), each) for each in learners]
    check_names([name for name, _ in named])
    recipe = read_recipe(base)
    if recipe.folds is not None:
        raise ValueError("compare: needs one split for all learners. Leave folds out.")
    recipes = {name: _recipe(recipe, each) for name, each in named}
    recipes = _with_options(recipes, options)
    shuffled = any(reads_a_sequence(each) for each in recipes.values())
    first = with_own_size(next(iter(recipes.values())))
    loaded = Loaded(first, *recipes.values())
    found = first.budget(limits(first, loaded.data))
    of_all: dict[str, Any] = {
        "root": first.complete().root, "size": first.size, "ways": found.ways,
        "queries": found.queries,
        "train_ways": first.train_ways or min(found.ways, len(loaded.data.train)),
        "train_queries": found.train_queries,
        "tasks_per_step": recipe.tasks_per_step or TASKS_PER_STEP, "shuffled": shuffled,
        "seed": 0, "test_seed": recipe.test_seed or 0, "test_tasks": tasks,
        "threads": recipe.threads or _threads(),
    }  # fmt: skip
    for name, each in recipes.items():
        if with_own_size(each).size != first.size:
            raise ValueError(
                f"compare: all learners must read pictures of one size, since they get the same "
                f"tasks; found {with_own_size(each).size} for {name} and {first.size} for "
                f"{next(iter(recipes))}. Give --size."
            )
    complete = {name: replace(each, **of_all) for name, each in recipes.items()}
    return Plan(complete, budget, seeds, tasks, matters, tuple(over_shots)), loaded


def kept_plan(path: Path) -> tuple[Plan, Loaded]:
    """The plan of a comparison that was begun in the folder ``path``, and its data."""
    file = path / "plan.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: holds no comparison (no plan.json). Give a folder that `quickstudy compare` "
            "made. One that was stopped before its first file is begun again with the same command."
        )
    values = read_json(file, 2**26)
    with damage_names(file):
        recipes = {str(name): read_recipe(values["recipes"][name]) for name in values["learners"]}
        budget = values["budget"]
        plan = Plan(
            recipes, Minutes(budget["minutes"]) if "minutes" in budget else int(budget["steps"]),
            int(values["seeds"]), int(values["tasks"]), float(values["matters"]),
            tuple(map(int, values["over_shots"])),
        )  # fmt: skip
    return plan, Loaded(*recipes.values())


def _budget(steps: int | None, minutes: float | None) -> int | Minutes:
    if (steps is None) == (minutes is None):
        found = "both" if steps is not None else "neither"
        raise ValueError(
            f"compare: the budget of each training is --steps or --minutes; found {found}. Give "
            "one, for example --minutes 1."
        )
    if minutes is not None:
        return Minutes(minutes)
    assert steps is not None
    if steps < 1:
        raise ValueError(
            f"compare: steps must be at least 1; found {steps}. Baselines without training are "
            "in every comparison."
        )
    return steps


def _name(learner: str) -> str:
    return Path(learner).stem if Path(learner).suffix in (".yaml", ".yml") else learner


def _recipe(base: Recipe, learner: str) -> Recipe:
    """The recipe of one learner, given by name or by file."""
    if _name(learner) == learner:
        if learner not in LEARNERS:
            raise unknown_name("learner", learner, LEARNERS)
        return replace(base, learner=learner)
    values = read_recipe_file(Path(learner))
    own = read_recipe(values)
    for field in fields(Recipe):
        name = field.name
        if name in OF_LEARNER or name in OF_BUDGET or name not in values:
            continue
        if getattr(own, name) != getattr(base, name):
            raise ValueError(
                f"compare: {learner} is for other tasks: its {name} is "
                f"{shown(getattr(own, name))}, but that of the comparison is "
                f"{shown(getattr(base, name))}. Give the same, or leave it out of the file."
            )
    return replace(base, **{n: getattr(own, n) for n in OF_LEARNER if n in values})


def _with_options(recipes: Mapping[str, Recipe], options: Sequence[str]) -> dict[str, Recipe]:
    """The recipes with further options of single learners, "LEARNER.NAME=VALUE"."""
    found = dict(recipes)
    for key, value in read_options(options).items():
        name, dot, option = key.partition(".")
        if not dot or name not in found:
            raise ValueError(
                f"compare: --set is LEARNER.NAME=VALUE with one of {', '.join(found)}; found "
                f"{shown(key)}."
            )
        found[name] = replace(found[name], options={**found[name].options, option: value})
    return found


def reads_a_sequence(recipe: Recipe) -> bool:
    """Whether the learner of a recipe reads its support rows as a sequence."""
    learner = resolve("learner", recipe.learner, LEARNERS)
    return "support_order_is_irrelevant" in learner.exceptions


def _threads() -> int:
    import torch

    return torch.get_num_threads()
