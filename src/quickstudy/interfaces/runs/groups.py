"""Finished runs of any kind, grouped by learner, as entries of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from quickstudy.base.shown import shown
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.run_files import RunFiles
from quickstudy.selection.comparing.comparison import LEARNER, Entry
from quickstudy.selection.comparing.contest import size_of
from quickstudy.selection.comparing.stored import refuse_other_mean

R = TypeVar("R", bound=RunFiles)


@dataclass(frozen=True)
class Group(Generic[R]):
    """The runs of one learner, which differ in their seeds alone."""

    name: str
    title: str
    runs: tuple[R, ...]


def key_of(recipe: Mapping[str, Any]) -> str:
    """The same for the recipes of runs that differ in their seed alone."""
    return str({**recipe, "seed": 0, "test_seed": 0, "device": None, "threads": None})


def told_apart(recipes: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields ``names`` of all recipes: one value where they agree, else that of each learner.

    ``recipes``  by learner.
    """
    found: dict[str, Any] = {}
    for name in names:
        values = {learner: getattr(recipe, name) for learner, recipe in recipes.items()}
        differ = len(set(map(str, values.values()))) > 1
        found[name] = values if differ else next(iter(values.values()))
    return found


def stored(run: RunFiles) -> Evaluation:
    """The stored evaluation; ValueError where it was edited."""
    evaluation = run.evaluation()
    for row in evaluation.rows:
        refuse_other_mean(run.path / "evaluation.json", row.label, row)
    return evaluation


def refuse_twice(runs: Sequence[RunFiles]) -> None:
    """ValueError where one folder is given twice."""
    seen: dict[Path, Path] = {}
    for run in runs:
        place = run.path.resolve()
        if place in seen:
            raise ValueError(f"compare: {run.path} is given twice. Name each run once.")
        seen[place] = run.path


def grouped(runs: Sequence[tuple[R, str, str]]) -> list[Group[R]]:
    """The runs of each learner, in the order in which they were given.

    ``runs``  each with its learner, and a text that is the same for runs of one group.

    Raises ValueError for two trainings from one seed, and for two groups of one name.
    """
    found: dict[str, list[tuple[R, str]]] = {}
    for run, learner, key in runs:
        found.setdefault(key, []).append((run, learner))
    learners = [of_one[0][1] for of_one in found.values()]
    groups = []
    for of_one, learner in zip(found.values(), learners, strict=True):
        members = [run for run, _ in of_one]
        seeds = [run.seed for run in members]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"compare: {members[0].path} and {members[1].path} are trainings of one learner "
                "from one seed, so they are one training. Leave one out."
            )
        name, title = learner, title_of_learner(learner)
        if learners.count(learner) > 1:
            name = members[0].path.name
            title = f"{title} ({name})"
        groups.append(Group(name, title, tuple(sorted(members, key=lambda run: run.seed))))
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"compare: each learner needs a name of its own; found two folders {shown(twice)}. "
            "Rename one."
        )
    return groups


def title_of_learner(name: str) -> str:
    """The title on the learner's card, where it has one."""
    return LEARNERS[name].title if name in LEARNERS else name.replace("_", " ").capitalize()


def refuse_unequal(groups: Sequence[Group[R]], remedy: str) -> None:
    """ValueError where learners have other seeds, or results of other tasks.

    ``remedy``  what to do about other tasks.
    """
    first = groups[0]
    seeds = [run.seed for run in first.runs]
    for group in groups[1:]:
        if len(group.runs) != len(first.runs):
            raise ValueError(
                f"compare: all learners need as many trainings; found {len(first.runs)} of "
                f"{first.name} and {len(group.runs)} of {group.name}. Train the other seeds too "
                f"({', '.join(map(str, seeds))}), or leave some out."
            )
    known = {}
    for run in (run for group in groups for run in group.runs):
        known[run.evaluation().fingerprint] = run
    if len(known) > 1:
        (one, run), (other, second) = list(known.items())[:2]
        raise ValueError(
            f"compare: learners are compared on the same tasks; found the fingerprint {one} in "
            f"{run.path} and {other} in {second.path}. {remedy}"
        )


def entry_of(group: Group[R], evaluations: Sequence[Evaluation]) -> Entry:
    """The learner of ``group``, with the results of its runs."""
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
        group.runs[0].steps,
    )


def _without_baselines(rows: Sequence[Result]) -> tuple[Result, ...]:
    return tuple(replace(row, baselines=()) for row in rows)
