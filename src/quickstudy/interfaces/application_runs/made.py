"""Applications from their names and options, and the parts of a run from its recipe."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from importlib import import_module
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import torch

from quickstudy.applications.application import Application, Prepared
from quickstudy.applications.registry import DATA, card
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.interfaces.application_runs.recipe import (
    SETTINGS,
    ApplicationRecipe,
    read_application_recipe,
)
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.settings import checked
from quickstudy.tasks.fixed import FixedTasks


def application_class(name: str) -> type[Application]:
    """The class of the application ``name``; ValueError for an unknown one.

    Raises ImportError, with the command, where a package is missing that it needs.
    """
    found = card(name)
    module = import_module(f"quickstudy.applications.{name}")
    return cast("type[Application]", getattr(module, found.class_name))


def make_application(name: str, options: Mapping[str, Any]) -> Application:
    """The application ``name`` with these options; ValueError for a wrong name, type or value."""
    cls = application_class(name)
    hints = _options_of(cls)
    arguments = {}
    for option, value in options.items():
        if option not in hints:
            raise unknown_name(f"option of {name}", str(option), hints)
        arguments[option] = checked(f"option {option} of {name}", value, hints[option])
    return cls(**arguments)


def options_of(application: Application) -> dict[str, Any]:
    """All options of ``application``, as JSON values from which it is made again."""
    assert is_dataclass(application)
    return cast("dict[str, Any]", json.loads(json.dumps(asdict(application))))


def _options_of(cls: type[Application]) -> dict[str, Any]:
    """The names and types of the options of an application."""
    hints = get_type_hints(cls)
    return {name: _readable(hints[name]) for name in inspect.signature(cls).parameters}


def _readable(hint: Any) -> Any:
    """A type for :func:`.checked`, which reads a list of a file where a tuple is wanted."""
    if get_origin(hint) in (Union, UnionType):
        parts = [_readable(part) for part in get_args(hint)]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined | part
        return joined
    if get_origin(hint) is tuple:
        return Sequence[get_args(hint)[0]]  # type: ignore[misc]  # a type that is known at run time
    return hint


def recipe_from(values: Mapping[str, Any]) -> ApplicationRecipe:
    """The recipe of an application's run from the values of a file and of the command line.

    A value that is called like an option of the application, such as ``ways``, is that option.
    Raises ValueError for one that means nothing for it.
    """
    name = values["application"] if "application" in values else DATA[values["data"]].name
    valid = _options_of(application_class(checked("recipe: application", name, str)))
    given = checked("recipe: options", values.get("options", {}), dict[str, Any])
    options = dict(given)
    for setting in sorted(set(values) - set(SETTINGS)):
        if setting not in valid:
            own = f", and with --set: {', '.join(sorted(valid))}" if valid else ""
            usual = ", ".join(n for n in SETTINGS if n not in ("application", "options"))
            raise ValueError(
                f"run: {setting.replace('_', '-')} means nothing for the application {name}. Leave "
                f"it out. Its settings are {usual}{own}."
            )
        options[setting] = values[setting]
    kept = {name: value for name, value in values.items() if name in SETTINGS}
    return read_application_recipe({**kept, "options": options})


def prepare(recipe: ApplicationRecipe) -> tuple[Application, ApplicationRecipe, Prepared]:
    """The application, the recipe with all defaults filled in, and the parts of its run.

    The learner and the baselines are on the recipe's device. Raises ValueError or OSError where
    they cannot be made.
    """
    device = choose_device(recipe.device)
    application = make_application(recipe.application, recipe.options)
    learner = recipe.learner or application.learners[0]
    if learner not in application.learners:
        raise unknown_name(
            f"learner of {recipe.application}", learner, dict.fromkeys(application.learners)
        )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        made = application.prepare(
            recipe.card.data_of(recipe.data), recipe.folder, learner, recipe.shots, recipe.seed
        )
    made.learner.to(device)
    for rival in made.baselines.values():
        rival.to(device)
    recipe = replace(recipe, learner=learner, options=options_of(application))
    return application, _complete(recipe, made), made


def _complete(recipe: ApplicationRecipe, made: Prepared) -> ApplicationRecipe:
    """``recipe`` with the defaults of ``made``; ValueError for steps where nothing is trained."""
    trains = made.train is not None and any(p.requires_grad for p in made.learner.parameters())
    if recipe.steps and not trains:
        own = " (its steps on a support set are --set steps=NUMBER)"
        raise ValueError(
            f"steps: {recipe.learner} has nothing to train over tasks here, since it learns every "
            f"task from its support set alone; found {recipe.steps}. Leave steps out"
            f"{own if 'steps' in recipe.options else ''}, or take another learner."
        )
    steps = (made.steps if recipe.steps is None else recipe.steps) if trains else 0
    tasks, every = most_tasks(made.test, made.test_tasks), recipe.validate_every
    return replace(
        recipe.with_absolute_root(),
        steps=steps,
        tasks_per_step=recipe.tasks_per_step or made.tasks_per_step,
        rate=recipe.rate or made.rate,
        clip=recipe.clip or made.clip,
        validate_every=max(1, -(-steps // 4)) if every is None else every,
        test_tasks=tasks if recipe.test_tasks is None else recipe.test_tasks,
    )


def most_tasks(source: Any, tasks: int) -> int:
    """``tasks``, or as many as a fixed source has."""
    return min(tasks, len(source)) if isinstance(source, FixedTasks) else tasks


def refuse_unknown_settings(who: str, application: str, given: Mapping[str, Any]) -> None:
    """ValueError where an option of the command line is given that means nothing for it."""
    if given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{who}: --{name.replace('_', '-')} means nothing for the application {application}; "
            f"found {shown(value)}. Leave it out."
        )
