"""The commands that train and evaluate a learner, and that write the report of a run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quickstudy.interfaces.cli import application_commands
from quickstudy.interfaces.cli.options import (
    data_options,
    machine_options,
    network_options,
    task_options,
)
from quickstudy.interfaces.cli.printing import (
    is_given,
    json_option,
    print_json,
    print_path,
    print_rich,
)

if TYPE_CHECKING:
    from quickstudy.evaluation.folds import CrossValidation
    from quickstudy.evaluation.results import Evaluation
    from quickstudy.interfaces.runs.folder import Run


@click.command()
@click.option("--learner", help="Which learner; see `quickstudy learners`.  [prototypical; of a "
              "folder, chosen]")  # fmt: skip
@data_options
@click.option("--fractions", metavar="TRAIN,VAL,TEST", callback=lambda *given: _numbers(given[-1]),
              help="Shares of your own classes, such as 0.6,0.2,0.2.  [fitted]")  # fmt: skip
@click.option("--split-seed", type=int, help="Seed of the split of your own classes.  [0]")
@click.option("--folds", type=int,
              help="Cross-validation: test on all your own classes, in turn.")  # fmt: skip
@click.option("--strict/--no-strict", help="Fail on the first unreadable image.  [no]")
@task_options
@click.option("--augment", metavar="NAMES",
              help="Random changes of training images, such as crop+flip.")  # fmt: skip
@network_options
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--tasks-per-step", type=int, help="Tasks per optimiser step.")
@click.option("--rate", type=float, help="Learning rate.")
@click.option("--optimiser", help="adam or sgd.")
@click.option("--clip", type=float, help="Greatest norm of a step's gradient.")
@click.option("--validate-every", type=int, help="Steps between validations; 0 for none.")
@click.option("--patience", type=int, help="Stop after this many validations without improvement.")
@click.option("--test-tasks", type=int, help="Number of test tasks.  [600]")
@click.option("--seed", type=int, help="Seed of weights and tasks.  [0]")
@click.option("--test-seed", type=int, help="Seed of the test tasks.  [that of --seed]")
@machine_options
@click.option("--workers", type=int, help="Tasks in parallel, one CPU thread each.  [1]")
@click.option("--compile/--no-compile", help="Compile training steps; helps small networks.  [no]")
@click.option("--set", "options", multiple=True, metavar="NAME=VALUE",
              help="An argument of the learner, such as steps=5; may be repeated.")  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="A recipe (YAML), which options override."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN",
              help="Continue this run; with more --steps, train it further.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Only explain how steps would be computed.")
@json_option
@click.pass_context
def run(
    ctx: click.Context, /, options: tuple[str, ...], config: Path | None, out: Path | None,
    resume: Path | None, explain: bool, as_json: bool, **choices: Any,
) -> None:  # fmt: skip
    """Train a learner, evaluate it on classes it was not trained on, and write a report.

    With --data of an application (see `quickstudy datasets`): masks, boxes, texts, molecules and
    other answers; its own options are given by --set.

    For a folder of pictures, pretrained weights that are installed are compared with training from
    scratch, and the better of the two is taken, unless options of either are given.
    """
    given = {n: v for n, v in choices.items() if is_given(ctx, n)}
    if resume is not None and (given.keys() - {"steps"} or options or config or out or explain):
        raise ValueError(
            "run: --resume continues with the run's recipe; give no other options, except for "
            "more --steps to train it further."
        )
    if resume is not None:
        from quickstudy.interfaces.application_runs.folder import is_application_run
        from quickstudy.interfaces.runs.folder import Run

        if is_application_run(resume):
            application_commands.resume_run(ctx, resume, given.get("steps"), as_json)
            return
        opened, parts = Run.open(resume), None
        if "steps" in given:
            opened = opened.further(given["steps"])
    else:
        from quickstudy.interfaces.application_runs.recipe import is_of_application
        from quickstudy.interfaces.runs.recipe import (
            merge,
            read_options,
            read_recipe,
            read_recipe_file,
        )

        values = merge(read_recipe_file(config) if config else {}, given, read_options(options))
        if is_of_application(values):
            application_commands.start_run(ctx, values, out, explain, as_json)
            return
        recipe = read_recipe(values)
        # These import torch: only once the recipe is valid.
        from quickstudy.interfaces.runs import choice as chooser
        from quickstudy.interfaces.runs import execute as runs

        recipe, choosing = read_recipe(chooser.with_usual_backbone(values)), chooser.is_open(values)
        if hint := chooser.tip(values):
            click.echo(hint, err=True)
        if explain:
            explanation = runs.explain(recipe, choosing=choosing)
            print_json({"explanation": explanation}) if as_json else click.echo(explanation)
            return
        command = shlex.join(["quickstudy", *sys.argv[1:]])
        opened, parts = runs.begin(recipe, out, command=command, choosing=choosing)
        if parts.data.card.classes is None and not recipe.folds:  # each fold is told when it begins
            from quickstudy.interfaces.runs.fitted import classes_of

            click.echo(f"{opened.data_name}: {classes_of(parts.data)}.", err=True)
        if (choice := chooser.kept_choice(opened.path)) is not None:
            for line in choice.lines:
                click.echo(f"  {line}", err=True)
    _execute(ctx, opened, parts, resume is not None, as_json)


def _execute(ctx: click.Context, opened: Run, parts: Any, resume: bool, as_json: bool) -> None:
    """Train and test a run that was begun or opened, and print the result."""
    from quickstudy.interfaces.runs.choice import kept_choice
    from quickstudy.interfaces.runs.execute import Interrupted, execute
    from quickstudy.interfaces.runs.folds import cross_validate
    from quickstudy.reports.tables import result_table

    print_path("run folder", opened.path, err=as_json)
    recipe = opened.recipe
    in_folds = recipe.folds is not None and recipe.fold is None
    result: Evaluation | CrossValidation | Interrupted
    if in_folds:
        result = cross_validate(
            opened, parts, resume=resume, on_fold=lambda text: click.echo(text, err=True)
        )
    else:
        result = execute(opened, parts, resume=resume)
    if isinstance(result, Interrupted):
        continue_with = f"quickstudy run --resume {shlex.quote(str(opened.path))}"
        click.echo(f"Interrupted. Continue with: {continue_with}", err=as_json)
        ctx.exit(result.exit_code)
    report = opened.path / "report.html"
    if as_json:
        kind = "cross_validation" if in_folds else "evaluation"
        paths = {"run": str(opened.path), "report": str(report)}
        choice = kept_choice(opened.path)
        print_json({
            **paths, "recipe": recipe.to_json(), "choice": choice and choice.to_json(),
            kind: result.to_json(),
        })  # fmt: skip
        return
    print_rich(result_table(result, opened.title))
    print_path("report", report)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """The numbers in "0.6,0.2,0.2"."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"must be numbers such as 0.6,0.2,0.2; found {text!r}.") from error


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ways", type=int, help="Classes of a task; as in the run by default.")
@click.option("--shots", type=int, help="Examples of each class.")
@click.option("--queries", type=int, help="Test images of each class.")
@click.option("--tasks", type=int, default=600, help="Number of tasks.  [600; of an application, "
              "as in the run]")  # fmt: skip
