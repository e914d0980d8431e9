"""Comparing learners by recipes: each learner and seed is a run in the comparison's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quickstudy.base.atomic import write_atomically
from quickstudy.base.errors import first_line
from quickstudy.core import Learner
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.timing import seconds_per_adaptation
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.assemble import Parts, make_test_source
from quickstudy.interfaces.runs.execute import Interrupted, optimiser_of, test_seed, train
from quickstudy.interfaces.runs.featured import is_fixed
from quickstudy.interfaces.runs.fitted import keep_split
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.loaded import Loaded
from quickstudy.interfaces.runs.plan import Plan
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.interfaces.runs.run_files import new_folder
from quickstudy.selection.comparing.budget import (
    Minutes,
    Pace,
    seconds_per_step,
    seconds_per_task,
    told,
)
from quickstudy.selection.comparing.compare import check_fits
from quickstudy.selection.comparing.compared import Comparisons
from quickstudy.selection.comparing.comparison import LEARNER
from quickstudy.selection.comparing.contenders import Contender, OnStep, Stopped, Trained
from quickstudy.selection.comparing.contest import Contest, decide
from quickstudy.selection.comparing.display import Display
from quickstudy.selection.comparing.distinct import refuse_baseline_names
from quickstudy.selection.comparing.simple import (
    PROBE,
    TARGET_ONLY,
    UNTRAINED,
    on_pretrained,
    target_only,
    untrained_backbone,
)
from quickstudy.selection.comparing.stored import Folder
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.training.fit import fit


def compare_recipes(
    plan: Plan, loaded: Loaded, path: Path | None, *, command: str = "", progress: bool = True,
    begun: Callable[[Path], object] = lambda path: None,
) -> Comparisons:  # fmt: skip
    """Carry out ``plan`` in the folder ``path``, or go on where it was begun; see :mod:`.stored`.

    Whatever cannot run is found before any training: learners that do not fit, tasks that differ.

    ``path``   by default a new folder in ``runs``.
    ``begun``  called with the folder once it is there, and nothing more is refused.

    Raises :class:`Stopped` where Ctrl-C, SIGTERM or SIGHUP ended training; the same call continues.
    """
    if path is not None and (path / "plan.json").is_file():
        kept = Folder.of_settings(path, plan.to_json())
        if kept.finished:
            begun(path)
            return kept.read()
    first = next(iter(plan.recipes.values()))
    torch.set_num_threads(first.threads or torch.get_num_threads())
    learners = {name: loaded.learner(recipe) for name, recipe in plan.recipes.items()}
    for name, learner in learners.items():
        recipe = plan.recipes[name]
        sources = loaded.parts(recipe, learner).sources
        tested = loaded.trained(recipe, learner, plan.over_shots)
        check_fits(name, tested.learner, (sources.train, tested.source), test_seed(recipe))
    folder = Folder.of_settings(path or new_folder(f"compare-{first.data}"), plan.to_json())
    begun(folder.path)
    with Display(progress) as display:
        paces = _paces(plan, loaded, learners, folder, display)
        recipes = {name: _paced(each, paces[name]) for name, each in plan.recipes.items()}
        contenders = [
            _contender(name, recipe, loaded, folder, plan, command)
            for name, recipe in recipes.items()
        ]
        source, baselines, left_out = baselines_of(plan.recipes, loaded)
        settings = {**_facts(first, plan), **told(paces)}
        contest = Contest(
            [*contenders, *baselines], source, plan.seeds, plan.tasks, plan.matters,
            test_seed(first), settings, left_out,
        )  # fmt: skip
        found = decide(contest, display, lambda *kept: _keep(folder, recipes, loaded, *kept))
    folder.write(found)
    return found


def begun_by(folder: Path) -> str:
    """The command that began the comparison in ``folder``, before any resuming; "" if not known."""
    for file in sorted(folder.glob("*-seed-0/origin.json")):
        return Run.open(file.parent).origin.command
    return ""


def _facts(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """What the table, its page and its readers need to know of how it was made."""
    names = (
        "data", "root", "split", "size", "rotations", "ways", "shots", "queries", "train_ways",
        "train_queries", "within_superclass", "tasks_per_step", "backbone", "threads",
    )  # fmt: skip
    values = recipe.to_json()
    return {
        **{name: values[name] for name in names},
        **{name: plan.to_json()[name] for name in ("budget", "seeds", "tasks", "matters")},
        "test_seed": test_seed(recipe),
    }


def _trains(learner: Learner) -> bool:
    return any(parameter.requires_grad for parameter in learner.parameters())


def _paced(recipe: Recipe, pace: Pace) -> Recipe:
    """The recipe with so many steps, and without validation where that takes too long."""
    found = replace(recipe, steps=pace.steps)
    return found if pace.validated else replace(found, validate_every=0, patience=None)


def _paces(
    plan: Plan, loaded: Loaded, learners: Mapping[str, Learner], folder: Folder, display: Display
) -> dict[str, Pace]:
    """Steps of each learner: those of the budget, or as many as were measured to fit in it."""
    budget = plan.budget
    if not isinstance(budget, Minutes):
        return {name: Pace(budget if _trains(each) else 0) for name, each in learners.items()}
    kept = folder.kept_paces()
    for name, recipe in plan.recipes.items():
        if name in kept:
            continue
        display.begin(f"{name}: measuring the time of a step")
        kept[name] = Pace(0)
        if _trains(learners[name]):
            parts = loaded.parts(recipe, loaded.learner(recipe))
            a_step, val = seconds_per_step(partial(_pilot, parts)), parts.sources.val
            a_task = None if val is None else seconds_per_task(parts.trained, val)
            kept[name] = budget.pace(a_step, a_task)
        folder.keep_paces(kept)
    return kept


def _pilot(parts: Parts, on_step: Callable[[Any], object]) -> None:
    recipe = parts.recipe
    fit(
        parts.trained, parts.sources.train, 1_000_000, recipe.budget().tasks_per_step,
        optimiser=optimiser_of(recipe), seed=recipe.seed, clip=recipe.clip, progress=False,
        compute=recipe.compute, on_step=on_step,
    )  # fmt: skip


def _contender(
    name: str, recipe: Recipe, loaded: Loaded, folder: Folder, plan: Plan, command: str
) -> Contender:
    card = LEARNERS[recipe.learner]

    def trained(seed: int, on_step: OnStep) -> Trained:
        of_seed = replace(recipe, seed=seed)
        run = _run(of_seed, folder.run(name, seed), command)
        keep_split(run.path, loaded.data)
        if not (run.path / "learner.safetensors").is_file():
            parts = loaded.parts(of_seed, loaded.learner(of_seed))
            steps = recipe.budget().steps
            ended = train(
                run, parts, resume=True, progress=False,
                on_step=lambda step: on_step(step.step, steps),
            )  # fmt: skip
            if isinstance(ended, Interrupted):
                raise Stopped(ended.signal)
        # Read back also where it was just trained: a file keeps no memory layout, which may change
        # the last bits of a test.
        learner = run.learner()[0].to(choose_device(recipe.device))
        seconds, cpu_seconds = run.times
        return replace(
            loaded.trained(of_seed, learner, plan.over_shots if seed == 0 else ()),
            seconds=seconds, cpu_seconds=cpu_seconds, steps=recipe.budget().steps,
        )  # fmt: skip

    return Contender(name, card.title if name == card.name else name, LEARNER, trained)


def _run(recipe: Recipe, path: Path, command: str) -> Run:
    """The run of ``recipe``, begun or new; ValueError where the folder holds another."""
    if not (path / "recipe.json").is_file():
        return Run.create(recipe, path, command=command)
    run = Run.open(path)
    if run.recipe.to_json() != recipe.complete().to_json():
        raise ValueError(f"{path}: holds another run than that of this comparison. Move it away.")
    run.complete_origin()
    return run


def _keep(
    folder: Folder, recipes: Mapping[str, Recipe], loaded: Loaded, name: str, seed: int,
    evaluation: Evaluation,
) -> Evaluation:  # fmt: skip
    """Write the evaluation into the run's folder, with the time of adapting pictures."""
    if name not in recipes:
        return evaluation
    run = Run.open(folder.run(name, seed))
    learner, _ = run.learner()
    if is_fixed(learner):  # it was tested by its features; this is the time with the backbone
        recipe = recipes[name]
        task = draw(
            make_test_source(recipe, loaded.data, learner), test_seed(recipe), 0, Stream.TEST
        )
        evaluation = replace(
            evaluation, seconds_per_adaptation=seconds_per_adaptation(learner, [task])
        )
    content = json.dumps(evaluation.to_json()) + "\n"
    write_atomically(run.path / "evaluation.json", content.encode())
    return evaluation


