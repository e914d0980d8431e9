"""Comparing finished runs of one application by their stored results; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quickstudy.base.shown import shown
from quickstudy.evaluation.baselines import UNTRAINED_FEATURES, UNTRAINED_LEARNER
from quickstudy.interfaces.application_runs.execute import test_seed
from quickstudy.interfaces.application_runs.folder import ApplicationRun, is_application_run
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
from quickstudy.interfaces.runs.stored_baselines import stored_entry
from quickstudy.selection.comparing.compare import check_matters
from quickstudy.selection.comparing.compared import Comparisons, compared
from quickstudy.selection.comparing.stored import Folder

SAME = ("application", "data", "root", "shots")
"""Settings that runs must share to have the same test tasks."""

OF_TRAINING = ("options", "steps", "tasks_per_step", "rate", "validate_every", "patience")
"""Settings that runs need not share; where they do not, the comparison says so."""

REMEDY = "Run them with the same options and --test-seed."


def compare_application_runs(
    paths: Sequence[Path], out: Path | None = None, *, matters: float = 0.005
) -> Comparisons:
    """Compare the runs in these folders: those that differ in their seed alone are one learner.

    ``out``  a folder for the result; None to write nothing.

    Baselines of the answer and of the application stand beside them, as the first run stored them.

    Raises ValueError, naming the difference, for runs of other data or tasks, for a result that was
    edited, and for fewer than 2 learners.
    """
    check_matters(matters)
    runs = [_opened(path) for path in paths]
    refuse_twice(runs)
    _refuse_different(runs)
    groups = grouped(
        [(run, run.recipe.learner or "", key_of(run.recipe.to_json())) for run in runs]
    )
    if len(groups) < 2:
        raise ValueError(
            f"compare: needs at least 2 learners; found {len(runs)} runs of one, which differ in "
            "their seeds alone. Add a run of another learner."
        )
    refuse_unequal(groups, REMEDY)
    folder = None
    if out is not None:
        asked = {"runs": [str(path) for path in paths], "matters": matters}
        folder = Folder.of_settings(out, asked)
    evaluations = [[stored(run) for run in group.runs] for group in groups]
    first = evaluations[0][0]
    entries = [entry_of(*pair) for pair in zip(groups, evaluations, strict=True)]
    baselines = [
        stored_entry(each, first)
        for each in first.main.baselines
        if each.name not in (UNTRAINED_FEATURES, UNTRAINED_LEARNER)  # of one learner alone
    ]
    found = compared(
        [*entries, *baselines], matters, settings=_settings(groups), left_out=first.left_out
    )
    if folder is not None:
        folder.write(found)
    return found


def _opened(path: Path) -> ApplicationRun:
    if not is_application_run(path):
        raise ValueError(
            f"compare: {path} is not the run of an application, but another folder is. Compare "
            "runs on the same tasks."
        )
    run = ApplicationRun.open(path)
    if not (run.path / "evaluation.json").is_file():
        raise FileNotFoundError(
            f"{path}: has no result yet. Continue it with `quickstudy run --resume {path}`."
        )
    return run


def _refuse_different(runs: Sequence[ApplicationRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for name in SAME:
            one, other = (getattr(each.recipe, name) for each in (first, run))
            if one != other:
                raise ValueError(
                    f"compare: runs must have the same tasks; found {name} {shown(one)} in "
                    f"{first.path} and {shown(other)} in {run.path}. Run both alike, or leave one "
                    "out."
                )


def _settings(groups: Sequence[Group[ApplicationRun]]) -> dict[str, Any]:
    """What the runs share, and what differs."""
    recipes = {group.name: group.runs[0].recipe for group in groups}
    first = next(iter(recipes.values()))
    settings: dict[str, Any] = {name: getattr(first, name) for name in SAME}
    settings |= told_apart(recipes, OF_TRAINING)
    settings["runs"] = {group.name: [str(run.path) for run in group.runs] for group in groups}
    settings["test_seed"] = test_seed(first)
    return settings