@click.option("--seed", type=int, help="Seed of the tasks; the run's own by default.")
@click.option("--data", help="Published test tasks in place of the run's: lake_runs.")
@click.option("--root", help="Folder of the data sets, for --data.")
@click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]")
@click.option("--baselines/--no-baselines", default=True, help="Score baselines too.  [yes]")
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context, /, run: Path, ways: int | None, shots: int | None, queries: int | None,
    tasks: int, seed: int | None, data: str | None, root: str | None, device: str | None,
    baselines: bool, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate the learner of a RUN again, also with other ways, shots, queries or tasks.

    With --data lake_runs: on the 20 published one-shot runs of Omniglot, beside published errors.
    """
    if data is not None or root is not None:
        fixed = ("ways", "shots", "queries", "tasks", "seed")
        refused = [f"--{name}" for name in fixed if is_given(ctx, name)]
        _evaluate_published(run, data, root, device, as_json, refused)
        return
    from quickstudy.interfaces.application_runs.folder import is_application_run
    from quickstudy.interfaces.runs.assemble import load_data
    from quickstudy.interfaces.runs.execute import evaluate_parts
    from quickstudy.interfaces.runs.fitted import keep_split
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.provenance import choose_device
    from quickstudy.reports.tables import evaluation_table

    changes: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries}
    changes = {name: value for name, value in changes.items() if value is not None}
    if tasks < 2:
        raise ValueError(f"evaluate: --tasks must be at least 2, for an interval; found {tasks}.")
    if is_application_run(run):
        number = tasks if is_given(ctx, "tasks") else None
        application_commands.evaluate_run(run, changes, number, seed, device, baselines, as_json)
        return
    opened = Run.open(run)
    recipe = replace(opened.recipe, test_tasks=tasks, device=device, **changes)
    learner, _ = opened.learner()
    learner.to(choose_device(recipe.device))
    dataset = load_data(opened.recipe)  # not the changed one, whose ways may split it otherwise
    keep_split(opened.path, dataset)
    evaluation = evaluate_parts(recipe, dataset, learner, seed=seed, baselines=baselines)
    if as_json:
        print_json(evaluation.to_json())
    else:
        title = f"{opened.title} ({recipe.ways}-way {recipe.shots}-shot)"
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
    from quickstudy.files.registry import LEARNERS
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.published import evaluate_published
    from quickstudy.reports.literature import literature_table
    from quickstudy.reports.tables import evaluation_table

    opened = Run.open(run)
    result = evaluate_published(opened, data, root=root, device=device)
    if as_json:
        print_json(result.to_json())
        return
    learner = LEARNERS[opened.recipe.learner].title
    print_rich(evaluation_table(result.evaluation, f"{learner} on {result.card.title}"))
    print_rich(literature_table(result.evaluation, result.card.published, f"{learner}, this run"))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path),
              help="Where to write it.  [report.html in the run's folder]")  # fmt: skip
@json_option
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the report of a finished RUN, or of a comparison, again from its files."""
    from quickstudy.interfaces.application_runs.folder import is_application_run
    from quickstudy.interfaces.runs.again import report_again
    from quickstudy.interfaces.runs.comparison_report import write_page_again
    from quickstudy.interfaces.runs.folder import Run

    if (run / "comparison.json").is_file():
        written = write_page_again(run, out)
    elif is_application_run(run):
        written = application_commands.report_run(run, out)
    else:
        written = report_again(Run.open(run), out)
    if as_json:
        print_json({"run": str(run), "report": str(written)})
    else:
        print_path("report", written)