def baselines_of(
    recipes: Mapping[str, Recipe], loaded: Loaded
) -> tuple[Episodes, list[Contender], dict[str, str]]:
    """Test tasks with their inputs, the baselines with a head or a network, and those left out."""
    recipe = next(iter(recipes.values()))
    learner = loaded.learner(recipe)
    tested = loaded.trained(recipe, learner)
    source = tested.source if tested.raw is None else tested.raw
    assert isinstance(source, Episodes)
    task = draw(source, test_seed(recipe), 0, Stream.TEST)
    refuse_baseline_names("compare", recipes, task)
    found: list[Contender] = []
    left_out: dict[str, str] = {}

    def add(name: str, make: Callable[[], Sequence[Contender]]) -> None:
        try:
            found.extend(make())
        except Exception as error:  # a baseline never stops a comparison
            left_out[name] = first_line(error)

    def make(seed: int) -> Learner:
        return loaded.learner(replace(recipe, seed=seed))

    def ready(learner: Learner) -> Trained:
        return loaded.trained(recipe, learner)

    answer = task.spec.answer
    add(TARGET_ONLY, lambda: [target_only(task, source)])
    add(UNTRAINED, lambda: [untrained_backbone(make, answer, ready)])
    add(PROBE, lambda: on_pretrained(learner, answer, ready))
    return source, found, left_out
