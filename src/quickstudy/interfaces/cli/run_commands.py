"""The commands that train and evaluate a learner."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from quickstudy.interfaces.cli.printing import print_path, print_rich


@click.command()
@click.option("--learner", help="Which learner; see `quickstudy learners`.  [prototypical]")
@click.option("--data", help="Which data set; see `quickstudy datasets`.  [glyphs]")
@click.option("--root", help="Folder of the data sets; for --data folder, of the images.")
@click.option("--split", help="Name of one of the data set's published splits.")
@click.option("--size", type=int, help="Side of the images in pixels.")
@click.option("--rotations/--no-rotations", help="Rotated images as further classes.  [no]")
@click.option("--strict/--no-strict", help="Fail on the first unreadable image.  [no]")
@click.option("--ways", type=int, help="Classes of a test task.  [5]")
@click.option("--shots", type=int, help="Examples of each class.  [1]")
@click.option("--queries", type=int, help="Test images of each class.  [15]")
@click.option("--train-ways", type=int, help="Classes of a training task.")
@click.option("--train-queries", type=int, help="Query images of each class in training.  [5]")
@click.option("--within-superclass/--no-within-superclass",
              help="Tasks with classes of one superclass, such as an alphabet.  [no]")  # fmt: skip
@click.option("--backbone", help="conv4, resnet12 or mlp.  [conv4]")
@click.option("--channels", type=int, help="Width of conv4.  [64]")
@click.option("--norm", help="group, batch, support or running.  [group]")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--tasks-per-step", type=int, help="Tasks per optimiser step.")
@click.option("--rate", type=float, help="Learning rate.")
@click.option("--optimiser", help="adam or sgd.")
@click.option("--validate-every", type=int, help="Steps between validations.")
@click.option("--patience", type=int, help="Stop after this many validations without improvement.")
@click.option("--test-tasks", type=int, help="Number of test tasks.  [600]")
@click.option("--seed", type=int, help="Seed of weights and tasks.  [0]")
@click.option("--threads", type=int, help="CPU threads.")
@click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]")
@click.option("--workers", type=int, help="Tasks in parallel, one CPU thread each.  [1]")
@click.option("--compile/--no-compile", help="Compile training steps; helps small networks.  [no]")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE",
              help="An argument of the learner, such as steps=5; may be repeated.")  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="A recipe (YAML), which options override."
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue this run.")
@click.option("--explain", is_flag=True, help="Only explain how steps would be computed.")
@click.pass_context
def run(
    ctx: click.Context, /, options: tuple[str, ...], config: Path | None, out: Path | None,
    resume: Path | None, explain: bool, **choices: Any,
) -> None:  # fmt: skip
    """Train a learner, evaluate it on classes it was not trained on, and write a report."""
    given = {n: v for n, v in choices.items() if _given(ctx, n)}
    if resume is not None and (given or options or config or out or explain):
        raise ValueError("run: --resume continues with the run's recipe; give no other options.")
    if resume is not None:
        from quickstudy.interfaces.runs.folder import Run

        opened, parts = Run.open(resume), None
    else:
        from quickstudy.interfaces.runs.recipe import (
            merge,
            read_options,
            read_recipe,
            read_recipe_file,
        )

        values = read_recipe_file(config) if config else {}
        recipe = read_recipe(merge(values, given, read_options(options)))
        from quickstudy.interfaces.runs import (
            execute as runs,  # imports torch: only once the recipe is valid
        )

        if explain:
            click.echo(runs.explain(recipe))
            return
        opened, parts = runs.begin(recipe, out, command=shlex.join(["quickstudy", *sys.argv[1:]]))
    from quickstudy.interfaces.runs.execute import Interrupted, execute
    from quickstudy.reports.tables import evaluation_table

    print_path("run folder", opened.path)
    evaluation = execute(opened, parts, resume=resume is not None)
    if isinstance(evaluation, Interrupted):
        click.echo(
            f"Interrupted. Continue with: quickstudy run --resume {shlex.quote(str(opened.path))}"
        )
        ctx.exit(evaluation.exit_code)
    print_rich(evaluation_table(evaluation, f"{opened.recipe.learner} on {opened.recipe.data}"))
    print_path("report", opened.path / "report.html")


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ways", type=int, help="Classes of a task; as in the run by default.")
@click.option("--shots", type=int, help="Examples of each class.")
@click.option("--tasks", type=int, default=600, show_default=True)
@click.option("--seed", type=int, help="Seed of the tasks; the run's own by default.")
@click.option("--data", help="Published test tasks in place of the run's: lake_runs.")
@click.option("--root", help="Folder of the data sets, for --data.")
@click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def evaluate(
    ctx: click.Context, /, run: Path, ways: int | None, shots: int | None, tasks: int,
    seed: int | None, data: str | None, root: str | None, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate the learner of a RUN again, also with other ways, shots or tasks.

    With --data lake_runs: on the 20 published one-shot runs of Omniglot, beside published errors.
    """
    if data is not None or root is not None:
        refused = [f"--{n}" for n in ("ways", "shots", "tasks", "seed") if _given(ctx, n)]
        _evaluate_published(run, data, root, device, as_json, refused)
        return
    from dataclasses import replace

    from quickstudy.evaluation.evaluate import evaluate as evaluate_learner
    from quickstudy.interfaces.runs.assemble import load_data, make_test_source
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.provenance import choose_device
    from quickstudy.reports.tables import evaluation_table

    opened = Run.open(run)
    changes: dict[str, Any] = {"ways": ways, "shots": shots}
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = replace(opened.recipe, test_tasks=tasks, device=device, **changes)
    learner, _ = opened.learner()
    learner.to(choose_device(recipe.device))
    source = make_test_source(recipe, load_data(recipe), learner)
    seed = recipe.seed if seed is None else seed
    evaluation = evaluate_learner(learner, source, tasks, seed=seed)
    if as_json:
        click.echo(json.dumps(evaluation.to_json()))
    else:
        title = f"{recipe.learner} on {recipe.data}, {recipe.ways}-way {recipe.shots}-shot"
        print_rich(evaluation_table(evaluation, title))


def _evaluate_published(
    run: Path, data: str | None, root: str | None, device: str | None, as_json: bool,
    refused: list[str],
) -> None:  # fmt: skip
    if data is None:
        raise ValueError("evaluate: --root is the folder of --data. Give --data lake_runs too.")
    if refused:
        raise ValueError(
            f"evaluate: the tasks of --data {data} are fixed; found {', '.join(refused)}. Leave "
            "that out."
        )
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.published import evaluate_published
    from quickstudy.reports.literature import literature_table
    from quickstudy.reports.tables import evaluation_table

    opened = Run.open(run)
    result = evaluate_published(opened, data, root=root, device=device)
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    learner = opened.recipe.learner
    print_rich(evaluation_table(result.evaluation, f"{learner} on {result.card.title}"))
    print_rich(literature_table(result.evaluation, result.card.published, f"{learner}, this run"))
