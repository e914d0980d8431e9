"""Comparing finished runs by their stored results; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.shown import shown
from quickstudy.interfaces.runs.compared_runs import baselines_of
from quickstudy.interfaces.runs.execute import test_seed
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.groups import (
    Group,
    entry_of,
    grouped,
    key_of,
    refuse_twice,
    refuse_unequal,
    stored,
    told_apart,
)
from quickstudy.interfaces.runs.loaded import Loaded
from quickstudy.interfaces.runs.plan import reads_a_sequence
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.interfaces.runs.stored_baselines import stored_baselines
from quickstudy.selection.comparing.compare import check_matters
from quickstudy.selection.comparing.compared import Comparisons, compared
from quickstudy.selection.comparing.comparison import LEARNER
from quickstudy.selection.comparing.contenders import Contender, OnStep, Trained
from quickstudy.selection.comparing.contest import Contest, decide
from quickstudy.selection.comparing.display import Display
from quickstudy.selection.comparing.stored import Folder

SAME = (
    "data", "root", "split", "size", "rotations", "fractions", "split_seed", "ways", "shots",
    "queries", "within_superclass",
)  # fmt: skip
"""Settings that runs must share to have the same test tasks."""

OF_TRAINING = (
    "steps", "tasks_per_step", "train_ways", "train_queries", "augment", "validate_every",
    "patience",
)  # fmt: skip
"""Settings that runs need not share; where they do not, the budgets differ, and that is said."""


REMEDY = "Give --test-again to test all of them on the same tasks, which trains nothing."


def compare_runs(
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    matters: float = 0.005,
    test_again: bool = False,
    tasks: int | None = None,
    test_seed: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Comparisons:
    """Compare the runs in these folders: those that differ in their seed alone are one learner.

    ``out``         a folder for the result; None to write nothing.
    ``test_again``  test all on the same new tasks, ``tasks`` of them at most (600) with the seed
                    ``test_seed``; by default the stored results are compared, which must be of the
                    same tasks.

    Raises ValueError, naming the difference, for runs of other data or tasks, for a result that was
    edited, and for fewer than 2 learners.
    """
    check_matters(matters)
    for name, value, least in (("tasks", tasks, 2), ("test_seed", test_seed, 0)):
        if value is not None:
            check_count("compare", name, value, least)
    runs = [_opened(path) for path in paths]
    refuse_twice(runs)
    _refuse_different(runs)
    groups = grouped([(run, run.recipe.learner, key_of(run.recipe.to_json())) for run in runs])
    if len(groups) < 2:
        raise ValueError(
            f"compare: needs at least 2 learners; found {len(runs)} runs of one, which differ in "
            "their seeds alone. Add a run of another learner."
        )
    if not test_again and (tasks is not None or test_seed is not None):
        raise ValueError(
            "compare: stored results have their own tasks. Give --test-again to test on others."
        )
    asked = {"runs": [str(path) for path in paths], "matters": matters}
    if test_again:
        tasks, test_seed = tasks or 600, test_seed or 0
        asked |= {"test_again": {"tasks": tasks, "test_seed": test_seed}}
    folder = None if out is None else Folder.of_settings(out, asked)
    settings = _settings(groups)
    if test_again:
        found = _tested_again(groups, matters, tasks or 600, test_seed or 0, device, progress)
    else:
        refuse_unequal(groups, REMEDY)
        first = groups[0].runs[0]
        evaluations = [[stored(run) for run in group.runs] for group in groups]
        entries = [
            entry_of(group, of_group) for group, of_group in zip(groups, evaluations, strict=True)
        ]
        baselines, left_out = stored_baselines(first, evaluations[0][0])
        found = compared([*entries, *baselines], matters, settings=settings, left_out=left_out)
    if folder is not None:
        folder.write(found)
    return found


def _opened(path: Path) -> Run:
    run = Run.open(path)
    if run.recipe.folds is not None:
        raise ValueError(
            f"{path}: is of a cross-validation, whose folds are tested on different classes. "
            "Compare runs on one split."
        )
    if not (run.path / "evaluation.json").is_file():
        raise FileNotFoundError(
            f"{path}: has no result yet. Continue it with `quickstudy run --resume {path}`."
        )
    return run


def _refuse_different(runs: Sequence[Run]) -> None:
    """ValueError, naming the difference, for runs whose test tasks cannot be the same."""
    first = runs[0]
    expected = _of_tasks(first.recipe)
    for run in runs[1:]:
        for name, value in _of_tasks(run.recipe).items():
            if value != expected[name]:
                raise ValueError(
                    f"compare: runs must have the same tasks; found {name} {shown(expected[name])} "
                    f"in {first.path} and {shown(value)} in {run.path}. Train both alike, or leave "
                    "one out."
                )


def _of_tasks(recipe: Recipe) -> dict[str, Any]:
    values = {name: getattr(recipe, name) for name in SAME}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _settings(groups: Sequence[Group[Run]]) -> dict[str, Any]:
    """What the runs share, and the budgets where they differ."""
    recipes = {group.name: group.runs[0].recipe for group in groups}
    first = next(iter(recipes.values()))
    settings: dict[str, Any] = {name: _of_tasks(first)[name] for name in SAME}
    settings |= told_apart(recipes, OF_TRAINING)
    settings["runs"] = {group.name: [str(run.path) for run in group.runs] for group in groups}
    settings["test_seed"] = test_seed(first)
    return settings


def _tested_again(
    groups: Sequence[Group[Run]], matters: float, tasks: int, seed: int, device: str | None,
    progress: bool,
) -> Comparisons:  # fmt: skip
    shuffled = any(reads_a_sequence(group.runs[0].recipe) for group in groups)
    recipes = {
        group.name: replace(
            group.runs[0].recipe, test_seed=seed, shuffled=shuffled, device=device
        )
        for group in groups
    }  # fmt: skip
    loaded = Loaded(*recipes.values())
    source, baselines, left_out = baselines_of(recipes, loaded)
    least = min(len(group.runs) for group in groups)
    if any(len(group.runs) != least for group in groups):
        refuse_unequal(groups, REMEDY)
    contenders = [
        Contender(group.name, group.title, LEARNER, _loaded(group, recipes[group.name], loaded))
        for group in groups
    ]
    contest = Contest(
        [*contenders, *baselines], source, least, tasks, matters, seed, _settings(groups), left_out
    )
    with Display(progress) as display:
        return decide(contest, display)


def _loaded(group: Group[Run], recipe: Recipe, loaded: Loaded) -> Callable[[int, OnStep], Trained]:
    def train(place: int, on_step: OnStep) -> Trained:
        run = group.runs[place]
        learner = run.learner()[0].to(choose_device(recipe.device))
        seconds, cpu_seconds = run.times
        return replace(
            loaded.trained(recipe, learner), seconds=seconds, cpu_seconds=cpu_seconds,
            steps=run.recipe.budget().steps,
        )  # fmt: skip

    return train
