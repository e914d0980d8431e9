"""Comparing finished runs by their stored results; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.shown import shown
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.compared_runs import baselines_of
from quickstudy.interfaces.runs.execute import test_seed
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.loaded import Loaded
from quickstudy.interfaces.runs.plan import reads_a_sequence
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.interfaces.runs.stored_baselines import stored_baselines
from quickstudy.selection.comparing.compare import check_matters
from quickstudy.selection.comparing.compared import Comparisons, compared
from quickstudy.selection.comparing.comparison import LEARNER, Entry
from quickstudy.selection.comparing.contenders import Contender, OnStep, Trained
from quickstudy.selection.comparing.contest import Contest, decide, size_of
from quickstudy.selection.comparing.display import Display
from quickstudy.selection.comparing.stored import Folder, refuse_other_mean

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


@dataclass(frozen=True)
class Group:
    """The runs of one learner, which differ in their seeds alone."""

    name: str
    title: str
    runs: tuple[Run, ...]


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
    _refuse_twice(runs)
    _refuse_different(runs)
    groups = grouped(runs)
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
        _refuse_unequal(groups)
        first = groups[0].runs[0]
        evaluations = [[_stored(run) for run in group.runs] for group in groups]
        entries = [
            _entry(group, of_group) for group, of_group in zip(groups, evaluations, strict=True)
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


def _stored(run: Run) -> Evaluation:
    """The stored evaluation; ValueError where it was edited."""
    evaluation = run.evaluation()
    for row in evaluation.rows:
        refuse_other_mean(run.path / "evaluation.json", row.label, row)
    return evaluation


def _refuse_twice(runs: Sequence[Run]) -> None:
    seen: dict[Path, Path] = {}
    for run in runs:
        place = run.path.resolve()
        if place in seen:
            raise ValueError(f"compare: {run.path} is given twice. Name each run once.")
        seen[place] = run.path


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


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs of each learner, in the order in which they were given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        recipe = run.recipe.to_json() | {"seed": 0, "test_seed": 0, "device": None, "threads": None}
        found.setdefault(str(recipe), []).append(run)
    learners = [of_one[0].recipe.learner for of_one in found.values()]
    groups = []
    for of_one, learner in zip(found.values(), learners, strict=True):
        seeds = [run.recipe.seed for run in of_one]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"compare: {of_one[0].path} and {of_one[1].path} are trainings of one learner from "
                "one seed, so they are one training. Leave one out."
            )
        name, title = learner, LEARNERS[learner].title
        if learners.count(learner) > 1:
            name = of_one[0].path.name
            title = f"{title} ({name})"
        groups.append(Group(name, title, tuple(sorted(of_one, key=lambda run: run.recipe.seed))))
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"compare: each learner needs a name of its own; found two folders {shown(twice)}. "
            "Rename one."
        )
    return groups


def _refuse_unequal(groups: Sequence[Group]) -> None:
    """ValueError where learners have other seeds, or results of other tasks."""
    first = groups[0]
    seeds = [run.recipe.seed for run in first.runs]
    for group in groups[1:]:
        if len(group.runs) != len(first.runs):
            raise ValueError(
                f"compare: all learners need as many trainings; found {len(first.runs)} of "
                f"{first.name} and {len(group.runs)} of {group.name}. Train the other seeds too "
                f"({', '.join(map(str, seeds))}), or leave some out."
            )
    remedy = "Give --test-again to test all of them on the same tasks, which trains nothing."
    known = {}
    for run in (run for group in groups for run in group.runs):
        known[run.evaluation().fingerprint] = run
    if len(known) > 1:
        (one, run), (other, second) = list(known.items())[:2]
        raise ValueError(
            f"compare: learners are compared on the same tasks; found the fingerprint {one} in "
            f"{run.path} and {other} in {second.path}. {remedy}"
        )


def _entry(group: Group, evaluations: Sequence[Evaluation]) -> Entry:
    times = [run.times for run in group.runs]
    learner, _ = group.runs[0].learner()
    return Entry(
        group.name,
        group.title,
        LEARNER,
        tuple(replace(each, rows=_without_baselines(each.rows)) for each in evaluations),
        tuple(seconds for seconds, _ in times),
        tuple(cpu_seconds for _, cpu_seconds in times),
        *size_of(learner),
        group.runs[0].recipe.budget().steps,
    )


def _without_baselines(rows: Sequence[Result]) -> tuple[Result, ...]:
    return tuple(replace(row, baselines=()) for row in rows)


def _settings(groups: Sequence[Group]) -> dict[str, Any]:
    """What the runs share, and the budgets where they differ."""
    recipes = {group.name: group.runs[0].recipe for group in groups}
    first = next(iter(recipes.values()))
    settings: dict[str, Any] = {name: _of_tasks(first)[name] for name in SAME}
    for name in OF_TRAINING:
        values = {learner: getattr(recipe, name) for learner, recipe in recipes.items()}
        differ = len(set(map(str, values.values()))) > 1
        settings[name] = values if differ else next(iter(values.values()))
    settings["runs"] = {group.name: [str(run.path) for run in group.runs] for group in groups}
    settings["test_seed"] = test_seed(first)
    return settings


def _tested_again(
    groups: Sequence[Group], matters: float, tasks: int, seed: int, device: str | None,
    progress: bool,
) -> Comparisons:  # fmt: skip
    shuffled = any(reads_a_sequence(group.runs[0].recipe) for group in groups)
    recipes = {
        group.name: replace(
            group.runs[0].recipe, test_seed=seed, shuffled=shuffled, device=device
        )
        for group in groups
    }  # fmt: skip
    loaded = Loaded(next(iter(recipes.values())))
    source, baselines, left_out = baselines_of(recipes, loaded)
    least = min(len(group.runs) for group in groups)
    if any(len(group.runs) != least for group in groups):
        _refuse_unequal(groups)
    contenders = [
        Contender(group.name, group.title, LEARNER, _loaded(group, recipes[group.name], loaded))
        for group in groups
    ]
    contest = Contest(
        [*contenders, *baselines], source, least, tasks, matters, seed, _settings(groups), left_out
    )
    with Display(progress) as display:
        return decide(contest, display)


def _loaded(group: Group, recipe: Recipe, loaded: Loaded) -> Callable[[int, OnStep], Trained]:
    def train(place: int, on_step: OnStep) -> Trained:
        run = group.runs[place]
        learner = run.learner()[0].to(choose_device(recipe.device))
        seconds, cpu_seconds = run.times
        return replace(
            loaded.trained(recipe, learner), seconds=seconds, cpu_seconds=cpu_seconds,
            steps=run.recipe.budget().steps,
        )  # fmt: skip

    return train
