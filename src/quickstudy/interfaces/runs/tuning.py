"""Tune a recipe: sample settings, train with them, and write the best as a recipe of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from quickstudy.base.atomic import write_atomically
from quickstudy.base.names import unknown_name
from quickstudy.base.words import count
from quickstudy.core import Learner
from quickstudy.evaluation.validation import Validation
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.assemble import Parts, is_centred, make_learner, prepare
from quickstudy.interfaces.runs.choice import is_open, with_usual_backbone
from quickstudy.interfaces.runs.featured import on_features
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe, read_recipe
from quickstudy.learners.cards import Space
from quickstudy.selection.tuning.problem import TASKS, TuningProblem
from quickstudy.selection.tuning.space import RATE, in_words, options_of, space_in_words, space_on
from quickstudy.selection.tuning.trial import Row
from quickstudy.selection.tuning.tune import tune_problem
from quickstudy.selection.tuning.tuned import Tuned
from quickstudy.training.optimisers import adam, sgd
from quickstudy.training.plan import explain as explain_training
from quickstudy.training.schedules import cosine

REPORTS = 8
"""Validations of a training, unless the recipe says how often."""

VALIDATION_TASKS = 100
"""Tasks of each validation, as many as in a run."""

_OF_THE_MACHINE = ("root", "threads", "device", "workers", "compile", "test_tasks", "options")
"""Settings that a storage need not agree with; options are compared with the learner."""

_MARK = "# Written by `quickstudy tune`"


@dataclass(frozen=True)
class Tuning:
    """A recipe that is to be tuned: its values, what they make, and what to try."""

    values: Mapping[str, Any]
    parts: Parts
    problem: TuningProblem
    space: Mapping[str, Space]

    def run(
        self,
        trials: int,
        storage: str | Path | None,
        *,
        name: str = "quickstudy",
        minutes: float | None = None,
        on_trial: Callable[[Row], object] | None = None,
    ) -> Tuned:
        """Run trials until there are ``trials`` in the storage; see :func:`quickstudy.tune`."""
        recipe = {k: v for k, v in self.parts.recipe.to_json().items() if k not in _OF_THE_MACHINE}
        return tune_problem(
            self.problem, self.space, trials=trials, storage=storage, name=name, minutes=minutes,
            on_trial=on_trial, about={k: _plain(v) for k, v in recipe.items()},
            base=self.parts.trained,
        )  # fmt: skip

    def best(self, tuned: Tuned) -> dict[str, Any]:
        """The values of the recipe with the best settings; ``quickstudy run`` takes them."""
        values = dict(self.values)
        settings = tuned.settings
        if RATE in settings:
            values[RATE] = settings[RATE]
        if options := options_of(settings):
            values["options"] = {**self.parts.recipe.options, **options}
        if self.problem.steps:
            values["validate_every"] = self.problem.validation.every
        return values

    def explanation(self, trials: int, storage: str | Path | None) -> str:
        """What would be tried, and how; trains nothing and writes nothing."""
        problem, recipe = self.problem, self.parts.recipe
        lines = [
            f"{count(trials, 'trial')} of {recipe.learner} on {recipe.data}, kept in "
            f"{storage or 'memory'}; the first with the recipe as it is",
            *(f"  {name}: {space_in_words(values)}" for name, values in self.space.items()),
            f"each is scored on {count(problem.validation.tasks, 'validation task')}, never on "
            "test tasks",
        ]
        if not problem.steps:
            return "\n".join([*lines, "nothing is trained: the learner has 0 steps"])
        reports = -(-problem.steps // problem.validation.every)
        return "\n".join([
            *lines,
            f"each takes {count(problem.steps, 'step')}, with {count(reports, 'validation')}; of "
            "those that come to 1, 2, 4, ... validations the better half goes on",
            explain_training(self.parts.trained, problem.train, problem.tasks_per_step,
                             seed=problem.seed, compute=problem.compute),
        ])  # fmt: skip


def begin_tuning(
    values: Mapping[str, Any],
    *,
    keep: tuple[str, ...] = (),
    seed: int | None = None,
    tasks: int = TASKS,
    progress: bool = True,
) -> Tuning:
    """Everything that tuning a recipe with these ``values`` needs.

    ``keep``  settings that are not tuned: they keep the recipe's value.
    ``seed``  of settings, trainings and tasks; the recipe's own by default.

    Raises ValueError for a recipe that cannot run, one whose data have no validation classes, one
    that leaves the learner to be chosen, and where nothing is to be tried.
    """
    values = with_usual_backbone(values)
    recipe = read_recipe(values)
    _refuse(values, recipe)
    space = _space(recipe, keep)
    if seed is not None:
        recipe = read_recipe({**values, "seed": seed})
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    parts = prepare(recipe)
    source, budget = parts.sources.val, parts.recipe.budget()
    if source is None:
        raise ValueError(
            f"tune: trials are scored on validation classes, but {recipe.data} has none in this "
            "split. Give a split or fractions that keep some, such as fractions: [0.6, 0.2, 0.2]."
        )
    if recipe.validate_every == 0:
        raise ValueError(
            "tune: trials are scored by validation; found validate_every 0. Leave it out."
        )
    every = recipe.validate_every or max(1, -(-budget.steps // REPORTS))
    parts = replace(parts, recipe=replace(parts.recipe, validate_every=every))
    if not budget.steps:
        space = {name: tried for name, tried in space.items() if name != RATE}
    validation = Validation(source, every, VALIDATION_TASKS, recipe.patience, seed=recipe.seed)
    problem = TuningProblem(
        _Made(parts), parts.sources.train, validation, budget.steps, budget.tasks_per_step,
        budget.rate, {"adam": adam, "sgd": sgd}[budget.optimiser], cosine, recipe.clip,
        recipe.compute, tasks, recipe.seed, progress,
    )  # fmt: skip
    return Tuning(values, parts, problem, space)


def _refuse(values: Mapping[str, Any], recipe: Recipe) -> None:
    if is_open(values):
        raise ValueError(
            "tune: the recipe leaves backbone and learner to be chosen, so there are no settings "
            "to try yet. Give a learner."
        )
    if recipe.folds:
        raise ValueError(
            "tune: in a cross-validation every class is tested on, so none is left to score trials "
            "on. Leave folds out."
        )


def _space(recipe: Recipe, keep: tuple[str, ...]) -> dict[str, Space]:
    space = space_on(LEARNERS[recipe.learner])
    for name in keep:
        if name not in space:
            raise unknown_name(f"setting of {recipe.learner} to keep", name, space)
    left = {name: values for name, values in space.items() if name not in keep}
    if not left:
        raise ValueError(
            f"tune: nothing is left to try: {recipe.learner} has the settings {', '.join(space)}, "
            "and all are kept. Leave one --keep out."
        )
    return left


@dataclass(frozen=True)
class _Made:
    """Settings and seed -> the recipe's learner with them, on its device."""

    parts: Parts

    def __call__(self, settings: Mapping[str, Any], seed: int) -> Learner:
        recipe, found = self.parts.recipe, self.parts.featured
        options = {**recipe.options, **options_of(settings)}
        recipe = replace(recipe, seed=seed, options=options)
        learner = make_learner(recipe, tuple(self.parts.data.train.inputs.shape[1:]))
        learner.to(choose_device(recipe.device))
        reader = learner if found is None else on_features(learner)
        if is_centred(reader):
            reader.centre_on((found.features if found else self.parts.data).train)  # type: ignore[operator]
        return reader


def refuse_other_file(path: Path) -> None:
    """FileExistsError where ``path`` is a file that tuning did not write."""
    if not path.exists():
        return
    if path.is_file() and path.open("rb").read(len(_MARK)).decode(errors="replace") == _MARK:
        return
    raise FileExistsError(
        f"{path}: exists already, and is not of `quickstudy tune`. Give another name with --out."
    )


def write_best(path: Path, tuning: Tuning, tuned: Tuned, source: str) -> Path:
    """Write the best recipe to ``path``; ``source`` is the recipe that was tuned."""
    best = tuned.best
    head = [
        f"{_MARK} {source}: trial {best.place} of {len(tuned.trials)},",
        f"# {tuned.score} {best.score:.4f} on validation tasks"
        + (f" ({in_words(best.settings)})." if best.place else ", the recipe as it was."),
        "# Train and test it with: quickstudy run --config THIS_FILE",
    ]
    text = yaml.safe_dump(tuning.best(tuned), sort_keys=False, allow_unicode=True)
    refuse_other_file(path)
    return write_atomically(path, ("\n".join(head) + "\n" + text).encode())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
